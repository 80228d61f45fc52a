//! Our side: serve and copy.

use anyhow::{Context, Result, bail};
use benches::process::{Run, Server, timed};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The data plane's binary.
pub(crate) fn find_binary(given: Option<&Path>) -> Result<PathBuf> {
    let from_env = std::env::var_os("MIGRATEKIT_DATAPLANE").map(PathBuf::from);
    let candidate = match given.map(Path::to_owned).or(from_env) {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("migratekit-dataplane"),
    };
    if !candidate.is_file() {
        let path = candidate.display();
        bail!("{path} is not there; run: cargo build --release -p migratekit-dataplane");
    }
    Ok(candidate)
}

/// Makes the certificates that both contestants use.
pub(crate) fn make_certificates(binary: &Path, dir: &Path) -> Result<()> {
    let made = Command::new(binary)
        .args(["pki", "init"])
        .arg(dir)
        .args(["--host", "localhost", "--host", "127.0.0.1"])
        .output()
        .context("pki init")?;
    if !made.status.success() {
        bail!("pki init: {}", String::from_utf8_lossy(&made.stderr));
    }
    Ok(())
}

/// A running server of ours and how to reach it.
pub(crate) struct Ours<'a> {
    binary: &'a Path,
    tls_dir: &'a Path,
    server: Server,
    uri: String,
}

impl<'a> Ours<'a> {
    /// `export`: what stands behind the name `t`.
    pub(crate) fn start(
        binary: &'a Path,
        tls_dir: &'a Path,
        control_dir: &Path,
        export: &str,
    ) -> Result<Self> {
        let mut command = Command::new(binary);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--tls-dir"])
            .arg(tls_dir)
            .arg("--control-dir")
            .arg(control_dir)
            .arg("--export")
            .arg(format!("t={export}"));
        let (server, line) = Server::start_until(command, |line| line.starts_with("listening"))?;
        let address = line
            .split_whitespace()
            .last()
            .context("no address in the line")?;
        let port = address
            .rsplit(':')
            .next()
            .context("no port in the address")?;
        Ok(Self {
            binary,
            tls_dir,
            server,
            uri: format!("mk://127.0.0.1:{port}/t"),
        })
    }

    /// Copies `source`; `integrity` as the command line calls it. The peers compare nothing, so neither do we
    /// against them.
    pub(crate) fn run(&self, source: &Path, integrity: &str) -> Result<Run> {
        let mut command = Command::new(self.binary);
        command
            .arg("copy")
            .arg(source)
            .arg(&self.uri)
            .arg("--tls-dir")
            .arg(self.tls_dir)
            .args([
                "--overwrite",
                "--progress",
                "none",
                "--integrity",
                integrity,
            ]);
        timed(&mut command, &self.server)
    }
}
