//! Flags of `copy`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use engine::transfer::Integrity;

use super::OutputFormat;
use crate::size::{parse_rate, parse_size};

/// Longest time-out that may be set, seconds: beyond a day nobody waits, and a typing error is likelier.
const TIMEOUT_S_MAX: u64 = 86_400;

/// What to copy, and how.
#[derive(Debug, Args)]
#[command(after_long_help = engine::tunables::help())]
pub(crate) struct CopyArgs {
    /// Where the disk is: a path or a URI
    pub(crate) source: OsString,
    /// Where it goes: a path or a URI. A missing file is created
    pub(crate) target: OsString,

    /// Format of a source file [default: by its extension, never by its content]
    #[arg(long, value_enum, value_name = "FORMAT", help_heading = "Source")]
    pub(crate) source_format: Option<SourceFormat>,
    /// Trust the other files that a qcow2 or vmdk image names
    #[arg(long, help_heading = "Source")]
    pub(crate) allow_backing: bool,
    /// Copy only these ranges: lines `OFFSET LENGTH` in bytes, # for comments
    #[arg(long, value_name = "FILE", help_heading = "Source")]
    pub(crate) extents: Option<PathBuf>,

    /// Overwrite an existing file, or a device with a partition table or file system
    #[arg(long, help_heading = "Target")]
    pub(crate) overwrite: bool,
    /// The target reads as zeroes already: do not write zeroes
    #[arg(long, help_heading = "Target")]
    pub(crate) target_is_zero: bool,
    /// Accept a target that cannot flush; nothing is called durable then
    #[arg(long, help_heading = "Target")]
    pub(crate) allow_no_flush: bool,

    /// Folder with ca-cert.pem, client-cert.pem and client-key.pem
    #[arg(long, value_name = "DIR", help_heading = "Connection")]
    pub(crate) tls_dir: Option<PathBuf>,
    /// Connections [default: 2 to 4, by CPUs]
    #[arg(long, value_name = "N", help_heading = "Connection")]
    pub(crate) connections: Option<u64>,
    /// Longest time to connect and negotiate
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        help_heading = "Connection"
    )]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=TIMEOUT_S_MAX))]
    pub(crate) connect_timeout: u64,
    /// Longest time without an answer to a request
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60,
        help_heading = "Connection"
    )]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=TIMEOUT_S_MAX))]
    pub(crate) request_timeout: u64,

    /// How long a lost connection is made anew before the copy ends; 0: not at all
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 300,
        help_heading = "Connection"
    )]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=TIMEOUT_S_MAX))]
    pub(crate) reconnect_timeout: u64,

    /// What is compared on the way [default: stream where the target can, else none]
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Integrity")]
    integrity: Option<IntegrityArg>,
    /// Read everything back from the target's medium and compare; the same as --integrity media
    #[arg(long, conflicts_with = "integrity", help_heading = "Integrity")]
    verify: bool,
    /// Send only chunks that differ from what the target has
    #[arg(long, help_heading = "Integrity")]
    pub(crate) checksum_diff: bool,

    /// Write down there what is durable, so that the copy can go on after a crash
    #[arg(long, value_name = "FILE", help_heading = "Integrity")]
    pub(crate) journal: Option<PathBuf>,
    /// Go on behind what the journal calls durable
    #[arg(long, requires = "journal", help_heading = "Integrity")]
    pub(crate) resume: bool,
    /// Name of the source's present state, for sources that cannot tell it (nbd)
    #[arg(
        long,
        value_name = "NAME",
        requires = "journal",
        help_heading = "Integrity"
    )]
    pub(crate) source_id: Option<String>,

    /// Longest request, like 256K or 1M
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Speed")]
    pub(crate) request_size: Option<u64>,
    /// Most data a second, like 100M; 0 for no limit
    #[arg(long, value_name = "RATE", value_parser = parse_rate, help_heading = "Speed")]
    pub(crate) rate_limit: Option<u64>,
    /// Kernel interface to use
    #[arg(long, value_enum, value_name = "TIER", help_heading = "Speed")]
    pub(crate) runtime: Option<RuntimeArg>,
    /// Threads that move data [default: CPUs, at most the connections]
    #[arg(long, value_name = "N", help_heading = "Speed")]
    pub(crate) shards: Option<u64>,
    /// Set a tunable; may be repeated. See --help for the list
    #[arg(long = "set", value_name = "NAME=VALUE", help_heading = "Speed")]
    pub(crate) tunables: Vec<String>,

    /// Progress on standard error
    #[arg(
        long,
        value_enum,
        value_name = "HOW",
        default_value_t,
        help_heading = "Output"
    )]
    pub(crate) progress: ProgressChoice,
    /// Result on standard output
    #[arg(
        long,
        value_enum,
        value_name = "FORMAT",
        default_value_t,
        help_heading = "Output"
    )]
    pub(crate) output: OutputFormat,
}

impl CopyArgs {
    /// What the operator asked for; `None`: nothing in particular.
    pub(crate) fn integrity(&self) -> Option<Integrity> {
        match self.integrity {
            _ if self.verify => Some(Integrity::Media),
            Some(IntegrityArg::None) => Some(Integrity::None),
            Some(IntegrityArg::Stream) => Some(Integrity::Stream),
            Some(IntegrityArg::Media) => Some(Integrity::Media),
            None => None,
        }
    }
}

/// What a copy compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IntegrityArg {
    /// Nothing
    None,
    /// What was read with what arrived
    Stream,
    /// What was read with what the target's medium holds after the flush
    Media,
}

/// Formats a source file may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SourceFormat {
    /// The bytes of the file are the bytes of the disk
    Raw,
    /// QEMU's image format, read through qemu-nbd
    Qcow2,
    /// VMware's image format, read through qemu-nbd
    Vmdk,
}

impl SourceFormat {
    /// QEMU's name of it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
        }
    }
}

/// What moves the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RuntimeArg {
    /// The best that works
    Auto,
    /// io_uring with multishot receive and buffer rings
    Rich,
    /// io_uring as of Linux 6.1
    Plain,
    /// epoll and threads
    Epoll,
}

impl RuntimeArg {
    /// The word of the tunable.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Rich => "rich",
            Self::Plain => "plain",
            Self::Epoll => "epoll",
        }
    }
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ProgressChoice {
    /// A bar on a terminal, else a line every ten seconds
    #[default]
    Auto,
    /// One line that is drawn again and again
    Bar,
    /// One object per line per second
    Json,
    /// Nothing
    None,
}
