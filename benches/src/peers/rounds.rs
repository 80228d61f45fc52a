//! Scenarios and their interleaved rounds.

use anyhow::Result;
use benches::{
    disk::{Loop, make_source},
    nbdkit::{Nbdkit, Settings},
    ours::{Copying, Ours, make_certificates},
    process::Run,
};
use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// What stands behind both servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// Bytes are discarded
    Null,
    /// A loop device whose file lies on tmpfs, flushed at the end
    Loop,
}

impl Scenario {
    pub(crate) fn all() -> Vec<Self> {
        vec![Self::Null, Self::Loop]
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "into null",
            Self::Loop => "into a loop device on tmpfs",
        })
    }
}

/// The peers compare nothing, so neither do we against them.
const WITHOUT: Copying = Copying {
    integrity: "none",
    connections: None,
    request_kib: None,
};

/// What to measure.
pub(crate) struct Plan {
    pub binary: PathBuf,
    pub bytes: u64,
    pub rounds: usize,
    /// Look for the peer's best settings first.
    pub sweep: bool,
}

/// A scenario's figures.
pub(crate) struct Measured {
    pub scenario: Scenario,
    pub bytes: u64,
    pub settings: Settings,
    pub ours: Vec<Run>,
    pub peer: Vec<Run>,
}

impl Measured {
    /// The fastest run of each side against the other.
    pub(crate) fn best_ratio(&self) -> f64 {
        let best = |runs: &[Run]| {
            runs.iter()
                .map(|run| run.seconds)
                .fold(f64::INFINITY, f64::min)
        };
        best(&self.peer) / best(&self.ours)
    }
}

pub(crate) enum Outcome {
    Measured(Measured),
    /// This machine cannot, and why.
    Impossible(String),
}

/// Runs all rounds of a scenario.
pub(crate) fn measure(plan: &Plan, scenario: Scenario) -> Result<Outcome> {
    let dir = tempfile::Builder::new()
        .prefix("mk-peers-")
        .tempdir_in("/dev/shm")?;
    let at = |name: &str| dir.path().join(name);
    make_source(&at("source"), plan.bytes)?;
    make_certificates(&plan.binary, &at("pki"))?;
    fs::create_dir(at("control"))?;
    let mut loops = Vec::new();
    let (export, plugin) = match scenario {
        Scenario::Null => {
            let bytes = plan.bytes;
            (
                format!("null:{bytes}"),
                vec!["null".to_owned(), format!("size={bytes}")],
            )
        }
        Scenario::Loop => {
            for name in ["ours.img", "peer.img"] {
                fs::File::create(at(name))?.set_len(plan.bytes)?;
                match Loop::attach(&at(name)) {
                    Ok(attached) => loops.push(attached),
                    Err(error) => return Ok(Outcome::Impossible(format!("{error:#}"))),
                }
            }
            let (ours, peer) = (loops[0].path(), loops[1].path());
            (ours.to_owned(), vec!["file".to_owned(), peer.to_owned()])
        }
    };
    let pki = at("pki");
    let ours = Ours::start(&plan.binary, &pki, &at("control"), &export)?;
    let peer = Nbdkit::start(Some(&pki), &at("nbdkit.pid"), &plugin)?;
    let source = at("source");
    let settings = if plan.sweep {
        best_settings(&peer, &source)?
    } else {
        Settings::DEFAULT
    };
    // One unmeasured run each: page tables, first touch of the target's memory.
    ours.write(&source, &WITHOUT)?;
    peer.write(&source, settings)?;
    let mut result = Measured {
        scenario,
        bytes: plan.bytes,
        settings,
        ours: Vec::new(),
        peer: Vec::new(),
    };
    for round in 0..plan.rounds {
        // Who begins changes, so that neither profits from what the other left behind.
        if round % 2 == 0 {
            result.ours.push(ours.write(&source, &WITHOUT)?);
            result.peer.push(peer.write(&source, settings)?);
        } else {
            result.peer.push(peer.write(&source, settings)?);
            result.ours.push(ours.write(&source, &WITHOUT)?);
        }
    }
    drop((ours, peer));
    drop(loops);
    Ok(Outcome::Measured(result))
}

/// The peer's fastest settings, by the better of two runs each.
fn best_settings(peer: &Nbdkit, source: &Path) -> Result<Settings> {
    let mut best = (f64::INFINITY, Settings::DEFAULT);
    for settings in Settings::SWEEP {
        for _ in 0..2 {
            let seconds = peer.write(source, settings)?.seconds;
            if seconds < best.0 {
                best = (seconds, settings);
            }
        }
    }
    Ok(best.1)
}
