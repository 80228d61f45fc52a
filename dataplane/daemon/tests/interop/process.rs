//! Children with an end: whatever hangs is killed, and fails.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::Run;

/// No child of one cell takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a child: there is no event for the end of a child with a time-out.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Runs to the end.
pub(crate) fn run(command: &mut Command) -> Result<Run, String> {
    run_until(command, None)
}

/// Runs to the end, which must be a good one.
pub(crate) fn good(command: &mut Command) -> Result<Run, String> {
    let run = run(command)?;
    if run.code == 0 {
        return Ok(run);
    }
    Err(format!("{} {run:?}", command.get_program().display()))
}

/// Runs to the end. Standard input stays open until `seen` stands in the output.
pub(crate) fn run_until(command: &mut Command, seen: Option<&str>) -> Result<Run, String> {
    let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    if seen.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command
        .stdout(stdout.try_clone().unwrap())
        .stderr(stderr.try_clone().unwrap())
        .spawn()
        .map_err(|error| format!("{command:?}: {error}"))?;
    let mut stdin = child.stdin.take();
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            return Err(format!("{command:?} hung: {}", text(&stderr)));
        }
        if stdin.is_some() && seen.is_some_and(|seen| text(&stdout).contains(seen)) {
            stdin = None;
        }
        std::thread::park_timeout(LOOK_EVERY);
    };
    Ok(Run {
        code: status.code().unwrap_or(-1),
        stdout: text(&stdout),
        stderr: text(&stderr),
    })
}

fn text(file: &File) -> String {
    // The offset is shared with the child, so the file is read by position.
    let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A child that serves until it is dropped.
pub(crate) struct Daemon {
    child: Child,
    out: PathBuf,
}

impl Daemon {
    /// Starts it and waits until `is_ready`, which is given its output.
    pub(crate) fn start(
        command: &mut Command,
        out: &Path,
        is_ready: impl Fn(&str) -> bool,
    ) -> Result<Self, String> {
        let file = File::create(out).unwrap();
        let child = command
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        let mut daemon = Self {
            child,
            out: out.to_owned(),
        };
        let deadline = Instant::now() + PATIENCE;
        while !is_ready(&daemon.output()) {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                return Err(format!("{command:?}: {status}: {}", daemon.output()));
            }
            if Instant::now() > deadline {
                return Err(format!("{command:?} is never ready: {}", daemon.output()));
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
        Ok(daemon)
    }

    /// What it has said.
    pub(crate) fn output(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
