//! WRITE_ZEROES and TRIM: the ladder from unmapping to explicit zeroes.

use super::{
    core::{HeldWrite, ServerCore},
    device::nbd_error,
    request::{Stage, ZeroStep},
};
use crate::{
    ctx::{Ctx, Kind, Tag},
    error::LaneFault,
    export::Store,
    limits::PIECE_BYTES,
    payload::class_for,
};
use std::sync::atomic::Ordering;
use sys::{Backend, FaultKind, Op, Outcome, ZeroMode};
use wire::{Command, CommandFlags, NbdError};

impl ServerCore {
    /// WRITE_ZEROES or TRIM.
    pub(super) fn begin_zero<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: u32,
    ) -> Result<(), LaneFault> {
        let block = match self.export.store() {
            Store::Device(file) if file.kind() == sys::DeviceKind::Block => self.align(),
            _ => 1,
        };
        let Some(entry) = self.requests.get_mut(slot) else {
            return Ok(());
        };
        let request = entry.request;
        entry.stage = Stage::Zeroing(ZeroStep::Punch);
        if self.file.is_none() || request.len == 0 {
            entry.complete = true;
            return self.settle(ctx, slot);
        }
        let (start, end) = (request.offset, entry.end());
        if request.command == Command::Trim {
            let (start, end) = (start.next_multiple_of(block), end / block * block);
            if start >= end || self.export.punch_unsupported.load(Ordering::Relaxed) {
                entry.complete = true;
                return self.settle(ctx, slot);
            }
            return self.zero_range(ctx, slot, start, end - start, ZeroMode::PunchHole);
        }
        let aligned = start.is_multiple_of(block) && request.len.is_multiple_of(block);
        let keep = request.flags.contains(CommandFlags::NO_HOLE);
        let first = match (aligned, keep) {
            (false, _) => ZeroStep::Fill,
            (true, true) => ZeroStep::Range,
            (true, false) => ZeroStep::Punch,
        };
        self.zero_step(ctx, slot, first)
    }

    /// Takes one step of the ladder, skipping those the device refused before.
    fn zero_step<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: u32,
        step: ZeroStep,
    ) -> Result<(), LaneFault> {
        let export = &self.export;
        let step = match step {
            ZeroStep::Punch if export.punch_unsupported.load(Ordering::Relaxed) => ZeroStep::Range,
            other => other,
        };
        let step = match step {
            ZeroStep::Range if export.range_unsupported.load(Ordering::Relaxed) => ZeroStep::Fill,
            other => other,
        };
        let Some(entry) = self.requests.get_mut(slot) else {
            return Ok(());
        };
        let request = entry.request;
        if request.flags.contains(CommandFlags::FAST_ZERO) && step != ZeroStep::Punch {
            // Only unmapping is known to be faster than writing; nothing was modified so far.
            entry.fail(NbdError::NotSup);
            entry.complete = true;
            return self.settle(ctx, slot);
        }
        entry.stage = Stage::Zeroing(step);
        let mode = match step {
            ZeroStep::Punch => ZeroMode::PunchHole,
            ZeroStep::Range => ZeroMode::ZeroRange,
            ZeroStep::Fill => {
                entry.complete = false;
                self.launching.push_back(slot);
                return Ok(());
            }
        };
        self.zero_range(ctx, slot, request.offset, request.len, mode)
    }

    fn zero_range<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: u32,
        offset: u64,
        len: u64,
        mode: ZeroMode,
    ) -> Result<(), LaneFault> {
        let (Some(file), Some(entry)) = (self.file, self.requests.get_mut(slot)) else {
            return Ok(());
        };
        entry.complete = true;
        entry.outstanding += 1;
        let op = Op::Zero {
            file,
            offset,
            len,
            mode,
        };
        let token = self.tag.with(Kind::Zero, slot, 0).token();
        self.ops += u32::from(self.parked.start(ctx, op, token));
        Ok(())
    }

    /// A zeroing step ended; an unsupported one leads to the next.
    pub(super) fn handle_zeroed<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        tag: Tag,
        outcome: Outcome,
        op: &Op,
    ) -> Result<(), LaneFault> {
        self.ops -= 1;
        ctx.stats.device_ops -= 1;
        let slot = u32::from(tag.slot);
        let Some(entry) = self.requests.get_mut(slot) else {
            return Ok(());
        };
        let Err(fault) = outcome else {
            return self.end_operation(ctx, slot, None);
        };
        let trim = entry.request.command == Command::Trim;
        let unsupported = fault.kind() == FaultKind::Unsupported;
        if unsupported {
            let (memory, next) = match op {
                Op::Zero {
                    mode: ZeroMode::PunchHole,
                    ..
                } => (&self.export.punch_unsupported, ZeroStep::Range),
                _ => (&self.export.range_unsupported, ZeroStep::Fill),
            };
            memory.store(true, Ordering::Relaxed);
            if !trim {
                entry.outstanding -= 1;
                return self.zero_step(ctx, slot, next);
            }
        }
        // TRIM is advice: a device that cannot is no failure.
        let error = (!trim || !unsupported).then(|| nbd_error(&fault));
        self.end_operation(ctx, slot, error)
    }

    /// Writes the next piece of explicit zeroes; false when it has to wait.
    pub(super) fn fill_piece<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, slot: u32) -> bool {
        let align = self.align();
        let Some(entry) = self.requests.get_mut(slot) else {
            return false;
        };
        let left = entry.end() - entry.next;
        let shift = entry.next % align;
        // Reach alignment with the first piece, then stay on it; only the ends are unaligned.
        let len = if shift == 0 && left >= align {
            (left / align * align).min(PIECE_BYTES as u64)
        } else {
            left.min(align - shift)
        };
        let class = class_for(len);
        let Some(mut lease) = self.hold.take_payload(ctx, class) else {
            return false;
        };
        let len_bytes = usize::try_from(len).unwrap_or(0);
        lease.bytes_mut()[..len_bytes].fill(0);
        let offset = entry.next;
        entry.next += len;
        entry.complete = entry.next == entry.end();
        self.write_piece(
            ctx,
            HeldWrite {
                slot,
                lease,
                at: 0,
                len: len_bytes,
                offset,
            },
        );
        true
    }
}
