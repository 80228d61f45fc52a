//! The source's half: work is cut into pieces and read.

use super::{End, Mover, Piece, SOURCE_CONNECTION};
use crate::{
    ctx::{Ctx, Kind, Side, Tag},
    digest::Hashed,
    error::{Blame, EngineError, ErrorKind},
    limits::PIECE_BYTES,
    payload::{Payload, leases_for},
    stats::add,
    transfer::shared::{AckKind, Work, WorkKind},
};
use std::sync::atomic::Ordering;
use sys::{Backend, LeaseClass, Op, Outcome, Via};
use wire::Command;

/// What became of an attempt to start a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Started {
    Yes,
    /// No work is left for now.
    NoWork,
    /// Memory, the window, a table or the pacer says: later.
    Later,
}

impl Mover {
    /// Starts pieces while there is work and room; true when it stopped for lack of memory.
    pub(super) fn start_pieces<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) -> bool {
        self.paused_until = None;
        self.launch_reads(ctx);
        loop {
            if self.shared.is_stopping() {
                self.unit = None;
                self.redo.clear();
                return false;
            }
            match self.start_piece(ctx) {
                Started::Yes => {}
                Started::NoWork => return false,
                Started::Later => return self.pieces.is_empty(),
            }
        }
    }

    fn start_piece<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) -> Started {
        let settings = self.shared.settings;
        let behind = self.shared.acks_are_full();
        if behind || self.pieces.is_full() || self.in_flight_bytes >= self.window.bytes() {
            return Started::Later;
        }
        let Some(work) = self.take_unit() else {
            return Started::NoWork;
        };
        match work.kind {
            WorkKind::Zero if settings.skip_zeroes => {
                self.hash_zero(work.offset, work.len);
                self.shared.done(AckKind::Skipped, work.offset, work.len);
                self.cut_unit(work.len);
                Started::Yes
            }
            WorkKind::Zero if settings.can_zero => self.start_zero(ctx, work),
            WorkKind::Zero | WorkKind::ExplicitZero => self.start_data(ctx, work, true),
            WorkKind::Data => self.start_data(ctx, work, false),
        }
    }

    fn start_zero<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, work: Work) -> Started {
        let len = work.len.min(self.shared.settings.zero_request_bytes);
        let piece = Piece {
            offset: work.offset,
            len: 0,
            kind: WorkKind::Zero,
            started: ctx.now,
            next_lease: 0,
            reads: 0,
            writes: 0,
            payload: None,
        };
        let Ok(slot) = self.pieces.insert(piece) else {
            return Started::Later;
        };
        self.cut_unit(len);
        self.hash_zero(work.offset, len);
        self.emit_zero(ctx, slot, work.offset, len);
        self.settle_piece(ctx, slot);
        Started::Yes
    }

    fn hash_zero(&self, offset: u64, len: u64) {
        if self.shared.settings.hash_up_to.is_some() {
            self.shared.hashed(Hashed::Zero { offset, len });
        }
    }

    /// Length of the next piece: up to the next multiple of the request size, so that only the ends of a range
    /// are unaligned.
    fn piece_len<B: Backend>(&self, ctx: &Ctx<'_, B>, work: Work) -> usize {
        let leases = ctx.share.large.saturating_sub(1).max(1) as u64;
        let request = self.shared.settings.request_bytes as u64;
        let to_boundary = request - work.offset % request;
        let most = to_boundary.min(leases * PIECE_BYTES as u64);
        usize::try_from(work.len.min(most)).unwrap_or(PIECE_BYTES)
    }

    fn start_data<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        work: Work,
        zeroes: bool,
    ) -> Started {
        let len = self.piece_len(ctx, work);
        // Direct reads cover whole blocks; the payload begins `shift` bytes into the cover.
        let align = match &self.source {
            End::File { device, .. } if !zeroes => u64::from(device.direct_align().max(1)),
            _ => 1,
        };
        let shift = usize::try_from(work.offset % align).unwrap_or(0);
        let (class, count) = leases_for(shift + len);
        if let End::Nbd(lane) = &self.source
            && !zeroes
            && !lane.can_start()
        {
            return Started::Later;
        }
        // One lease stays free for sealing, so that payload never blocks its own way out.
        if self.hold.room(ctx, class) < count + 1 {
            ctx.stats.stalls_for_memory += 1;
            return Started::Later;
        }
        if let Err(later) = self.shared.try_pace(ctx.now, len as u64) {
            self.paused_until = Some(later);
            return Started::Later;
        }
        let mut payload = Payload::with_place(shift, len);
        for _ in 0..count {
            // Another shard may have taken it since `room`: shards do not share arenas, so it is there.
            let Some(lease) = self.hold.take(ctx, class) else {
                break;
            };
            payload.push_lease(lease);
        }
        if payload.count() < count {
            payload.drain().for_each(|lease| self.hold.give(lease));
            return Started::Later;
        }
        let kind = if zeroes {
            WorkKind::ExplicitZero
        } else {
            WorkKind::Data
        };
        let piece = Piece {
            offset: work.offset,
            len,
            kind,
            started: ctx.now,
            next_lease: 0,
            reads: 0,
            writes: 0,
            payload: Some(payload),
        };
        match self.pieces.insert(piece) {
            Ok(slot) => {
                self.in_flight_bytes += len;
                add(&self.shared.in_flight_bytes, len as u64);
                self.cut_unit(len as u64);
                self.begin_read(ctx, slot, zeroes);
                Started::Yes
            }
            Err(mut piece) => {
                if let Some(payload) = &mut piece.payload {
                    payload.drain().for_each(|lease| self.hold.give(lease));
                }
                Started::Later
            }
        }
    }

    fn begin_read<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, slot: u32, zeroes: bool) {
        let Some(piece) = self.pieces.get_mut(slot) else {
            return;
        };
        if zeroes || matches!(self.source, End::Null) {
            if let Some(payload) = &mut piece.payload {
                fill_zero(payload);
            }
            return self.handle_piece_read(ctx, slot);
        }
        if let End::Nbd(lane) = &mut self.source {
            let (offset, len) = (piece.offset, piece.len as u64);
            let payload = piece.payload.take();
            if lane
                .start(ctx.now, slot, Command::Read, offset, len, payload)
                .is_err()
            {
                // `can_start` was asked in this turn.
                self.shared.fail(EngineError::bug(
                    "a request found no room",
                    SOURCE_CONNECTION,
                ));
            }
            return;
        }
        self.reading.push_back(slot);
        self.launch_reads(ctx);
    }

    /// Hands file reads to the ring, oldest piece first, until it is full.
    pub(super) fn launch_reads<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) {
        while let Some(&slot) = self.reading.front() {
            if !self.launch_piece_reads(ctx, slot) {
                return;
            }
            self.reading.pop_front();
        }
    }

    /// False when the ring is full.
    fn launch_piece_reads<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, slot: u32) -> bool {
        let End::File { file, device } = &self.source else {
            return true;
        };
        let align = usize::try_from(device.direct_align().max(1)).unwrap_or(1);
        let tag = Tag {
            side: Side::Source,
            ..self.tag
        };
        let Some(piece) = self.pieces.get_mut(slot) else {
            return true;
        };
        let Some(payload) = &mut piece.payload else {
            return true;
        };
        let shift = usize::try_from(piece.offset % align as u64).unwrap_or(0);
        let cover = (shift + piece.len).next_multiple_of(align);
        while piece.next_lease < payload.count() {
            if ctx.devices_are_full(self.ops) {
                return false;
            }
            let index = piece.next_lease;
            let begin = index * PIECE_BYTES;
            let len = if payload.count() == 1 {
                cover
            } else {
                (cover - begin).min(PIECE_BYTES)
            };
            let Some(lease) = payload.take_lease(index) else {
                return true;
            };
            let op = Op::Read {
                file: *file,
                lease,
                at: 0,
                len: u32::try_from(len).unwrap_or(u32::MAX),
                offset: piece.offset - shift as u64 + begin as u64,
                via: Via::Direct,
            };
            match ctx
                .backend
                .push(op, tag.with(Kind::Read, slot, index).token())
            {
                Ok(_) => {
                    self.ops += 1;
                    ctx.stats.device_ops += 1;
                    piece.reads += 1;
                    piece.next_lease += 1;
                }
                Err(refused) => {
                    if let Op::Read { lease, .. } = refused.op {
                        payload.put_lease(index, lease);
                    }
                    return false;
                }
            }
        }
        true
    }

    /// A file read of the source ended.
    pub(super) fn handle_source<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        tag: Tag,
        outcome: Outcome,
        op: Op,
    ) {
        let Op::Read {
            file,
            lease,
            at,
            len,
            offset,
            via,
        } = op
        else {
            return;
        };
        self.ops -= 1;
        ctx.stats.device_ops -= 1;
        let (slot, index) = (u32::from(tag.slot), usize::from(tag.aux));
        let Some(piece) = self.pieces.get_mut(slot) else {
            return self.hold.give(lease);
        };
        let wanted_end = piece.offset + piece.len as u64;
        let here_end = (offset + u64::from(len)).min(wanted_end);
        let failure = match outcome {
            Ok(done) if offset + u64::from(done) >= here_end => None,
            Ok(0) => Some(self.source_ended_early(offset)),
            Ok(done) => {
                let rest = Op::Read {
                    file,
                    lease,
                    at: at + done,
                    len: len - done,
                    offset: offset + u64::from(done),
                    via,
                };
                self.ops += u32::from(self.parked.start(ctx, rest, tag.token()));
                return;
            }
            Err(fault) => Some(self.source_failed(offset, fault)),
        };
        let Some(piece) = self.pieces.get_mut(slot) else {
            return self.hold.give(lease);
        };
        match &mut piece.payload {
            Some(payload) => payload.put_lease(index, lease),
            None => self.hold.give(lease),
        }
        if let Some(error) = failure {
            self.shared.fail(error);
        }
        self.end_read(ctx, slot);
    }

    /// One read of a piece is over; with the last one the piece goes to the target, or is dropped when
    /// the transfer failed.
    fn end_read<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, slot: u32) {
        let Some(piece) = self.pieces.get_mut(slot) else {
            return;
        };
        piece.reads -= 1;
        let all_launched = piece
            .payload
            .as_ref()
            .is_none_or(|p| piece.next_lease >= p.count());
        if piece.reads > 0 || !all_launched {
            return;
        }
        if self
            .shared
            .failed
            .load(std::sync::atomic::Ordering::Acquire)
        {
            self.drop_piece(slot);
        } else {
            self.handle_piece_read(ctx, slot);
        }
    }

    fn source_ended_early(&self, offset: u64) -> EngineError {
        EngineError::new(
            ErrorKind::SourceIo,
            Blame::Environment,
            format!("the source ended at byte {offset}, before its size"),
            self.source_name(),
        )
        .remedy("check that nothing shortens the source while it is copied")
    }

    fn source_failed(&self, offset: u64, fault: sys::IoFault) -> EngineError {
        EngineError::new(
            ErrorKind::SourceIo,
            Blame::Environment,
            format!("reading at byte {offset} failed"),
            self.source_name(),
        )
        .remedy("check the source device and the kernel log; the copy can be started again")
        .cause(fault)
    }

    pub(super) fn source_name(&self) -> String {
        match &self.source {
            End::File { device, .. } => device.path().display().to_string(),
            End::Nbd(_) => SOURCE_CONNECTION.into(),
            End::Null => "null source".into(),
        }
    }

    /// Forgets a piece that will not be written.
    pub(super) fn drop_piece(&mut self, slot: u32) {
        let Some(piece) = self.pieces.remove(slot) else {
            return;
        };
        self.in_flight_bytes -= piece.len;
        self.shared
            .in_flight_bytes
            .fetch_sub(piece.len as u64, Ordering::Relaxed);
        if let Some(mut payload) = piece.payload {
            payload.drain().for_each(|lease| self.hold.give(lease));
        }
    }
}

fn fill_zero(payload: &mut Payload) {
    let (mut done, len) = (0, payload.len());
    while done < len {
        let (bytes, room) = payload.room_at(done);
        bytes[..room].fill(0);
        done += room.max(1);
    }
}

const _: () = assert!(PIECE_BYTES == LeaseClass::Large.nominal_bytes());
