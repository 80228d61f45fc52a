//! The target's half: pieces are scanned for zeroes, written, and acknowledged.

use super::{Emit, End, Life, Mover, TARGET_CONNECTION};
use crate::{
    ctx::{Ctx, Kind, Side, Tag},
    digest::{Hashed, hash_payload},
    error::{Blame, EngineError, ErrorKind},
    payload::Payload,
    syncs::Half,
    transfer::shared::{AckKind, Work, WorkKind},
    zero::is_zero,
};
use std::{ops::Range, sync::atomic::Ordering};
use sys::{Backend, DeviceKind, FaultKind, IoFault, Op, Outcome, Part, Via, ZeroMode};
use wire::Command;

/// Parts of a piece: zeroes in front, data, zeroes behind (bytes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    front: usize,
    data: usize,
    back: usize,
}

/// Finds the zero blocks at both ends of a payload. Zeroes in the middle stay data: a request per
/// hole would cost more than its bytes.
fn cut_zeroes(payload: &Payload, block: usize) -> Cut {
    let len = payload.len();
    if block == 0 {
        return Cut {
            front: 0,
            data: len,
            back: 0,
        };
    }
    let block_is_zero = |from: usize, to: usize| {
        let mut at = from;
        while at < to {
            let bytes = payload.bytes_at(at);
            let count = bytes.len().min(to - at);
            if count == 0 || !is_zero(&bytes[..count]) {
                return false;
            }
            at += count;
        }
        true
    };
    let mut front = 0;
    while front < len && block_is_zero(front, (front + block).min(len)) {
        front = (front + block).min(len);
    }
    if front == len {
        return Cut {
            front: len,
            data: 0,
            back: 0,
        };
    }
    let mut end = len;
    // The last block may be short; from there on whole blocks.
    let mut begin = (len - 1) / block * block;
    while begin > front && block_is_zero(begin, end) {
        end = begin;
        begin -= block;
    }
    Cut {
        front,
        data: end - front,
        back: len - end,
    }
}

/// The whole blocks of a range; when there are none, an empty range at its end. A block device takes fallocate(2) of
/// nothing else: on one with 4096-byte sectors the source's own multiples of 512 fail with EINVAL.
fn whole_blocks(range: &Range<u64>, block: u64) -> Range<u64> {
    let block = block.max(1);
    let (start, end) = (
        range.start.next_multiple_of(block),
        range.end / block * block,
    );
    if start < end {
        start..end
    } else {
        range.end..range.end
    }
}

impl Mover {
    /// All bytes of a piece are here: cut zeroes off and hand the parts to the target.
    pub(super) fn handle_piece_read<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, slot: u32) {
        let settings = self.shared.settings;
        let Some(piece) = self.pieces.get_mut(slot) else {
            return;
        };
        let (offset, kind) = (piece.offset, piece.kind);
        let Some(mut payload) = piece.payload.take() else {
            return;
        };
        if let Some(end) = settings.hash_up_to {
            let shared = &self.shared;
            if kind == WorkKind::ExplicitZero {
                let len = payload.len() as u64;
                shared.hashed(Hashed::Zero { offset, len });
            } else {
                let bytes_at = |at| payload.bytes_at(at);
                hash_payload(offset, payload.len(), end, bytes_at, |found| {
                    shared.hashed(found);
                });
            }
        }
        let scan = kind == WorkKind::Data && (settings.can_zero || settings.skip_zeroes);
        let cut = cut_zeroes(&payload, if scan { settings.zero_scan_bytes } else { 0 });
        let (front, data, back) = (cut.front, cut.data, cut.back);
        // Hold the piece until all its parts are queued.
        piece.writes += 1;
        if front > 0 {
            self.found_zero(ctx, slot, offset, front as u64);
        }
        if data > 0 {
            payload.narrow(front, data);
            let offset = offset + front as u64;
            self.emit(
                ctx,
                Emit {
                    piece: slot,
                    offset,
                    len: data as u64,
                    payload: Some(payload),
                    next_byte: 0,
                },
            );
        } else {
            payload.drain().for_each(|lease| self.hold.give(lease));
        }
        if back > 0 {
            self.found_zero(ctx, slot, offset + (front + data) as u64, back as u64);
        }
        if let Some(piece) = self.pieces.get_mut(slot) {
            piece.writes -= 1;
        }
        self.settle_piece(ctx, slot);
    }

    fn found_zero<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, slot: u32, offset: u64, len: u64) {
        if self.shared.settings.skip_zeroes {
            self.shared.done(AckKind::Skipped, offset, len);
        } else {
            self.emit_zero(ctx, slot, offset, len);
        }
    }

    pub(super) fn emit_zero<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: u32,
        offset: u64,
        len: u64,
    ) {
        self.emit(
            ctx,
            Emit {
                piece: slot,
                offset,
                len,
                payload: None,
                next_byte: 0,
            },
        );
    }

    fn emit<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, emit: Emit) {
        if let Some(piece) = self.pieces.get_mut(emit.piece) {
            piece.writes += 1;
        }
        if !self.emits.is_empty() {
            return self.emits.push_back(emit);
        }
        if let Some(emit) = self.try_emit(ctx, emit) {
            self.emits.push_back(emit);
        }
    }

    /// Tries what had to wait, in order.
    pub(super) fn retry_emits<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) {
        while let Some(emit) = self.emits.pop_front() {
            if let Some(emit) = self.try_emit(ctx, emit) {
                self.emits.push_front(emit);
                return;
            }
        }
    }

    /// Gives the request back when the target cannot take it now.
    fn try_emit<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, mut emit: Emit) -> Option<Emit> {
        match &mut self.target {
            End::Null => {
                let Emit {
                    piece,
                    offset,
                    len,
                    payload,
                    ..
                } = emit;
                let kind = if payload.is_some() {
                    AckKind::Data
                } else {
                    AckKind::Zero
                };
                if let Some(mut payload) = payload {
                    payload.drain().for_each(|lease| self.hold.give(lease));
                }
                self.acknowledge(ctx, piece, kind, offset..offset + len);
                None
            }
            End::Nbd(lane) => {
                if !lane.can_start() {
                    return Some(emit);
                }
                let command = match emit.payload {
                    Some(_) => Command::Write,
                    None => Command::WriteZeroes,
                };
                let payload = emit.payload.take();
                match lane.start(ctx.now, emit.piece, command, emit.offset, emit.len, payload) {
                    Ok(()) => None,
                    Err(payload) => Some(Emit { payload, ..emit }),
                }
            }
            End::File { .. } if emit.payload.is_some() => self.write_file(ctx, emit),
            End::File { .. } => self.zero_file(ctx, emit),
        }
    }

    /// Hands the leases of a payload to the device one by one; gives the request back when one has to wait.
    fn write_file<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, mut emit: Emit) -> Option<Emit> {
        let End::File { file, device } = &self.target else {
            return Some(emit);
        };
        let align = u64::from(device.direct_align().max(1));
        let file = *file;
        let tag = Tag {
            side: Side::Target,
            ..self.tag
        };
        let payload = emit.payload.as_mut()?;
        while emit.next_byte < payload.len() {
            if ctx.devices_are_full(self.ops) {
                return Some(emit);
            }
            let spot = payload.spot(emit.next_byte);
            let offset = emit.offset + emit.next_byte as u64;
            let aligned = offset.is_multiple_of(align)
                && (spot.len as u64).is_multiple_of(align)
                && (spot.at as u64).is_multiple_of(align);
            let gate = &self.shared.gate;
            let entered = if aligned {
                gate.try_share()
            } else {
                gate.try_alone()
            };
            if !entered {
                self.wished_alone |= !aligned;
                return Some(emit);
            }
            // Entering alone took all wishes back; the next part may make one while this one is with the device.
            self.wished_alone &= aligned;
            let lease = payload.take_lease(spot.lease)?;
            let op = Op::Write {
                file,
                lease,
                at: u32::try_from(spot.at).unwrap_or(u32::MAX),
                len: u32::try_from(spot.len).unwrap_or(u32::MAX),
                offset,
                via: if aligned { Via::Direct } else { Via::Buffered },
                dsync: !aligned,
            };
            let half = (!aligned).then(|| self.shared.syncs.begin());
            let aux = half.map_or(0, Half::index);
            match ctx
                .backend
                .push(op, tag.with(Kind::Write, emit.piece, aux).token())
            {
                Ok(_) => {
                    self.ops += 1;
                    ctx.stats.device_ops += 1;
                    emit.next_byte += spot.len;
                    if let Some(piece) = self.pieces.get_mut(emit.piece) {
                        piece.writes += 1;
                    }
                }
                Err(refused) => {
                    self.leave_gate(aligned);
                    if let Some(half) = half {
                        self.shared.syncs.end(half);
                    }
                    if let Op::Write { lease, .. } = refused.op {
                        payload.put_lease(spot.lease, lease);
                    }
                    return Some(emit);
                }
            }
        }
        // Leases a narrowed payload did not use.
        payload.drain().for_each(|lease| self.hold.give(lease));
        self.end_write(ctx, emit.piece);
        None
    }

    fn leave_gate(&mut self, shared: bool) {
        if shared {
            self.shared.gate.leave_shared();
        } else {
            self.shared.gate.leave_alone();
        }
    }

    /// A write, or what there is of it, ended. Those through the page cache are syncs.
    fn written(&mut self, tag: Tag, via: Via, succeeded: bool) {
        self.leave_gate(via == Via::Direct);
        if via == Via::Buffered {
            self.sync_ended(tag, succeeded);
        }
    }

    fn sync_ended(&self, tag: Tag, succeeded: bool) {
        let half = Half::from_index(tag.aux);
        if succeeded {
            self.shared.syncs.end(half);
        } else {
            self.shared.syncs.fail(half);
        }
    }

    fn zero_file<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, mut emit: Emit) -> Option<Emit> {
        let End::File { file, device } = &self.target else {
            return Some(emit);
        };
        let file = *file;
        let block = match device.kind() {
            DeviceKind::Block => u64::from(device.logical_block()),
            DeviceKind::Regular => 1,
        };
        let mode = match self.shared.zero_refused.load(Ordering::Relaxed) {
            0 => Some(ZeroMode::PunchHole),
            1 => Some(ZeroMode::ZeroRange),
            _ => None,
        };
        let whole = emit.offset..emit.offset + emit.len;
        let inner = mode.map_or(whole.end..whole.end, |_| whole_blocks(&whole, block));
        self.write_zeroes(whole.start..inner.start);
        self.write_zeroes(inner.end..whole.end);
        let Some(mode) = mode.filter(|_| !inner.is_empty()) else {
            self.end_write(ctx, emit.piece);
            return None;
        };
        (emit.offset, emit.len) = (inner.start, inner.end - inner.start);
        let op = Op::Zero {
            file,
            offset: emit.offset,
            len: emit.len,
            mode,
        };
        let tag = Tag {
            side: Side::Target,
            ..self.tag
        };
        match ctx
            .backend
            .push(op, tag.with(Kind::Zero, emit.piece, 0).token())
        {
            Ok(_) => {
                self.ops += 1;
                ctx.stats.device_ops += 1;
                None
            }
            Err(_) => Some(emit),
        }
    }

    /// Zeroes that go out as data later, as a piece of their own.
    fn write_zeroes(&mut self, range: Range<u64>) {
        if !range.is_empty() {
            self.redo.push_back(Work {
                offset: range.start,
                len: range.end - range.start,
                kind: WorkKind::ExplicitZero,
            });
        }
    }

    /// A file operation of the target ended.
    pub(super) fn handle_target<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        tag: Tag,
        outcome: Outcome,
        op: Op,
    ) {
        self.ops -= 1;
        ctx.stats.device_ops -= 1;
        let slot = u32::from(tag.slot);
        let moving = self.life == Life::Moving;
        match op {
            Op::Write { .. } => self.handle_written(ctx, tag, outcome, op),
            Op::Zero {
                offset, len, mode, ..
            } => match outcome {
                Ok(_) => self.acknowledge(ctx, slot, AckKind::Zero, offset..offset + len),
                Err(fault) if moving && fault.kind() == FaultKind::Unsupported => {
                    let refused = if mode == ZeroMode::PunchHole { 1 } else { 2 };
                    self.shared
                        .zero_refused
                        .fetch_max(refused, Ordering::Relaxed);
                    // The request keeps its place in the piece's count and goes out again another way.
                    let emit = Emit {
                        piece: slot,
                        offset,
                        len,
                        payload: None,
                        next_byte: 0,
                    };
                    self.emits.push_front(emit);
                    self.retry_emits(ctx);
                }
                Err(fault) => self.target_failed("zeroing", offset, fault),
            },
            Op::Flush { .. } => {
                self.sync_ended(tag, outcome.is_ok());
                match outcome {
                    Ok(_) => self.flush_since = Some(self.shared.syncs.mark()),
                    Err(fault) => self.target_failed("flushing", 0, fault),
                }
            }
            _ => {}
        }
    }

    fn handle_written<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        tag: Tag,
        outcome: Outcome,
        op: Op,
    ) {
        let Op::Write {
            file,
            lease,
            at,
            len,
            offset,
            via,
            dsync,
        } = op
        else {
            return;
        };
        let slot = u32::from(tag.slot);
        match outcome {
            Ok(done) if done == len => {
                self.written(tag, via, true);
                self.hold.give(lease);
                self.acknowledge(ctx, slot, AckKind::Data, offset..offset + u64::from(len));
            }
            Ok(done) if done > 0 => {
                // The part that was taken counts; the rest goes out under the same gate.
                self.shared.done(AckKind::Data, offset, u64::from(done));
                let offset = offset + u64::from(done);
                let rest = Op::Write {
                    file,
                    lease,
                    at: at + done,
                    len: len - done,
                    offset,
                    via,
                    dsync,
                };
                match ctx.backend.push(rest, tag.token()) {
                    Ok(_) => {
                        self.ops += 1;
                        ctx.stats.device_ops += 1;
                    }
                    Err(refused) => {
                        self.written(tag, via, true);
                        if let Op::Write { lease, at, len, .. } = refused.op {
                            self.hold_rest(slot, Part { lease, at, len }, offset);
                        }
                    }
                }
            }
            Ok(_) => {
                self.written(tag, via, false);
                self.hold.give(lease);
                let full = IoFault {
                    op: sys::OpKind::Write,
                    errno: ENOSPC,
                };
                self.target_failed("writing", offset, full);
            }
            Err(fault) => {
                self.written(tag, via, false);
                self.hold.give(lease);
                self.target_failed("writing", offset, fault);
            }
        }
    }

    /// The rest of a short write waits like a new request.
    fn hold_rest(&mut self, piece: u32, part: Part, offset: u64) {
        let payload = Payload::single(part.lease, part.at as usize, part.len as usize);
        let len = u64::from(part.len);
        self.emits.push_back(Emit {
            piece,
            offset,
            len,
            payload: Some(payload),
            next_byte: 0,
        });
    }

    /// A range is at the target.
    pub(super) fn acknowledge<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: u32,
        kind: AckKind,
        range: Range<u64>,
    ) {
        self.shared.done(kind, range.start, range.end - range.start);
        self.end_write(ctx, slot);
    }

    pub(super) fn end_write<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, slot: u32) {
        if let Some(piece) = self.pieces.get_mut(slot) {
            piece.writes -= 1;
        }
        self.settle_piece(ctx, slot);
    }

    /// Frees a piece when nothing of it is under way.
    pub(super) fn settle_piece<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, slot: u32) {
        let Some(piece) = self.pieces.get(slot) else {
            return;
        };
        if piece.writes == 0 && piece.reads == 0 {
            if piece.len > 0 {
                self.window.acknowledged(ctx.now, piece.started, piece.len);
            }
            if matches!(self.target, End::Nbd(_)) {
                // Its requests were recorded when they were answered.
                return self.drop_piece(slot);
            }
            ctx.stats
                .record_latency(ctx.now.saturating_duration_since(piece.started));
            self.drop_piece(slot);
        }
    }

    fn target_failed(&mut self, what: &str, offset: u64, fault: IoFault) {
        let (kind, remedy) = match fault.kind() {
            FaultKind::OutOfSpace => (
                ErrorKind::OutOfSpace,
                "free space behind the target, then copy again",
            ),
            _ => (
                ErrorKind::TargetIo,
                "check the target device and the kernel log",
            ),
        };
        let what = format!("{what} at byte {offset} failed");
        let error = EngineError::new(kind, Blame::Environment, what, self.target_name());
        self.shared.fail(error.remedy(remedy).cause(fault));
    }

    pub(super) fn target_name(&self) -> String {
        match &self.target {
            End::File { device, .. } => device.path().display().to_string(),
            End::Nbd(_) => TARGET_CONNECTION.into(),
            End::Null => "null target".into(),
        }
    }
}

/// errno of a full device (asm-generic/errno-base.h).
const ENOSPC: i32 = 28;

#[cfg(test)]
mod tests {
    use super::whole_blocks;

    #[test]
    fn a_device_is_asked_to_zero_whole_blocks_only() {
        assert_eq!(whole_blocks(&(512..1024), 512), 512..1024);
        assert_eq!(whole_blocks(&(3..1024), 1), 3..1024);
        assert_eq!(whole_blocks(&(0..8192), 4096), 0..8192);
        assert_eq!(whole_blocks(&(512..12_800), 4096), 4096..12_288);
        assert_eq!(whole_blocks(&(4096..4608), 4096), 4608..4608);
        assert_eq!(whole_blocks(&(512..4608), 4096), 4608..4608, "two ends");
    }
}
