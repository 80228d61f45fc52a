//! `GET /v1/status`.

use serde::{Deserialize, Serialize};

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerKind {
    /// TLS from the first byte; what is inside is chosen by ALPN.
    Tls,
    /// NBD that must turn to TLS by STARTTLS.
    Nbds,
    /// Plain NBD on a Unix socket.
    NbdUnix,
}

/// Where clients connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// What it speaks.
    pub kind: ListenerKind,
    /// `ADDRESS:PORT`, or a path.
    pub address: String,
}

/// Connections right now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Held before they have authenticated.
    pub preauth: u64,
    /// Authenticated and negotiating.
    pub negotiating: u64,
    /// Served by the shards.
    pub served: u64,
    /// Those of `mk-data/1`.
    #[serde(default)]
    pub data: u64,
}

/// How the process is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Runtime tier: `rich`, `plain` or `epoll`.
    pub tier: String,
    /// Why this tier.
    pub tier_reason: String,
    /// Payload memory is registered with the kernel.
    pub registered_buffers: bool,
    /// Shards.
    pub shards: u64,
    /// Where clients connect.
    pub listeners: Vec<Listener>,
    /// Connections right now.
    pub connections: Connections,
    /// Exports.
    pub exports: u64,
    /// Devices held.
    pub holds: u64,
    /// Transfers running.
    pub transfers_running: u64,
    /// The process is ending and takes no new work.
    pub draining: bool,
    /// SHA-256 of our own server certificate; absent without a TLS folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_fingerprint: Option<String>,
    /// How often certificates and configuration were read, the start included.
    pub config_generation: u64,
    /// Why the last reading was refused; the one before it is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_error: Option<String>,
}
