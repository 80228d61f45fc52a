//! Copies with given settings, in turn.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use control::limits::TRIAL_LEASE_S_MAX;
use control::{Exit, TunableList, TunableTrial, TunableValue};
use serde::Deserialize;
use tempfile::TempDir;

use super::{Args, OF_SENDER, OF_TARGET};
use crate::ended;
use crate::peer::{Peer, Place};
use crate::plan::Settings;

const GIB: f64 = (1_u64 << 30) as f64;
/// A lease lasts this long and some of the longest copy so far. The end of the connection ends it at once.
const LEASE_S: u64 = 60;

/// One side of the comparison after the other, over a connection that holds the trial.
pub(super) struct Bench {
    pub(super) peer: Peer,
    program: PathBuf,
    target: String,
    tls_dir: Option<PathBuf>,
    source: PathBuf,
    longest: Duration,
    /// Where the random bytes are.
    _folder: Option<TempDir>,
}

/// What is read of the object that `copy --output json` writes.
#[derive(Deserialize)]
struct Copied {
    data_bytes: f64,
    elapsed_s: f64,
}

impl Bench {
    pub(super) fn new(args: &Args, place: &Place, peer: Peer) -> Result<Self> {
        let (source, folder) = match &args.source {
            Some(path) => (path.clone(), None),
            None => {
                let folder = folder()?;
                let path = folder.path().join("random.raw");
                random(&path, args.mib)
                    .with_context(|| format!("{} cannot be written", path.display()))?;
                (path, Some(folder))
            }
        };
        Ok(Self {
            peer,
            program: crate::program(args.program.as_deref()),
            target: args.target.clone(),
            tls_dir: args.tls_dir.clone().filter(|_| place.tls_dir.is_none()),
            source,
            longest: Duration::from_secs(600),
            _folder: folder,
        })
    }

    /// A copy that does not count: caches fill, and how long a lease must be is seen.
    pub(super) fn warm_up(&mut self, settings: &Settings) -> Result<()> {
        let begin = Instant::now();
        self.copy(settings)?;
        self.longest = begin.elapsed();
        Ok(())
    }

    /// Rates of both in GiB/s, in turn, the first of a pair being the last of the next one. Nothing when time is up.
    pub(super) fn pairs(
        &mut self,
        a: &Settings,
        b: &Settings,
        pairs: u64,
        deadline: Instant,
    ) -> Result<Option<Vec<(f64, f64)>>> {
        let mut rates = Vec::new();
        for index in 0..pairs {
            if Instant::now() >= deadline {
                return Ok(None);
            }
            rates.push(if index % 2 == 0 {
                let first = self.copy(a)?;
                (first, self.copy(b)?)
            } else {
                let first = self.copy(b)?;
                (self.copy(a)?, first)
            });
        }
        Ok(Some(rates))
    }

    fn copy(&mut self, settings: &Settings) -> Result<f64> {
        self.lease(settings)?;
        let begin = Instant::now();
        let mut command = Command::new(&self.program);
        command.args([
            "copy",
            "--output",
            "json",
            "--progress",
            "none",
            "--overwrite",
        ]);
        if let Some(dir) = &self.tls_dir {
            command.arg("--tls-dir").arg(dir);
        }
        for name in OF_SENDER {
            if let Some(value) = settings.get(name) {
                command.arg("--set").arg(format!("{name}={value}"));
            }
        }
        command.arg(&self.source).arg(&self.target);
        let told = command.stdin(Stdio::null()).output().with_context(|| {
            format!(
                "{} cannot be run; --program names it",
                self.program.display()
            )
        })?;
        if !told.status.success() {
            let text = String::from_utf8_lossy(&told.stderr).into_owned();
            let code = told.status.code().and_then(|code| u8::try_from(code).ok());
            let exit = Exit::ALL.into_iter().find(|exit| Some(exit.code()) == code);
            let what = format!("a copy failed: {}", text.trim());
            return Err(ended(exit.unwrap_or(Exit::Bug), what));
        }
        self.longest = self.longest.max(begin.elapsed());
        let copied: Copied =
            serde_json::from_slice(&told.stdout).context("the report of a copy")?;
        Ok(copied.data_bytes / GIB / copied.elapsed_s)
    }

    /// Puts the target's share in force for a while, or renews it.
    fn lease(&mut self, settings: &Settings) -> Result<()> {
        let ours = settings.iter().filter(|(name, _)| OF_TARGET.contains(name));
        let values: control::TunablePatch = ours
            .map(|(name, value)| ((*name).to_owned(), TunableValue::Number(*value)))
            .collect();
        if values.is_empty() {
            return Ok(());
        }
        let lease_s = (LEASE_S + 4 * self.longest.as_secs()).min(TRIAL_LEASE_S_MAX);
        let trial = TunableTrial {
            values,
            lease_s: Some(lease_s),
        };
        let body = serde_json::to_string(&trial)?;
        let _: TunableList = self.peer.ask("PATCH", "/v1/tunables", &body)?;
        Ok(())
    }
}

/// In memory, where that is a file system; else where temporary files are.
fn folder() -> Result<TempDir> {
    let named = |dir: &Path| {
        tempfile::Builder::new()
            .prefix("migratekit-tune-")
            .tempdir_in(dir)
    };
    named(Path::new("/dev/shm"))
        .or_else(|_| named(&std::env::temp_dir()))
        .context("there is no place for the bytes to copy; name a disk by --source")
}

/// Bytes without zeroes to find and without repetition.
fn random(path: &Path, mib: u64) -> std::io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, std::fs::File::create_new(path)?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..mib << 17 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    file.flush()
}
