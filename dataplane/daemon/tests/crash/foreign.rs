//! A server that is not ours.

use std::path::PathBuf;
use std::process::Command;

use super::COPY_FLAGS;
use super::link::Link;
use crate::common::{Bed, finish};

/// nbdkit on a Unix socket; killed when dropped.
pub struct Nbdkit {
    pid: PathBuf,
    pub socket: PathBuf,
}

impl Nbdkit {
    /// Returns once it listens.
    pub fn start(bed: &Bed, args: &[&str]) -> Self {
        let (pid, socket) = (bed.path("nbdkit.pid"), bed.path("nbdkit.sock"));
        let mut command = bed.command("nbdkit");
        command
            .arg("--pidfile")
            .arg(&pid)
            .arg("--unix")
            .arg(&socket);
        finish(command.args(args)).done();
        Self { pid, socket }
    }

    pub fn kill(&self) {
        let Ok(pid) = std::fs::read_to_string(&self.pid) else {
            return;
        };
        let mut command = Command::new("tail");
        // It is nobody's child, but its end can be waited for.
        let waiting = command.args(["--follow", "/dev/null", "--pid", pid.trim()]);
        let mut waiting = waiting.args(["--sleep-interval", "0.02"]).spawn().unwrap();
        finish(Command::new("kill").args(["-KILL", pid.trim()]));
        waiting.wait().unwrap();
        std::fs::remove_file(&self.pid).unwrap();
        std::fs::remove_file(&self.socket).unwrap();
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The command line of a copy to it.
pub fn foreign_args(link: &Link, more: &[&str]) -> Vec<String> {
    let target = format!("nbd://127.0.0.1:{}/", link.port());
    let fixed = ["copy", "source", &target];
    let args = [&fixed[..], &COPY_FLAGS, more].concat();
    args.into_iter().map(str::to_owned).collect()
}
