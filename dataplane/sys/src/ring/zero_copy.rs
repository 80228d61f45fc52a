//! Zero-copy sends: the socket's queue points at our memory instead of holding a copy of it.
//!
//! ```text
//! push ─► result (F_MORE): the socket is free for the next send      ─► Completion::Sent
//!     └─► notification (F_NOTIF): transmitted, acknowledged, dropped ─► Completion::Released
//! ```
//! Between the two the kernel reads the memory whenever it has to transmit again, also after the descriptor was
//! closed. So the operation stays in the in-flight table until the notification, and the socket does not wait for it.

use io_uring::{IoUring, opcode, types};

use super::{
    Inner,
    reap::outcome_of,
    submit::{SEND_FLAGS, take_op},
};
use crate::{Completion, Op, Parts, slab::Key};

/// IORING_SEND_ZC_REPORT_USAGE (6.2): the notification says whether the kernel copied after all.
const REPORT_USAGE: u16 = 1 << 3;
/// IORING_NOTIF_USAGE_ZC_COPIED, in a notification's result.
const USAGE_COPIED: u32 = 1 << 31;

/// What is still to come for an operation besides its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// Nothing: an ordinary operation.
    None,
    /// The kernel has a zero-copy send and did not answer yet.
    Wanted,
    /// The shard has the result; the kernel has the memory.
    Due,
    /// The send has to be tried again once the kernel let go of this try.
    ThenAgain {
        /// Zero-copy once more, or as an ordinary send.
        zero_copy: bool,
    },
}

/// Sent nowhere. Static, because a send that fails may still be notified later.
static NOTHING: [u8; 1] = [0];

/// Tries it on a descriptor that does not exist: a kernel that knows operations and flag gets as far as looking the
/// descriptor up, any other finds the entry invalid.
pub(super) fn is_known() -> bool {
    let Ok(mut ring) = IoUring::new(2) else {
        return false;
    };
    let header = crate::net::empty_header();
    let nowhere = types::Fd(-1);
    let entries = [
        opcode::SendZc::new(nowhere, NOTHING.as_ptr(), 1)
            .zc_flags(REPORT_USAGE)
            .build(),
        opcode::SendMsgZc::new(nowhere, &raw const header)
            .ioprio(REPORT_USAGE)
            .build(),
    ];
    for entry in entries {
        // SAFETY: the byte is static. The header is read while the entry is submitted, which the next statement does.
        let pushed = unsafe { ring.submission().push(&entry) };
        if pushed.is_err() || ring.submit_and_wait(1).is_err() {
            return false;
        }
        // Of a send that failed after it was prepared a notification may follow.
        let result = ring
            .completion()
            .find(|entry| !io_uring::cqueue::notif(entry.flags()))
            .map(|entry| entry.result());
        if result != Some(-libc::EBADF) {
            return false;
        }
    }
    true
}

/// Not for this socket or not with this much locked memory, but an ordinary send may work.
pub(super) fn is_refusal(result: i32) -> bool {
    matches!(-result, libc::ENOMEM | libc::ENOBUFS | libc::EOPNOTSUPP)
}

/// The socket of a send.
pub(super) fn socket_of(op: &Op) -> Key {
    match op {
        Op::Send { socket, .. } => (*socket).into(),
        _ => unreachable!("only sends are zero-copy"),
    }
}

impl Inner {
    /// Grants the wish of a send where it can be.
    pub(super) fn notice_for(&self, op: &Op) -> Notice {
        match op {
            Op::Send {
                socket,
                zero_copy: true,
                ..
            } if self
                .sockets
                .get((*socket).into())
                .is_some_and(|entry| entry.zero_copy) =>
            {
                Notice::Wanted
            }
            _ => Notice::None,
        }
    }

    pub(super) fn zero_copy_entry(
        &mut self,
        key: Key,
        fd: types::Fd,
        parts: &Parts,
    ) -> io_uring::squeue::Entry {
        let mut all = parts.iter();
        match (all.next(), all.next()) {
            (Some(part), None) => opcode::SendZc::new(fd, part.bytes().as_ptr(), part.len)
                .flags(SEND_FLAGS)
                .zc_flags(REPORT_USAGE)
                .build(),
            _ => {
                let header = self.messages.write(key.index, parts);
                // Bits of a small constant.
                opcode::SendMsgZc::new(fd, header)
                    .flags(SEND_FLAGS as u32)
                    .ioprio(REPORT_USAGE)
                    .build()
            }
        }
    }

    /// The result of a zero-copy send whose notification follows.
    pub(super) fn sent(&mut self, key: Key, result: i32) -> Option<Completion> {
        let again = self.wants_another_try(key, result);
        let held = self.in_flight.get_mut(key)?;
        if again {
            let zero_copy = held.notice == Notice::Wanted;
            held.notice = Notice::ThenAgain { zero_copy };
            return None;
        }
        held.notice = Notice::Due;
        let (token, outcome) = (held.token, outcome_of(&held.op, result));
        // The socket may close from here on: what the kernel still holds is not the descriptor's.
        let op = take_op(&mut held.op);
        self.let_go(&op);
        if let Some(held) = self.in_flight.get_mut(key) {
            held.op = op;
        }
        Some(Completion::Sent {
            slot: key.into(),
            token,
            outcome,
        })
    }

    /// The kernel holds the memory of a zero-copy send no longer.
    pub(super) fn notified(&mut self, key: Key, result: i32) -> Option<Completion> {
        let held = self.in_flight.get_mut(key)?;
        if let Notice::ThenAgain { zero_copy } = held.notice {
            held.notice = if zero_copy {
                Notice::Wanted
            } else {
                Notice::None
            };
            self.to_retry.push_back(key);
            return None;
        }
        let held = self.in_flight.remove(key)?;
        Some(Completion::Released {
            slot: key.into(),
            token: held.token,
            op: held.op,
            copied: result.cast_unsigned() & USAGE_COPIED != 0,
        })
    }
}
