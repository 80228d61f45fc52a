//! epoll and a few threads, where io_uring is forbidden.
//!
//! Sockets are non-blocking: an operation is tried at once and again whenever epoll says that something
//! changed (edge-triggered, so that a turn costs one `epoll_wait` and no re-arming). Files know no readiness:
//! their operations move, memory and all, to a thread that blocks in the system call and back.

mod files;
mod sockets;
mod work;

use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

use crate::{
    Backend, Completion, DeviceFile, FileId, Op, Outcome, Refused, RefusedWhy, RingError, RxMode,
    SetupError, SetupErrorKind, SlotId, SocketId, Token, Waker,
    slab::{Key, Slab},
};
use files::FileEntry;
use sockets::SocketEntry;
use work::{Done, Workers};

/// How large.
#[derive(Debug, Clone)]
pub struct PollConfig {
    /// Operations in flight at most.
    pub entries: u32,
    /// Files and devices at most.
    pub files_max: u16,
    /// Sockets at most.
    pub sockets_max: u16,
    /// Threads for file operations: how many the device works on at a time.
    pub threads: usize,
}

/// More is a mistake somewhere.
const ENTRIES_MAX: u32 = 8192;
const THREADS_MAX: usize = 256;
/// Events taken per system call.
const EVENTS_MAX: usize = 128;
/// Marks the waker among the sockets' events.
const WAKER_EVENT: u64 = u64::MAX;
const SUBJECT: &str = "epoll";

/// The fallback backend.
pub struct Poll {
    epoll: Epoll,
    events: Vec<EpollEvent>,
    waker: Waker,
    in_flight: Slab<InFlight>,
    sockets: Slab<SocketEntry>,
    files: Slab<FileEntry>,
    workers: Workers,
    /// Sockets on which something may be possible now.
    to_try: VecDeque<Key>,
    /// Finished, not yet taken.
    ready: VecDeque<Completion>,
}

/// An operation that is not over.
pub(crate) struct InFlight {
    token: Token,
    held: Held,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a box would be an allocation per operation"
)]
pub(crate) enum Held {
    /// Waits for its socket; so much of a send is done.
    Socket { op: Op, sent_bytes: u32 },
    /// With a thread, which has the operation.
    File(Key),
}

impl Poll {
    /// Starts the threads.
    pub fn new(config: &PollConfig) -> Result<Self, SetupError> {
        let right = (1..=ENTRIES_MAX).contains(&config.entries)
            && (1..=THREADS_MAX).contains(&config.threads)
            && config.files_max > 0
            && config.sockets_max > 0;
        if !right {
            let problem = format!("{config:?} is out of range");
            return Err(SetupError::new(SetupErrorKind::Invalid, SUBJECT, problem));
        }
        let failed = |errno| SetupError::from_io(SUBJECT, "cannot be set up", errno);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?;
        let waker = Waker::new()?;
        if let Some(state) = waker.state() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, WAKER_EVENT);
            epoll.add(state.event(), event).map_err(failed)?;
        }
        let entries = config.entries as usize;
        let sockets = usize::from(config.sockets_max);
        Ok(Self {
            epoll,
            events: vec![EpollEvent::empty(); EVENTS_MAX],
            workers: Workers::start(config.threads, entries, &waker)?,
            waker,
            in_flight: Slab::new(entries),
            sockets: Slab::new(sockets),
            files: Slab::new(usize::from(config.files_max)),
            to_try: VecDeque::with_capacity(sockets),
            // An operation ends once; a socket adds what it announces, receives and ends with per try.
            ready: VecDeque::with_capacity(entries + sockets * 4),
        })
    }

    fn finish(&mut self, key: Key, outcome: Outcome, op: Op) {
        if let Some(held) = self.in_flight.remove(key) {
            self.ready.push_back(Completion::Op {
                slot: key.into(),
                token: held.token,
                outcome,
                op,
            });
        }
    }

    /// Tries every socket on the list once; sockets with more to do stay on it.
    fn try_sockets(&mut self) {
        for _ in 0..self.to_try.len() {
            let Some(key) = self.to_try.pop_front() else {
                return;
            };
            self.try_socket(key);
        }
    }

    fn is_ready(&self) -> bool {
        !self.ready.is_empty() || !self.to_try.is_empty() || self.workers.has_done()
    }

    fn wait(&mut self, timeout: EpollTimeout) -> Result<(), RingError> {
        let count = match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => {
                return Err(RingError {
                    call: "epoll_wait",
                    errno: errno as i32,
                });
            }
        };
        for at in 0..count {
            let event = self.events[at];
            if event.data() == WAKER_EVENT {
                self.woken();
            } else {
                self.changed(sockets::key_of(event.data()), event.events());
            }
        }
        Ok(())
    }

    fn woken(&mut self) {
        if let Some(state) = self.waker.state() {
            // Epoll said that it is readable and we are its only reader, so this does not block.
            let _ = state.event().read();
            state.seen();
        }
    }
}

/// Rounded up: a millisecond late is better than a turn that does nothing.
fn timeout_of(until: Option<Instant>) -> EpollTimeout {
    let Some(until) = until else {
        return EpollTimeout::NONE;
    };
    let left = until.saturating_duration_since(Instant::now());
    let left = Duration::from_millis(
        left.as_nanos()
            .div_ceil(1_000_000)
            .try_into()
            .unwrap_or(u64::MAX),
    );
    // Longer than it can wait: wake up and wait again.
    EpollTimeout::try_from(left).unwrap_or(EpollTimeout::MAX)
}

impl Backend for Poll {
    fn add_socket(
        &mut self,
        fd: OwnedFd,
        mode: RxMode,
        token: Token,
        initial: &[u8],
    ) -> Result<SocketId, SetupError> {
        self.insert_socket(fd, mode, token, initial)
    }

    fn remove_socket(&mut self, socket: SocketId) {
        self.drop_socket(socket.into());
    }

    fn add_file(&mut self, file: Arc<DeviceFile>) -> Result<FileId, SetupError> {
        self.insert_file(file)
    }

    fn remove_file(&mut self, file: FileId) {
        self.drop_file(file.into());
    }

    fn rx_bytes(&self, socket: SocketId) -> &[u8] {
        self.unread(socket.into())
    }

    fn rx_consume(&mut self, socket: SocketId, len: usize) {
        self.consume(socket.into(), len);
    }

    fn push(&mut self, op: Op, token: Token) -> Result<SlotId, Refused> {
        if let Err(why) = self.admit(&op) {
            return Err(Refused { op, why });
        }
        let Some(key) = self.in_flight.next_key() else {
            return Err(Refused {
                op,
                why: RefusedWhy::QueueFull,
            });
        };
        let held = match &op {
            Op::Recv { socket, .. } => {
                self.start_receive((*socket).into(), key);
                Held::Socket { op, sent_bytes: 0 }
            }
            Op::Send { socket, .. } => {
                self.start_send((*socket).into(), key);
                Held::Socket { op, sent_bytes: 0 }
            }
            Op::Read { file, .. }
            | Op::Write { file, .. }
            | Op::Flush { file }
            | Op::Zero { file, .. } => {
                let file_key = (*file).into();
                self.start_file_op(file_key, key, op);
                Held::File(file_key)
            }
        };
        if self.in_flight.insert(InFlight { token, held }).is_err() {
            unreachable!("`next_key` found a free place");
        }
        Ok(key.into())
    }

    fn submit_and_wait(&mut self, until: Option<Instant>) -> Result<(), RingError> {
        self.try_sockets();
        let timeout = if self.is_ready() {
            EpollTimeout::ZERO
        } else {
            timeout_of(until)
        };
        self.wait(timeout)?;
        self.try_sockets();
        Ok(())
    }

    fn reap(&mut self) -> Option<Completion> {
        if let Some(completion) = self.ready.pop_front() {
            return Some(completion);
        }
        let Done { key, outcome, op } = self.workers.take_done()?;
        if let Some(Held::File(file)) = self.in_flight.get(key).map(|held| &held.held) {
            let file = *file;
            self.file_op_over(file);
        }
        self.finish(key, outcome, op);
        self.ready.pop_front()
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}
