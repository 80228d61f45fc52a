//! BLOCK_STATUS of an export.

use super::core::ServerCore;
use crate::{
    command::StatusJob,
    ctx::{Ctx, Kind},
    error::LaneFault,
    export::Store,
    limits::STATUS_EXTENTS_MAX,
};
use sys::{Backend, LeaseClass};
use wire::{Extent, NbdError};

/// base:allocation flags of a hole that reads as zeroes.
const HOLE_ZERO: u64 = 3;

impl ServerCore {
    /// BLOCK_STATUS: what needs the file system is asked on another thread.
    pub(super) fn begin_status<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: u32,
    ) -> Result<(), LaneFault> {
        if !self.try_status(ctx, slot)? {
            self.launching.push_back(slot);
        }
        Ok(())
    }

    /// False: there is no memory for the answer, or no room for the question, at the moment.
    pub(super) fn try_status<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: u32,
    ) -> Result<bool, LaneFault> {
        if self.hold.room(ctx, LeaseClass::Small) == 0 {
            ctx.stats.stalls_for_memory += 1;
            return Ok(false);
        }
        let Some(entry) = self.requests.get_mut(slot) else {
            return Ok(true);
        };
        let len = entry.request.len;
        let known = match self.export.store() {
            Store::Null { .. } => Some(HOLE_ZERO),
            // A block device does not tell; claiming nothing is always right.
            Store::Device(file) if file.kind() == sys::DeviceKind::Block => Some(0),
            Store::Device(_) => None,
        };
        if let Some(flags) = known {
            self.answer_status(ctx, slot, &[Extent { len, flags }])?;
            return Ok(true);
        }
        entry.outstanding += 1;
        let job = StatusJob {
            export: std::sync::Arc::clone(&self.export),
            offset: entry.request.offset,
            len,
            tag: self.tag.with(Kind::Zero, slot, 0),
        };
        let asked = ctx.ask_status(job);
        if !asked && let Some(entry) = self.requests.get_mut(slot) {
            entry.outstanding -= 1;
        }
        Ok(asked)
    }

    /// The file system answered.
    pub(super) fn handle_status<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: u32,
        answer: Result<&[Extent], NbdError>,
    ) -> Result<(), LaneFault> {
        match answer {
            Ok(extents) => {
                if let Some(entry) = self.requests.get_mut(slot) {
                    entry.outstanding -= 1;
                }
                self.answer_status(ctx, slot, extents)
            }
            Err(error) => self.end_operation(ctx, slot, Some(error)),
        }
    }

    fn answer_status<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: u32,
        extents: &[Extent],
    ) -> Result<(), LaneFault> {
        let Some(mut lease) = self.hold.take(ctx, LeaseClass::Small) else {
            // What was free when the question was asked is taken: it is asked again.
            self.launching.push_back(slot);
            return Ok(());
        };
        let Some(entry) = self.requests.get_mut(slot) else {
            self.hold.give(lease);
            return Ok(());
        };
        entry.complete = true;
        entry.reply_begun = true;
        let few = &extents[..extents.len().min(STATUS_EXTENTS_MAX)];
        match self
            .conn
            .encode_block_status(&entry.request, few, lease.bytes_mut())
        {
            Some(status) => self.reply_lease(lease, status.len_bytes),
            None => {
                entry.reply_begun = false;
                entry.fail(NbdError::Inval);
                self.hold.give(lease);
            }
        }
        self.finish(ctx, slot)
    }
}
