//! The sending half of a connection.

use crate::{
    ctx::{Ctx, Hold, Kind, Tag},
    error::LaneFault,
    limits::{SMALL_BYTES, TX_ITEMS_MAX},
    link::zero_copy::ZeroCopy,
    payload::Payload,
};
use std::collections::VecDeque;
use sys::{
    Backend, Completion, Lease, LeaseClass, Op, Outcome, PARTS_MAX, Part, Parts, SlotId, SocketId,
};
use tls::session::RECORD_PLAINTEXT_MAX;
use wire::HeaderBuf;

/// Room a control record (KeyUpdate, alert) may need.
const CONTROL_BYTES_MAX: usize = 64;

/// Something to send; items leave in order.
#[expect(
    clippy::large_enum_variant,
    reason = "boxing the payload would allocate inside a turn; the queue is allocated once"
)]
pub(crate) enum TxItem {
    /// A reply or request without payload.
    Header(HeaderBuf),
    /// A header and the payload behind it.
    Data { header: HeaderBuf, payload: Payload },
}

impl TxItem {
    fn header(&self) -> &[u8] {
        match self {
            Self::Header(header) | Self::Data { header, .. } => header.as_bytes(),
        }
    }

    /// A header of no bytes (the rest of a streamed reply) is no record of its own.
    fn header_is_due(&self, done: bool) -> bool {
        !done && !self.header().is_empty()
    }

    fn payload(&self) -> Option<&Payload> {
        match self {
            Self::Header(_) => None,
            Self::Data { payload, .. } => Some(payload),
        }
    }
}

/// A lease that is being filled with records or headers.
struct Filling {
    lease: Lease,
    filled: usize,
}

/// The send that is with the kernel.
struct Sending {
    slot: SlotId,
    /// If it is short, they go in front of `ready`.
    parts: usize,
    bytes: usize,
    /// A zero-copy send that took only this much: its rest can be sent when its memory is back.
    taken: Option<u32>,
}

/// Queue, sealing and sending of one connection. One send is in flight at a time, since two on one
/// stream socket may interleave.
pub(crate) struct Tx {
    pub(crate) socket: SocketId,
    /// `None`: plain NBD on a Unix socket.
    pub(crate) session: Option<Box<tls::Session>>,
    queue: VecDeque<TxItem>,
    queued_bytes: usize,
    /// How far the front item is sealed: header done, payload bytes done.
    front_header_done: bool,
    front_payload_done: usize,
    filling: Option<Filling>,
    ready: Parts,
    sending: Option<Sending>,
    zero_copy: ZeroCopy,
    /// The connection is given up: nobody waits for memory that the kernel holds for its sake.
    abandoned: bool,
    good_bye: bool,
    close_queued: bool,
    key_updates_counted: u64,
}

impl Tx {
    /// `remote`: the peer is on another machine.
    pub(crate) fn new(socket: SocketId, session: Option<Box<tls::Session>>, remote: bool) -> Self {
        Self {
            socket,
            session,
            queue: VecDeque::with_capacity(TX_ITEMS_MAX),
            queued_bytes: 0,
            front_header_done: false,
            front_payload_done: 0,
            filling: None,
            ready: Parts::new(),
            sending: None,
            zero_copy: ZeroCopy::new(remote),
            abandoned: false,
            good_bye: false,
            close_queued: false,
            key_updates_counted: 0,
        }
    }

    /// Appends an item; the caller keeps within `TX_ITEMS_MAX`.
    pub(crate) fn push(&mut self, item: TxItem) {
        debug_assert!(
            self.queue.len() < TX_ITEMS_MAX,
            "the lane limits its replies"
        );
        self.queued_bytes += item.payload().map_or(0, Payload::len);
        self.queue.push_back(item);
    }

    /// Items that wait.
    pub(crate) fn items(&self) -> usize {
        self.queue.len()
    }

    /// Payload bytes that wait to be sealed.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Everything was handed to the socket and taken.
    pub(crate) fn is_drained(&self) -> bool {
        self.queue.is_empty()
            && self.sending.is_none()
            && self.ready.is_empty()
            && self.filling.is_none()
    }

    /// The queue was full when the batch was to go; no completion will come that leads to another try.
    pub(crate) fn is_refused(&self) -> bool {
        self.sending.is_none() && !self.ready.is_empty()
    }

    /// A send is with the kernel. What it only keeps for transmitting once more does not count.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending.is_some()
    }

    /// Ends the stream politely once the queue is empty (TLS: close_notify).
    pub(crate) fn say_good_bye(&mut self) {
        if !self.good_bye {
            self.good_bye = true;
        }
    }

    /// Drops what waits (the connection is dead) and gives the leases back.
    pub(crate) fn abandon(&mut self, hold: &mut Hold) {
        self.abandoned = true;
        self.sending.take_if(|sending| sending.taken.is_some());
        for item in self.queue.drain(..) {
            if let TxItem::Data { mut payload, .. } = item {
                payload.drain().for_each(|lease| hold.give(lease));
            }
        }
        self.queued_bytes = 0;
        if let Some(filling) = self.filling.take() {
            hold.give(filling.lease);
        }
        while let Some(part) = self.ready.pop_front() {
            hold.give(part.lease);
        }
    }

    /// Seals or gathers what waits and hands a batch to the socket. Does nothing while a batch is in flight and
    /// another one is ready.
    pub(crate) fn pump<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        hold: &mut Hold,
        tag: Tag,
    ) -> Result<(), LaneFault> {
        loop {
            if self.session.is_some() {
                self.seal_batch(ctx, hold)?;
            } else {
                self.gather_batch(ctx, hold);
            }
            if self.sending.is_some() || !self.launch(ctx, tag) {
                return Ok(());
            }
        }
    }

    /// Pushes the ready batch; false when there was nothing to push or the ring is full.
    fn launch<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, tag: Tag) -> bool {
        self.close_filling();
        if self.ready.is_empty() {
            return false;
        }
        let parts = std::mem::take(&mut self.ready);
        let (count, bytes) = (parts.count(), parts.len_bytes());
        let op = Op::Send {
            socket: self.socket,
            parts,
            zero_copy: self.zero_copy.is_wanted(ctx.send_zc, bytes),
        };
        match ctx.backend.push(op, tag.with(Kind::Tx, 0, 0).token()) {
            Ok(slot) => {
                self.sending = Some(Sending {
                    slot,
                    parts: count,
                    bytes,
                    taken: None,
                });
                true
            }
            Err(refused) => {
                if let Op::Send { parts, .. } = refused.op {
                    self.ready = parts;
                }
                false
            }
        }
    }

    /// One of the two completions of a zero-copy send.
    pub(crate) fn handle_zero_copy<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        hold: &mut Hold,
        completion: Completion,
    ) -> Result<(), LaneFault> {
        match completion {
            Completion::Sent { slot, outcome, .. } => self.handle_taken(ctx, slot, outcome),
            Completion::Released {
                slot,
                op: Op::Send { parts, .. },
                copied,
                ..
            } => self.handle_released(ctx, hold, slot, parts, copied),
            _ => Ok(()),
        }
    }

    /// The socket took a zero-copy send: the next may go. A short one must wait for its memory, and with it all others.
    fn handle_taken<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: SlotId,
        outcome: Outcome,
    ) -> Result<(), LaneFault> {
        let Some(sending) = self.sending.as_mut().filter(|sending| sending.slot == slot) else {
            return Ok(());
        };
        match outcome {
            Ok(taken) if taken as usize != sending.bytes && !self.abandoned => {
                sending.taken = Some(taken);
                return Ok(());
            }
            Ok(taken) => {
                ctx.stats.bytes_sent += u64::from(taken);
                ctx.stats.sends += 1;
            }
            Err(_) => {}
        }
        self.sending = None;
        outcome.map(|_| ()).map_err(LaneFault::Socket)
    }

    /// The memory of a zero-copy send is back.
    fn handle_released<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        hold: &mut Hold,
        slot: SlotId,
        mut parts: Parts,
        copied: bool,
    ) -> Result<(), LaneFault> {
        self.zero_copy.note(copied);
        let here = self.sending.as_ref().filter(|sending| sending.slot == slot);
        if let Some(taken) = here.and_then(|sending| sending.taken) {
            return self.handle_sent(ctx, hold, Ok(taken), parts);
        }
        while let Some(part) = parts.pop_front() {
            hold.give(part.lease);
        }
        Ok(())
    }

    /// Takes the result of a send; a short one goes on with its rest.
    pub(crate) fn handle_sent<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        hold: &mut Hold,
        outcome: Outcome,
        mut parts: Parts,
    ) -> Result<(), LaneFault> {
        self.sending = None;
        let sent = match outcome {
            Ok(sent) => sent as usize,
            Err(fault) => {
                while let Some(part) = parts.pop_front() {
                    hold.give(part.lease);
                }
                return Err(LaneFault::Socket(fault));
            }
        };
        ctx.stats.bytes_sent += sent as u64;
        ctx.stats.sends += 1;
        let mut left = sent;
        // Whole parts go back to the arena; the rest of a short send goes out before anything that was sealed since.
        let mut rest = Parts::new();
        while let Some(mut part) = parts.pop_front() {
            let len = part.len as usize;
            if len <= left {
                left -= len;
                hold.give(part.lease);
            } else {
                part.at += u32::try_from(left).unwrap_or(part.len);
                part.len -= u32::try_from(left).unwrap_or(part.len);
                left = 0;
                Self::append(&mut rest, part);
            }
        }
        if !rest.is_empty() {
            while let Some(part) = self.ready.pop_front() {
                if rest.is_full() {
                    // Cannot happen: a batch leaves room for what is with the kernel (see `parts_max`).
                    return Err(LaneFault::Ordered);
                }
                Self::append(&mut rest, part);
            }
            self.ready = rest;
        }
        Ok(())
    }

    fn append(parts: &mut Parts, part: Part) {
        let refused = parts.push(part);
        debug_assert!(refused.is_ok(), "checked for room before");
    }

    fn ready_bytes(&self) -> usize {
        self.ready.len_bytes() + self.filling.as_ref().map_or(0, |filling| filling.filled)
    }

    /// Parts a batch may have: half of what a send can carry, and never more than fit behind the send that is with the
    /// kernel. A send that is short again and again keeps its parts, and the batch made meanwhile joins them each time.
    fn parts_max(&self) -> usize {
        let sending = self.sending.as_ref().map_or(0, |sending| sending.parts);
        (PARTS_MAX / 2).min(PARTS_MAX.saturating_sub(sending))
    }

    /// A batch ends at its byte limit or at its number of parts.
    fn batch_is_full(&self, batch_bytes: usize) -> bool {
        let parts = self.ready.count() + usize::from(self.filling.is_some());
        parts >= self.parts_max() || self.ready_bytes() >= batch_bytes
    }

    fn close_filling(&mut self) {
        let Some(Filling { lease, filled }) = self.filling.take() else {
            return;
        };
        let len = u32::try_from(filled).unwrap_or(u32::MAX);
        Self::append(&mut self.ready, Part { lease, at: 0, len });
    }

    /// A lease with at least `room` bytes free, or false when there is none to be had now.
    fn ensure_room<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        hold: &mut Hold,
        room: usize,
        batch_bytes: usize,
    ) -> bool {
        if let Some(filling) = &self.filling {
            // A batch may be far shorter than a lease.
            if filling.filled >= batch_bytes {
                return false;
            }
            if filling.lease.bytes().len() - filling.filled >= room {
                return true;
            }
            self.close_filling();
        }
        if self.batch_is_full(batch_bytes) {
            return false;
        }
        let waiting = self
            .queue
            .iter()
            .take(4)
            .map(|item| 64 + item.payload().map_or(0, Payload::len));
        let class = if waiting.sum::<usize>() <= SMALL_BYTES / 2 && room < SMALL_BYTES {
            LeaseClass::Small
        } else {
            LeaseClass::Large
        };
        let lease = match hold.take(ctx, class) {
            // A small lease holds any record; slower than waiting is nothing but waiting for ever.
            None if class == LeaseClass::Large => hold.take(ctx, LeaseClass::Small),
            lease => lease,
        };
        self.filling = lease.map(|lease| Filling { lease, filled: 0 });
        self.filling.is_some()
    }

    /// Control records first, then the queue, until the batch is full or memory runs out.
    fn seal_batch<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        hold: &mut Hold,
    ) -> Result<(), LaneFault> {
        loop {
            if self.good_bye && self.queue.is_empty() {
                self.queue_close();
            }
            let Some(session) = &self.session else {
                return Ok(());
            };
            let control = session.control_pending(ctx.now);
            let batch_bytes = ctx.send_batch_bytes;
            if control {
                if !self.ensure_room(ctx, hold, CONTROL_BYTES_MAX, batch_bytes) {
                    return Ok(());
                }
                let wrote = self.seal_control(ctx)?;
                if wrote > 0 {
                    continue;
                }
            }
            let Some(front) = self.queue.front() else {
                return Ok(());
            };
            let plain = Self::next_plain(front, self.front_header_done, self.front_payload_done);
            let plain_len = plain.len();
            let room = plain_len + tls::session::RECORD_OVERHEAD;
            if !self.ensure_room(ctx, hold, room, batch_bytes) {
                return Ok(());
            }
            self.seal_record()?;
            self.advance_front(plain_len, ctx, hold);
        }
    }

    /// close_notify goes behind everything else: a session seals no data after it.
    fn queue_close(&mut self) {
        if let (Some(session), false) = (&mut self.session, self.close_queued) {
            self.close_queued = true;
            session.queue_close();
        }
    }

    fn seal_control<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) -> Result<usize, LaneFault> {
        let (Some(session), Some(filling)) = (&mut self.session, &mut self.filling) else {
            return Ok(0);
        };
        let wrote =
            session.poll_control(ctx.now, &mut filling.lease.bytes_mut()[filling.filled..])?;
        filling.filled += wrote;
        let sent = session.key_updates().sent;
        ctx.stats.key_updates_sent += sent - self.key_updates_counted;
        self.key_updates_counted = sent;
        Ok(wrote)
    }

    /// The plaintext of the next record: the header alone, then the payload in full records.
    fn next_plain(item: &TxItem, header_done: bool, payload_done: usize) -> &[u8] {
        if item.header_is_due(header_done) {
            return item.header();
        }
        let bytes = item
            .payload()
            .map_or(&[][..], |payload| payload.bytes_at(payload_done));
        &bytes[..bytes.len().min(RECORD_PLAINTEXT_MAX)]
    }

    fn seal_record(&mut self) -> Result<(), LaneFault> {
        let (Some(session), Some(filling), Some(front)) =
            (&mut self.session, &mut self.filling, self.queue.front())
        else {
            return Ok(());
        };
        let plain = Self::next_plain(front, self.front_header_done, self.front_payload_done);
        let wrote = session.seal(plain, &mut filling.lease.bytes_mut()[filling.filled..])?;
        filling.filled += wrote;
        Ok(())
    }

    /// Moves on in the front item and drops it when all of it was sealed.
    fn advance_front<B: Backend>(&mut self, len: usize, ctx: &mut Ctx<'_, B>, hold: &mut Hold) {
        let header_was_due = self
            .queue
            .front()
            .is_some_and(|item| item.header_is_due(self.front_header_done));
        self.front_header_done = true;
        if !header_was_due {
            self.front_payload_done += len;
            self.queued_bytes -= len;
            ctx.stats.payload_bytes += len as u64;
        }
        let done = self
            .queue
            .front()
            .is_some_and(|item| self.front_payload_done >= item.payload().map_or(0, Payload::len));
        if done {
            if let Some(TxItem::Data { mut payload, .. }) = self.queue.pop_front() {
                payload.drain().for_each(|lease| hold.give(lease));
            }
            self.front_header_done = false;
            self.front_payload_done = 0;
        }
    }

    /// Plain sockets: headers are collected in small leases, payload leases are sent as they are.
    fn gather_batch<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, hold: &mut Hold) {
        loop {
            let Some(front) = self.queue.front() else {
                return;
            };
            if front.header_is_due(self.front_header_done) {
                let header_len = front.header().len();
                if !self.ensure_room(ctx, hold, header_len, ctx.send_batch_bytes) {
                    return;
                }
                let (Some(filling), Some(front)) = (&mut self.filling, self.queue.front()) else {
                    return;
                };
                let room = &mut filling.lease.bytes_mut()[filling.filled..];
                room[..header_len].copy_from_slice(front.header());
                filling.filled += header_len;
                self.front_header_done = true;
            }
            if !self.gather_payload(ctx, hold) {
                return;
            }
        }
    }

    /// Moves the front item's payload leases into the batch; false when the batch is full.
    fn gather_payload<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, hold: &mut Hold) -> bool {
        let parts_max = self.parts_max();
        if let Some(TxItem::Data { payload, .. }) = self.queue.front_mut() {
            if self.front_payload_done < payload.len() {
                let filling = self.filling.take();
                if let Some(Filling { lease, filled }) = filling {
                    let len = u32::try_from(filled).unwrap_or(u32::MAX);
                    Self::append(&mut self.ready, Part { lease, at: 0, len });
                }
            }
            while self.front_payload_done < payload.len() {
                if self.ready.count() >= parts_max || self.ready.len_bytes() >= ctx.send_batch_bytes
                {
                    return false;
                }
                let spot = payload.spot(self.front_payload_done);
                let Some(lease) = payload.take_lease(spot.lease) else {
                    return false;
                };
                let (at, len) = (spot.at, spot.len);
                let part = Part {
                    lease,
                    at: u32::try_from(at).unwrap_or(u32::MAX),
                    len: u32::try_from(len).unwrap_or(u32::MAX),
                };
                Self::append(&mut self.ready, part);
                self.front_payload_done += len;
                self.queued_bytes -= len;
                ctx.stats.payload_bytes += len as u64;
            }
        }
        if let Some(TxItem::Data { mut payload, .. }) = self.queue.pop_front() {
            // Leases that a narrowed payload did not use.
            payload.drain().for_each(|lease| hold.give(lease));
        }
        self.front_header_done = false;
        self.front_payload_done = 0;
        true
    }
}
