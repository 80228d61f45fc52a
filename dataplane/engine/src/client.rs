//! A connection of ours to an export of somebody else: one end of a transfer.

use crate::{
    ctx::{Ctx, Hold, Kind, Tag},
    error::LaneFault,
    limits::CLIENT_REQUESTS_PER_LANE_MAX,
    link::{Receiver, Rx, RxState, RxWant, Tx, TxItem},
    mover::Deadlines,
    payload::Payload,
};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use sys::{Backend, Completion, Lease, Op, Outcome};
use tls::{Opened, Session};
use wire::{
    ClientConn, ClientEvent, ClientParams, ClientWant, Command, CommandFlags, Cookie, HeaderBuf,
    NbdError,
};

/// A request that was answered.
pub(crate) struct Answer {
    /// The mover's piece it belongs to.
    pub piece: u32,
    pub command: Command,
    /// First byte of the request.
    pub offset: u64,
    /// Length of the request, bytes.
    pub len: u64,
    pub result: Result<(), NbdError>,
    /// READ: the payload, filled when the result is good.
    pub payload: Option<Payload>,
    /// From queueing to answer.
    pub took: Duration,
}

/// A request without an answer yet.
struct InFlight {
    cookie: Cookie,
    piece: u32,
    command: Command,
    offset: u64,
    len: u64,
    started: Instant,
    payload: Option<Payload>,
}

/// Everything but the receiving half.
struct ClientCore {
    conn: ClientConn,
    tx: Tx,
    table: Vec<Option<InFlight>>,
    answers: VecDeque<Answer>,
    /// Plain sockets: the payload lease that is with the kernel (request slot, lease index).
    lent: Option<(usize, usize)>,
}

/// One connection to a server.
pub(crate) struct ClientLane {
    core: ClientCore,
    rx: Rx,
    tag: Tag,
    tls: bool,
    said_good_bye: bool,
    /// A receive found the queue full.
    refused: bool,
    gone: bool,
}

impl ClientLane {
    pub(crate) fn new(
        tag: Tag,
        params: &ClientParams,
        tx: Tx,
        scratch: Lease,
        now: Instant,
    ) -> Self {
        let (socket, tls) = (tx.socket, tx.session.is_some());
        Self {
            core: ClientCore {
                conn: ClientConn::new(params, CLIENT_REQUESTS_PER_LANE_MAX),
                tx,
                table: (0..CLIENT_REQUESTS_PER_LANE_MAX).map(|_| None).collect(),
                answers: VecDeque::with_capacity(CLIENT_REQUESTS_PER_LANE_MAX),
                lent: None,
            },
            rx: Rx::new(socket, tag, scratch, now),
            tag,
            tls,
            said_good_bye: false,
            refused: false,
            gone: false,
        }
    }

    /// Room for one more request.
    pub(crate) fn can_start(&self) -> bool {
        !self.said_good_bye && self.core.conn.in_flight() < CLIENT_REQUESTS_PER_LANE_MAX
    }

    /// Queues a request. WRITE takes its payload along, READ has it filled; gives the payload back when the table is full.
    #[expect(
        clippy::result_large_err,
        reason = "a refusal gives the payload back; boxing it would allocate inside a turn"
    )]
    pub(crate) fn start(
        &mut self,
        now: Instant,
        piece: u32,
        command: Command,
        offset: u64,
        len: u64,
        payload: Option<Payload>,
    ) -> Result<(), Option<Payload>> {
        let mut header = HeaderBuf::new();
        let started = self
            .core
            .conn
            .start(command, CommandFlags::NONE, offset, len, &mut header);
        let Some(cookie) = started else {
            return Err(payload);
        };
        let (to_send, to_fill) = match command {
            Command::Write => (payload, None),
            _ => (None, payload),
        };
        self.core.table[ClientConn::slot_of(cookie)] = Some(InFlight {
            cookie,
            piece,
            command,
            offset,
            len,
            started: now,
            payload: to_fill,
        });
        self.core.tx.push(match to_send {
            Some(payload) => TxItem::Data { header, payload },
            None => TxItem::Header(header),
        });
        Ok(())
    }

    /// The next answer.
    pub(crate) fn take_answer(&mut self) -> Option<Answer> {
        self.core.answers.pop_front()
    }

    /// One completion of this connection.
    pub(crate) fn handle<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        hold: &mut Hold,
        tag: Tag,
        outcome: Outcome,
        op: Op,
    ) -> Result<(), LaneFault> {
        match op {
            Op::Send { parts, .. } => self.core.tx.handle_sent(ctx, hold, outcome, parts),
            Op::Recv { lease, .. } => {
                let header = tag.kind == Kind::RecvHeader;
                let taken = self
                    .rx
                    .handle_received(ctx, &mut self.core, header, outcome, lease);
                if self.gone {
                    self.rx.abandon(hold);
                    self.core.forget(hold);
                }
                taken
            }
            _ => Ok(()),
        }
    }

    /// One of the two completions of a zero-copy send.
    pub(crate) fn handle_zero_copy<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        hold: &mut Hold,
        completion: Completion,
    ) -> Result<(), LaneFault> {
        self.core.tx.handle_zero_copy(ctx, hold, completion)
    }

    /// The stream of a TLS socket moved.
    pub(crate) fn handle_stream<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        outcome: Outcome,
    ) -> Result<(), LaneFault> {
        self.rx.handle_stream(ctx, outcome)
    }

    /// Receives and sends what can be; true when the turn's limit was reached.
    pub(crate) fn advance<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        hold: &mut Hold,
    ) -> Result<bool, LaneFault> {
        if self.gone {
            return Ok(false);
        }
        let state = if self.tls {
            self.rx.advance_tls(ctx, &mut self.core)?
        } else {
            self.rx.advance_plain(ctx, &mut self.core)?
        };
        self.refused = state == RxState::Stopped;
        self.core.tx.pump(ctx, hold, self.tag)?;
        if self.rx.ended() && state != RxState::Stopped && !self.said_good_bye {
            return Err(LaneFault::Hangup);
        }
        Ok(state == RxState::Again)
    }

    /// Sends what was queued after `advance`.
    pub(crate) fn pump<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        hold: &mut Hold,
    ) -> Result<(), LaneFault> {
        if self.gone {
            Ok(())
        } else {
            self.core.tx.pump(ctx, hold, self.tag)
        }
    }

    /// NBD DISC and, over TLS, close_notify. Only when nothing is in flight.
    pub(crate) fn say_good_bye(&mut self) {
        if !self.said_good_bye {
            self.said_good_bye = true;
            self.refused = false;
            let mut header = HeaderBuf::new();
            self.core.conn.encode_disconnect(&mut header);
            self.core.tx.push(TxItem::Header(header));
            self.core.tx.say_good_bye();
        }
    }

    /// Something found the queue full and has to be tried again on the next turn.
    pub(crate) fn is_refused(&self) -> bool {
        !self.gone && (self.refused || self.core.tx.is_refused())
    }

    /// The good-bye is out.
    pub(crate) fn is_drained(&self) -> bool {
        self.core.tx.is_drained()
    }

    /// Tells the server by a TLS alert why we go; best effort.
    pub(crate) fn alert<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        hold: &mut Hold,
        fault: &LaneFault,
    ) {
        if let (LaneFault::Tls(error), Some(session)) = (fault, &mut self.core.tx.session) {
            session.queue_alert(error);
            // The connection ends in any case; its own fault is the one that is reported.
            let _second_fault = self.core.tx.pump(ctx, hold, self.tag);
        }
    }

    /// Shuts the socket; leases that are with the kernel come back by completions.
    pub(crate) fn go<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, hold: &mut Hold) {
        if self.gone {
            return;
        }
        self.gone = true;
        self.core.tx.abandon(hold);
        self.rx.abandon(hold);
        self.core.forget(hold);
        ctx.backend.remove_socket(self.core.tx.socket);
    }

    /// The kernel holds nothing of this connection.
    pub(crate) fn is_free(&self) -> bool {
        !self.core.tx.is_sending() && !self.rx.is_receiving()
    }

    /// A request has no answer though its time is over.
    pub(crate) fn is_overdue(&self, now: Instant, deadlines: &Deadlines) -> bool {
        let overdue = |entry: &InFlight| deadlines.is_overdue(now, entry.command, entry.started);
        self.core.table.iter().flatten().any(overdue)
    }
}

impl ClientCore {
    /// Drops payloads that wait for data and leases that lie around.
    fn forget(&mut self, hold: &mut Hold) {
        for entry in self.table.iter_mut().filter_map(Option::take) {
            if let Some(mut payload) = entry.payload {
                payload.drain().for_each(|lease| hold.give(lease));
            }
        }
        for answer in self.answers.drain(..) {
            if let Some(mut payload) = answer.payload {
                payload.drain().for_each(|lease| hold.give(lease));
            }
        }
    }

    fn entry_mut(&mut self, cookie: Cookie) -> Option<&mut InFlight> {
        let entry = self.table.get_mut(ClientConn::slot_of(cookie))?.as_mut()?;
        (entry.cookie == cookie).then_some(entry)
    }

    fn place(&mut self) -> Option<(&mut Payload, usize, usize)> {
        let ClientWant::Payload {
            cookie,
            offset,
            len,
        } = self.conn.want()
        else {
            return None;
        };
        let payload = self.entry_mut(cookie)?.payload.as_mut()?;
        Some((payload, offset as usize, len as usize))
    }

    #[expect(clippy::needless_pass_by_value, reason = "an event is used up here")]
    fn event(&mut self, now: Instant, event: Option<ClientEvent>) -> Result<(), LaneFault> {
        match event {
            None => Ok(()),
            Some(ClientEvent::Extents { cookie, done, .. }) => {
                if done {
                    self.complete(now, cookie, Ok(()));
                }
                Ok(())
            }
            Some(ClientEvent::Hole {
                cookie,
                offset,
                len,
                done,
            }) => {
                self.clear(cookie, offset as usize, len as usize);
                if done {
                    self.complete(now, cookie, Ok(()));
                }
                Ok(())
            }
            Some(ClientEvent::Completed {
                result: Err(NbdError::Shutdown),
                ..
            }) => Err(LaneFault::PeerShutdown),
            Some(ClientEvent::Completed { cookie, result }) => {
                self.complete(now, cookie, result);
                Ok(())
            }
        }
    }

    fn complete(&mut self, now: Instant, cookie: Cookie, result: Result<(), NbdError>) {
        let slot = ClientConn::slot_of(cookie);
        let Some(entry) = self.table.get_mut(slot).and_then(Option::take) else {
            return;
        };
        self.answers.push_back(Answer {
            piece: entry.piece,
            command: entry.command,
            offset: entry.offset,
            len: entry.len,
            result,
            payload: entry.payload,
            took: now.saturating_duration_since(entry.started),
        });
    }

    /// Part of a read is a hole: its bytes are zeroes.
    fn clear(&mut self, cookie: Cookie, offset: usize, len: usize) {
        let Some(payload) = self
            .entry_mut(cookie)
            .and_then(|entry| entry.payload.as_mut())
        else {
            return;
        };
        let mut done = 0;
        while done < len {
            let (bytes, room) = payload.room_at(offset + done);
            let count = room.min(len - done);
            if count == 0 {
                return;
            }
            bytes[..count].fill(0);
            done += count;
        }
    }
}

impl<B: Backend> Receiver<B> for ClientCore {
    fn want(&mut self, _ctx: &mut Ctx<'_, B>) -> RxWant {
        match self.conn.want() {
            ClientWant::Header { len } => RxWant::Header { len },
            ClientWant::Closed => RxWant::Closed,
            ClientWant::Payload { len, .. } => {
                let len = len as usize;
                let room = self
                    .place()
                    .map(|(payload, offset, _)| payload.spot(offset).len);
                match room {
                    Some(room) if room > 0 => RxWant::Payload {
                        len,
                        room: room.min(len),
                    },
                    _ => RxWant::Discard { len },
                }
            }
        }
    }

    fn header(&mut self, ctx: &mut Ctx<'_, B>, bytes: &[u8]) -> Result<usize, LaneFault> {
        let (used, event) = self.conn.handle_header(bytes)?;
        self.event(ctx.now, event)?;
        Ok(used)
    }

    fn room(&mut self) -> &mut [u8] {
        match self.place() {
            Some((payload, offset, _)) => payload.room_at(offset).0,
            None => &mut [],
        }
    }

    fn open_into_room(&mut self, now: Instant, record: &[u8]) -> Result<Opened, LaneFault> {
        let ClientWant::Payload { cookie, offset, .. } = self.conn.want() else {
            return Err(LaneFault::Ordered);
        };
        let slot = ClientConn::slot_of(cookie);
        let entry = self.table.get_mut(slot).and_then(Option::as_mut);
        let payload = entry.and_then(|entry| entry.payload.as_mut());
        let (Some(payload), Some(session)) = (payload, &mut self.tx.session) else {
            return Err(LaneFault::Ordered);
        };
        Ok(session.open(now, record, payload.room_at(offset as usize).0)?)
    }

    fn filled(&mut self, ctx: &mut Ctx<'_, B>, len: usize) -> Result<(), LaneFault> {
        let event = self
            .conn
            .handle_payload(u32::try_from(len).unwrap_or(u32::MAX));
        self.event(ctx.now, event)
    }

    fn discarded(&mut self, len: usize) {
        // Data of a request that is gone; its completion finds no entry and is dropped too.
        let _event = self
            .conn
            .handle_payload(u32::try_from(len).unwrap_or(u32::MAX));
    }

    fn session(&mut self) -> Option<&mut Session> {
        self.tx.session.as_deref_mut()
    }

    fn take_room(&mut self) -> Option<(Lease, usize, usize)> {
        let ClientWant::Payload {
            cookie,
            offset,
            len,
        } = self.conn.want()
        else {
            return None;
        };
        let payload = self.entry_mut(cookie)?.payload.as_mut()?;
        let spot = payload.spot(offset as usize);
        let lease = payload.take_lease(spot.lease)?;
        self.lent = Some((ClientConn::slot_of(cookie), spot.lease));
        Some((lease, spot.at, spot.len.min(len as usize)))
    }

    fn put_room(&mut self, lease: Lease) {
        let Some((slot, index)) = self.lent.take() else {
            return;
        };
        let entry = self.table.get_mut(slot).and_then(Option::as_mut);
        match entry.and_then(|entry| entry.payload.as_mut()) {
            Some(payload) => payload.put_lease(index, lease),
            // The request was forgotten meanwhile; the lease rides in an answer nobody reads, so that `forget` gives it back.
            None => self.answers.push_back(Answer {
                piece: u32::MAX,
                command: Command::Read,
                offset: 0,
                len: 0,
                result: Err(NbdError::Io),
                payload: Some(Payload::single(lease, 0, 0)),
                took: Duration::ZERO,
            }),
        }
    }
}
