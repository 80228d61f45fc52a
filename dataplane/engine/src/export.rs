//! Exports: what clients see of a device.

mod busy;
mod medium;
mod stream;
mod watch;

pub use busy::{RangeUse, Stamp};
pub use medium::{
    MEDIUM_BYTES_MAX, MEDIUM_CHUNK_BYTES, MEDIUM_DIGESTS_MAX, MEDIUM_OFFSET_ALIGN, MediumError,
};
pub(crate) use stream::Leaves;
pub use stream::StreamChunk;
pub use watch::StreamUser;
pub(crate) use watch::{ConnectionSyncs, ConnectionWrites, DeviceWatch};

use crate::{
    EngineError,
    error::{Blame, ErrorKind},
    gate::Gate,
    limits::FLUSH_SECONDS_MAX,
    stats::{ExportCounters, ExportStats, add},
    syncs::Mark,
};
use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use sys::DeviceFile;
use wire::{BlockSizes, ExportInfo, TransmissionFlags, limits::PAYLOAD_BYTES_MAX};

/// What stands behind an export.
#[derive(Clone)]
pub enum Store {
    /// A file or block device.
    Device(Arc<DeviceFile>),
    /// Writes are discarded, reads are zeroes. For measuring only.
    Null {
        /// Its size, bytes.
        size_bytes: u64,
    },
}

/// What an export is made from.
pub struct ExportSpec {
    /// Its name on the wire.
    pub name: String,
    /// What stands behind it.
    pub store: Store,
    /// Writes are refused.
    pub read_only: bool,
    /// Its content is worth nothing; benchmarks may overwrite it.
    pub scratch: bool,
}

/// One export, shared by the door and every shard.
pub struct Export {
    id: u64,
    spec: ExportSpec,
    pub(crate) gate: Gate,
    pub(crate) counters: ExportCounters,
    /// Syncs of the device that had failed before the export was made: they took nothing that was written through it.
    failures_before: u64,
    /// The device answered that it cannot do this way of zeroing.
    pub(crate) punch_unsupported: AtomicBool,
    pub(crate) range_unsupported: AtomicBool,
    /// Writes to the device, those of other exports included.
    pub(crate) watch: Arc<DeviceWatch>,
    /// Its connections were told to end; long work on it ends early.
    closing: AtomicBool,
    connections: AtomicUsize,
    idle: (Mutex<()>, Condvar),
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Preferred block size when the device does not name a better one, bytes.
const PREFERRED_BYTES: u32 = 4_096;
/// Largest preferred block size we advertise: clients coarsen their hole detection to it, bytes.
const PREFERRED_BYTES_MAX: u32 = 65_536;

impl Export {
    /// Makes an export; it is reachable as soon as the door knows it.
    #[must_use]
    pub fn new(spec: ExportSpec) -> Arc<Self> {
        let watch = DeviceWatch::of(&spec.store);
        Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            failures_before: watch.syncs.failures(),
            watch,
            spec,
            gate: Gate::default(),
            counters: ExportCounters::default(),
            punch_unsupported: AtomicBool::new(false),
            range_unsupported: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            idle: (Mutex::new(()), Condvar::new()),
        })
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Its name on the wire.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// What stands behind it.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.spec.store
    }

    /// Its content is worth nothing.
    #[must_use]
    pub fn is_scratch(&self) -> bool {
        self.spec.scratch
    }

    /// Writes are refused.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.spec.read_only
            || matches!(&self.spec.store, Store::Device(file) if file.is_read_only())
    }

    /// Size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        match &self.spec.store {
            Store::Device(file) => file.size_bytes(),
            Store::Null { size_bytes } => *size_bytes,
        }
    }

    /// What GO and INFO answer.
    #[must_use]
    pub fn info(&self) -> ExportInfo {
        let mut flags = TransmissionFlags::HAS_FLAGS
            .union(TransmissionFlags::SEND_FLUSH)
            .union(TransmissionFlags::SEND_FUA)
            .union(TransmissionFlags::SEND_DF)
            .union(TransmissionFlags::CAN_MULTI_CONN);
        if self.is_read_only() {
            flags = flags.union(TransmissionFlags::READ_ONLY);
        } else {
            flags = flags
                .union(TransmissionFlags::SEND_TRIM)
                .union(TransmissionFlags::SEND_WRITE_ZEROES)
                .union(TransmissionFlags::SEND_FAST_ZERO);
        }
        let block = match &self.spec.store {
            Store::Device(file) => {
                if file.rotational() {
                    flags = flags.union(TransmissionFlags::ROTATIONAL);
                }
                Self::block_sizes(file)
            }
            Store::Null { .. } => BlockSizes {
                min: 1,
                preferred: PREFERRED_BYTES,
                payload_max: PAYLOAD_BYTES_MAX,
            },
        };
        ExportInfo {
            size_bytes: self.size_bytes(),
            flags,
            block,
            description: String::new(),
        }
    }

    /// A device's minimum is its logical block. A file has no minimum: its odd tail must stay reachable, and
    /// what direct I/O cannot write goes through the page cache.
    fn block_sizes(file: &DeviceFile) -> BlockSizes {
        let min = match file.kind() {
            sys::DeviceKind::Block => file.logical_block().clamp(1, PREFERRED_BYTES_MAX),
            sys::DeviceKind::Regular => 1,
        };
        let hint = file.preferred_io();
        let preferred = if hint.is_power_of_two() {
            hint
        } else {
            PREFERRED_BYTES
        };
        BlockSizes {
            min,
            preferred: preferred.clamp(PREFERRED_BYTES.max(min), PREFERRED_BYTES_MAX),
            payload_max: PAYLOAD_BYTES_MAX,
        }
    }

    /// Live connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Acquire)
    }

    pub(crate) fn enter(&self) {
        self.connections.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn leave(&self) {
        if self.connections.fetch_sub(1, Ordering::AcqRel) == 1 {
            let _guard = self.idle.0.lock().unwrap_or_else(PoisonError::into_inner);
            self.idle.1.notify_all();
        }
    }

    /// Blocks until no connection is left; false on timeout.
    #[must_use]
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        let guard = self.idle.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .idle
            .1
            .wait_timeout_while(guard, timeout, |()| self.connections() > 0)
            .unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out() || self.connections() == 0
    }

    /// Totals since the export was made.
    #[must_use]
    pub fn stats(&self) -> ExportStats {
        self.counters.totals()
    }

    /// Writes to its device that are on their way, and those of other exports of that device.
    #[must_use]
    pub fn writes(&self) -> &RangeUse {
        &self.watch.writes
    }

    /// One more who wants digests of what is written while it is written.
    #[must_use]
    pub fn use_stream(&self) -> StreamUser {
        StreamUser::new(&self.watch)
    }

    /// How often what was hashed so had to be forgotten because it came faster than it was taken.
    #[must_use]
    pub fn streams_voided(&self) -> u64 {
        self.watch.stream.voided()
    }

    pub(crate) fn begin_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Grows with every failed flush or synchronous write of the device, also through another of its exports: what was
    /// written and not flushed before is void then.
    #[must_use]
    pub fn flush_epoch(&self) -> u64 {
        self.watch
            .syncs
            .failures()
            .saturating_sub(self.failures_before)
    }

    /// A flush failed. What it should have saved is lost, and no later flush says otherwise: nobody ever gets a good
    /// answer to FLUSH again, until the export is made anew.
    ///
    /// The kernel has dropped what it could not write, and a later flush would "succeed" without it. Which export the
    /// failed one went through says nothing: two may share an opened file, and below two opened files is one cache.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.flush_epoch() != 0
    }

    /// A sync of the device ended well just now: whether what it did is durable. `None` as long as another one that it
    /// overlapped is under way, which may have been told of the loss in its place.
    pub(crate) fn is_durable(&self, since: Mark) -> Option<bool> {
        if self.has_failed() {
            return Some(false);
        }
        // Once more behind it: what was waited for may have failed.
        self.watch.syncs.is_past(since).then(|| !self.has_failed())
    }

    /// Flushes off the shards, for the control socket and for draining. A failure is not retried.
    ///
    /// # Errors
    /// The device's error; from then on everybody is told EIO on FLUSH. The failure of another flush or synchronous
    /// write that was under way at the same time.
    pub fn flush_blocking(&self) -> Result<(), EngineError> {
        let Store::Device(file) = &self.spec.store else {
            return Ok(());
        };
        if self.has_failed() {
            return Err(self.failed_before());
        }
        let syncs = &self.watch.syncs;
        let half = syncs.begin();
        match file.flush_blocking() {
            Ok(()) => syncs.end(half),
            Err(cause) => {
                add(&self.counters.flush_failures, 1);
                syncs.fail(half);
                return Err(self.flush_failed().cause(cause));
            }
        }
        if !syncs.wait(syncs.mark(), Duration::from_secs(FLUSH_SECONDS_MAX)) {
            return Err(self.flush_in_doubt());
        }
        if self.has_failed() {
            return Err(self.failed_before());
        }
        add(&self.counters.flushes, 1);
        Ok(())
    }

    fn flush_failed(&self) -> EngineError {
        EngineError::new(
            ErrorKind::TargetIo,
            Blame::Environment,
            "flush failed; writes since the last good flush are void",
            format!("export {}", self.name()),
        )
        .remedy("check the device and the kernel log, then copy again what was not durable")
    }

    fn flush_in_doubt(&self) -> EngineError {
        EngineError::new(
            ErrorKind::TargetIo,
            Blame::Environment,
            "another flush or synchronous write hangs in the device; this one proves nothing before it ends",
            format!("export {}", self.name()),
        )
        .remedy("check the device and the kernel log")
    }

    fn failed_before(&self) -> EngineError {
        EngineError::new(
            ErrorKind::TargetIo,
            Blame::Environment,
            "another flush or synchronous write failed; writes since the last good flush are void",
            format!("export {}", self.name()),
        )
        .remedy("copy again what was not durable, to an export that was opened anew")
    }
}

#[cfg(test)]
mod tests;
