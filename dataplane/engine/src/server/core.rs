//! What a server connection knows and does, apart from its receiving half.

use super::{
    device::fits_one_piece,
    request::{ServerRequest, Stage},
};
use crate::{
    ctx::{Ctx, DeviceUse, Hold, Tag},
    error::LaneFault,
    export::{ConnectionSyncs, ConnectionWrites, Export, Leaves, Store},
    limits::{PIECES_PER_REQUEST_MAX, SERVER_REQUESTS_PER_LANE_MAX, SMALL_BYTES, TX_ITEMS_MAX},
    link::{Receiver, RxWant, Tx, TxItem},
    parked::Parked,
    payload::Payload,
    slots::Slots,
    stats::add,
    syncs::{Half, Mark},
};
use std::{collections::VecDeque, sync::Arc, time::Instant};
use sys::{Backend, FileId, Lease, LeaseClass, Op};
use tls::{Opened, Session};
use wire::{
    Command, CommandFlags, HeaderBuf, Incoming, Mode, NbdError, Request, ServerConn, ServerWant,
};

/// The write whose payload is arriving.
pub(super) struct IncomingWrite {
    pub slot: u32,
    pub lease: Option<Lease>,
    /// Payload bytes in the lease.
    pub fill: usize,
    /// Where the lease's first byte belongs.
    pub offset: u64,
    /// Payload bytes still to come.
    pub remaining: usize,
    pub class: LeaseClass,
}

/// A write that could not go to the device yet: the gate was closed or the queue full.
pub(super) struct HeldWrite {
    pub slot: u32,
    pub lease: Lease,
    pub at: usize,
    pub len: usize,
    pub offset: u64,
}

/// Everything of a server connection but its receiving half.
pub(super) struct ServerCore {
    pub tag: Tag,
    pub conn: ServerConn,
    pub export: Arc<Export>,
    /// `None` for a null export.
    pub file: Option<FileId>,
    pub tx: Tx,
    pub hold: Hold,
    pub requests: Slots<ServerRequest>,
    /// Those of them that change the device. Outlives `requests` until the kernel has given everything back.
    pub writes: ConnectionWrites,
    /// Flushes and synchronous writes under way. Outlives `requests`, too.
    pub syncs: ConnectionSyncs,
    pub incoming: Option<IncomingWrite>,
    /// Requests with pieces still to launch (reads, explicit zeroes).
    pub launching: VecDeque<u32>,
    pub held: VecDeque<HeldWrite>,
    /// Other operations the queue had no room for.
    pub parked: Parked,
    /// Requests the kernel has done, which other syncs of the device keep from being answered.
    pub promising: VecDeque<(u32, Mark)>,
    /// Simple mode: the long read whose reply is being streamed; nothing may come between.
    pub streaming: Option<u32>,
    pub replies_behind_stream: VecDeque<TxItem>,
    /// Device operations in flight.
    pub ops: u32,
    pub device_use: DeviceUse,
    /// New requests are answered ESHUTDOWN.
    pub draining: bool,
    /// The client said good-bye (DISC).
    pub disconnected: bool,
    /// A wish to be alone stands in the export's gate.
    pub wished_alone: bool,
}

impl ServerCore {
    pub(super) fn new(
        tag: Tag,
        conn: ServerConn,
        export: Arc<Export>,
        file: Option<FileId>,
        tx: Tx,
    ) -> Self {
        Self {
            tag,
            conn,
            writes: ConnectionWrites::new(&export.watch),
            syncs: ConnectionSyncs::new(&export.watch),
            export,
            file,
            tx,
            hold: Hold::default(),
            requests: Slots::new(SERVER_REQUESTS_PER_LANE_MAX),
            incoming: None,
            launching: VecDeque::with_capacity(SERVER_REQUESTS_PER_LANE_MAX),
            held: VecDeque::with_capacity(
                SERVER_REQUESTS_PER_LANE_MAX * PIECES_PER_REQUEST_MAX as usize,
            ),
            parked: Parked::with_capacity(SERVER_REQUESTS_PER_LANE_MAX),
            promising: VecDeque::with_capacity(SERVER_REQUESTS_PER_LANE_MAX),
            streaming: None,
            replies_behind_stream: VecDeque::with_capacity(TX_ITEMS_MAX),
            ops: 0,
            device_use: DeviceUse::default(),
            draining: false,
            disconnected: false,
            wished_alone: false,
        }
    }

    /// Takes a request in: a slot, then its first step.
    fn admit<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        request: Request,
        refused: Option<NbdError>,
    ) -> Result<(), LaneFault> {
        let stage = match request.command {
            Command::Read => Stage::Reading,
            Command::Write => Stage::Writing,
            Command::BlockStatus => Stage::Asking,
            _ => Stage::Flushing,
        };
        let mut entry = ServerRequest::new(request, stage, ctx.now);
        entry.error = if self.draining {
            refused.or(Some(NbdError::Shutdown))
        } else {
            refused
        };
        let refused = entry.error.is_some();
        let range = request.offset..entry.end();
        let Ok(slot) = self.requests.insert(entry) else {
            // `want` stops reading before the table is full.
            return Err(LaneFault::Ordered);
        };
        if let Some(leaves) = change(request.command).filter(|_| !refused) {
            self.writes.begin(slot, range, leaves);
        }
        let has_payload = matches!(self.conn.want(), ServerWant::Payload { discard: false, .. });
        if request.command == Command::Write && has_payload {
            self.begin_write(slot, &request);
            return Ok(());
        }
        if refused {
            return self.finish(ctx, slot);
        }
        match request.command {
            Command::Read => self.begin_read(ctx, slot),
            Command::Write | Command::Cache => self.finish(ctx, slot),
            Command::Flush => self.begin_flush(ctx, slot),
            Command::WriteZeroes | Command::Trim => self.begin_zero(ctx, slot),
            Command::BlockStatus => self.begin_status(ctx, slot),
            // The protocol core answers these itself; they come here only as refused requests.
            Command::Disconnect | Command::Unknown(_) => self.finish(ctx, slot),
        }
    }

    fn begin_write(&mut self, slot: u32, request: &Request) {
        let remaining = usize::try_from(request.len).unwrap_or(usize::MAX);
        self.incoming = Some(IncomingWrite {
            slot,
            lease: None,
            fill: 0,
            offset: request.offset,
            remaining,
            class: if remaining <= SMALL_BYTES {
                LeaseClass::Small
            } else {
                LeaseClass::Large
            },
        });
    }

    fn begin_read<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, slot: u32) -> Result<(), LaneFault> {
        let align = self.align();
        let Some(entry) = self.requests.get_mut(slot) else {
            return Ok(());
        };
        let request = entry.request;
        if request.flags.contains(CommandFlags::DF) && !fits_one_piece(&request, align) {
            // Unfragmented replies are promised up to 64 KiB and given up to a piece.
            entry.fail(NbdError::Overflow);
            return self.finish(ctx, slot);
        }
        if request.len == 0 {
            return self.finish(ctx, slot);
        }
        self.launching.push_back(slot);
        Ok(())
    }

    /// Answers a request that has nothing outstanding any more and frees its slot.
    pub(super) fn finish<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: u32,
    ) -> Result<(), LaneFault> {
        if self.streaming == Some(slot) {
            self.end_stream(slot)?;
        }
        let Some(entry) = self.requests.remove(slot) else {
            return Ok(());
        };
        self.writes.end(slot, entry.error.is_none());
        if !entry.complete {
            // The slot will serve another request; nothing of this one may be launched any more.
            self.launching.retain(|waiting| *waiting != slot);
        }
        ctx.stats
            .record_latency(ctx.now.saturating_duration_since(entry.started));
        self.count(&entry);
        let mut header = HeaderBuf::new();
        match entry.error {
            Some(_) if entry.reply_begun && self.conn.mode() == Mode::Simple => {
                return Err(LaneFault::ReplyBroken);
            }
            Some(error) => self.conn.encode_error(&entry.request, error, &mut header),
            // The last chunk of a read, and a block status, answered already.
            None if entry.reply_begun => return Ok(()),
            None => self.conn.encode_done(&entry.request, &mut header),
        }
        self.reply(TxItem::Header(header));
        Ok(())
    }

    /// Lets the replies out that had to wait behind a streamed one.
    fn end_stream(&mut self, slot: u32) -> Result<(), LaneFault> {
        self.streaming = None;
        let broken = self
            .requests
            .get(slot)
            .is_some_and(|entry| entry.error.is_some() && entry.reply_begun);
        if broken {
            return Err(LaneFault::ReplyBroken);
        }
        while let Some(item) = self.replies_behind_stream.pop_front() {
            self.tx.push(item);
        }
        Ok(())
    }

    /// Queues a reply, behind the stream when one runs.
    pub(super) fn reply(&mut self, item: TxItem) {
        if self.streaming.is_some() {
            self.replies_behind_stream.push_back(item);
        } else {
            self.tx.push(item);
        }
    }

    fn count(&self, entry: &ServerRequest) {
        let counters = &self.export.counters;
        if entry.error.is_some() {
            return add(&counters.requests_failed, 1);
        }
        add(&counters.requests, 1);
        let len = entry.request.len;
        match entry.request.command {
            Command::Read => add(&counters.bytes_read, len),
            Command::Write => add(&counters.bytes_written, len),
            Command::WriteZeroes => add(&counters.bytes_zeroed, len),
            Command::Trim => add(&counters.bytes_trimmed, len),
            _ => {}
        }
    }

    /// Replies that wait for the socket, the stream's included.
    pub(super) fn replies(&self) -> usize {
        self.tx.items() + self.replies_behind_stream.len()
    }

    /// The block size direct I/O needs; 1 without a device.
    pub(super) fn align(&self) -> u64 {
        match self.export.store() {
            Store::Device(file) => u64::from(file.direct_align().max(1)),
            Store::Null { .. } => 1,
        }
    }

    /// Something of this connection is with the device or waits to get there.
    pub(super) fn wants_device(&self) -> bool {
        let waiting = [
            self.launching.is_empty(),
            self.held.is_empty(),
            self.parked.is_empty(),
        ];
        self.file.is_some() && (self.ops > 0 || waiting.contains(&false))
    }

    /// True when nothing of this connection is with the device or waits for it.
    pub(super) fn is_quiet(&self) -> bool {
        self.requests.is_empty() && self.incoming.is_none() && self.ops == 0
    }

    /// Forgets everything that is not with the kernel.
    pub(super) fn abandon(&mut self) {
        self.tx.abandon(&mut self.hold);
        for item in self.replies_behind_stream.drain(..) {
            if let TxItem::Data { mut payload, .. } = item {
                payload.drain().for_each(|lease| self.hold.give(lease));
            }
        }
        if let Some(lease) = self.incoming.take().and_then(|incoming| incoming.lease) {
            self.hold.give(lease);
        }
        for held in self.held.drain(..) {
            self.hold.give(held.lease);
        }
        let (parked, syncs) = (&mut self.parked, &mut self.syncs);
        parked.abandon(&mut self.hold, |op, tag| {
            if matches!(op, Op::Flush { .. }) {
                syncs.end(Half::from_index(tag.aux));
            }
        });
        self.promising.clear();
        if std::mem::take(&mut self.wished_alone) {
            self.export.gate.forget_wish();
        }
        self.launching.clear();
        self.streaming = None;
        self.requests = Slots::new(0);
    }

    /// Wraps bytes that are a whole reply by themselves (block status).
    pub(super) fn reply_lease(&mut self, lease: Lease, len: usize) {
        let payload = Payload::single(lease, 0, len);
        self.reply(TxItem::Data {
            header: HeaderBuf::new(),
            payload,
        });
    }
}

/// How a command leaves its range, when it changes it.
const fn change(command: Command) -> Option<Leaves> {
    match command {
        Command::Write => Some(Leaves::Payload),
        Command::WriteZeroes => Some(Leaves::Zeroes),
        Command::Trim => Some(Leaves::Anything),
        _ => None,
    }
}

impl<B: Backend> Receiver<B> for ServerCore {
    fn want(&mut self, ctx: &mut Ctx<'_, B>) -> RxWant {
        if let Some(incoming) = &mut self.incoming {
            if incoming.lease.is_none() {
                incoming.lease = self.hold.take_payload(ctx, incoming.class);
            }
            if incoming.lease.is_none() {
                return RxWant::Stop;
            }
            let room = (incoming.class.nominal_bytes() - incoming.fill).min(incoming.remaining);
            return RxWant::Payload {
                len: incoming.remaining,
                room,
            };
        }
        match self.conn.want() {
            ServerWant::Payload { len, .. } => RxWant::Discard { len: len as usize },
            ServerWant::Closed => RxWant::Closed,
            ServerWant::Header { len } => {
                let replies_max = TX_ITEMS_MAX / 2;
                if self.requests.is_full() || self.replies() >= replies_max {
                    RxWant::Stop
                } else {
                    RxWant::Header { len }
                }
            }
        }
    }

    fn header(&mut self, ctx: &mut Ctx<'_, B>, bytes: &[u8]) -> Result<usize, LaneFault> {
        let (used, incoming) = self.conn.handle_header(bytes)?;
        match incoming {
            None => {}
            Some(Incoming::Request(request)) => self.admit(ctx, request, None)?,
            Some(Incoming::Invalid { request, error }) => self.admit(ctx, request, Some(error))?,
            Some(Incoming::Disconnect) => self.disconnected = true,
        }
        Ok(used)
    }

    fn room(&mut self) -> &mut [u8] {
        match &mut self.incoming {
            Some(IncomingWrite {
                lease: Some(lease),
                fill,
                ..
            }) => &mut lease.bytes_mut()[*fill..],
            _ => &mut [],
        }
    }

    fn open_into_room(&mut self, now: Instant, record: &[u8]) -> Result<Opened, LaneFault> {
        let room = match &mut self.incoming {
            Some(IncomingWrite {
                lease: Some(lease),
                fill,
                ..
            }) => &mut lease.bytes_mut()[*fill..],
            _ => &mut [],
        };
        let Some(session) = &mut self.tx.session else {
            return Err(LaneFault::Ordered);
        };
        Ok(session.open(now, record, room)?)
    }

    fn filled(&mut self, ctx: &mut Ctx<'_, B>, len: usize) -> Result<(), LaneFault> {
        self.conn
            .handle_payload(u32::try_from(len).unwrap_or(u32::MAX));
        let Some(incoming) = &mut self.incoming else {
            return Ok(());
        };
        incoming.fill += len;
        incoming.remaining -= len;
        let slot = incoming.slot;
        let last = incoming.remaining == 0;
        if last || incoming.fill == incoming.class.nominal_bytes() {
            let (offset, fill) = (incoming.offset, incoming.fill);
            incoming.offset += fill as u64;
            incoming.fill = 0;
            if let Some(lease) = incoming.lease.take() {
                if self.file.is_some() {
                    self.writes.piece(slot, offset, &lease.bytes()[..fill]);
                }
                self.write_piece(
                    ctx,
                    HeldWrite {
                        slot,
                        lease,
                        at: 0,
                        len: fill,
                        offset,
                    },
                );
            }
        }
        if last {
            self.incoming = None;
            if let Some(entry) = self.requests.get_mut(slot) {
                entry.complete = true;
            }
            self.settle(ctx, slot)?;
        }
        Ok(())
    }

    fn discarded(&mut self, len: usize) {
        self.conn
            .handle_payload(u32::try_from(len).unwrap_or(u32::MAX));
    }

    fn session(&mut self) -> Option<&mut Session> {
        self.tx.session.as_deref_mut()
    }

    fn take_room(&mut self) -> Option<(Lease, usize, usize)> {
        let incoming = self.incoming.as_mut()?;
        let len = (incoming.class.nominal_bytes() - incoming.fill).min(incoming.remaining);
        Some((incoming.lease.take()?, incoming.fill, len))
    }

    fn put_room(&mut self, lease: Lease) {
        match &mut self.incoming {
            Some(incoming) => incoming.lease = Some(lease),
            None => self.hold.give(lease),
        }
    }
}
