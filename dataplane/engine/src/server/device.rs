//! A server connection's device operations: writes, reads, zeroes, flushes.

use super::{
    core::{HeldWrite, ServerCore},
    request::Stage,
};
use crate::{
    ctx::{Ctx, Kind, Tag},
    error::LaneFault,
    limits::{PIECE_BYTES, PIECES_PER_REQUEST_MAX, TX_QUEUED_BYTES_MAX},
    link::TxItem,
    payload::Payload,
    payload::class_for,
    syncs::Half,
};
use sys::{Backend, FaultKind, IoFault, Op, Outcome, Via};
use wire::{CommandFlags, HeaderBuf, Mode, NbdError, Request};

/// The error a client is told for a fault of the device.
pub(super) fn nbd_error(fault: &IoFault) -> NbdError {
    match fault.kind() {
        FaultKind::OutOfSpace => NbdError::NoSpace,
        FaultKind::ReadOnly => NbdError::Perm,
        FaultKind::NoMemory => NbdError::NoMem,
        FaultKind::Invalid => NbdError::Inval,
        _ => NbdError::Io,
    }
}

/// The aligned cover of a read fits one lease, so that its reply is in one part.
pub(super) fn fits_one_piece(read: &Request, align: u64) -> bool {
    read.offset % align + read.len <= PIECE_BYTES as u64
}

impl ServerCore {
    /// Goes on with a request whose last operation ended: nothing while others are outstanding, then the final flush, then
    /// the answer.
    pub(super) fn settle<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: u32,
    ) -> Result<(), LaneFault> {
        let Some(entry) = self.requests.get_mut(slot) else {
            return Ok(());
        };
        let aborted = entry.error.is_some() && !matches!(entry.stage, Stage::Writing);
        if entry.outstanding > 0 || !(entry.complete || aborted) {
            return Ok(());
        }
        let zeroed = matches!(entry.stage, Stage::Zeroing(_));
        let fua = entry.request.flags.contains(CommandFlags::FUA);
        if zeroed && fua && entry.error.is_none() {
            return self.begin_flush(ctx, slot);
        }
        let promises = match entry.stage {
            Stage::Flushing => true,
            Stage::Writing => fua,
            _ => false,
        };
        if promises && entry.error.is_none() {
            return self.promise(ctx, slot);
        }
        self.finish(ctx, slot)
    }

    /// Sends a piece of a write (or of explicit zeroes) to the device, or holds it back.
    pub(super) fn write_piece<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, piece: HeldWrite) {
        let Some(entry) = self.requests.get_mut(piece.slot) else {
            return self.hold.give(piece.lease);
        };
        let Some(_) = self.file else {
            return self.hold.give(piece.lease);
        };
        if entry.error.is_some() {
            return self.hold.give(piece.lease);
        }
        entry.outstanding += 1;
        if !self.held.is_empty() {
            // In order: a wish to be alone that stands behind a sharer would keep that sharer out for ever.
            return self.held.push_back(piece);
        }
        if let Some(piece) = self.try_write(ctx, piece) {
            self.held.push_back(piece);
        }
    }

    /// Gives the piece back when the gate is closed or the queue full.
    fn try_write<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        piece: HeldWrite,
    ) -> Option<HeldWrite> {
        let (Some(file), Some(entry)) = (self.file, self.requests.get(piece.slot)) else {
            self.hold.give(piece.lease);
            return None;
        };
        if ctx.devices_are_full(self.ops) {
            return Some(piece);
        }
        let align = self.align();
        let aligned =
            piece.offset.is_multiple_of(align) && (piece.len as u64).is_multiple_of(align);
        let entered = if aligned {
            self.export.gate.try_share()
        } else {
            self.export.gate.try_alone()
        };
        if !entered {
            self.wished_alone |= !aligned;
            return Some(piece);
        }
        // Entering alone took all wishes back; the next piece may make one while this one is with the device.
        self.wished_alone &= aligned;
        // What went through the page cache is made durable at once, so that direct I/O and the cache agree.
        let dsync = entry.request.flags.contains(CommandFlags::FUA) || !aligned;
        let half = dsync.then(|| self.syncs.begin());
        let HeldWrite {
            slot,
            lease,
            at,
            len,
            offset,
        } = piece;
        let op = Op::Write {
            file,
            lease,
            at: u32::try_from(at).unwrap_or(u32::MAX),
            len: u32::try_from(len).unwrap_or(u32::MAX),
            offset,
            via: if aligned { Via::Direct } else { Via::Buffered },
            dsync,
        };
        let aux = half.map_or(0, Half::index);
        match ctx
            .backend
            .push(op, self.tag.with(Kind::Write, slot, aux).token())
        {
            Ok(_) => {
                self.ops += 1;
                ctx.stats.device_ops += 1;
                None
            }
            Err(refused) => {
                self.leave_gate(aligned);
                if let Some(half) = half {
                    self.syncs.end(half);
                }
                match refused.op {
                    Op::Write { lease, .. } => Some(HeldWrite {
                        slot,
                        lease,
                        at,
                        len,
                        offset,
                    }),
                    _ => None,
                }
            }
        }
    }

    fn leave_gate(&mut self, shared: bool) {
        if shared {
            self.export.gate.leave_shared();
        } else {
            self.export.gate.leave_alone();
        }
    }

    /// Tries again what was refused, oldest first.
    pub(super) fn retry_held<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) {
        self.ops += self.parked.retry(ctx);
        for _ in 0..self.held.len() {
            let Some(piece) = self.held.pop_front() else {
                return;
            };
            if let Some(piece) = self.try_write(ctx, piece) {
                self.held.push_front(piece);
                return;
            }
        }
    }

    /// A write ended: a short one goes on with its rest under the same gate.
    pub(super) fn handle_written<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        tag: Tag,
        outcome: Outcome,
        op: Op,
    ) -> Result<(), LaneFault> {
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
            return Ok(());
        };
        self.ops -= 1;
        ctx.stats.device_ops -= 1;
        let slot = u32::from(tag.slot);
        let half = Half::from_index(tag.aux);
        let error = match outcome {
            Ok(done) if done == len => None,
            Ok(0) => Some(NbdError::NoSpace),
            Ok(done) => {
                let rest = Op::Write {
                    file,
                    lease,
                    at: at + done,
                    len: len - done,
                    offset: offset + u64::from(done),
                    via,
                    dsync,
                };
                match ctx.backend.push(rest, tag.token()) {
                    Ok(_) => {
                        self.ops += 1;
                        ctx.stats.device_ops += 1;
                        return Ok(());
                    }
                    Err(refused) => {
                        // The queue has room again when completions are reaped; until then the rest is held like a new piece.
                        self.leave_gate(via == Via::Direct);
                        if dsync {
                            self.syncs.end(half);
                        }
                        let (at, len) = ((at + done) as usize, (len - done) as usize);
                        let offset = offset + u64::from(done);
                        if let Op::Write { lease, .. } = refused.op {
                            self.held.push_back(HeldWrite {
                                slot,
                                lease,
                                at,
                                len,
                                offset,
                            });
                        }
                        return Ok(());
                    }
                }
            }
            Err(fault) => Some(nbd_error(&fault)),
        };
        self.leave_gate(via == Via::Direct);
        self.hold.give(lease);
        if dsync {
            // One that failed may have lost what the device had cached: as bad as a failed flush.
            self.sync_ended(half, error.is_none());
        }
        self.end_operation(ctx, slot, error)
    }

    /// One device operation of a request is over.
    pub(super) fn end_operation<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: u32,
        error: Option<NbdError>,
    ) -> Result<(), LaneFault> {
        if let Some(entry) = self.requests.get_mut(slot) {
            entry.outstanding -= 1;
            if let Some(error) = error {
                entry.fail(error);
            }
        }
        self.settle(ctx, slot)
    }

    /// Launches pieces of reads and of explicit zeroes, round robin, while leases and limits allow.
    pub(super) fn launch<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) -> Result<(), LaneFault> {
        let mut refused = 0;
        while refused < self.launching.len() {
            let Some(slot) = self.launching.pop_front() else {
                return Ok(());
            };
            let Some(entry) = self.requests.get_mut(slot) else {
                continue;
            };
            if entry.complete || entry.error.is_some() {
                self.settle(ctx, slot)?;
                continue;
            }
            let stage = entry.stage;
            let busy = entry.outstanding >= PIECES_PER_REQUEST_MAX;
            let launched = !busy
                && match stage {
                    Stage::Reading => self.read_piece(ctx, slot)?,
                    Stage::Asking => self.try_status(ctx, slot)?,
                    _ => self.fill_piece(ctx, slot),
                };
            refused = if launched { 0 } else { refused + 1 };
            // A question is asked once, a read goes on piece by piece.
            let asked = launched && stage == Stage::Asking;
            if !asked && self.requests.get(slot).is_some_and(|entry| !entry.complete) {
                self.launching.push_back(slot);
            }
        }
        Ok(())
    }

    /// Starts the next piece of a read; false when it has to wait.
    fn read_piece<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: u32,
    ) -> Result<bool, LaneFault> {
        let (align, mode) = (self.align(), self.conn.mode());
        let queued = self.tx.queued_bytes() >= TX_QUEUED_BYTES_MAX;
        let Some(entry) = self.requests.get_mut(slot) else {
            return Ok(false);
        };
        let streamed = mode == Mode::Simple && !fits_one_piece(&entry.request, align);
        // The pieces of a simple reply go out in order and with nothing between them.
        let in_the_way = entry.outstanding > 0 || self.streaming.is_some_and(|other| other != slot);
        if queued || ctx.devices_are_full(self.ops) || (streamed && in_the_way) {
            return Ok(false);
        }
        let shift = entry.next % align;
        let left = entry.end() - entry.next;
        // Only the first piece begins unaligned: it is a little shorter, so that its cover fits the lease and the next
        // piece begins where this cover ends. The completion relies on it.
        let len = left.min(PIECE_BYTES as u64 - shift);
        let cover = (shift + len).next_multiple_of(align);
        let class = class_for(cover);
        let Some(mut lease) = self.hold.take_payload(ctx, class) else {
            return Ok(false);
        };
        let start = entry.next;
        if let Some(file) = self.file {
            let op = Op::Read {
                file,
                lease,
                at: 0,
                len: u32::try_from(cover).unwrap_or(u32::MAX),
                offset: start - shift,
                via: Via::Direct,
            };
            // The completion finds its place by the operation's own offset and length.
            match ctx
                .backend
                .push(op, self.tag.with(Kind::Read, slot, 0).token())
            {
                Ok(_) => {
                    self.ops += 1;
                    ctx.stats.device_ops += 1;
                }
                Err(refused) => {
                    if let Op::Read { lease, .. } = refused.op {
                        self.hold.give(lease);
                    }
                    return Ok(false);
                }
            }
            entry.outstanding += 1;
            entry.next += len;
            entry.complete = entry.next == entry.end();
            if streamed {
                self.streaming = Some(slot);
            }
            return Ok(true);
        }
        let bytes = usize::try_from(len).unwrap_or(0);
        lease.bytes_mut()[..bytes].fill(0);
        entry.next += len;
        entry.complete = entry.next == entry.end();
        if streamed {
            self.streaming = Some(slot);
        }
        self.send_piece(slot, Payload::single(lease, 0, bytes), start);
        self.settle(ctx, slot)?;
        Ok(true)
    }

    /// A read ended: its bytes go out, or the request fails.
    pub(super) fn handle_read<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        tag: Tag,
        outcome: Outcome,
        op: Op,
    ) -> Result<(), LaneFault> {
        let Op::Read {
            file,
            lease,
            at,
            len,
            offset,
            via,
        } = op
        else {
            return Ok(());
        };
        self.ops -= 1;
        ctx.stats.device_ops -= 1;
        let slot = u32::from(tag.slot);
        let Some(entry) = self.requests.get(slot) else {
            self.hold.give(lease);
            return Ok(());
        };
        // `at` grows with short reads; the cover began at `offset - at`.
        let cover_start = offset - u64::from(at);
        let start = cover_start.max(entry.request.offset);
        let shift = start - cover_start;
        let want_end = (cover_start + u64::from(at) + u64::from(len)).min(entry.end());
        let error = match outcome {
            Ok(done) if offset + u64::from(done) >= want_end => None,
            Ok(0) => Some(NbdError::Io),
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
                return Ok(());
            }
            Err(fault) => Some(nbd_error(&fault)),
        };
        if error.is_some() || entry.error.is_some() {
            self.hold.give(lease);
            return self.end_operation(ctx, slot, error);
        }
        let len = usize::try_from(want_end - start).unwrap_or(0);
        if let Some(entry) = self.requests.get_mut(slot) {
            entry.outstanding -= 1;
        }
        let at = usize::try_from(shift).unwrap_or(0);
        self.send_piece(slot, Payload::single(lease, at, len), start);
        self.settle(ctx, slot)
    }

    /// Queues read data with the header its mode needs.
    fn send_piece(&mut self, slot: u32, payload: Payload, offset: u64) {
        let Some(entry) = self.requests.get_mut(slot) else {
            return;
        };
        let mut header = HeaderBuf::new();
        let done = entry.complete && entry.outstanding == 0;
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        if self.conn.mode() == Mode::Simple {
            if !entry.reply_begun {
                let (start, whole) = (entry.request.offset, entry.request.len);
                let whole = u32::try_from(whole).unwrap_or(u32::MAX);
                self.conn
                    .encode_data(&entry.request, start, whole, true, &mut header);
            }
            entry.reply_begun = true;
            let streamed = self.streaming == Some(slot);
            let item = TxItem::Data { header, payload };
            return if streamed {
                self.tx.push(item);
            } else {
                self.reply(item);
            };
        }
        self.conn
            .encode_data(&entry.request, offset, len, done, &mut header);
        // With the last chunk the request is answered; before it an error can still be told.
        entry.reply_begun = done;
        self.reply(TxItem::Data { header, payload });
    }

    /// FLUSH, or the end of a FUA request that is not a write.
    pub(super) fn begin_flush<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: u32,
    ) -> Result<(), LaneFault> {
        let voided = self.export.has_failed();
        let Some(entry) = self.requests.get_mut(slot) else {
            return Ok(());
        };
        entry.stage = Stage::Flushing;
        entry.complete = true;
        if voided {
            entry.fail(NbdError::Io);
        }
        let Some(file) = self.file.filter(|_| !voided) else {
            return self.finish(ctx, slot);
        };
        entry.outstanding += 1;
        let op = Op::Flush { file };
        let half = self.syncs.begin();
        let token = self.tag.with(Kind::Flush, slot, half.index()).token();
        self.ops += u32::from(self.parked.start(ctx, op, token));
        Ok(())
    }

    /// A flush ended. Its failure voids what was written since the last good one, for all connections.
    pub(super) fn handle_flushed<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        tag: Tag,
        outcome: Outcome,
    ) -> Result<(), LaneFault> {
        self.ops -= 1;
        ctx.stats.device_ops -= 1;
        self.sync_ended(Half::from_index(tag.aux), outcome.is_ok());
        let error = outcome.err().map(|fault| nbd_error(&fault));
        self.end_operation(ctx, u32::from(tag.slot), error)
    }

    /// A completion of this connection's device.
    pub(super) fn handle_device<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        tag: Tag,
        outcome: Outcome,
        op: Op,
    ) -> Result<(), LaneFault> {
        match op {
            Op::Write { .. } => self.handle_written(ctx, tag, outcome, op),
            Op::Read { .. } => self.handle_read(ctx, tag, outcome, op),
            Op::Flush { .. } => self.handle_flushed(ctx, tag, outcome),
            Op::Zero { .. } => self.handle_zeroed(ctx, tag, outcome, &op),
            Op::Recv { .. } | Op::Send { .. } => Ok(()),
        }
    }
}
