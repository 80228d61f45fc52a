//! Receiving into a socket's mirrored ring, without being asked for each piece.
//!
//! At most one receive per socket is in flight: multishot over a buffer ring (`rx_multi`), or a single one
//! into the free part. It is armed at the next submission, after the shard had its turn to consume.

use io_uring::{cqueue, opcode, squeue};

use super::{Inner, reap::goes_on, rx_multi::BufferRing, tag::Tag};
use crate::{
    Completion, IoFault, OpKind, Outcome, RxMode, SetupError, memory::MirroredRing, slab::Key,
    tables,
};

pub(super) struct Rx {
    ring: MirroredRing,
    state: State,
    /// Rich tier; None receives once at a time.
    buffers: Option<BufferRing>,
    /// The last single receive took all there was: wait for more before trying.
    poll_first: bool,
    /// Stands in `to_serve`.
    queued: bool,
    /// The stream ended or broke, and the shard was told.
    over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing in flight; armed as soon as there is room.
    Idle,
    /// The kernel may write to the ring.
    Armed,
}

/// IORING_RECVSEND_POLL_FIRST.
const POLL_FIRST: u16 = 1;

impl Rx {
    pub(super) fn is_armed(&self) -> bool {
        self.state == State::Armed
    }

    /// Worth a receive. A single one waits for a quarter of the ring: a reader that fell behind would
    /// otherwise cause many tiny receives.
    fn has_room(&self) -> bool {
        let cursor = self.ring.cursor();
        match &self.buffers {
            Some(buffers) => buffers.room(cursor) > 0,
            None => cursor.free_bytes() >= cursor.size_bytes() / 4,
        }
    }

    /// Something to do at the next submission.
    fn wants_service(&self) -> bool {
        let stretch = self
            .buffers
            .as_ref()
            .is_some_and(|buffers| buffers.has_stretch(&self.ring));
        !self.over && (stretch || self.wants_arm())
    }

    fn wants_arm(&self) -> bool {
        !self.over && self.state == State::Idle && self.has_room()
    }
}

impl Inner {
    pub(super) fn make_rx(
        &mut self,
        key: Key,
        mode: RxMode,
        initial: &[u8],
    ) -> Result<Option<Rx>, SetupError> {
        let Some(ring) = tables::receive_ring(mode, initial)? else {
            return Ok(None);
        };
        let buffers = match &self.buffer_rings {
            Some(table) => {
                let group = u16::try_from(key.index).expect("sockets_max is a u16");
                let buffers = BufferRing::register(&self.uring, table, group, &ring);
                Some(buffers.map_err(|error| {
                    SetupError::from_io("receive ring", "its buffers cannot be registered", error)
                })?)
            }
            None => None,
        };
        Ok(Some(Rx {
            ring,
            state: State::Idle,
            buffers,
            poll_first: false,
            queued: false,
            over: false,
        }))
    }

    /// Only when nothing is armed on it.
    pub(super) fn drop_rx(&mut self, rx: Option<Rx>) {
        let Some(rx) = rx else { return };
        debug_assert!(!rx.is_armed());
        if let Some(buffers) = &rx.buffers {
            // The group is registered, see `make_rx`; after this the kernel knows no address of `rx.ring`.
            let result = self.uring.submitter().unregister_buf_ring(buffers.group());
            debug_assert!(result.is_ok(), "{result:?}");
        }
    }

    pub(super) fn rx_bytes(&self, key: Key) -> &[u8] {
        let rx = self.live_socket(key).and_then(|entry| entry.rx.as_ref());
        rx.map_or(&[], |rx| rx.ring.unread())
    }

    pub(super) fn rx_consume(&mut self, key: Key, len: usize) {
        let entry = self.sockets.get_mut(key).filter(|entry| !entry.removed);
        let Some(rx) = entry.and_then(|entry| entry.rx.as_mut()) else {
            return;
        };
        rx.ring.consume(len);
        self.want_service(key);
    }

    /// Initial bytes are told of like received ones.
    pub(super) fn announce(&mut self) -> Option<Completion> {
        let (key, len) = self.to_announce.pop_front()?;
        let token = self.live_socket(key)?.token;
        Some(Completion::Rx {
            socket: key.into(),
            token,
            outcome: Ok(len),
        })
    }

    /// Queues the socket for `serve_receives` if there is anything to do.
    pub(super) fn want_service(&mut self, key: Key) {
        let Some(rx) = self.rx_mut(key) else { return };
        if !rx.queued && rx.wants_service() {
            rx.queued = true;
            self.to_serve.push_back(key);
        }
    }

    /// Hands out room and starts receives. Once per turn, so that all that was consumed in it makes one
    /// stretch.
    pub(super) fn serve_receives(&mut self) {
        while let Some(&key) = self.to_serve.front() {
            let table = self.buffer_rings.as_ref();
            let rx = self
                .sockets
                .get_mut(key)
                .and_then(|entry| entry.rx.as_mut());
            if let (Some(rx), Some(table)) = (rx, table)
                && let Some(buffers) = &mut rx.buffers
            {
                buffers.hand_out(table, &rx.ring);
            }
            if let Some(entry) = self.receive_entry(key) {
                if !self.push_entry(&entry) {
                    return;
                }
                if let Some(rx) = self.rx_mut(key) {
                    rx.state = State::Armed;
                }
            }
            if let Some(rx) = self.rx_mut(key) {
                rx.queued = false;
            }
            self.to_serve.pop_front();
        }
    }

    fn rx_mut(&mut self, key: Key) -> Option<&mut Rx> {
        self.sockets.get_mut(key)?.rx.as_mut()
    }

    /// None when a receive is in flight, or not worth it.
    fn receive_entry(&self, key: Key) -> Option<squeue::Entry> {
        let rx = self
            .live_socket(key)?
            .rx
            .as_ref()
            .filter(|rx| rx.wants_arm())?;
        let (fd, flags) = self.socket_target(key);
        let entry = match &rx.buffers {
            Some(buffers) => opcode::RecvMulti::new(fd, buffers.group()).build(),
            None => {
                let cursor = rx.ring.cursor();
                let target = rx.ring.address(cursor.free_at()).as_ptr();
                let len =
                    u32::try_from(cursor.free_bytes()).expect("at most tables::RING_BYTES_MAX");
                let ioprio = if rx.poll_first { POLL_FIRST } else { 0 };
                opcode::Recv::new(fd, target, len).ioprio(ioprio).build()
            }
        };
        Some(entry.flags(flags).user_data(Tag::Rx(key).pack()))
    }

    /// A completion of the socket's receive.
    pub(super) fn received(&mut self, key: Key, entry: &cqueue::Entry) -> Option<Completion> {
        let socket = self.sockets.get_mut(key)?;
        let (token, removed) = (socket.token, socket.removed);
        let rx = socket.rx.as_mut()?;
        let outcome = rx.take(entry);
        if removed {
            self.release_socket(key);
            return None;
        }
        self.want_service(key);
        let outcome = outcome?;
        Some(Completion::Rx {
            socket: key.into(),
            token,
            outcome,
        })
    }
}

impl Rx {
    /// Accounts for a completion; what to tell the shard, if anything.
    fn take(&mut self, entry: &cqueue::Entry) -> Option<Outcome> {
        if !goes_on(entry) {
            self.state = State::Idle;
        }
        let fault = |errno| IoFault {
            op: OpKind::Recv,
            errno,
        };
        let outcome = match entry.result() {
            0 => Ok(0),
            len if len > 0 => self.count(len, entry).map_err(fault),
            // No buffer, or not now: armed again when there is room.
            result if matches!(-result, libc::ENOBUFS | libc::EAGAIN | libc::EINTR) => {
                return None;
            }
            result => Err(fault(-result)),
        };
        self.over = !matches!(outcome, Ok(1..));
        Some(outcome)
    }

    /// `len` bytes arrived. The kernel's account must agree with ours, else the stream cannot be trusted.
    fn count(&mut self, len: i32, entry: &cqueue::Entry) -> Result<u32, i32> {
        let bytes = usize::try_from(len).map_err(|_| libc::EPROTO)?;
        match &mut self.buffers {
            Some(buffers) => {
                let id = cqueue::buffer_select(entry.flags()).ok_or(libc::EPROTO)?;
                if !buffers.fill(self.ring.cursor(), id, bytes) {
                    return Err(libc::EPROTO);
                }
            }
            None => {
                let free = self.ring.cursor().free_bytes();
                if bytes > free {
                    return Err(libc::EPROTO);
                }
                self.poll_first = bytes < free && !cqueue::sock_nonempty(entry.flags());
            }
        }
        self.ring.received(bytes);
        u32::try_from(len).map_err(|_| libc::EPROTO)
    }
}
