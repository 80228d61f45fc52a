//! The trial: bytes in and out of a socket, in and out of a file, compared.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Arena, Backend, Completion, DeviceFile, FileId, Lease, LeaseClass, Op, Part, Parts, RxMode,
    SetupError, SetupErrorKind, SocketId, Tier, Token, Via,
};

/// Size of the file that is written and read.
pub(super) const FILE_BYTES: u64 = 1 << 20;
/// The smallest ring, and more than twice its size through it: the wrap is seen.
const RING_BYTES: usize = 64 * 1024;
const STREAM_BYTES: usize = 160 * 1024;
/// Odd, so that it meets no boundary.
const CHUNK_BYTES: usize = 7919;
const BLOCK_BYTES: u32 = 16 * 1024;
/// A tier that hangs is a tier that does not work.
const TIME_MAX: Duration = Duration::from_secs(5);

/// Ok: everything arrived as it was sent.
pub(super) fn run(
    backend: &mut dyn Backend,
    arena: &Arc<Arena>,
    file: DeviceFile,
    tier: Tier,
) -> Result<(), SetupError> {
    let mut trial = Trial {
        backend,
        arena,
        tier,
        deadline: Instant::now() + TIME_MAX,
    };
    let (ours, theirs) =
        UnixStream::pair().map_err(|error| trial.failed_io("socketpair", error))?;
    let mode = RxMode::Stream {
        ring_bytes: RING_BYTES,
    };
    let socket = trial.backend.add_socket(ours.into(), mode, Token(0), &[])?;
    trial.receive(socket, &theirs)?;
    trial.send(socket, &theirs)?;
    trial.backend.remove_socket(socket);
    let file = trial.backend.add_file(Arc::new(file))?;
    trial.write_and_read(file)
}

struct Trial<'a> {
    backend: &'a mut dyn Backend,
    arena: &'a Arc<Arena>,
    tier: Tier,
    deadline: Instant,
}

/// Byte `at` of what goes through.
fn pattern(at: usize) -> u8 {
    // Keeps the low byte on purpose: any mix will do.
    (at.wrapping_mul(167) ^ (at >> 8)).to_le_bytes()[0]
}

impl Trial<'_> {
    fn receive(&mut self, socket: SocketId, mut peer: &UnixStream) -> Result<(), SetupError> {
        let all: Vec<u8> = (0..STREAM_BYTES).map(pattern).collect();
        let (mut sent, mut seen) = (0, 0);
        while seen < STREAM_BYTES {
            // Less than any socket buffer is under way, so this does not block.
            if sent < STREAM_BYTES && sent - seen < RING_BYTES / 2 {
                let end = (sent + CHUNK_BYTES).min(STREAM_BYTES);
                peer.write_all(&all[sent..end])
                    .map_err(|error| self.failed_io("write", error))?;
                sent = end;
            }
            if let Some(completion) = self.next()? {
                let Completion::Rx { outcome, .. } = completion else {
                    continue;
                };
                outcome.map_err(|fault| self.failed(&fault.to_string()))?;
            }
            let bytes = self.backend.rx_bytes(socket);
            if !all[seen..].starts_with(bytes) {
                return Err(self.failed("received bytes differ from those sent"));
            }
            // Leaves an odd rest, so that it stands across the wrap sometimes.
            let rest = if sent == STREAM_BYTES { 0 } else { 1234 };
            let len = bytes.len().saturating_sub(rest);
            self.backend.rx_consume(socket, len);
            seen += len;
        }
        Ok(())
    }

    fn send(&mut self, socket: SocketId, mut peer: &UnixStream) -> Result<(), SetupError> {
        let mut parts = Parts::new();
        for at in [0, 1000] {
            let mut lease = self.lease()?;
            fill(&mut lease, at, 1000);
            // Two parts of eight: there is room.
            let _ = parts.push(Part {
                lease,
                at: 0,
                len: 1000,
            });
        }
        if self
            .perform(Op::Send {
                socket,
                parts,
                zero_copy: false,
            })?
            .0
            != 2000
        {
            return Err(self.failed("a send was cut short"));
        }
        let mut received = [0; 2000];
        peer.read_exact(&mut received)
            .map_err(|error| self.failed_io("read", error))?;
        let right = received
            .iter()
            .enumerate()
            .all(|(at, byte)| *byte == pattern(at));
        if right {
            Ok(())
        } else {
            Err(self.failed("sent bytes differ from those received"))
        }
    }

    fn write_and_read(&mut self, file: FileId) -> Result<(), SetupError> {
        let mut lease = self.lease()?;
        fill(&mut lease, 0, BLOCK_BYTES as usize);
        let (len, offset, via) = (BLOCK_BYTES, u64::from(BLOCK_BYTES), Via::Direct);
        let write = Op::Write {
            file,
            lease,
            at: 0,
            len,
            offset,
            via,
            dsync: false,
        };
        let (written, op) = self.perform(write)?;
        drop(op);
        self.perform(Op::Flush { file })?;
        let mut lease = self.lease()?;
        lease.bytes_mut().fill(0);
        let read = Op::Read {
            file,
            lease,
            at: 0,
            len,
            offset,
            via,
        };
        let (count, op) = self.perform(read)?;
        let Op::Read { lease, .. } = op else {
            return Err(self.failed("another operation"));
        };
        let bytes = lease.bytes().iter().take(len as usize).enumerate();
        let same = bytes.into_iter().all(|(at, byte)| *byte == pattern(at));
        if written == len && count == len && same {
            Ok(())
        } else {
            Err(self.failed("a file does not hold what was written"))
        }
    }

    /// Runs one operation to its end.
    fn perform(&mut self, op: Op) -> Result<(u32, Op), SetupError> {
        if let Err(refused) = self.backend.push(op, Token(1)) {
            return Err(self.failed(&format!("an operation was refused: {:?}", refused.why)));
        }
        loop {
            if let Some(Completion::Op { outcome, op, .. }) = self.next()? {
                let len = outcome.map_err(|fault| self.failed(&fault.to_string()))?;
                return Ok((len, op));
            }
        }
    }

    fn next(&mut self) -> Result<Option<Completion>, SetupError> {
        if let Some(completion) = self.backend.reap() {
            return Ok(Some(completion));
        }
        if Instant::now() >= self.deadline {
            return Err(self.failed("no completion came in time"));
        }
        let until = self.deadline;
        self.backend
            .submit_and_wait(Some(until))
            .map_err(|error| self.failed(&error.to_string()))?;
        Ok(self.backend.reap())
    }

    fn lease(&self) -> Result<Lease, SetupError> {
        self.arena
            .take(LeaseClass::Small)
            .ok_or_else(|| self.failed("a lease did not come back"))
    }

    fn failed(&self, problem: &str) -> SetupError {
        let problem = format!("the trial failed: {problem}");
        SetupError::new(
            SetupErrorKind::Unsupported,
            format!("{} runtime", self.tier),
            problem,
        )
    }

    fn failed_io(&self, call: &str, error: std::io::Error) -> SetupError {
        self.failed(&format!("{call} does not work"))
            .with_source(error)
    }
}

fn fill(lease: &mut Lease, from: usize, len: usize) {
    for (at, byte) in lease.bytes_mut()[..len].iter_mut().enumerate() {
        *byte = pattern(from + at);
    }
}
