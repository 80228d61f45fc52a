//! A kernel that does what the seed says.

mod perform;

use super::{
    case::Fault,
    core::Sim,
    outlook::{Interest, Outlook},
};
use std::{
    cell::RefCell,
    collections::VecDeque,
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
    sync::Arc,
    time::Instant,
};
use sys::{
    Backend, Completion, DeviceFile, FileId, Op, OpKind, Outcome, Refused, RefusedWhy, RingError,
    RxMode, SetupError, SetupErrorKind, SlotId, SocketId, Token, Via, Waker,
};

/// How long the kernel keeps memory that was sent without a copy, at most. Short, because a lane that waits for its
/// memory a hundred times must not look like one that sleeps.
const ZERO_COPY_RELEASE_NS_MAX: u64 = 2_000_000;

/// Longer than the deadline of other requests, and shorter than that of a flush.
const SLOW_FLUSH_NS: u64 = 150_000_000_000;

/// How long what is done on a disk stays untold, at most: completions of several shards are reaped in any order.
const UNTOLD_NS_MAX: u64 = 400_000;

/// A queue that is never full by itself.
const FLIGHTS_MAX: usize = 512;

/// A registered socket. The descriptor is only its name.
struct Socket {
    _fd: OwnedFd,
    incoming: usize,
    outgoing: usize,
    token: Token,
    /// `None`: `RxMode::Exact`.
    ring_bytes: Option<usize>,
    ring: Vec<u8>,
    ended: bool,
    removed: bool,
}

impl Socket {
    /// The kernel receives by itself and has room.
    fn is_receiving(&self) -> bool {
        let room = self.ring_bytes.unwrap_or(0) > self.ring.len();
        room && !self.removed && !self.ended
    }
}

struct Flight {
    slot: SlotId,
    token: Token,
    op: Op,
    due_ns: u64,
    /// Flush: what it covers.
    mark: u64,
    /// Done, and not told yet.
    done: Option<Outcome>,
    /// A zero-copy send whose result was told: the peer has yet to acknowledge it.
    taken: bool,
}

/// One shard's kernel.
pub(super) struct SimBackend {
    sim: Rc<RefCell<Sim>>,
    who: &'static str,
    sockets: Vec<Socket>,
    /// Disk number and whether it is still registered.
    files: Vec<(usize, bool)>,
    flights: Vec<Flight>,
    ready: VecDeque<Completion>,
    slots: u32,
    /// What is due in this turn was looked at.
    looked: bool,
    outlook: Rc<Outlook>,
}

impl SimBackend {
    pub(super) fn new(sim: Rc<RefCell<Sim>>, who: &'static str, outlook: Rc<Outlook>) -> Self {
        Self {
            sim,
            who,
            sockets: Vec::new(),
            files: Vec::new(),
            flights: Vec::new(),
            ready: VecDeque::new(),
            slots: 0,
            looked: false,
            outlook,
        }
    }

    fn socket(&self, id: SocketId) -> Option<&Socket> {
        self.sockets
            .get(id.index as usize)
            .filter(|socket| !socket.removed)
    }

    fn refusal(&mut self, op: &Op) -> Option<RefusedWhy> {
        let stale = match op {
            Op::Recv { socket, .. } | Op::Send { socket, .. } => self.socket(*socket).is_none(),
            Op::Read { file, .. }
            | Op::Write { file, .. }
            | Op::Flush { file }
            | Op::Zero { file, .. } => !self
                .files
                .get(file.index as usize)
                .is_some_and(|(_, registered)| *registered),
        };
        if stale {
            return Some(RefusedWhy::StaleId);
        }
        let kind = op.kind();
        if let Op::Recv { socket, .. } | Op::Send { socket, .. } = op
            && self.flights.iter().any(|flight| {
                flight.op.kind() == kind
                    && !flight.taken
                    && matches!(&flight.op, Op::Recv { socket: other, .. } | Op::Send { socket: other, .. } if other == socket)
            })
        {
            return Some(RefusedWhy::Busy);
        }
        let mut sim = self.sim.borrow_mut();
        let full = sim.case.fault == Fault::QueueFull && sim.dice.once_in(3);
        (full || self.flights.len() >= FLIGHTS_MAX).then_some(RefusedWhy::QueueFull)
    }

    /// Ends what is due, in an order of the seed's choice.
    fn run_flights(&mut self) {
        let mut at = 0;
        while at < self.flights.len() {
            let due = self.flights[at].due_ns <= self.sim.borrow().now_ns;
            if !due {
                at += 1;
                continue;
            }
            let mut flight = self.flights.swap_remove(at);
            if flight.taken {
                self.release(flight);
                continue;
            }
            let done = flight.done.take();
            let outcome = match done {
                Some(outcome) => Some(outcome),
                None => self.perform(&mut flight),
            };
            if let Some(outcome) = outcome
                && let Some(due_ns) = self.untold_until(&flight.op, done.is_none())
            {
                (flight.done, flight.due_ns) = (Some(outcome), due_ns);
                self.put_back(at, flight);
                at += 1;
                continue;
            }
            match outcome {
                Some(outcome) if self.grants_zero_copy(&flight.op) => self.take(flight, outcome),
                Some(outcome) => {
                    self.ready.push_back(Completion::Op {
                        slot: flight.slot,
                        token: flight.token,
                        outcome,
                        op: flight.op,
                    });
                }
                None => {
                    self.put_back(at, flight);
                    at += 1;
                }
            }
        }
    }

    /// To where it was before `swap_remove`.
    fn put_back(&mut self, at: usize, flight: Flight) {
        let last = self.flights.len();
        self.flights.push(flight);
        self.flights.swap(at, last);
    }

    /// When to tell what was done on a disk; `None`: now.
    fn untold_until(&self, op: &Op, is_fresh: bool) -> Option<u64> {
        let is_sync = matches!(op, Op::Flush { .. } | Op::Write { dsync: true, .. });
        let is_socket = matches!(op, Op::Recv { .. } | Op::Send { .. });
        let sim = &mut *self.sim.borrow_mut();
        let is_withheld = is_sync && sim.withheld_from == Some(self.who);
        let is_late = is_fresh && !is_socket && sim.dice.once_in(3);
        (is_withheld || is_late).then(|| sim.now_ns + sim.dice.between(1, UNTOLD_NS_MAX))
    }

    /// A kernel may copy what was to go without a copy, and tell by answering as to any send.
    fn grants_zero_copy(&self, op: &Op) -> bool {
        let wish = matches!(
            op,
            Op::Send {
                zero_copy: true,
                ..
            }
        );
        wish && !self.sim.borrow_mut().dice.once_in(4)
    }

    /// The socket took a zero-copy send; its memory stays here for a round trip.
    fn take(&mut self, mut flight: Flight, outcome: Outcome) {
        self.ready.push_back(Completion::Sent {
            slot: flight.slot,
            token: flight.token,
            outcome,
        });
        flight.taken = true;
        let sim = &mut *self.sim.borrow_mut();
        flight.due_ns = sim.now_ns + sim.dice.between(1, ZERO_COPY_RELEASE_NS_MAX);
        self.flights.push(flight);
    }

    fn release(&mut self, flight: Flight) {
        let copied = self.sim.borrow_mut().dice.once_in(4);
        self.ready.push_back(Completion::Released {
            slot: flight.slot,
            token: flight.token,
            op: flight.op,
            copied,
        });
    }

    /// Tells the world what could end this shard's sleep.
    fn look_ahead(&self, until: Option<Instant>) {
        let sim = self.sim.borrow();
        let outlook = &self.outlook;
        outlook.held.set(self.in_flight());
        outlook.ready.set(!self.ready.is_empty());
        outlook.woken.set(false);
        outlook.until_ns.set(until.map(|until| sim.ns_of(until)));
        let mut interests = outlook.interests.borrow_mut();
        interests.clear();
        for flight in &self.flights {
            interests.push(match &flight.op {
                _ if flight.taken => Interest::Due(flight.due_ns),
                Op::Recv { socket, .. } => {
                    let pipe = self.sockets[socket.index as usize].incoming;
                    Interest::Arrival(pipe, flight.due_ns)
                }
                Op::Send { socket, .. } => {
                    let pipe = self.sockets[socket.index as usize].outgoing;
                    Interest::Room(pipe, flight.due_ns)
                }
                _ => Interest::Due(flight.due_ns),
            });
        }
        for socket in &self.sockets {
            if socket.is_receiving() {
                interests.push(Interest::Arrival(socket.incoming, sim.now_ns));
            }
        }
    }
}

impl Backend for SimBackend {
    fn add_socket(
        &mut self,
        fd: OwnedFd,
        mode: RxMode,
        token: Token,
        initial: &[u8],
    ) -> Result<SocketId, SetupError> {
        let ends = self.sim.borrow().ends.get(&fd.as_raw_fd()).copied();
        let (incoming, outgoing) = ends.ok_or_else(|| unknown("socket"))?;
        let ring_bytes = match mode {
            RxMode::Stream { ring_bytes } => Some(ring_bytes),
            RxMode::Exact => None,
        };
        let index = u32::try_from(self.sockets.len()).map_err(|_| unknown("socket"))?;
        let socket = SocketId {
            index,
            generation: 0,
        };
        if !initial.is_empty() {
            self.ready.push_back(Completion::Rx {
                socket,
                token,
                outcome: Ok(u32::try_from(initial.len()).unwrap_or(u32::MAX)),
            });
        }
        self.sockets.push(Socket {
            _fd: fd,
            incoming,
            outgoing,
            token,
            ring_bytes,
            ring: initial.to_vec(),
            ended: false,
            removed: false,
        });
        Ok(socket)
    }

    fn remove_socket(&mut self, id: SocketId) {
        let Some(socket) = self.sockets.get_mut(id.index as usize) else {
            return;
        };
        if std::mem::replace(&mut socket.removed, true) {
            return;
        }
        socket.ring.clear();
        let mut sim = self.sim.borrow_mut();
        sim.pipes[socket.incoming].close_reader();
        sim.pipes[socket.outgoing].close_writer();
        self.ready.retain(
            |completion| !matches!(completion, Completion::Rx { socket, .. } if *socket == id),
        );
    }

    fn add_file(&mut self, file: Arc<DeviceFile>) -> Result<FileId, SetupError> {
        let disk = self.sim.borrow().disk_of(&file);
        let disk = disk.ok_or_else(|| unknown("disk"))?;
        self.files.push((disk, true));
        let index = u32::try_from(self.files.len() - 1).map_err(|_| unknown("disk"))?;
        Ok(FileId {
            index,
            generation: 0,
        })
    }

    fn remove_file(&mut self, file: FileId) {
        self.files[file.index as usize].1 = false;
    }

    fn rx_bytes(&self, socket: SocketId) -> &[u8] {
        self.socket(socket).map_or(&[], |socket| &socket.ring)
    }

    fn rx_consume(&mut self, socket: SocketId, len: usize) {
        if self.socket(socket).is_some() {
            self.sockets[socket.index as usize].ring.drain(..len);
        }
    }

    fn push(&mut self, op: Op, token: Token) -> Result<SlotId, Refused> {
        if let Some(why) = self.refusal(&op) {
            return Err(Refused { op, why });
        }
        let sim = &mut *self.sim.borrow_mut();
        let slow = sim.dice.once_in(40);
        let delay = match op.kind() {
            OpKind::Recv | OpKind::Send => sim.dice.between(500, 20_000),
            OpKind::Flush if sim.case.slow_flush => SLOW_FLUSH_NS,
            _ if slow && sim.case.fault == Fault::SlowDisk => {
                sim.dice.between(500_000_000, 5_000_000_000)
            }
            _ if slow => sim.dice.between(1_000_000, 8_000_000),
            _ => sim.dice.between(5_000, 400_000),
        };
        let mark = match &op {
            Op::Flush { file } => sim.disks[self.files[file.index as usize].0].mark(),
            _ => 0,
        };
        self.slots = self.slots.wrapping_add(1);
        if let Op::Write {
            file,
            len,
            offset,
            via: Via::Buffered,
            ..
        } = op
        {
            let disk = self.files[file.index as usize].0;
            sim.disks[disk].begin_buffered(self.slots, offset, len as usize);
        }
        let slot = SlotId {
            index: self.slots,
            generation: 0,
        };
        self.flights.push(Flight {
            slot,
            token,
            op,
            due_ns: sim.now_ns + delay,
            mark,
            done: None,
            taken: false,
        });
        Ok(slot)
    }

    /// Never waits: the world turns the shard again when its sleep would end.
    fn submit_and_wait(&mut self, until: Option<Instant>) -> Result<(), RingError> {
        self.looked = false;
        self.look_ahead(until);
        Ok(())
    }

    fn reap(&mut self) -> Option<Completion> {
        if !std::mem::replace(&mut self.looked, true) {
            self.run_flights();
            self.run_streams();
        }
        self.ready.pop_front()
    }

    fn now(&self) -> Instant {
        self.sim.borrow().now()
    }

    fn waker(&self) -> Waker {
        Waker::noop()
    }

    fn in_flight(&self) -> usize {
        self.flights.len() + self.ready.len()
    }
}

fn unknown(what: &str) -> SetupError {
    SetupError::new(SetupErrorKind::Invalid, what, "is not part of this world")
}
