//! The receiving half of a connection.

use crate::{
    ctx::{Ctx, Hold, Kind, Tag},
    error::LaneFault,
    limits::RECEIVED_PER_TURN_MAX,
};
use std::time::Instant;
use sys::{Backend, Lease, Op, Outcome, SocketId};
use tls::{Opened, Session};

/// What the protocol wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RxWant {
    /// Exactly this many header bytes are missing.
    Header { len: usize },
    /// Payload; `room` of it fits the memory at hand.
    Payload { len: usize, room: usize },
    /// Payload nobody wants.
    Discard { len: usize },
    /// Nothing now: no lease, no request slot, too many replies waiting.
    Stop,
    /// Nothing any more.
    Closed,
}

/// The protocol's side of receiving. All memory is the protocol's; `Rx` only moves bytes there.
pub(crate) trait Receiver<B: Backend> {
    /// What comes next. May take a lease.
    fn want(&mut self, ctx: &mut Ctx<'_, B>) -> RxWant;
    /// Header bytes, at most as many as wanted; returns how many were used.
    fn header(&mut self, ctx: &mut Ctx<'_, B>, bytes: &[u8]) -> Result<usize, LaneFault>;
    /// Memory for the wanted payload: at least `room` bytes, and the slack behind them.
    fn room(&mut self) -> &mut [u8];
    /// Opens a TLS record straight into `room()`.
    fn open_into_room(&mut self, now: Instant, record: &[u8]) -> Result<Opened, LaneFault>;
    /// `len` authentic bytes now stand at the start of what `room()` was.
    fn filled(&mut self, ctx: &mut Ctx<'_, B>, len: usize) -> Result<(), LaneFault>;
    /// `len` bytes of unwanted payload went by.
    fn discarded(&mut self, len: usize);
    /// The TLS session of the connection.
    fn session(&mut self) -> Option<&mut Session>;
    /// Plain sockets: the lease behind `room()`, the place in it and how much is wanted there.
    fn take_room(&mut self) -> Option<(Lease, usize, usize)>;
    /// Plain sockets: gives the lease back after receiving.
    fn put_room(&mut self, lease: Lease);
}

/// How a round of receiving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RxState {
    /// All bytes that are here were used; more will be announced.
    Idle,
    /// The protocol cannot go on now; try again on a later turn.
    Stopped,
    /// The turn's limit was reached; go on next turn.
    Again,
    /// The protocol wants nothing more.
    Ended,
}

/// Receive state of one connection.
pub(crate) struct Rx {
    socket: SocketId,
    tag: Tag,
    /// TLS: plaintext of a record that was not opened into its place. Plain: the header lease.
    scratch: Option<Lease>,
    scratch_at: usize,
    scratch_len: usize,
    receiving: bool,
    /// The peer's stream is over (socket end, or TLS close_notify).
    ended: bool,
    /// TLS: close_notify came.
    closed_politely: bool,
    key_updates_counted: u64,
    /// When bytes last came.
    pub(crate) last_byte: Instant,
}

impl Rx {
    /// `scratch`: a small lease the connection keeps for its whole life, so that it never waits for one.
    pub(crate) fn new(socket: SocketId, tag: Tag, scratch: Lease, now: Instant) -> Self {
        Self {
            socket,
            tag,
            scratch: Some(scratch),
            scratch_at: 0,
            scratch_len: 0,
            receiving: false,
            ended: false,
            closed_politely: false,
            key_updates_counted: 0,
            last_byte: now,
        }
    }

    /// An `Op::Recv` is with the kernel.
    pub(crate) fn is_receiving(&self) -> bool {
        self.receiving
    }

    /// The stream is over.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Ended by the peer's close_notify (TLS) or a plain end of stream.
    pub(crate) fn closed_politely(&self) -> bool {
        self.closed_politely
    }

    /// True when part of a message is here and its rest is awaited.
    pub(crate) fn is_mid_message<B: Backend>(&self, ctx: &Ctx<'_, B>) -> bool {
        self.scratch_at < self.scratch_len || !ctx.backend.rx_bytes(self.socket).is_empty()
    }

    /// A backend's word on the stream (TLS sockets).
    pub(crate) fn handle_stream<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        outcome: Outcome,
    ) -> Result<(), LaneFault> {
        match outcome {
            Ok(0) => self.ended = true,
            Ok(len) => {
                ctx.stats.bytes_received += u64::from(len);
                self.last_byte = ctx.now;
            }
            Err(fault) => {
                self.ended = true;
                return Err(LaneFault::Socket(fault));
            }
        }
        Ok(())
    }

    /// Uses what the stream holds: opens records into their place.
    pub(crate) fn advance_tls<B: Backend, R: Receiver<B>>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        core: &mut R,
    ) -> Result<RxState, LaneFault> {
        let mut budget = RECEIVED_PER_TURN_MAX;
        loop {
            if let Some(state) = self.use_scratch(ctx, core)? {
                return Ok(state);
            }
            if self.closed_politely {
                return Ok(RxState::Ended);
            }
            if budget == 0 {
                return Ok(RxState::Again);
            }
            let want = core.want(ctx);
            match want {
                RxWant::Stop => return Ok(RxState::Stopped),
                RxWant::Closed => return Ok(RxState::Ended),
                RxWant::Header { .. } | RxWant::Payload { .. } | RxWant::Discard { .. } => {}
            }
            let Some(used) = self.open_record(ctx, core, want)? else {
                return Ok(RxState::Idle);
            };
            budget = budget.saturating_sub(used);
        }
    }

    /// Opens the record at the front of the stream; `None` when it is not whole yet.
    fn open_record<B: Backend, R: Receiver<B>>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        core: &mut R,
        want: RxWant,
    ) -> Result<Option<usize>, LaneFault> {
        let bytes = ctx.backend.rx_bytes(self.socket);
        let Some(frame) = Session::frame(bytes)? else {
            return Ok(None);
        };
        if bytes.len() < frame.wire_len {
            return Ok(None);
        }
        let record = &bytes[..frame.wire_len];
        // The record's plaintext is at most one byte shorter than its inner length: if that much is wanted at one
        // place, the record is opened there. Its type byte lands behind, in what the next record overwrites.
        let direct = matches!(want, RxWant::Payload { room, .. } if frame.inner_len <= room + 1);
        if direct {
            let opened = core.open_into_room(ctx.now, record)?;
            ctx.backend.rx_consume(self.socket, frame.wire_len);
            match opened {
                Opened::Data { len } => {
                    ctx.stats.payload_bytes += len as u64;
                    core.filled(ctx, len)?;
                }
                Opened::Control => self.count_control(ctx, core),
                Opened::Closed => self.close(),
            }
        } else {
            let (Some(scratch), Some(session)) = (&mut self.scratch, core.session()) else {
                return Ok(None);
            };
            let opened = session.open(ctx.now, record, scratch.bytes_mut())?;
            ctx.backend.rx_consume(self.socket, frame.wire_len);
            match opened {
                Opened::Data { len } => {
                    self.scratch_at = 0;
                    self.scratch_len = len;
                }
                Opened::Control => self.count_control(ctx, core),
                Opened::Closed => self.close(),
            }
        }
        Ok(Some(frame.wire_len))
    }

    fn count_control<B: Backend, R: Receiver<B>>(&mut self, ctx: &mut Ctx<'_, B>, core: &mut R) {
        if let Some(session) = core.session() {
            let received = session.key_updates().received;
            ctx.stats.key_updates_received += received - self.key_updates_counted;
            self.key_updates_counted = received;
        }
    }

    fn close(&mut self) {
        self.ended = true;
        self.closed_politely = true;
    }

    /// Feeds the plaintext in the scratch; `Some` when the protocol stops before it is used up.
    fn use_scratch<B: Backend, R: Receiver<B>>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        core: &mut R,
    ) -> Result<Option<RxState>, LaneFault> {
        while self.scratch_at < self.scratch_len {
            let Some(scratch) = &self.scratch else {
                return Ok(None);
            };
            let bytes = &scratch.bytes()[self.scratch_at..self.scratch_len];
            let used = match core.want(ctx) {
                RxWant::Stop => return Ok(Some(RxState::Stopped)),
                RxWant::Closed => return Ok(Some(RxState::Ended)),
                RxWant::Header { len } => core.header(ctx, &bytes[..len.min(bytes.len())])?,
                RxWant::Payload { room, .. } => {
                    let len = room.min(bytes.len());
                    core.room()[..len].copy_from_slice(&bytes[..len]);
                    ctx.stats.plaintext_copied_bytes += len as u64;
                    ctx.stats.payload_bytes += len as u64;
                    core.filled(ctx, len)?;
                    len
                }
                RxWant::Discard { len } => {
                    let len = len.min(bytes.len());
                    core.discarded(len);
                    len
                }
            };
            self.scratch_at += used;
        }
        Ok(None)
    }

    /// Plain sockets: asks the kernel for exactly what is wanted, where it is wanted.
    pub(crate) fn advance_plain<B: Backend, R: Receiver<B>>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        core: &mut R,
    ) -> Result<RxState, LaneFault> {
        if self.receiving {
            return Ok(RxState::Idle);
        }
        if self.ended {
            return Ok(RxState::Ended);
        }
        let (header, len) = match core.want(ctx) {
            RxWant::Stop => return Ok(RxState::Stopped),
            RxWant::Closed => return Ok(RxState::Ended),
            RxWant::Header { len } | RxWant::Discard { len } => (true, len),
            RxWant::Payload { room, .. } => (false, room),
        };
        let taken = if header {
            self.scratch.take().map(|lease| {
                let room = lease.bytes().len();
                (lease, 0, len.min(room))
            })
        } else {
            core.take_room()
        };
        let Some((lease, at, len)) = taken else {
            return Ok(RxState::Stopped);
        };
        let op = Op::Recv {
            socket: self.socket,
            lease,
            at: u32::try_from(at).unwrap_or(u32::MAX),
            len: u32::try_from(len).unwrap_or(u32::MAX),
        };
        let kind = if header { Kind::RecvHeader } else { Kind::Recv };
        match ctx.backend.push(op, self.tag.with(kind, 0, 0).token()) {
            Ok(_) => {
                self.receiving = true;
                Ok(RxState::Idle)
            }
            Err(refused) => {
                if let Op::Recv { lease, .. } = refused.op {
                    self.put_back(core, header, lease);
                }
                Ok(RxState::Stopped)
            }
        }
    }

    fn put_back<B: Backend, R: Receiver<B>>(&mut self, core: &mut R, header: bool, lease: Lease) {
        if header {
            self.scratch = Some(lease);
        } else {
            core.put_room(lease);
        }
    }

    /// Plain sockets: the kernel's answer to `advance_plain`.
    pub(crate) fn handle_received<B: Backend, R: Receiver<B>>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        core: &mut R,
        header: bool,
        outcome: Outcome,
        lease: Lease,
    ) -> Result<(), LaneFault> {
        self.receiving = false;
        self.put_back(core, header, lease);
        let len = match outcome {
            Ok(0) => {
                self.close();
                return Ok(());
            }
            Ok(len) => len as usize,
            Err(fault) => {
                self.ended = true;
                return Err(LaneFault::Socket(fault));
            }
        };
        ctx.stats.bytes_received += len as u64;
        self.last_byte = ctx.now;
        if !header {
            ctx.stats.payload_bytes += len as u64;
            return core.filled(ctx, len);
        }
        self.scratch_at = 0;
        self.scratch_len = len;
        self.use_scratch(ctx, core)?;
        Ok(())
    }

    /// Gives the scratch back when the lane ends.
    pub(crate) fn abandon(&mut self, hold: &mut Hold) {
        if let Some(lease) = self.scratch.take() {
            hold.give(lease);
        }
        self.scratch_at = 0;
        self.scratch_len = 0;
    }
}
