//! A disk: what reads see, and what would survive a power cut.

use super::{
    case::{Fault, Flaw},
    core::Dice,
};
use std::sync::Arc;
use sys::{DeviceFile, ZeroMode};

pub(super) const EIO: i32 = 5;
pub(super) const EINVAL: i32 = 22;
pub(super) const ENOSPC: i32 = 28;
pub(super) const EOPNOTSUPP: i32 = 95;
/// What a disk that is off by one block is off by.
const BLOCK_BYTES: u64 = 512;

/// A change that only the cache has.
struct Dirty {
    number: u64,
    offset: usize,
    bytes: Vec<u8>,
}

/// A disk with a volatile cache.
pub(super) struct Disk {
    device: Arc<DeviceFile>,
    is_target: bool,
    pub image: Vec<u8>,
    pub durable: Vec<u8>,
    dirty: Vec<Dirty>,
    writes: u64,
}

impl Disk {
    pub(super) fn new(device: Arc<DeviceFile>, is_target: bool, image: Vec<u8>) -> Self {
        Self {
            device,
            is_target,
            durable: image.clone(),
            image,
            dirty: Vec::new(),
            writes: 0,
        }
    }

    pub(super) fn is(&self, device: &Arc<DeviceFile>) -> bool {
        Arc::ptr_eq(&self.device, device)
    }

    /// The mark a flush takes along when it is submitted: it covers what was complete by then, no more.
    pub(super) fn mark(&self) -> u64 {
        self.writes
    }

    pub(super) fn read(
        &self,
        into: &mut [u8],
        offset: u64,
        fault: Fault,
        dice: &mut Dice,
    ) -> Result<usize, i32> {
        if fault == Fault::ReadEio && !self.is_target && dice.once_in(12) {
            return Err(EIO);
        }
        let start = usize::try_from(offset).map_err(|_| EINVAL)?;
        let mut len = into.len().min(self.image.len().saturating_sub(start));
        if fault == Fault::ShortIo && len > 1 && dice.once_in(2) {
            len = dice.part_of(len);
        }
        into[..len].copy_from_slice(&self.image[start..start + len]);
        Ok(len)
    }

    pub(super) fn write(
        &mut self,
        bytes: &[u8],
        offset: u64,
        dsync: bool,
        (fault, flaw): (Fault, Flaw),
        dice: &mut Dice,
    ) -> Result<usize, i32> {
        match fault {
            Fault::WriteEio if dice.once_in(12) => return Err(EIO),
            Fault::Enospc if dice.once_in(12) => return Err(ENOSPC),
            _ => {}
        }
        let mut len = bytes.len();
        if fault == Fault::ShortIo && len > 1 && dice.once_in(2) {
            len = dice.part_of(len);
        }
        let mut offset = offset;
        let mut stored = len;
        match flaw {
            Flaw::ShortTakenAsFull => stored = len / 2,
            Flaw::TailDropped => stored = len - 1,
            Flaw::OffByOneBlock => offset += BLOCK_BYTES,
            Flaw::None | Flaw::FlushSkipped => {}
        }
        let room = (self.image.len() as u64).saturating_sub(offset);
        if flaw == Flaw::OffByOneBlock {
            stored = stored.min(usize::try_from(room).unwrap_or(stored));
        } else if room < len as u64 {
            return Err(EINVAL);
        }
        self.change(offset, &bytes[..stored], dsync)?;
        Ok(len)
    }

    fn change(&mut self, offset: u64, bytes: &[u8], dsync: bool) -> Result<(), i32> {
        let start = usize::try_from(offset).map_err(|_| EINVAL)?;
        self.image[start..start + bytes.len()].copy_from_slice(bytes);
        if dsync {
            self.durable[start..start + bytes.len()].copy_from_slice(bytes);
        }
        self.writes += 1;
        self.dirty.push(Dirty {
            number: self.writes,
            offset: start,
            bytes: bytes.to_vec(),
        });
        Ok(())
    }

    pub(super) fn zero(
        &mut self,
        offset: u64,
        len: u64,
        mode: ZeroMode,
        fault: Fault,
        seed: u64,
    ) -> Result<(), i32> {
        // Some devices can zero but not punch, some can do neither.
        let range_too = seed.is_multiple_of(2);
        if fault == Fault::ZeroUnsupported && (mode == ZeroMode::PunchHole || range_too) {
            return Err(EOPNOTSUPP);
        }
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if end > self.image.len() as u64 {
            return Err(EINVAL);
        }
        let zeroes = vec![0; usize::try_from(len).map_err(|_| EINVAL)?];
        self.change(offset, &zeroes, false)
    }

    /// Makes durable what was complete at `mark`. A failed flush loses what it was to write, and says so once.
    pub(super) fn flush(
        &mut self,
        mark: u64,
        (fault, flaw): (Fault, Flaw),
        dice: &mut Dice,
    ) -> Result<(), i32> {
        if fault == Fault::FlushEio && !dice.once_in(4) {
            self.dirty.retain(|dirty| dirty.number > mark);
            return Err(EIO);
        }
        if flaw == Flaw::FlushSkipped {
            return Ok(());
        }
        for dirty in self.dirty.iter().filter(|dirty| dirty.number <= mark) {
            self.durable[dirty.offset..dirty.offset + dirty.bytes.len()]
                .copy_from_slice(&dirty.bytes);
        }
        self.dirty.retain(|dirty| dirty.number > mark);
        Ok(())
    }
}
