//! `probe --self-test`: every tier moves real bytes, and the result is compared.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::transfer::Integrity;
use engine::{Cancel, Endpoint, Engine, EngineConfig, TransferSpec, Tunables, transfer};
use serde::Serialize;
use sys::{RuntimeChoice, Tier};

use super::ciphers;
use crate::exit::{Exit, Failure};
use crate::helper::Workspace;
use crate::signals;

/// Size of the test disk; odd, so that the tail is tested too.
const DISK_BYTES: u64 = (16 << 20) + 512;
/// Data lies here, holes between.
const DATA_AT: [(u64, usize); 3] = [(0, 3 << 20), (5 << 20, 65_536), (16 << 20, 512)];
/// Time the shards get to end by themselves once the copy is done.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Memory for the copy.
const ARENA_BYTES: usize = 32 << 20;

/// One part of the test.
#[derive(Debug, Serialize)]
pub(super) struct TestOutcome {
    name: String,
    elapsed_ms: u64,
    /// A tier that this machine does not have is no failure.
    skipped: Option<String>,
    pub(super) error: Option<String>,
}

impl TestOutcome {
    /// For people.
    pub(super) fn to_text(&self) -> String {
        match (&self.error, &self.skipped) {
            (Some(error), _) => format!("FAIL {}: {error}", self.name),
            (None, Some(why)) => format!("skip {}: {why}", self.name),
            (None, None) => format!("ok   {} in {} ms", self.name, self.elapsed_ms),
        }
    }
}

/// Runs every part; a part that fails does not stop the others.
pub(super) fn run() -> Result<Vec<TestOutcome>, Failure> {
    let no_room = |error: &std::io::Error| {
        let place = std::env::temp_dir().display().to_string();
        let remedy = "set TMPDIR to a folder with 64 MiB of room";
        Failure::new(
            Exit::Usage,
            engine::Blame::Environment,
            "the test disk cannot be written",
            place,
            remedy,
        )
        .caused_by(error)
    };
    let cancel = Cancel::default();
    signals::watch(&cancel)?;
    let workspace = Workspace::create().map_err(|error| no_room(&error))?;
    let source = workspace.path().join("source");
    write_disk(&source).map_err(|error| no_room(&error))?;
    let mut outcomes = vec![timed("records of every cipher".to_owned(), ciphers::check)];
    for report in sys::runtime::self_test(workspace.path()) {
        if cancel.is_cancelled() {
            return Err(interrupted());
        }
        let name = format!("system calls of the {} tier", report.tier.name());
        outcomes.push(TestOutcome {
            name,
            elapsed_ms: u64::try_from(report.elapsed_us / 1000).unwrap_or(u64::MAX),
            skipped: report.error.as_ref().map(ToString::to_string),
            error: None,
        });
        if report.error.is_none() {
            let target = workspace.path().join("target");
            let name = format!("copy on the {} tier", report.tier.name());
            outcomes.push(timed(name, || {
                copy_and_compare(report.tier, &source, &target, &cancel)
            }));
        }
    }
    if cancel.is_cancelled() {
        return Err(interrupted());
    }
    Ok(outcomes)
}

fn interrupted() -> Failure {
    let (what, on) = ("interrupted", "the self-test");
    Failure::new(
        Exit::Interrupted,
        engine::Blame::Operator,
        what,
        on,
        "start it again",
    )
}

fn timed(name: String, test: impl FnOnce() -> Result<(), String>) -> TestOutcome {
    let begun = Instant::now();
    let error = test().err();
    let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    TestOutcome {
        name,
        elapsed_ms,
        skipped: None,
        error,
    }
}

/// Every 8 bytes tell their place, so that a block in the wrong one is seen.
fn write_disk(path: &Path) -> std::io::Result<()> {
    let disk = File::create_new(path)?;
    disk.set_len(DISK_BYTES)?;
    for (offset, len) in DATA_AT {
        let words = (offset..).step_by(8).take(len / 8);
        let data: Vec<u8> = words
            .flat_map(|at| (at ^ 0x5a5a_5a5a_5a5a_5a5a).to_le_bytes())
            .collect();
        disk.write_all_at(&data, offset)?;
    }
    (&disk).flush()
}

fn copy_and_compare(
    tier: Tier,
    source: &Path,
    target: &Path,
    cancel: &Cancel,
) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let runtime = sys::runtime::select(match tier {
        Tier::Rich => RuntimeChoice::Rich,
        Tier::Plain => RuntimeChoice::Plain,
        Tier::Epoll => RuntimeChoice::Epoll,
    })
    .map_err(|error| text(&error))?;
    let tunables = Tunables::new();
    let engine = Engine::start(EngineConfig {
        shards: sys::cpu::available().min(2),
        runtime,
        arena_bytes: ARENA_BYTES,
        pin: false,
        tunables: Arc::clone(&tunables),
    })
    .map_err(|error| text(&error))?;
    let spec = TransferSpec {
        connections: 2,
        request_bytes: tunables.request_bytes(),
        window_bytes: tunables.window_bytes_max(),
        zero_scan_bytes: tunables.zero_scan_bytes(),
        integrity: Some(Integrity::Media),
        ..TransferSpec::new(
            Endpoint::Path(source.to_owned()),
            Endpoint::Path(target.to_owned()),
        )
    };
    let copied = transfer::run(&engine, &spec, cancel, &mut |_| {});
    let stopped = engine.stop(STOP_TIMEOUT);
    let compared = copied.map_err(|error| text(&error)).and_then(|report| {
        stopped.map_err(|error| text(&error))?;
        if !report.durable {
            return Err("the copy is not durable".to_owned());
        }
        compare(source, target).map_err(|error| text(&error))?
    });
    // The next tier makes it anew.
    let _ = fs::remove_file(target);
    compared
}

fn compare(source: &Path, target: &Path) -> std::io::Result<Result<(), String>> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    File::open(source)?.read_to_end(&mut left)?;
    File::open(target)?.read_to_end(&mut right)?;
    if left.len() != right.len() {
        return Ok(Err(format!("{} bytes became {}", left.len(), right.len())));
    }
    let differs = left.iter().zip(&right).position(|(a, b)| a != b);
    Ok(differs.map_or(Ok(()), |at| Err(format!("the copy differs at byte {at}"))))
}
