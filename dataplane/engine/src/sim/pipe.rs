//! One direction of a connection: bytes arrive late and cut anywhere, but in order.

use super::core::Dice;
use std::collections::VecDeque;

/// Bytes on their way before the sender has to wait.
const PIPE_BYTES: usize = 192 * 1024;
/// How long a kernel tries before it gives a silent connection up.
const STALL_NS: u64 = 90_000_000_000;
/// How long a network that comes back was away.
const PAUSE_NS: u64 = 20_000_000_000;

/// Why nothing more comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// The reader is gone.
    Closed,
    /// The connection was reset.
    Reset,
}

/// What becomes of a pipe once some bytes were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Both directions break.
    Reset,
    /// The sender's side is shut.
    Fin,
    /// Nothing arrives any more, either way.
    Stall,
    /// Nothing arrives for a while.
    Pause,
}

/// One direction.
#[derive(Default)]
pub(super) struct Pipe {
    segments: VecDeque<(u64, VecDeque<u8>)>,
    held: usize,
    sent: u64,
    last_due_ns: u64,
    writer_gone: bool,
    reader_gone: bool,
    pub reset: bool,
    /// Nothing arrives; the kernel gives up at this time.
    pub stalled_until: Option<u64>,
    /// What happens once this many bytes were sent.
    pub fate: Option<(u64, Fate)>,
    /// Flip a bit of this byte of the stream.
    pub forge_at: Option<u64>,
}

impl Pipe {
    /// Takes some of `bytes`; 0 when the pipe is full.
    pub(super) fn send(
        &mut self,
        bytes: &[u8],
        now_ns: u64,
        dice: &mut Dice,
    ) -> Result<usize, Broken> {
        self.give_up(now_ns);
        if self.reset {
            return Err(Broken::Reset);
        }
        let stalled = self.stalled_until.is_some();
        if self.writer_gone || (self.reader_gone && !stalled) {
            return Err(Broken::Closed);
        }
        let len = bytes.len().min(PIPE_BYTES.saturating_sub(self.held));
        let mut rest = &bytes[..len];
        while !rest.is_empty() {
            let cut = if dice.once_in(3) {
                dice.part_of(rest.len())
            } else {
                rest.len()
            };
            let (head, tail) = rest.split_at(cut);
            self.arrive_later(head, now_ns, dice);
            rest = tail;
        }
        if self.fate.is_some_and(|(after, _)| self.sent >= after)
            && let Some((_, fate)) = self.fate.take()
        {
            match fate {
                Fate::Reset => self.break_off(),
                Fate::Fin => self.writer_gone = true,
                Fate::Stall => self.stalled_until = Some(now_ns + STALL_NS),
                Fate::Pause => self.last_due_ns = self.last_due_ns.max(now_ns) + PAUSE_NS,
            }
        }
        Ok(len)
    }

    fn give_up(&mut self, now_ns: u64) {
        if self.stalled_until.is_some_and(|until| until <= now_ns) {
            self.stalled_until = None;
            self.break_off();
        }
    }

    fn arrive_later(&mut self, bytes: &[u8], now_ns: u64, dice: &mut Dice) {
        let delay = dice.between(1_000, 120_000);
        self.last_due_ns = self.last_due_ns.max(now_ns + delay);
        let mut segment: VecDeque<u8> = bytes.iter().copied().collect();
        let forged = self.forge_at.and_then(|at| at.checked_sub(self.sent));
        if let Some(byte) = forged
            .and_then(|at| usize::try_from(at).ok())
            .and_then(|at| segment.get_mut(at))
        {
            *byte ^= 1;
        }
        self.sent += bytes.len() as u64;
        self.held += bytes.len();
        self.segments.push_back((self.last_due_ns, segment));
    }

    /// What has arrived, at most `into.len()` bytes. `None`: nothing yet. `Some(0)`: the end.
    pub(super) fn receive(
        &mut self,
        into: &mut [u8],
        now_ns: u64,
    ) -> Result<Option<usize>, Broken> {
        self.give_up(now_ns);
        if self.reset {
            return Err(Broken::Reset);
        }
        if self.reader_gone {
            return Ok(Some(0));
        }
        if self.stalled_until.is_some() {
            return Ok(None);
        }
        let mut done = 0;
        while done < into.len() {
            let Some((due_ns, segment)) = self.segments.front_mut() else {
                break;
            };
            if *due_ns > now_ns {
                break;
            }
            let len = segment.len().min(into.len() - done);
            for (to, from) in into[done..].iter_mut().zip(segment.drain(..len)) {
                *to = from;
            }
            done += len;
            if segment.is_empty() {
                self.segments.pop_front();
            }
        }
        self.held -= done;
        Ok(match done {
            0 if self.writer_gone && self.segments.is_empty() => Some(0),
            0 => None,
            _ => Some(done),
        })
    }

    /// When `receive` will have something to say; `None` while nothing is on its way.
    pub(super) fn arrival_ns(&self) -> Option<u64> {
        if self.reset || self.reader_gone {
            return Some(0);
        }
        if self.stalled_until.is_some() {
            return self.stalled_until;
        }
        match self.segments.front() {
            Some((due_ns, _)) => Some(*due_ns),
            None => self.writer_gone.then_some(0),
        }
    }

    /// When `send` will take something; `None` while it is full.
    pub(super) fn room_ns(&self) -> Option<u64> {
        let closed = self.writer_gone || (self.reader_gone && self.stalled_until.is_none());
        let ready = self.reset || closed || self.held < PIPE_BYTES;
        if ready { Some(0) } else { self.stalled_until }
    }

    pub(super) fn close_writer(&mut self) {
        self.writer_gone = true;
    }

    pub(super) fn close_reader(&mut self) {
        self.reader_gone = true;
        self.segments.clear();
        self.held = 0;
    }

    pub(super) fn break_off(&mut self) {
        self.reset = true;
        self.segments.clear();
        self.held = 0;
    }
}
