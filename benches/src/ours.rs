//! Our side: serve and copy.

use crate::process::{Run, Server, timed};
use anyhow::{Context, Result, bail};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// The data plane's binary: the one that was named, that of `$MIGRATEKIT_DATAPLANE`, or the one beside this program.
///
/// # Errors
/// When it is not there.
pub fn find_binary(given: Option<&Path>) -> Result<PathBuf> {
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

/// Makes the certificates that all contestants use.
///
/// # Errors
/// When the binary fails.
pub fn make_certificates(binary: &Path, dir: &Path) -> Result<()> {
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
#[derive(Debug)]
pub struct Ours {
    binary: PathBuf,
    tls_dir: PathBuf,
    server: Server,
    uri: String,
}

impl Ours {
    /// `export`: what stands behind the name `t`.
    ///
    /// # Errors
    /// When the server does not listen.
    pub fn start(binary: &Path, tls_dir: &Path, control_dir: &Path, export: &str) -> Result<Self> {
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
            binary: binary.to_owned(),
            tls_dir: tls_dir.to_owned(),
            server,
            uri: format!("mk://127.0.0.1:{port}/t"),
        })
    }

    /// Copies a file to the export.
    ///
    /// # Errors
    /// When the copy fails.
    pub fn write(&self, source: &Path, how: &Copying) -> Result<Run> {
        let mut command = self.command(how);
        command.arg("--overwrite").arg(source).arg(&self.uri);
        timed(&mut command, &[], std::slice::from_ref(&self.server))
    }

    /// Copies the export to nowhere.
    ///
    /// # Errors
    /// When the copy fails.
    pub fn read(&self, how: &Copying) -> Result<Run> {
        let mut command = self.command(how);
        command.arg(&self.uri).arg("null:");
        timed(&mut command, &[], std::slice::from_ref(&self.server))
    }

    /// From now on copies go to this port, where something passes them on.
    pub fn reach_through(&mut self, port: u16) {
        self.uri = format!("mk://127.0.0.1:{port}/t");
    }

    /// Where it listens.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// See [`Server::peak_memory_bytes`].
    ///
    /// # Errors
    /// When `/proc` does not tell.
    pub fn peak_memory_bytes(&self) -> Result<u64> {
        self.server.peak_memory_bytes()
    }

    fn command(&self, how: &Copying) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("copy").arg("--tls-dir").arg(&self.tls_dir);
        command.args(["--progress", "none", "--integrity", how.integrity]);
        if let Some(connections) = how.connections {
            command.arg("--connections").arg(connections.to_string());
        }
        if let Some(kib) = how.request_kib {
            command.arg("--request-size").arg(format!("{kib}K"));
        }
        command
    }
}

/// How a copy of ours is made.
#[derive(Debug, Clone, Copy)]
pub struct Copying {
    /// As the command line calls it.
    pub integrity: &'static str,
    /// `None`: the default.
    pub connections: Option<u32>,
    /// `None`: the default.
    pub request_kib: Option<u32>,
}
