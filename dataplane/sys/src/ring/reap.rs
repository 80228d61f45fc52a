//! From completion entries to completions.

use io_uring::cqueue;

use super::{
    Inner,
    tag::Tag,
    zero_copy::{self, Notice},
};
use crate::{Completion, IoFault, Op, Outcome, slab::Key};

/// "Not now" is answered by trying again; this often, then it is a fault like any other.
const RETRIES_MAX: u8 = 32;

impl Inner {
    pub(super) fn reap(&mut self) -> Option<Completion> {
        if let Some(completion) = self.announce() {
            return Some(completion);
        }
        loop {
            let entry = self.uring.completion().next()?;
            let completion = match Tag::unpack(entry.user_data()) {
                Tag::Op(key) if cqueue::notif(entry.flags()) => self.notified(key, entry.result()),
                Tag::Op(key) if goes_on(&entry) => self.sent(key, entry.result()),
                Tag::Op(key) => self.complete(key, entry.result()),
                Tag::Rx(key) => self.received(key, &entry),
                Tag::Wake => {
                    self.woken();
                    None
                }
                Tag::Ignored => None,
            };
            if completion.is_some() {
                return completion;
            }
        }
    }

    /// The operation is over, unless it goes on.
    fn complete(&mut self, key: Key, result: i32) -> Option<Completion> {
        if self.wants_another_try(key, result) {
            self.to_retry.push_back(key);
            return None;
        }
        let held = self.in_flight.remove(key)?;
        self.let_go(&held.op);
        Some(Completion::Op {
            slot: key.into(),
            token: held.token,
            outcome: outcome_of(&held.op, result),
            op: held.op,
        })
    }

    /// Decides whether the operation is to be submitted once more, and counts it.
    pub(super) fn wants_another_try(&mut self, key: Key, result: i32) -> bool {
        let Some(held) = self.in_flight.get_mut(key) else {
            return false;
        };
        if held.notice != Notice::None && zero_copy::is_refusal(result) {
            held.notice = Notice::None;
            let socket = zero_copy::socket_of(&held.op);
            self.with_socket(socket, |entry| entry.zero_copy = false);
            return true;
        }
        let again = wants_retry(&held.op, result) && held.retries < RETRIES_MAX;
        held.retries += u8::from(again);
        again
    }

    /// Socket or file is free for the next; the last one out closes.
    pub(super) fn let_go(&mut self, op: &Op) {
        match op {
            Op::Recv { socket, .. } => {
                let key = (*socket).into();
                self.with_socket(key, |entry| entry.receiving = false);
                self.release_socket(key);
            }
            Op::Send { socket, .. } => {
                let key = (*socket).into();
                self.with_socket(key, |entry| entry.sending = false);
                self.release_socket(key);
            }
            Op::Read { file, .. }
            | Op::Write { file, .. }
            | Op::Flush { file }
            | Op::Zero { file, .. } => {
                let key = (*file).into();
                if let Some(entry) = self.files.get_mut(key) {
                    entry.ops -= 1;
                }
                self.release_file(key);
            }
        }
    }

    fn woken(&mut self) {
        self.wake_armed = false;
        if let Some(state) = self.waker.state() {
            state.seen();
        }
    }

    /// What has to be queued besides the shard's own operations. Whatever finds no room waits for the next
    /// turn.
    pub(super) fn push_internal(&mut self) {
        if !self.wake_armed {
            self.wake_armed = self.arm_waker();
        }
        while let Some(&key) = self.to_retry.front() {
            if !self.push_again(key) {
                break;
            }
            self.to_retry.pop_front();
        }
        self.serve_receives();
    }

    fn arm_waker(&mut self) -> bool {
        use std::os::fd::{AsFd, AsRawFd};
        let Some(state) = self.waker.state() else {
            return true;
        };
        let fd = io_uring::types::Fd(state.event().as_fd().as_raw_fd());
        let target: *mut u64 = &raw mut *self.wake_count;
        let entry = io_uring::opcode::Read::new(fd, target.cast(), 8)
            .build()
            .user_data(Tag::Wake.pack());
        self.push_entry(&entry)
    }
}

/// A flush is never repeated: the kernel reports a lost write once, and a second flush would hide it.
fn wants_retry(op: &Op, result: i32) -> bool {
    matches!(-result, libc::EAGAIN | libc::EINTR) && !matches!(op, Op::Flush { .. })
}

pub(super) fn outcome_of(op: &Op, result: i32) -> Outcome {
    u32::try_from(result).map_err(|_| IoFault {
        op: op.kind(),
        errno: -result,
    })
}

/// True when more completions of the same receive follow.
pub(super) fn goes_on(entry: &cqueue::Entry) -> bool {
    cqueue::more(entry.flags())
}
