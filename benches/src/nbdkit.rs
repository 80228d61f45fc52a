//! nbdkit as the server and nbdcopy as the client, with certificates or plain.

use crate::process::{Run, Server, timed};
use anyhow::{Context, Result};
use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

/// Settings of nbdcopy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Connections side by side.
    pub connections: u32,
    /// Requests in flight on each.
    pub requests: u32,
    /// KiB of a request.
    pub request_kib: u32,
}

impl Settings {
    /// Its defaults are 4 connections, 64 requests, 256 KiB.
    pub const DEFAULT: Self = Self {
        connections: 4,
        requests: 64,
        request_kib: 256,
    };
    /// What the sweep tries.
    pub const SWEEP: [Self; 8] = [
        Self::DEFAULT,
        Self {
            connections: 1,
            requests: 16,
            request_kib: 256,
        },
        Self {
            connections: 2,
            requests: 16,
            request_kib: 256,
        },
        Self {
            connections: 2,
            requests: 8,
            request_kib: 1024,
        },
        Self {
            connections: 4,
            requests: 8,
            request_kib: 256,
        },
        Self {
            connections: 4,
            requests: 8,
            request_kib: 1024,
        },
        Self {
            connections: 4,
            requests: 4,
            request_kib: 4096,
        },
        Self {
            connections: 8,
            requests: 8,
            request_kib: 256,
        },
    ];
}

impl std::fmt::Display for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            connections,
            requests,
            request_kib,
        } = self;
        write!(
            f,
            "{connections} connections x {requests} requests of {request_kib} KiB"
        )
    }
}

/// The first tool that is not there.
#[must_use]
pub fn missing_tool() -> Option<&'static str> {
    ["nbdkit", "nbdcopy"]
        .into_iter()
        .find(|tool| version(tool).is_err())
}

/// What the tool says of its version.
///
/// # Errors
/// When it cannot be started.
pub fn version(tool: &str) -> Result<String> {
    let output = Command::new(tool)
        .arg("--version")
        .stderr(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// A running nbdkit and how to reach it.
#[derive(Debug)]
pub struct Nbdkit {
    server: Server,
    uri: String,
}

/// A port that was free just now, for programs that take no port 0. Should somebody else take it in between, the program
/// ends with an error and so does the run.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Nbdkit {
    /// `tls_dir`: with certificates, else plain; `plugin`: nbdkit's plugin and its arguments.
    ///
    /// # Errors
    /// When it does not listen.
    pub fn start(tls_dir: Option<&Path>, pid_file: &Path, plugin: &[String]) -> Result<Self> {
        let port = free_port()?;
        let mut command = Command::new("nbdkit");
        command
            .args([
                "--foreground",
                "--exit-with-parent",
                "--ipaddr",
                "127.0.0.1",
                "--port",
            ])
            .arg(port.to_string());
        let uri = match tls_dir {
            None => format!("nbd://127.0.0.1:{port}/"),
            Some(dir) => {
                let certificates = format!("--tls-certificates={}", dir.display());
                command
                    .args(["--tls=require", "--tls-verify-peer"])
                    .arg(certificates);
                format!(
                    "nbds://127.0.0.1:{port}/?tls-certificates={}",
                    dir.display()
                )
            }
        };
        let child = command
            .arg("--pidfile")
            .arg(pid_file)
            .args(plugin)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .context("nbdkit")?;
        let mut server = Server::adopt(child);
        // It writes the file once it accepts connections.
        while !pid_file.exists() {
            server.still_runs()?;
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        Ok(Self { server, uri })
    }

    /// Where it listens.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The server itself.
    #[must_use]
    pub fn into_server(self) -> Server {
        self.server
    }

    /// Copies a file to it.
    ///
    /// # Errors
    /// When nbdcopy fails.
    pub fn write(&self, source: &Path, settings: Settings) -> Result<Run> {
        let mut command = nbdcopy(settings);
        command.arg(source).arg(&self.uri);
        timed(&mut command, &[], std::slice::from_ref(&self.server))
    }
}

/// nbdcopy with a flush at the end, without its two arguments.
#[must_use]
pub fn nbdcopy(settings: Settings) -> Command {
    let request_bytes = u64::from(settings.request_kib) << 10;
    let mut command = Command::new("nbdcopy");
    command
        .arg("--flush")
        .arg(format!("--connections={}", settings.connections))
        .arg(format!("--requests={}", settings.requests))
        .arg(format!("--request-size={request_bytes}"));
    command
}
