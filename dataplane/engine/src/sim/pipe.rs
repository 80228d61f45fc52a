//! One direction of a connection: bytes arrive late and cut anywhere, but in order.

use super::core::Dice;
use std::collections::VecDeque;

/// Bytes on their way before the sender has to wait.
const PIPE_BYTES: usize = 192 * 1024;

/// Why nothing more comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// The reader is gone.
    Closed,
    /// The connection was reset.
    Reset,
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
    /// Break both directions once this many bytes were sent.
    pub reset_after: Option<u64>,
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
        if self.reset {
            return Err(Broken::Reset);
        }
        if self.reader_gone || self.writer_gone {
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
        if self.reset_after.is_some_and(|after| self.sent >= after) {
            self.break_off();
        }
        Ok(len)
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
        if self.reset {
            return Err(Broken::Reset);
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
            0 if self.reader_gone || (self.writer_gone && self.segments.is_empty()) => Some(0),
            0 => None,
            _ => Some(done),
        })
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
