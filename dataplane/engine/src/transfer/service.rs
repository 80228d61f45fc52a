//! The side channel to a target: who it is, and digests of what it has.

pub(crate) mod local;
pub(crate) mod readback;

use crate::{
    EngineError,
    digest::{Cv, Digest},
};
use std::{fmt, ops::Range};

/// Makes sessions with the service of one target. A transfer makes one, and another after a lost connection.
pub trait TargetService: Send + Sync {
    /// Connects.
    ///
    /// # Errors
    /// `ErrorKind::Unsupported` when the target has no such service; else what stood in the way.
    fn connect(&self) -> Result<Box<dyn TargetSession>, EngineError>;
}

/// One session. Every call has a deadline of its own.
pub trait TargetSession: Send {
    /// Who the target is, at this moment.
    ///
    /// # Errors
    /// A lost connection, or an answer that makes no sense.
    fn facts(&mut self) -> Result<TargetFacts, EngineError>;

    /// One digest for each `chunk_bytes` of `range`, the last one perhaps of less, read from the medium.
    ///
    /// # Errors
    /// As `facts`; the target's error when it cannot read.
    fn hashes(&mut self, range: Range<u64>, chunk_bytes: u64) -> Result<Vec<Digest>, EngineError>;

    /// Asks the target to hash what arrives from now on, for as long as this session lasts.
    ///
    /// # Errors
    /// As `facts`.
    fn start_stream(&mut self) -> Result<(), EngineError>;

    /// What the target hashed while it arrived, for each chunk of 4 MiB from `first_chunk` on: `None` where it
    /// does not know the whole chunk.
    ///
    /// # Errors
    /// As `facts`.
    fn stream(&mut self, first_chunk: u64, count: u64) -> Result<Vec<Option<Digest>>, EngineError>;

    /// Chaining values of the grains of 64 KiB of a grain-aligned range, read from the medium.
    ///
    /// # Errors
    /// As `hashes`.
    fn grains(&mut self, range: Range<u64>) -> Result<Vec<Cv>, EngineError>;

    /// How the digests were had, for reports.
    fn name(&self) -> VerifiedBy;
}

/// Who read the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifiedBy {
    /// The target itself, over `mk-data/1`.
    Target,
    /// We did, over NBD: the bytes travelled once more.
    Readback,
    /// We did: the target is a file or device of this machine.
    Local,
}

impl fmt::Display for VerifiedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Target => "target",
            Self::Readback => "readback",
            Self::Local => "local",
        })
    }
}

/// Who a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetFacts {
    /// A regular file; else a block device.
    pub is_file: bool,
    /// Bytes.
    pub size_bytes: u64,
    /// Bytes of a logical block.
    pub logical_block: u32,
    /// Block devices: serial number.
    pub serial: Option<String>,
    /// Block devices: world-wide id.
    pub wwid: Option<String>,
    /// Block devices: number of this instance of the device since the machine started.
    pub diskseq: Option<u64>,
    /// Files: device of the file system; block devices: their own number.
    pub dev: u64,
    /// Files: inode.
    pub inode: u64,
    /// Files: when it was made, nanoseconds since 1970 UTC, where that is known.
    pub born_ns: Option<i64>,
    /// The run of the target's kernel.
    pub boot_id: String,
    /// What is written is thrown away.
    pub discarded: bool,
}
