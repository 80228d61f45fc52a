//! Scenarios and their interleaved rounds.

use crate::{
    ours::{Ours, make_certificates},
    peer::{Peer, Settings},
};
use anyhow::{Context, Result, bail};
use benches::process::Run;
use std::{
    fmt, fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
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

/// A loop device over a file on tmpfs; gone with the value.
pub(crate) struct Loop {
    device: String,
}

impl Loop {
    pub(crate) fn path(&self) -> &str {
        &self.device
    }

    pub(crate) fn attach(file: &Path) -> Result<Self> {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--direct-io=on"])
            .arg(file)
            .output()
            .context("losetup")?;
        if !output.status.success() {
            bail!(
                "losetup: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(Self {
            device: String::from_utf8(output.stdout)?.trim().to_owned(),
        })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _reported_by_losetup = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

/// Incompressible bytes on tmpfs.
pub(crate) fn make_source(path: &Path, bytes: u64) -> Result<()> {
    let mut random = fs::File::open("/dev/urandom")?;
    let mut file = fs::File::create(path)?;
    let mut block = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        random.read_exact(&mut block)?;
        file.write_all(&block)?;
    }
    Ok(())
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
            let (ours, peer) = (&loops[0].device, &loops[1].device);
            (ours.clone(), vec!["file".to_owned(), peer.clone()])
        }
    };
    let pki = at("pki");
    let ours = Ours::start(&plan.binary, &pki, &at("control"), &export)?;
    let peer = Peer::start(&pki, &at("nbdkit.pid"), &plugin)?;
    let source = at("source");
    let settings = if plan.sweep {
        best_settings(&peer, &source)?
    } else {
        Settings::DEFAULT
    };
    // One unmeasured run each: page tables, first touch of the target's memory.
    ours.run(&source, "none")?;
    peer.run(&source, settings)?;
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
            result.ours.push(ours.run(&source, "none")?);
            result.peer.push(peer.run(&source, settings)?);
        } else {
            result.peer.push(peer.run(&source, settings)?);
            result.ours.push(ours.run(&source, "none")?);
        }
    }
    drop((ours, peer));
    drop(loops);
    Ok(Outcome::Measured(result))
}

/// The peer's fastest settings, by the better of two runs each.
fn best_settings(peer: &Peer, source: &Path) -> Result<Settings> {
    let mut best = (f64::INFINITY, Settings::DEFAULT);
    for settings in Settings::SWEEP {
        for _ in 0..2 {
            let seconds = peer.run(source, settings)?.seconds;
            if seconds < best.0 {
                best = (seconds, settings);
            }
        }
    }
    Ok(best.1)
}
