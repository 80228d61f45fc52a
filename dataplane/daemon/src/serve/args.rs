//! Flags of `serve`. A flag overrides the same key of the configuration file.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::RuntimeArg;

/// Serve exports to NBD clients over TLS
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ServeArgs {
    /// Where TLS clients connect, ADDRESS:PORT; [::] also takes IPv4; `none`: nowhere [default: [::]:443]
    #[allow(
        rustdoc::broken_intra_doc_links,
        reason = "brackets of an IPv6 address, shown as help"
    )]
    #[arg(long, value_name = "ADDR")]
    pub(super) listen: Option<String>,
    /// Folder with ca-cert.pem, server-cert.pem and server-key.pem
    #[arg(long, value_name = "DIR")]
    pub(super) tls_dir: Option<PathBuf>,
    /// Folder for the control sockets exports.sock and transfers.sock; without it there are none
    #[arg(long, value_name = "DIR")]
    pub(super) control_dir: Option<PathBuf>,
    /// Folder for the journals of transfers; without it none can be asked for
    #[arg(long, value_name = "DIR")]
    pub(super) journal_dir: Option<PathBuf>,
    /// Threads that move data [default: the CPUs we may use]
    #[arg(long, value_name = "N")]
    pub(super) shards: Option<usize>,
    /// How to talk to the kernel: rich and plain use io_uring; auto takes the best that works
    #[arg(long, value_name = "TIER")]
    pub(super) runtime: Option<RuntimeArg>,
    /// Export PATH as NAME; also NAME=ro:PATH (read only), NAME=scratch:PATH (content is worth nothing), NAME=null:SIZE (for measuring)
    #[arg(long = "export", value_name = "NAME=PATH")]
    pub(super) exports: Vec<String>,
    /// Where stock nbds:// clients connect (STARTTLS is forced): a loopback ADDRESS:PORT or the path of a Unix socket
    #[arg(long, value_name = "ADDR")]
    pub(super) nbds_listen: Option<String>,
    /// Path of a Unix socket (mode 0600) for plain NBD
    #[arg(long, value_name = "PATH")]
    pub(super) nbd_unix: Option<PathBuf>,
    /// Configuration file (TOML); read again on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print the configuration in force as TOML and end
    #[arg(long)]
    pub(super) print_config: bool,
    /// Seconds that clients have to finish after SIGTERM [default: 30]
    #[arg(long, value_name = "SECONDS")]
    pub(super) drain_timeout: Option<u64>,
    /// Connections held before they have authenticated [default: 512]
    #[arg(long, value_name = "N")]
    pub(super) preauth_connections_max: Option<usize>,
    /// Seconds for each phase of a handshake [default: 10]
    #[arg(long, value_name = "SECONDS")]
    pub(super) handshake_deadline: Option<u64>,
    /// Set a tunable
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub(super) tunables: Vec<String>,
    /// Log as text or as one JSON object per line, on standard error
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}
