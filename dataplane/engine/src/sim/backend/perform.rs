//! What an operation does when its time has come.

use super::{
    super::{case::Fault, disk::DiskWrite, pipe::Broken},
    Flight, SimBackend,
};
use sys::{Completion, FileId, IoFault, Op, OpKind, Outcome, SocketId};

const EPIPE: i32 = 32;
const ECONNRESET: i32 = 104;

impl SimBackend {
    /// `None`: it cannot end yet.
    pub(super) fn perform(&mut self, flight: &mut Flight) -> Option<Outcome> {
        let kind = flight.op.kind();
        let place = place_of(&flight.op);
        let result = match &mut flight.op {
            Op::Recv { .. } | Op::Send { .. } => self.perform_socket(&mut flight.op)?,
            _ => self.perform_file(flight),
        };
        let result_number = match result {
            Ok(len) => i64::try_from(len).unwrap_or(i64::MAX),
            Err(errno) => -i64::from(errno),
        };
        self.sim
            .borrow_mut()
            .note(self.who, kind, place, result_number);
        Some(match result {
            Ok(len) => Ok(u32::try_from(len).unwrap_or(u32::MAX)),
            Err(errno) => Err(IoFault { op: kind, errno }),
        })
    }

    fn perform_socket(&self, op: &mut Op) -> Option<Result<usize, i32>> {
        let sim = &mut *self.sim.borrow_mut();
        let now_ns = sim.now_ns;
        match op {
            Op::Recv {
                socket,
                lease,
                at,
                len,
            } => {
                let pipe = self.sockets[socket.index as usize].incoming;
                let into = &mut lease.bytes_mut()[*at as usize..][..*len as usize];
                let room = if sim.dice.once_in(4) {
                    sim.dice.part_of(into.len())
                } else {
                    into.len()
                };
                match sim.pipes[pipe].receive(&mut into[..room], now_ns) {
                    Ok(done) => done.map(Ok),
                    Err(broken) => Some(Err(errno_of(broken))),
                }
            }
            Op::Send { socket, parts, .. } => {
                let pipe = self.sockets[socket.index as usize].outgoing;
                let mut bytes: Vec<u8> = parts
                    .iter()
                    .flat_map(|part| part.bytes())
                    .copied()
                    .collect();
                let short = if sim.case.fault == Fault::ShortIo {
                    2
                } else {
                    6
                };
                if sim.dice.once_in(short) {
                    let len = sim.dice.part_of(bytes.len());
                    bytes.truncate(len);
                }
                let sent = sim.pipes[pipe].send(&bytes, now_ns, &mut sim.dice);
                let other = self.sockets[socket.index as usize].incoming;
                sim.share_fate(pipe, other);
                match sent {
                    Ok(0) => None,
                    Ok(len) => Some(Ok(len)),
                    Err(broken) => Some(Err(errno_of(broken))),
                }
            }
            _ => None,
        }
    }

    fn perform_file(&self, flight: &mut Flight) -> Result<usize, i32> {
        let sim = &mut *self.sim.borrow_mut();
        let disk = |file: &FileId| self.files[file.index as usize].0;
        match &mut flight.op {
            Op::Read {
                file,
                lease,
                at,
                len,
                offset,
                via,
            } => {
                let address = *at as usize;
                let into = &mut lease.bytes_mut()[address..][..*len as usize];
                sim.disks[disk(file)].read(into, address, *offset, *via, &mut sim.dice)
            }
            Op::Write {
                file,
                lease,
                at,
                len,
                offset,
                via,
                dsync,
            } => {
                let write = DiskWrite {
                    id: flight.slot.index,
                    bytes: &lease.bytes()[*at as usize..][..*len as usize],
                    address: *at as usize,
                    offset: *offset,
                    via: *via,
                    dsync: *dsync,
                };
                sim.disks[disk(file)].write(&write, &mut sim.dice)
            }
            Op::Flush { file } => {
                let flushed = sim.disks[disk(file)].flush(flight.mark, &mut sim.dice);
                flushed.map(|()| 0)
            }
            Op::Zero {
                file,
                offset,
                len,
                mode,
            } => {
                let zeroed = sim.disks[disk(file)].zero(*offset, *len, *mode);
                zeroed.map(|()| 0)
            }
            Op::Recv { .. } | Op::Send { .. } => Ok(0),
        }
    }

    /// Fills the rings of sockets that receive by themselves.
    pub(super) fn run_streams(&mut self) {
        for (index, socket) in (0u32..).zip(&mut self.sockets) {
            if !socket.is_receiving() {
                continue;
            }
            let sim = &mut *self.sim.borrow_mut();
            let room = socket.ring_bytes.unwrap_or(0) - socket.ring.len();
            let len = socket.ring.len();
            socket.ring.resize(len + room, 0);
            let received = sim.pipes[socket.incoming].receive(&mut socket.ring[len..], sim.now_ns);
            let done = match received {
                Ok(Some(done)) => done,
                Ok(None) | Err(_) => 0,
            };
            socket.ring.truncate(len + done);
            let outcome = match received {
                Ok(None) => continue,
                Ok(Some(done)) => Ok(u32::try_from(done).unwrap_or(u32::MAX)),
                Err(broken) => Err(IoFault {
                    op: OpKind::Recv,
                    errno: errno_of(broken),
                }),
            };
            socket.ended = !matches!(outcome, Ok(done) if done > 0);
            self.ready.push_back(Completion::Rx {
                socket: SocketId {
                    index,
                    generation: 0,
                },
                token: socket.token,
                outcome,
            });
        }
    }
}

fn errno_of(broken: Broken) -> i32 {
    match broken {
        Broken::Closed => EPIPE,
        Broken::Reset => ECONNRESET,
    }
}

fn place_of(op: &Op) -> (u64, u64) {
    match op {
        Op::Read { offset, len, .. } | Op::Write { offset, len, .. } => (*offset, u64::from(*len)),
        Op::Zero { offset, len, .. } => (*offset, *len),
        Op::Recv { len, .. } => (0, u64::from(*len)),
        Op::Send { parts, .. } => (0, parts.len_bytes() as u64),
        Op::Flush { .. } => (0, 0),
    }
}
