//! The peer: nbdcopy -> nbdkit over TLS with certificates.

use anyhow::{Context, Result};
use benches::process::{Run, Server, timed};
use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
};

/// Settings of nbdcopy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    pub connections: u32,
    pub requests: u32,
    pub request_kib: u32,
}

impl Settings {
    /// Its defaults are 4 connections, 64 requests, 256 KiB.
    pub(crate) const DEFAULT: Self = Self {
        connections: 4,
        requests: 64,
        request_kib: 256,
    };
    /// What the sweep tries.
    pub(crate) const SWEEP: [Self; 8] = [
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
pub(crate) fn missing_tool() -> Option<&'static str> {
    ["nbdkit", "nbdcopy"]
        .into_iter()
        .find(|tool| version(tool).is_err())
}

/// What the tool says of its version.
pub(crate) fn version(tool: &str) -> Result<String> {
    let output = Command::new(tool)
        .arg("--version")
        .stderr(Stdio::null())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// A running nbdkit and how to reach it.
pub(crate) struct Peer {
    server: Server,
    uri: String,
}

impl Peer {
    /// `plugin`: nbdkit's plugin and its arguments.
    pub(crate) fn start(tls_dir: &Path, pid_file: &Path, plugin: &[String]) -> Result<Self> {
        // nbdkit takes no port 0. A port that was free just now is; should somebody else take it
        // in between, nbdkit ends with an error and so does the run.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new("nbdkit")
            .args([
                "--foreground",
                "--exit-with-parent",
                "--ipaddr",
                "127.0.0.1",
                "--port",
            ])
            .arg(port.to_string())
            .arg("--tls=require")
            .arg(format!("--tls-certificates={}", tls_dir.display()))
            .args(["--tls-verify-peer", "--pidfile"])
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
        let dir = tls_dir.display();
        let uri = format!("nbds://127.0.0.1:{port}/?tls-certificates={dir}");
        Ok(Self { server, uri })
    }

    pub(crate) fn run(&self, source: &Path, settings: Settings) -> Result<Run> {
        let mut command = Command::new("nbdcopy");
        command
            .arg("--flush")
            .arg(format!("--connections={}", settings.connections))
            .arg(format!("--requests={}", settings.requests))
            .arg(format!(
                "--request-size={}",
                u64::from(settings.request_kib) << 10
            ))
            .arg(source)
            .arg(&self.uri);
        timed(&mut command, &self.server)
    }
}
