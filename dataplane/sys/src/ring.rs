//! io_uring: one ring per shard, one system call per turn.
//!
//! What the kernel may touch is owned here until its last completion: operations with their leases in the
//! in-flight table, receive rings in the socket table. Two tiers share everything but receiving: *rich* has a
//! multishot receive per socket that consumes a buffer ring incrementally (6.12), *plain* receives once and
//! arms again (6.1).
//!
//! A ring is made disabled and belongs to the thread that first calls `submit_and_wait`.

mod buffers;
mod close;
mod enter;
mod files;
mod reap;
mod rx;
mod rx_multi;
mod setup;
mod sockets;
mod submit;
mod tag;
mod zero_copy;

use std::{
    collections::VecDeque,
    mem::ManuallyDrop,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
    thread::ThreadId,
    time::Instant,
};

use io_uring::IoUring;

use crate::{
    Arena, Backend, Completion, DeviceFile, FileId, Lease, Op, Refused, RingError, RxMode,
    SetupError, SetupErrorKind, SlotId, SocketId, Tier, Token, Waker,
    memory::{Mapping, PAGE_BYTES},
    slab::{Key, Slab},
};
use buffers::RegisteredBuffers;
use enter::{EnterFd, Wait};
use files::FileEntry;
use sockets::SocketEntry;
use submit::{InFlight, MessageTable};

/// How large a ring, for what.
#[derive(Clone)]
pub struct RingConfig {
    /// `Rich` or `Plain`; `Epoll` is refused (see `poll::Poll`).
    pub tier: Tier,
    /// Operations in flight at most.
    pub entries: u32,
    /// Files and devices at most.
    pub files_max: u16,
    /// Sockets at most.
    pub sockets_max: u16,
    /// Leases from this arena become registered buffers when files are read or written with them. Leases
    /// from elsewhere work as well.
    pub arena: Arc<Arena>,
}

/// More would be a mistake somewhere: io_uring itself ends at 32768 entries.
const ENTRIES_MAX: u32 = 8192;
const SOCKETS_MAX: u16 = 4096;
const FILES_MAX: u16 = 4096;

/// The io_uring backend.
///
/// Drop it on the thread that used it: that waits for what is in flight. From another thread the kernel
/// takes no orders, and whatever it may still write to is leaked.
pub struct Ring {
    /// Leaked on purpose when the kernel cannot be made to let go of our memory, see `close`.
    inner: ManuallyDrop<Box<Inner>>,
}

pub(crate) struct Inner {
    uring: IoUring,
    enter_fd: EnterFd,
    /// None until the first `submit_and_wait` enabled the ring.
    owner: Option<ThreadId>,
    in_flight: Slab<InFlight>,
    messages: MessageTable,
    sockets: Slab<SocketEntry>,
    files: Slab<FileEntry>,
    /// Pages for the sockets' buffer rings, one each (rich tier).
    buffer_rings: Option<Mapping>,
    registered: RegisteredBuffers,
    /// The kernel has a table of descriptors of ours.
    fixed_files: bool,
    /// The kernel sends without copying and tells whether it did.
    zero_copy: bool,
    waker: Waker,
    /// Target of the standing read of the waker's eventfd.
    wake_count: Box<u64>,
    wake_armed: bool,
    /// Sockets with room to hand out or a receive to start at the next submission.
    to_serve: VecDeque<Key>,
    /// Operations the kernel answered with EAGAIN or EINTR.
    to_retry: VecDeque<Key>,
    /// Sockets with so many initial bytes that no completion announced yet.
    to_announce: VecDeque<(Key, u32)>,
    features: Vec<(String, bool)>,
    notes: Vec<String>,
}

impl Ring {
    /// Sets a ring up, by trial. Errors say whether io_uring is missing, forbidden or short of memory.
    pub fn new(config: &RingConfig) -> Result<Self, SetupError> {
        check_config(config)?;
        let made = setup::make(config)?;
        let waker = Waker::new()?;
        let entries = config.entries as usize;
        let sockets = usize::from(config.sockets_max);
        let buffer_rings = match config.tier {
            Tier::Rich => {
                let table = Mapping::new(sockets * PAGE_BYTES).map_err(|error| {
                    SetupError::from_io(setup::SUBJECT, "no memory for buffer rings", error)
                })?;
                setup::try_incremental_buffers(&made.uring, &table)?;
                Some(table)
            }
            Tier::Plain | Tier::Epoll => None,
        };
        let mut inner = Inner {
            enter_fd: EnterFd::new(made.uring.as_raw_fd()),
            uring: made.uring,
            owner: None,
            in_flight: Slab::new(entries),
            messages: MessageTable::new(entries),
            sockets: Slab::new(sockets),
            files: Slab::new(usize::from(config.files_max)),
            buffer_rings,
            registered: RegisteredBuffers::none(Arc::clone(&config.arena)),
            fixed_files: false,
            zero_copy: zero_copy::is_known(),
            waker,
            wake_count: Box::new(0),
            wake_armed: false,
            to_serve: VecDeque::with_capacity(sockets),
            to_retry: VecDeque::with_capacity(entries),
            to_announce: VecDeque::with_capacity(sockets),
            features: made.features,
            notes: Vec::new(),
        };
        inner.register_tables(config);
        Ok(Self {
            inner: ManuallyDrop::new(Box::new(inner)),
        })
    }

    /// What was tried and whether it is there, for the report.
    pub fn features(&self) -> &[(String, bool)] {
        &self.inner.features
    }

    /// What did not work but does no harm, for the log.
    pub fn notes(&self) -> Vec<String> {
        self.inner
            .notes
            .iter()
            .cloned()
            .chain(self.inner.registered.note())
            .collect()
    }

    /// True while the kernel takes leases as registered buffers.
    pub fn has_registered_buffers(&self) -> bool {
        self.inner.registered.is_active()
    }

    /// Registers a lease, as its first use for a file would; false when the kernel refuses.
    pub(crate) fn takes_registered(&mut self, lease: &Lease) -> bool {
        let inner = &mut **self.inner;
        inner.registered.index_of(&inner.uring, lease).is_some()
    }
}

fn check_config(config: &RingConfig) -> Result<(), SetupError> {
    let right = config.tier != Tier::Epoll
        && (1..=ENTRIES_MAX).contains(&config.entries)
        && (1..=SOCKETS_MAX).contains(&config.sockets_max)
        && (1..=FILES_MAX).contains(&config.files_max);
    if right {
        return Ok(());
    }
    let problem = format!(
        "no {:?} ring with {} operations, {} sockets and {} files (at most {ENTRIES_MAX}, {SOCKETS_MAX} and \
         {FILES_MAX})",
        config.tier, config.entries, config.sockets_max, config.files_max
    );
    Err(SetupError::new(
        SetupErrorKind::Invalid,
        setup::SUBJECT,
        problem,
    ))
}

impl Inner {
    /// Tables that make operations cheaper; without them everything still works.
    fn register_tables(&mut self, config: &RingConfig) {
        let places = u32::from(config.sockets_max) + 2 * u32::from(config.files_max);
        match self.uring.submitter().register_files_sparse(places) {
            Ok(()) => self.fixed_files = true,
            Err(error) => self
                .notes
                .push(format!("descriptors are not registered: {error}")),
        }
        if let Err(error) = self.registered.open_table(&self.uring) {
            self.notes
                .push(format!("buffers are not registered: {error}"));
        }
        self.features
            .push(("registered_files".to_owned(), self.fixed_files));
        self.features
            .push(("registered_buffers".to_owned(), self.registered.is_active()));
        self.features
            .push(("zero_copy_send".to_owned(), self.zero_copy));
        self.features.push((
            "incremental_buffers".to_owned(),
            self.buffer_rings.is_some(),
        ));
    }

    /// Makes the calling thread the owner.
    fn enable(&mut self) -> Result<(), RingError> {
        self.uring
            .submitter()
            .register_enable_rings()
            .map_err(|error| RingError {
                call: "io_uring_register(ENABLE_RINGS)",
                errno: error.raw_os_error().unwrap_or(libc::EIO),
            })?;
        self.enter_fd.register();
        self.owner = Some(std::thread::current().id());
        Ok(())
    }

    fn submit_and_wait(&mut self, until: Option<Instant>) -> Result<(), RingError> {
        if self.owner.is_none() {
            self.enable()?;
        }
        self.push_internal();
        let ready = !self.to_announce.is_empty() || !self.uring.completion().is_empty();
        let count = self.uring.submission().len();
        if ready && count == 0 {
            return Ok(());
        }
        let wait = match until {
            _ if ready => Wait::No,
            None => Wait::Forever,
            Some(until) => match until.saturating_duration_since(Instant::now()) {
                left if left.is_zero() => Wait::No,
                left => Wait::For(left),
            },
        };
        let count = u32::try_from(count).expect("the queue is far shorter");
        self.enter(count, wait)
    }

    fn enter(&mut self, count: u32, wait: Wait) -> Result<(), RingError> {
        match self.enter_fd.enter(count, wait) {
            Ok(()) => Ok(()),
            Err(error) => match error.raw_os_error().unwrap_or(libc::EIO) {
                // The time is up; a signal came; completions must be taken before more can be submitted.
                libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN => Ok(()),
                errno => Err(RingError {
                    call: "io_uring_enter",
                    errno,
                }),
            },
        }
    }
}

impl Backend for Ring {
    fn add_socket(
        &mut self,
        fd: OwnedFd,
        mode: RxMode,
        token: Token,
        initial: &[u8],
    ) -> Result<SocketId, SetupError> {
        self.inner.add_socket(fd, mode, token, initial)
    }

    fn remove_socket(&mut self, socket: SocketId) {
        self.inner.remove_socket(socket.into());
    }

    fn add_file(&mut self, file: Arc<DeviceFile>) -> Result<FileId, SetupError> {
        self.inner.add_file(file)
    }

    fn remove_file(&mut self, file: FileId) {
        self.inner.remove_file(file.into());
    }

    fn rx_bytes(&self, socket: SocketId) -> &[u8] {
        self.inner.rx_bytes(socket.into())
    }

    fn rx_consume(&mut self, socket: SocketId, len: usize) {
        self.inner.rx_consume(socket.into(), len);
    }

    fn push(&mut self, op: Op, token: Token) -> Result<SlotId, Refused> {
        self.inner.push(op, token)
    }

    fn submit_and_wait(&mut self, until: Option<Instant>) -> Result<(), RingError> {
        self.inner.submit_and_wait(until)
    }

    fn reap(&mut self) -> Option<Completion> {
        self.inner.reap()
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn waker(&self) -> Waker {
        self.inner.waker.clone()
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight.len()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.inner.close() {
            // SAFETY: dropped once, here, and not used after. `close` said that the kernel holds none of
            // this memory any more.
            unsafe { ManuallyDrop::drop(&mut self.inner) };
        }
    }
}
