//! Copies: from what the operator wants to what happened.
//!
//! `run` opens both ends, plans, places one mover per connection on the shards and waits for them. It flushes at
//! checkpoints and once more after all of them are drained; only what was acknowledged before a flush that
//! succeeded is durable. After a lost connection the next attempt copies what is not.

mod attempt;
mod book;
mod compare;
mod diff;
mod edges;
mod ends;
mod keeper;
mod patience;
pub(crate) mod plan;
mod reader;
mod resume;
mod run;
mod service;
pub(crate) mod shared;
mod stamp;
mod trust;
mod watcher;

pub use resume::JournalSpec;
pub use run::run;
pub use service::{TargetFacts, TargetService, TargetSession, VerifiedBy};
pub use stamp::SourceFiles;

use crate::{Endpoint, ExtentSet};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// What to copy, and how.
#[derive(Clone)]
pub struct TransferSpec {
    /// Where the bytes come from.
    pub source: Endpoint,
    /// Files of this machine that the server of the source reads; they must not change meanwhile.
    pub source_files: Option<SourceFiles>,
    /// Where they go.
    pub target: Endpoint,
    /// Streams; fewer when an end allows only one.
    pub connections: usize,
    /// Bytes of a data request, a multiple of 4096.
    pub request_bytes: u32,
    /// Bytes one stream may have in flight at most; how many it has follows rate and round trip.
    pub window_bytes: usize,
    /// Only these ranges; zeroes in them are always written.
    pub extents: Option<ExtentSet>,
    /// Data rate limit, bytes per second.
    pub rate_bytes_per_s: Option<u64>,
    /// The target reads as zeroes already: zeroes need not be written.
    pub target_is_zero: bool,
    /// Existing files and signatures may be overwritten.
    pub overwrite: bool,
    /// A target that cannot flush is accepted; nothing is called durable then.
    pub allow_no_flush: bool,
    /// Longest time without an answer to a request.
    pub in_flight_deadline: Duration,
    /// Smallest run of zeroes that is looked for, bytes; 0: none.
    pub zero_scan_bytes: u32,
    /// When what is written is made durable while the copy goes on.
    pub checkpoint: Checkpoint,
    /// How long a lost connection is made anew before the transfer ends; zero: it ends at once.
    pub reconnect_for: Duration,
    /// What is compared on the way; `None`: `Stream` where the target can, else nothing.
    pub integrity: Option<Integrity>,
    /// Send only what differs from the target, chunk by chunk.
    pub checksum_diff: bool,
    /// What is durable is written down there, so that a copy can go on after a crash.
    pub journal: Option<JournalSpec>,
    /// Where the target's digests come from, when it may have such a service.
    pub service: Option<Arc<dyn TargetService>>,
}

/// What a transfer compares, checkpoint by checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integrity {
    /// Nothing.
    None,
    /// What was read at the source with what arrived at the target.
    Stream,
    /// What was read at the source with what the target's medium holds after the flush.
    Media,
}

impl Integrity {
    /// The word of the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Stream => "stream",
            Self::Media => "media",
        }
    }
}

impl TransferSpec {
    /// A copy with everything at its default.
    #[must_use]
    pub fn new(source: Endpoint, target: Endpoint) -> Self {
        Self {
            source,
            source_files: None,
            target,
            connections: 1,
            request_bytes: 256 * 1024,
            window_bytes: 16 * 1024 * 1024,
            extents: None,
            rate_bytes_per_s: None,
            target_is_zero: false,
            overwrite: false,
            allow_no_flush: false,
            in_flight_deadline: Duration::from_secs(60),
            zero_scan_bytes: 65_536,
            checkpoint: Checkpoint::default(),
            reconnect_for: Duration::ZERO,
            integrity: None,
            checksum_diff: false,
            journal: None,
            service: None,
        }
    }
}

/// When a transfer flushes in between: whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// After that many bytes.
    pub bytes: u64,
    /// After that time, when anything was written.
    pub every: Duration,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self {
            bytes: 4 << 30,
            every: Duration::from_secs(60),
        }
    }
}

/// Numbers of a running transfer; none ever shrinks but `in_flight_bytes` and `stalled_for`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    /// Bytes the transfer covers.
    pub total_bytes: u64,
    /// Data bytes that the target acknowledged.
    pub data_bytes: u64,
    /// Bytes acknowledged as written zeroes.
    pub zero_bytes: u64,
    /// Bytes that needed no write (a target known to be zero).
    pub skipped_bytes: u64,
    /// Bytes an earlier run had made durable.
    pub resumed_bytes: u64,
    /// Bytes that were acknowledged and then lost with a connection: they are sent again.
    pub void_bytes: u64,
    /// Bytes covered by an answered flush.
    pub durable_bytes: u64,
    /// Data on its way now, on all connections together.
    pub in_flight_bytes: u64,
    /// Bytes whose digests were compared since, and are equal.
    pub verified_bytes: u64,
    /// While both sides are compared before anything moves (a resume, a reconnect, checksum-diff): how much of both.
    /// 0 at all other times.
    pub comparing_bytes: u64,
    /// How much of `comparing_bytes` is done.
    pub compared_bytes: u64,
    /// Since the transfer began to move.
    pub elapsed: Duration,
    /// Since the last acknowledged byte.
    pub stalled_for: Duration,
}

impl Progress {
    /// Bytes that are done in one way or another.
    #[must_use]
    pub fn done_bytes(&self) -> u64 {
        self.data_bytes + self.zero_bytes + self.skipped_bytes + self.resumed_bytes
    }
}

/// What a finished transfer did.
#[derive(Debug, Clone)]
pub struct TransferReport {
    /// The final numbers.
    pub progress: Progress,
    /// From the first byte to the answered flush.
    pub time_to_durable: Duration,
    /// Streams in use.
    pub connections: usize,
    /// Bytes of a data request in use.
    pub request_bytes: u32,
    /// TLS cipher suite of the target's (else the source's) connections.
    pub suite: Option<String>,
    /// Runtime tier.
    pub tier: String,
    /// Payload moved by the CPU after decryption or before sealing.
    pub plaintext_copied_bytes: u64,
    /// Ciphertext of records that straddled two receive buffers.
    pub ciphertext_joined_bytes: u64,
    /// The data went to a null target.
    pub discarded: bool,
    /// The target was flushed after the last write.
    pub durable: bool,
    /// What was compared.
    pub integrity: Integrity,
    /// Who read what was compared; `None` when nothing was.
    pub verified_by: Option<VerifiedBy>,
    /// Connections that were lost and made again.
    pub reconnects: u64,
    /// Direct I/O at a local source.
    pub source_direct: Option<bool>,
    /// Direct I/O at a local target.
    pub target_direct: Option<bool>,
    /// CPU time of this process during the transfer, seconds.
    pub cpu_seconds: f64,
    /// What the operator should know.
    pub warnings: Vec<String>,
    /// Request latency in microseconds: p50, p99, p99.9, longest.
    pub latency_us: [u64; 4],
}

/// Asks a running transfer to end: what is in flight is finished and flushed.
#[derive(Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Was asked.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
