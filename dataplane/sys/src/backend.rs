//! The seam between a shard and the kernel. Three implementations: `ring::Ring`, `poll::Poll`, `engine::sim`.

use std::{os::fd::OwnedFd, sync::Arc, time::Instant};

use crate::{DeviceFile, IoFault, Lease, OpKind, RingError, SetupError, Waker, slab::Key};
pub use parts::{PARTS_MAX, Part, Parts};

mod parts;

/// Chosen by the shard, carried back by the completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// A registered socket. Carries a generation; a stale id is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketId {
    /// Its place in the table.
    pub index: u32,
    /// How often the place was reused.
    pub generation: u32,
}

/// A registered file or device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Its place in the table.
    pub index: u32,
    /// How often the place was reused.
    pub generation: u32,
}

/// An operation in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotId {
    /// Its place in the table.
    pub index: u32,
    /// How often the place was reused.
    pub generation: u32,
}

/// How a socket receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RxMode {
    /// The backend receives by itself into a mirrored ring of this many bytes (power of two, >= 64 KiB); the bytes not yet
    /// consumed are always contiguous in `rx_bytes`. Events come as `Completion::Rx`. For TLS.
    Stream {
        /// Size of the ring.
        ring_bytes: usize,
    },
    /// Only `Op::Recv`, into leases. For plain NBD, where the machine says exactly how much is wanted.
    Exact,
}
impl From<SocketId> for Key {
    fn from(id: SocketId) -> Self {
        Self {
            index: id.index,
            generation: id.generation,
        }
    }
}

impl From<Key> for SocketId {
    fn from(key: Key) -> Self {
        Self {
            index: key.index,
            generation: key.generation,
        }
    }
}

impl From<FileId> for Key {
    fn from(id: FileId) -> Self {
        Self {
            index: id.index,
            generation: id.generation,
        }
    }
}

impl From<Key> for FileId {
    fn from(key: Key) -> Self {
        Self {
            index: key.index,
            generation: key.generation,
        }
    }
}

impl From<Key> for SlotId {
    fn from(key: Key) -> Self {
        Self {
            index: key.index,
            generation: key.generation,
        }
    }
}

/// Direct I/O, or through the page cache (tails and unaligned writes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// O_DIRECT where the file has it; offset, length and address aligned to `DeviceFile::direct_align`.
    Direct,
    /// The page cache; any offset and length.
    Buffered,
}

/// How to zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroMode {
    /// fallocate PUNCH_HOLE|KEEP_SIZE: unmaps; on devices fails rather than writing.
    PunchHole,
    /// fallocate ZERO_RANGE|KEEP_SIZE: keeps it allocated; may write in the kernel.
    ZeroRange,
}

impl ZeroMode {
    /// Both keep the size: a target must not grow by zeroing beyond its end.
    pub(crate) fn fallocate_mode(self) -> i32 {
        libc::FALLOC_FL_KEEP_SIZE
            | match self {
                Self::PunchHole => libc::FALLOC_FL_PUNCH_HOLE,
                Self::ZeroRange => libc::FALLOC_FL_ZERO_RANGE,
            }
    }
}

/// An operation; owns the memory it uses until its completion gives it back.
#[derive(Debug)]
pub enum Op {
    /// Up to `len` bytes into `lease[at..]`; 0 bytes = end of stream. May be short. One in flight per
    /// socket (else refused): with two, the kernel does not say which gets the earlier bytes. Only for
    /// sockets in `RxMode::Exact`.
    Recv {
        /// From where.
        socket: SocketId,
        /// Into what.
        lease: Lease,
        /// From this byte of the lease on.
        at: u32,
        /// At most this many bytes.
        len: u32,
    },
    /// Sends all parts in order; may be short (then the caller advances and pushes again). One in flight
    /// per socket (else refused).
    Send {
        /// To where.
        socket: SocketId,
        /// What.
        parts: Parts,
        /// A wish: without copying the bytes into the kernel. Who grants it answers with `Completion::Sent` and
        /// `Completion::Released` instead of `Completion::Op`; who cannot (another backend, a Unix socket, an older
        /// kernel) sends as usual.
        zero_copy: bool,
    },
    /// Reads `len` bytes at `offset` into `lease[at..]`. Short at the end of the file, and rarely elsewhere.
    Read {
        /// From where.
        file: FileId,
        /// Into what.
        lease: Lease,
        /// From this byte of the lease on.
        at: u32,
        /// At most this many bytes.
        len: u32,
        /// Position in the file.
        offset: u64,
        /// Which descriptor.
        via: Via,
    },
    /// Writes `lease[at..at + len]` at `offset`. May be short.
    Write {
        /// To where.
        file: FileId,
        /// From what.
        lease: Lease,
        /// From this byte of the lease on.
        at: u32,
        /// This many bytes.
        len: u32,
        /// Position in the file.
        offset: u64,
        /// Which descriptor.
        via: Via,
        /// Durable when it completes (RWF_DSYNC).
        dsync: bool,
    },
    /// fdatasync of the file or device (covers writes through both descriptors); never retried by the
    /// backend: the kernel reports a lost write once.
    Flush {
        /// Of what.
        file: FileId,
    },
    /// Makes a range read as zeroes. `FaultKind::Unsupported` when the device cannot do it this way.
    Zero {
        /// Of what.
        file: FileId,
        /// Where it begins.
        offset: u64,
        /// How long it is.
        len: u64,
        /// How.
        mode: ZeroMode,
    },
}

impl Op {
    /// What kind of operation this is.
    pub fn kind(&self) -> OpKind {
        match self {
            Self::Recv { .. } => OpKind::Recv,
            Self::Send { .. } => OpKind::Send,
            Self::Read { .. } => OpKind::Read,
            Self::Write { .. } => OpKind::Write,
            Self::Flush { .. } => OpKind::Flush,
            Self::Zero { .. } => OpKind::Zero,
        }
    }
}

/// Byte count (0 for Flush and Zero) or fault.
pub type Outcome = Result<u32, IoFault>;
/// The operation comes back untouched; a full queue is weather.
#[derive(Debug)]
pub struct Refused {
    /// What was to be pushed.
    pub op: Op,
    /// Why not.
    pub why: RefusedWhy,
}

/// Why an operation was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusedWhy {
    /// Too many in flight; try on the next turn.
    QueueFull,
    /// The socket or file was removed.
    StaleId,
    /// The socket has an operation of this kind in flight already.
    Busy,
}

/// Something is over, or something arrived.
#[derive(Debug)]
pub enum Completion {
    /// The op is over and its memory is the shard's again.
    Op {
        /// As `push` returned it.
        slot: SlotId,
        /// As given to `push`.
        token: Token,
        /// Byte count or fault.
        outcome: Outcome,
        /// The operation with its memory.
        op: Op,
    },
    /// The socket took this much of a zero-copy send, or failed. The next send may be pushed, but the memory still
    /// belongs to the kernel, which reads it as often as it has to transmit: until `Released`.
    Sent {
        /// As `push` returned it.
        slot: SlotId,
        /// As given to `push`.
        token: Token,
        /// Byte count (may be short) or fault.
        outcome: Outcome,
    },
    /// The kernel let go of the memory of a zero-copy send; comes once after its `Sent`, in any order among sends.
    Released {
        /// As `push` returned it.
        slot: SlotId,
        /// As given to `push`.
        token: Token,
        /// The operation with its memory.
        op: Op,
        /// The kernel made a copy after all.
        copied: bool,
    },
    /// New bytes stand in `rx_bytes` (Ok(n > 0)), the stream ended (Ok(0)) or broke (Err). After Ok(0)/Err
    /// no more come.
    Rx {
        /// Where.
        socket: SocketId,
        /// As given to `add_socket`.
        token: Token,
        /// How many bytes are new, or the end.
        outcome: Outcome,
    },
}

/// What a shard needs from the outside.
pub trait Backend {
    /// Takes a connected stream socket. `token` marks its Rx completions. `initial`: bytes already received,
    /// they stand at the front of `rx_bytes` at once and an Rx completion announces them (Stream mode only).
    fn add_socket(
        &mut self,
        fd: OwnedFd,
        mode: RxMode,
        token: Token,
        initial: &[u8],
    ) -> Result<SocketId, SetupError>;
    /// Shuts both directions down; operations in flight still complete (with what they had done, or with
    /// faults); no Rx completion comes any more. The descriptor closes after the last operation.
    fn remove_socket(&mut self, socket: SocketId);
    /// Takes a file into the table.
    fn add_file(&mut self, file: Arc<DeviceFile>) -> Result<FileId, SetupError>;
    /// The file leaves the table after its last operation.
    fn remove_file(&mut self, file: FileId);
    /// Received bytes not yet consumed, contiguous. Empty for a stale id.
    fn rx_bytes(&self, socket: SocketId) -> &[u8];
    /// Gives `len` bytes back to the receive ring (receiving resumes by itself when it had stopped for lack
    /// of room). A reader may wait until half the ring stands unread, not for more.
    fn rx_consume(&mut self, socket: SocketId, len: usize);
    /// Starts an operation; it reaches the kernel with the next `submit_and_wait`.
    #[expect(
        clippy::result_large_err,
        reason = "the operation comes back, and not in a box"
    )]
    fn push(&mut self, op: Op, token: Token) -> Result<SlotId, Refused>;
    /// Submits what was pushed and waits until a completion, a wake-up or `until` (None: for ever).
    /// May return early with nothing to reap.
    fn submit_and_wait(&mut self, until: Option<Instant>) -> Result<(), RingError>;
    /// The next completion; None when all were taken.
    fn reap(&mut self) -> Option<Completion>;
    /// The time.
    fn now(&self) -> Instant;
    /// Wakes `submit_and_wait` from another thread.
    fn waker(&self) -> Waker;
    /// Operations in flight, for draining.
    fn in_flight(&self) -> usize;
}
