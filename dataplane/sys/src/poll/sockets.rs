//! The socket table, and trying operations on non-blocking sockets.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::{
        epoll::{EpollEvent, EpollFlags},
        socket::{MsgFlags, Shutdown, recv, shutdown},
    },
};

use super::{Held, Poll, SUBJECT};
use crate::{
    Completion, IoFault, Op, OpKind, Outcome, PARTS_MAX, Parts, RefusedWhy, RxMode, SetupError,
    SocketId, Token,
    memory::MirroredRing,
    net::{self, set_nonblocking},
    slab::Key,
    tables,
};

pub(super) struct SocketEntry {
    fd: OwnedFd,
    token: Token,
    /// Present in `RxMode::Stream`.
    rx: Option<Rx>,
    sending: Option<Key>,
    receiving: Option<Key>,
    /// Nothing says that reading or writing would block.
    readable: bool,
    writable: bool,
    /// Stands in `to_try`.
    queued: bool,
}

struct Rx {
    ring: MirroredRing,
    /// So many initial bytes that no completion announced yet.
    announce: u32,
    /// The stream ended or broke, and the shard was told.
    over: bool,
}

const INTEREST: EpollFlags = EpollFlags::EPOLLIN
    .union(EpollFlags::EPOLLOUT)
    .union(EpollFlags::EPOLLRDHUP)
    .union(EpollFlags::EPOLLET);

/// Like a submission entry's tag, generation above index.
fn data_of(key: Key) -> u64 {
    u64::from(key.generation) << 32 | u64::from(key.index)
}

pub(super) fn key_of(data: u64) -> Key {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).expect("masked to 32 bits");
    Key {
        index: half(data),
        generation: half(data >> 32),
    }
}

impl Poll {
    pub(super) fn insert_socket(
        &mut self,
        fd: OwnedFd,
        mode: RxMode,
        token: Token,
        initial: &[u8],
    ) -> Result<SocketId, SetupError> {
        net::require_stream(&fd)?;
        set_nonblocking(&fd, true)?;
        let ring = tables::receive_ring(mode, initial)?;
        let announce = u32::try_from(initial.len()).expect("at most tables::RING_BYTES_MAX");
        let rx = ring.map(|ring| Rx {
            ring,
            announce,
            over: false,
        });
        let Some(key) = self.sockets.next_key() else {
            return Err(tables::full("socket", self.sockets.capacity()));
        };
        self.epoll
            .add(&fd, EpollEvent::new(INTEREST, data_of(key)))
            .map_err(|errno| SetupError::from_io(SUBJECT, "the socket cannot be watched", errno))?;
        let entry = SocketEntry {
            fd,
            token,
            rx,
            sending: None,
            receiving: None,
            readable: true,
            writable: true,
            queued: false,
        };
        if self.sockets.insert(entry).is_err() {
            unreachable!("`next_key` found a free place");
        }
        self.want_try(key);
        Ok(key.into())
    }

    /// The operations end here and now: nobody but us holds their memory.
    pub(super) fn drop_socket(&mut self, key: Key) {
        let Some(entry) = self.sockets.remove(key) else {
            return;
        };
        // Errors mean that the connection, or the watching, is gone already; closing ends both.
        let _ = shutdown(entry.fd.as_raw_fd(), Shutdown::Both);
        let _ = self.epoll.delete(&entry.fd);
        self.to_try.retain(|waiting| *waiting != key);
        self.ready.retain(|completion| {
            !matches!(completion, Completion::Rx { socket, .. } if *socket == key.into())
        });
        for op_key in [entry.receiving, entry.sending].into_iter().flatten() {
            let Some((op, sent_bytes)) = self.take_socket_op(op_key) else {
                continue;
            };
            let cancelled = IoFault {
                op: op.kind(),
                errno: libc::ECANCELED,
            };
            let outcome = if sent_bytes > 0 {
                Ok(sent_bytes)
            } else {
                Err(cancelled)
            };
            self.finish(op_key, outcome, op);
        }
    }

    pub(super) fn unread(&self, key: Key) -> &[u8] {
        let rx = self.sockets.get(key).and_then(|entry| entry.rx.as_ref());
        rx.map_or(&[], |rx| rx.ring.unread())
    }

    pub(super) fn consume(&mut self, key: Key, len: usize) {
        let Some(rx) = self
            .sockets
            .get_mut(key)
            .and_then(|entry| entry.rx.as_mut())
        else {
            return;
        };
        rx.ring.consume(len);
        self.want_try(key);
    }

    /// May this operation start?
    pub(super) fn admit(&self, op: &Op) -> Result<(), RefusedWhy> {
        match op {
            Op::Recv { socket, .. } => {
                let entry = self
                    .sockets
                    .get((*socket).into())
                    .ok_or(RefusedWhy::StaleId)?;
                assert!(
                    entry.rx.is_none(),
                    "this socket receives by itself (RxMode::Stream)"
                );
                if entry.receiving.is_some() {
                    Err(RefusedWhy::Busy)
                } else {
                    Ok(())
                }
            }
            Op::Send { socket, .. } => {
                let entry = self
                    .sockets
                    .get((*socket).into())
                    .ok_or(RefusedWhy::StaleId)?;
                if entry.sending.is_some() {
                    Err(RefusedWhy::Busy)
                } else {
                    Ok(())
                }
            }
            Op::Read { file, .. }
            | Op::Write { file, .. }
            | Op::Flush { file }
            | Op::Zero { file, .. } => {
                if self.is_live_file((*file).into()) {
                    Ok(())
                } else {
                    Err(RefusedWhy::StaleId)
                }
            }
        }
    }

    pub(super) fn start_receive(&mut self, socket: Key, op: Key) {
        if let Some(entry) = self.sockets.get_mut(socket) {
            entry.receiving = Some(op);
        }
        self.want_try(socket);
    }

    pub(super) fn start_send(&mut self, socket: Key, op: Key) {
        if let Some(entry) = self.sockets.get_mut(socket) {
            entry.sending = Some(op);
        }
        self.want_try(socket);
    }

    /// Epoll says that something changed.
    pub(super) fn changed(&mut self, key: Key, flags: EpollFlags) {
        let broken = EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        let Some(entry) = self.sockets.get_mut(key) else {
            return;
        };
        entry.readable |= flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | broken);
        entry.writable |= flags.intersects(EpollFlags::EPOLLOUT | broken);
        self.want_try(key);
    }

    fn want_try(&mut self, key: Key) {
        let Some(entry) = self.sockets.get_mut(key) else {
            return;
        };
        if !entry.queued && entry.has_something_to_try() {
            entry.queued = true;
            self.to_try.push_back(key);
        }
    }

    /// One receive and one send at most, so that no socket starves the others.
    pub(super) fn try_socket(&mut self, key: Key) {
        let Some(entry) = self.sockets.get_mut(key) else {
            return;
        };
        entry.queued = false;
        let token = entry.token;
        if let Some(rx) = entry.rx.as_mut().filter(|rx| rx.announce > 0) {
            let outcome = Ok(std::mem::take(&mut rx.announce));
            self.ready.push_back(Completion::Rx {
                socket: key.into(),
                token,
                outcome,
            });
        }
        if let Some(outcome) = entry.receive_to_ring() {
            self.ready.push_back(Completion::Rx {
                socket: key.into(),
                token,
                outcome,
            });
        }
        self.try_receive(key);
        self.try_send(key);
        self.want_try(key);
    }

    fn try_receive(&mut self, key: Key) {
        let Some(entry) = self.sockets.get_mut(key).filter(|entry| entry.readable) else {
            return;
        };
        let Some(op_key) = entry.receiving else {
            return;
        };
        let Some(Held::Socket {
            op: Op::Recv { lease, at, len, .. },
            ..
        }) = self.in_flight.get_mut(op_key).map(|held| &mut held.held)
        else {
            return;
        };
        let buf = &mut lease.bytes_mut()[*at as usize..][..*len as usize];
        let outcome = match entry.receive_into(buf) {
            None => return,
            Some(outcome) => outcome,
        };
        entry.receiving = None;
        if let Some((op, _)) = self.take_socket_op(op_key) {
            self.finish(op_key, outcome, op);
        }
    }

    /// Goes on until everything is sent or nothing more is taken, like MSG_WAITALL.
    fn try_send(&mut self, key: Key) {
        let Some(entry) = self.sockets.get_mut(key).filter(|entry| entry.writable) else {
            return;
        };
        let Some(op_key) = entry.sending else { return };
        let Some(Held::Socket {
            op: Op::Send { parts, .. },
            sent_bytes,
        }) = self.in_flight.get_mut(op_key).map(|held| &mut held.held)
        else {
            return;
        };
        let outcome = loop {
            let total = parts.len_bytes();
            match send_from(&entry.fd, parts, *sent_bytes as usize) {
                Ok(len) => {
                    *sent_bytes += len;
                    if *sent_bytes as usize >= total {
                        break Ok(*sent_bytes);
                    }
                }
                Err(libc::EINTR) => {}
                Err(libc::EAGAIN) => {
                    entry.writable = false;
                    return;
                }
                // The next send will meet the fault again.
                Err(_) if *sent_bytes > 0 => break Ok(*sent_bytes),
                Err(errno) => {
                    break Err(IoFault {
                        op: OpKind::Send,
                        errno,
                    });
                }
            }
        };
        entry.sending = None;
        if let Some((op, _)) = self.take_socket_op(op_key) {
            self.finish(op_key, outcome, op);
        }
    }

    /// Takes the operation out; `finish` then frees its place.
    fn take_socket_op(&mut self, key: Key) -> Option<(Op, u32)> {
        let held = self.in_flight.get_mut(key)?;
        let gone = Held::File(key);
        match std::mem::replace(&mut held.held, gone) {
            Held::Socket { op, sent_bytes } => Some((op, sent_bytes)),
            Held::File(_) => None,
        }
    }
}

impl SocketEntry {
    fn has_something_to_try(&self) -> bool {
        let rx = self.rx.as_ref();
        let wants_bytes = self.receiving.is_some() || rx.is_some_and(Rx::has_room);
        rx.is_some_and(|rx| rx.announce > 0)
            || self.readable && wants_bytes
            || self.writable && self.sending.is_some()
    }

    fn receive_to_ring(&mut self) -> Option<Outcome> {
        let mut rx = self.rx.take()?;
        let outcome = if self.readable && rx.has_room() {
            self.receive_into(rx.ring.free_mut())
        } else {
            None
        };
        match outcome {
            Some(Ok(len @ 1..)) => rx.ring.received(len as usize),
            Some(_) => rx.over = true,
            None => {}
        }
        self.rx = Some(rx);
        outcome
    }

    /// None: nothing there now. A short receive is no proof of that: the end of the stream may follow.
    fn receive_into(&mut self, buf: &mut [u8]) -> Option<Outcome> {
        loop {
            match recv(self.fd.as_raw_fd(), buf, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => return Some(Ok(u32::try_from(len).expect("buffers are below 4 GiB"))),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.readable = false;
                    return None;
                }
                Err(errno) => {
                    return Some(Err(IoFault {
                        op: OpKind::Recv,
                        errno: errno as i32,
                    }));
                }
            }
        }
    }
}

impl Rx {
    /// Room that is worth a receive: a reader that fell behind would otherwise cause many tiny ones.
    fn has_room(&self) -> bool {
        let cursor = self.ring.cursor();
        !self.over && cursor.free_bytes() >= cursor.size_bytes() / 4
    }
}

/// One sendmsg of what is left of `parts` after `skip` bytes.
fn send_from(fd: &OwnedFd, parts: &Parts, mut skip: usize) -> Result<u32, i32> {
    let mut pieces = [libc::iovec {
        iov_base: std::ptr::null_mut(),
        iov_len: 0,
    }; PARTS_MAX];
    let mut count = 0;
    for part in parts.iter() {
        let bytes = part.bytes();
        let rest = &bytes[skip.min(bytes.len())..];
        skip -= bytes.len() - rest.len();
        pieces[count] = libc::iovec {
            iov_base: rest.as_ptr().cast_mut().cast(),
            iov_len: rest.len(),
        };
        count += 1;
    }
    let mut header = net::empty_header();
    header.msg_iov = pieces.as_mut_ptr();
    header.msg_iovlen = count;
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the descriptor is open; the header and its pieces are on our stack, the pieces lead to leases
    // that `parts` owns and lends us, and the kernel only reads them during the call.
    let result = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, flags) };
    u32::try_from(result).map_err(|_| {
        io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO)
    })
}
