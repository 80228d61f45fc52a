//! From operations to submission entries.

use std::cell::UnsafeCell;

use io_uring::{opcode, squeue, types};

use super::{Inner, tag::Tag, zero_copy::Notice};
use crate::{Lease, Op, PARTS_MAX, Parts, Refused, RefusedWhy, SlotId, Token, Via, net, slab::Key};

/// An operation the kernel has.
pub(super) struct InFlight {
    pub(super) op: Op,
    pub(super) token: Token,
    /// How often it was submitted again.
    pub(super) retries: u8,
    pub(super) notice: Notice,
}

/// The kernel reads message headers at addresses that must not move: one per place in the in-flight table.
pub(super) struct MessageTable {
    messages: Box<[UnsafeCell<Message>]>,
}

struct Message {
    header: libc::msghdr,
    pieces: [libc::iovec; PARTS_MAX],
}

// SAFETY: the pointers inside lead to leases of the operation in the same place of the in-flight table, which
// moves with this table (both belong to `Inner`).
unsafe impl Send for MessageTable {}

impl MessageTable {
    pub(super) fn new(count: usize) -> Self {
        let empty = || {
            UnsafeCell::new(Message {
                header: net::empty_header(),
                pieces: [libc::iovec {
                    iov_base: std::ptr::null_mut(),
                    iov_len: 0,
                }; PARTS_MAX],
            })
        };
        Self {
            messages: (0..count).map(|_| empty()).collect(),
        }
    }

    /// Describes `parts` in place `index`, whose previous operation is over.
    pub(super) fn write(&mut self, index: u32, parts: &Parts) -> *const libc::msghdr {
        let place = &mut self.messages[index as usize];
        let message = place.get_mut();
        for (piece, part) in message.pieces.iter_mut().zip(parts.iter()) {
            *piece = libc::iovec {
                iov_base: part.bytes().as_ptr().cast_mut().cast(),
                iov_len: part.len as usize,
            };
        }
        message.header.msg_iov = message.pieces.as_mut_ptr();
        message.header.msg_iovlen = parts.count();
        &raw const message.header
    }
}

/// fdatasync: for a block device the same as fsync.
const DATA_ONLY: types::FsyncFlags = types::FsyncFlags::DATASYNC;
pub(super) const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

/// Part of a lease, and its place in the file (0 for sockets).
struct Span<'a> {
    lease: &'a Lease,
    at: u32,
    len: u32,
    offset: u64,
}

impl<'a> Span<'a> {
    fn new(lease: &'a Lease, at: u32, len: u32, offset: u64) -> Self {
        Self {
            lease,
            at,
            len,
            offset,
        }
    }

    /// The span must lie in the slot: this is what makes the address safe to hand out.
    fn address(&self) -> *mut u8 {
        let (at, len) = (self.at as usize, self.len as usize);
        assert!(
            at + len <= self.lease.class().stride_bytes(),
            "beyond the lease"
        );
        // SAFETY: within the slot (asserted above).
        unsafe { self.lease.base().as_ptr().add(at) }
    }
}

impl Inner {
    #[expect(
        clippy::result_large_err,
        reason = "the operation comes back, and not in a box"
    )]
    pub(super) fn push(&mut self, op: Op, token: Token) -> Result<SlotId, Refused> {
        if let Err(why) = self.admit(&op) {
            return Err(Refused { op, why });
        }
        let room = !self.uring.submission().is_full();
        let Some(key) = self.in_flight.next_key().filter(|_| room) else {
            return Err(Refused {
                op,
                why: RefusedWhy::QueueFull,
            });
        };
        self.hold(&op);
        let notice = self.notice_for(&op);
        let entry = self.entry_of(key, &op, notice);
        let Ok(inserted) = self.in_flight.insert(InFlight {
            op,
            token,
            retries: 0,
            notice,
        }) else {
            unreachable!("`next_key` found a free place");
        };
        assert!(
            inserted == key,
            "`insert` takes the place that `next_key` named"
        );
        let pushed = self.push_entry(&entry);
        assert!(pushed, "room was checked above");
        Ok(SlotId {
            index: key.index,
            generation: key.generation,
        })
    }

    /// Submits once more what the kernel answered with "not now". False: no room, try later.
    pub(super) fn push_again(&mut self, key: Key) -> bool {
        // Taken out and put back so that the entry can be built: the place and its generation stay.
        let Some((op, notice)) = self
            .in_flight
            .get_mut(key)
            .map(|held| (take_op(&mut held.op), held.notice))
        else {
            return true;
        };
        let entry = self.entry_of(key, &op, notice);
        if let Some(held) = self.in_flight.get_mut(key) {
            held.op = op;
        }
        self.push_entry(&entry)
    }

    /// Queues an entry for the kernel; false when the queue is full.
    pub(super) fn push_entry(&mut self, entry: &squeue::Entry) -> bool {
        let mut queue = self.uring.submission();
        // SAFETY: everything the entry points to stays where it is until its completion: leases are held by
        // the operation in `in_flight` (removed in `Inner::complete` only, zero-copy sends in `Inner::notified`, when
        // their last completion is here), message headers by
        // `messages`, receive rings by `sockets` (released in `Inner::release_socket`, after the
        // receive's last completion), the wake counter by its box. `Ring::drop` leaks them otherwise.
        unsafe { queue.push(entry) }.is_ok()
    }

    /// May this operation start? Counts nothing yet.
    fn admit(&self, op: &Op) -> Result<(), RefusedWhy> {
        match op {
            Op::Recv { socket, .. } => {
                let entry = self
                    .live_socket((*socket).into())
                    .ok_or(RefusedWhy::StaleId)?;
                assert!(
                    entry.rx.is_none(),
                    "this socket receives by itself (RxMode::Stream)"
                );
                if entry.receiving {
                    Err(RefusedWhy::Busy)
                } else {
                    Ok(())
                }
            }
            Op::Send { socket, .. } => {
                let entry = self
                    .live_socket((*socket).into())
                    .ok_or(RefusedWhy::StaleId)?;
                if entry.sending {
                    Err(RefusedWhy::Busy)
                } else {
                    Ok(())
                }
            }
            Op::Read { file, .. }
            | Op::Write { file, .. }
            | Op::Flush { file }
            | Op::Zero { file, .. } => self
                .live_file((*file).into())
                .ok_or(RefusedWhy::StaleId)
                .map(|_| ()),
        }
    }

    /// Marks socket or file as used by `op`.
    fn hold(&mut self, op: &Op) {
        match op {
            Op::Recv { socket, .. } => self.with_socket((*socket).into(), |entry| {
                entry.receiving = true;
            }),
            Op::Send { socket, .. } => self.with_socket((*socket).into(), |entry| {
                entry.sending = true;
            }),
            Op::Read { file, .. }
            | Op::Write { file, .. }
            | Op::Flush { file }
            | Op::Zero { file, .. } => {
                if let Some(entry) = self.files.get_mut((*file).into()) {
                    entry.ops += 1;
                }
            }
        }
    }

    fn entry_of(&mut self, key: Key, op: &Op, notice: Notice) -> squeue::Entry {
        let entry = match op {
            Op::Recv {
                socket,
                lease,
                at,
                len,
            } => {
                let buf = Span::new(lease, *at, *len, 0).address();
                let (fd, flags) = self.socket_target((*socket).into());
                opcode::Recv::new(fd, buf, *len).build().flags(flags)
            }
            Op::Send { socket, parts, .. } => {
                let (fd, flags) = self.socket_target((*socket).into());
                let entry = match notice {
                    Notice::None => self.send_entry(key, fd, parts),
                    _ => self.zero_copy_entry(key, fd, parts),
                };
                entry.flags(flags)
            }
            Op::Read {
                file,
                lease,
                at,
                len,
                offset,
                via,
            } => {
                let span = Span::new(lease, *at, *len, *offset);
                let (fd, flags) = self.file_target((*file).into(), *via);
                self.read_entry(fd, &span).flags(flags)
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
                let span = Span::new(lease, *at, *len, *offset);
                let (fd, flags) = self.file_target((*file).into(), *via);
                let sync = if *dsync { libc::RWF_DSYNC } else { 0 };
                self.write_entry(fd, &span, sync).flags(flags)
            }
            Op::Flush { file } => {
                let (fd, flags) = self.file_target((*file).into(), Via::Direct);
                opcode::Fsync::new(fd).flags(DATA_ONLY).build().flags(flags)
            }
            Op::Zero {
                file,
                offset,
                len,
                mode,
            } => {
                let (fd, flags) = self.file_target((*file).into(), Via::Direct);
                let entry = opcode::Fallocate::new(fd, *len).offset(*offset);
                entry.mode(mode.fallocate_mode()).build().flags(flags)
            }
        };
        entry.user_data(Tag::Op(key).pack())
    }

    fn read_entry(&mut self, fd: types::Fd, span: &Span<'_>) -> squeue::Entry {
        let (buf, len, offset) = (span.address(), span.len, span.offset);
        match self.registered.index_of(&self.uring, span.lease) {
            Some(index) => opcode::ReadFixed::new(fd, buf, len, index)
                .offset(offset)
                .build(),
            None => opcode::Read::new(fd, buf, len).offset(offset).build(),
        }
    }

    fn write_entry(&mut self, fd: types::Fd, span: &Span<'_>, sync: i32) -> squeue::Entry {
        let (buf, len, offset) = (span.address().cast_const(), span.len, span.offset);
        match self.registered.index_of(&self.uring, span.lease) {
            Some(index) => {
                let entry = opcode::WriteFixed::new(fd, buf, len, index);
                entry.offset(offset).rw_flags(sync).build()
            }
            None => opcode::Write::new(fd, buf, len)
                .offset(offset)
                .rw_flags(sync)
                .build(),
        }
    }

    fn send_entry(&mut self, key: Key, fd: types::Fd, parts: &Parts) -> squeue::Entry {
        let mut all = parts.iter();
        match (all.next(), all.next()) {
            (Some(part), None) => opcode::Send::new(fd, part.bytes().as_ptr(), part.len)
                .flags(SEND_FLAGS)
                .build(),
            _ => {
                // Bits of a small constant.
                let flags = SEND_FLAGS as u32;
                let header = self.messages.write(key.index, parts);
                opcode::SendMsg::new(fd, header).flags(flags).build()
            }
        }
    }
}

/// Leaves something harmless behind.
pub(super) fn take_op(op: &mut Op) -> Op {
    let placeholder = Op::Flush {
        file: crate::FileId {
            index: u32::MAX,
            generation: 0,
        },
    };
    std::mem::replace(op, placeholder)
}
