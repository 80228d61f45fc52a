//! Which tier runs, decided by trial.
//!
//! A tier is trusted after it was set up and has moved data both ways through a socket pair and a file in
//! memory: distributions backport, containers filter, and a version number knows nothing of either.

mod exercise;

use std::{fmt, path::Path, sync::Arc, time::Instant};

use crate::{
    Arena, ArenaConfig, DeviceFile, LeaseClass, OpenIntent, OpenOptions, SetupError,
    SetupErrorKind,
    poll::{Poll, PollConfig},
    ring::{Ring, RingConfig},
};

/// What the operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuntimeChoice {
    /// The best that works.
    Auto,
    /// This or nothing.
    Rich,
    /// This or nothing.
    Plain,
    /// This or nothing.
    Epoll,
}

/// What runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// io_uring with multishot receives over incremental buffer rings (6.12).
    Rich,
    /// io_uring as of 6.1.
    Plain,
    /// epoll for sockets, threads for files.
    Epoll,
}

impl Tier {
    /// Best first.
    pub const ALL: [Self; 3] = [Self::Rich, Self::Plain, Self::Epoll];

    /// As written in configuration, log and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rich => "rich",
            Self::Plain => "plain",
            Self::Epoll => "epoll",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which tier, why not a better one, and what was found.
#[derive(Debug, Clone)]
pub struct RuntimeReport {
    /// What runs.
    pub tier: Tier,
    /// Why this one, and what stood in the way of better ones.
    pub reason: String,
    /// What was tried and whether it is there.
    pub features: Vec<(String, bool)>,
    /// Leases become registered buffers.
    pub registered_buffers: bool,
    /// What did not work but does no harm.
    pub notes: Vec<String>,
}

impl RuntimeReport {
    /// The tier worked in its trial and not at the size it is needed in: epoll, which needs next to nothing.
    #[must_use]
    pub fn fall_back(self, why: &str) -> Self {
        Self {
            tier: Tier::Epoll,
            reason: format!("{} works here only in small: {why}", self.tier),
            features: Vec::new(),
            registered_buffers: false,
            notes: self.notes,
        }
    }
}

/// One tier's trial.
#[derive(Debug)]
pub struct TierReport {
    /// Which.
    pub tier: Tier,
    /// Why it does not work.
    pub error: Option<SetupError>,
    /// What was tried and whether it is there.
    pub features: Vec<(String, bool)>,
    /// Leases became registered buffers.
    pub registered_buffers: bool,
    /// What did not work but does no harm.
    pub notes: Vec<String>,
    /// How long the trial took.
    pub elapsed_us: u128,
}

/// Finds the tier to run: for `Auto` the best that works, else the asked one or an error.
pub fn select(choice: RuntimeChoice) -> Result<RuntimeReport, SetupError> {
    let candidates: &[Tier] = match choice {
        RuntimeChoice::Auto => &Tier::ALL,
        RuntimeChoice::Rich => &[Tier::Rich],
        RuntimeChoice::Plain => &[Tier::Plain],
        RuntimeChoice::Epoll => &[Tier::Epoll],
    };
    let mut in_the_way: Vec<String> = Vec::new();
    let mut last = None;
    for &tier in candidates {
        let report = try_tier(tier, || DeviceFile::in_memory(exercise::FILE_BYTES));
        match report.error {
            None => {
                return Ok(RuntimeReport {
                    tier,
                    reason: reason(choice, tier, &in_the_way),
                    features: report.features,
                    registered_buffers: report.registered_buffers,
                    notes: report.notes,
                });
            }
            Some(error) => {
                in_the_way.push(format!("{tier}: {}", with_sources(&error)));
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| SetupError::new(SetupErrorKind::Unsupported, "runtime", "no tier")))
}

/// Moves data through every tier, files by direct I/O in `folder` where it can; for `probe --self-test`.
pub fn self_test(folder: &Path) -> Vec<TierReport> {
    let path = folder.join(format!(".migratekit-self-test-{}", std::process::id()));
    let open = || {
        let options = OpenOptions {
            create_size_bytes: Some(exercise::FILE_BYTES),
            ..OpenOptions::default()
        };
        DeviceFile::open(&path, OpenIntent::Target, &options)
    };
    Tier::ALL
        .into_iter()
        .map(|tier| {
            let report = try_tier(tier, open);
            // It may not even have been created; anything else shows when the next tier opens it.
            let _ = std::fs::remove_file(&path);
            report
        })
        .collect()
}

fn reason(choice: RuntimeChoice, tier: Tier, in_the_way: &[String]) -> String {
    match (choice, in_the_way) {
        (RuntimeChoice::Auto, []) => "the best tier works".to_owned(),
        (RuntimeChoice::Auto, _) => {
            format!("better tiers do not work here: {}", in_the_way.join("; "))
        }
        _ => format!("{tier} was asked for"),
    }
}

fn with_sources(error: &SetupError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error} ({source})"),
        None => error.to_string(),
    }
}

fn try_tier(tier: Tier, open: impl FnOnce() -> Result<DeviceFile, SetupError>) -> TierReport {
    let start = Instant::now();
    let mut report = TierReport {
        tier,
        error: None,
        features: Vec::new(),
        registered_buffers: false,
        notes: Vec::new(),
        elapsed_us: 0,
    };
    if let Err(error) = exercise_tier(&mut report, open) {
        report.error = Some(error);
    }
    report.elapsed_us = start.elapsed().as_micros();
    report
}

fn exercise_tier(
    report: &mut TierReport,
    open: impl FnOnce() -> Result<DeviceFile, SetupError>,
) -> Result<(), SetupError> {
    let arena = Arena::new(&ArenaConfig {
        small_count: 4,
        large_count: 1,
        huge_pages: false,
    })?;
    if report.tier == Tier::Epoll {
        let config = PollConfig {
            entries: 8,
            files_max: 1,
            sockets_max: 1,
            threads: 1,
        };
        let mut poll = Poll::new(&config)?;
        return exercise::run(&mut poll, &arena, open()?, report.tier);
    }
    let config = RingConfig {
        tier: report.tier,
        entries: 8,
        files_max: 1,
        sockets_max: 1,
        arena: Arc::clone(&arena),
    };
    let mut ring = Ring::new(&config)?;
    report.features = ring.features().to_vec();
    let result = exercise::run(&mut ring, &arena, open()?, report.tier);
    // The trial moved little. Payload lies in large leases, and those are what a limit refuses.
    let large = arena.take(LeaseClass::Large);
    report.registered_buffers = large.is_some_and(|lease| ring.takes_registered(&lease));
    report.notes = ring.notes();
    result
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;

    #[test]
    fn every_tier_can_be_asked_for() {
        for (choice, tier) in [
            (RuntimeChoice::Plain, Tier::Plain),
            (RuntimeChoice::Epoll, Tier::Epoll),
        ] {
            let report = select(choice).unwrap();
            assert_eq!(report.tier, tier);
            assert_eq!(report.reason, format!("{tier} was asked for"));
        }
    }

    #[test]
    fn auto_finds_something_and_says_why() {
        let report = select(RuntimeChoice::Auto).unwrap();
        assert!(!report.reason.is_empty());
    }

    #[test]
    fn the_self_test_leaves_nothing_behind() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let reports = self_test(folder.path());
        assert_eq!(reports.len(), 3);
        assert!(reports[2].error.is_none(), "{:?}", reports[2]);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
