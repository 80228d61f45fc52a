//! A disk: what reads see, and what would survive a power cut.

use super::{
    case::{Case, Fault, Flaw},
    core::Dice,
};
use std::{ops::Range, sync::Arc};
use sys::{DeviceFile, Via, ZeroMode};

pub(super) const EIO: i32 = 5;
pub(super) const EINVAL: i32 = 22;
pub(super) const ENOSPC: i32 = 28;
pub(super) const EOPNOTSUPP: i32 = 95;
/// What a disk that is off by one block is off by, and what a power cut tears.
pub(super) const SECTOR_BYTES: usize = 512;
/// What the page cache reads and writes.
const PAGE_BYTES: usize = 4096;

/// A change that only the cache has.
struct Dirty {
    number: u64,
    offset: usize,
    bytes: Vec<u8>,
}

/// Pages a buffered write has read and will write back whole.
struct Pages {
    /// The operation.
    id: u32,
    start: usize,
    bytes: Vec<u8>,
}

/// What the disk is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Source,
    Target,
}

/// A write as the kernel gets it.
pub(super) struct DiskWrite<'a> {
    /// The operation, for the pages it read.
    pub id: u32,
    pub bytes: &'a [u8],
    /// Of the memory.
    pub address: usize,
    pub offset: u64,
    pub via: Via,
    pub dsync: bool,
}

/// A disk with a volatile cache.
pub(super) struct Disk {
    device: Arc<DeviceFile>,
    role: Role,
    fault: Fault,
    flaw: Flaw,
    pub image: Vec<u8>,
    pub durable: Vec<u8>,
    dirty: Vec<Dirty>,
    pages: Vec<Pages>,
    writes: u64,
    /// Something was lost that nobody has been told of.
    pub untold_loss: bool,
    /// Bytes that can neither be read nor written.
    bad: Range<usize>,
    /// Where it ends, whatever was said when it was opened.
    end: usize,
    /// Punching is possible, or zeroing at least.
    punches: bool,
    zeroes: bool,
}

impl Disk {
    pub(super) fn new(device: Arc<DeviceFile>, role: Role, image: Vec<u8>, case: &Case) -> Self {
        let mut dice = Dice::new(case.seed ^ 0xd15c ^ role as u64);
        let size = image.len();
        let at = dice.part_of(size.max(1)) - 1;
        let afflicted = match case.fault {
            // In turn: a target that cannot be written there, a source that cannot be read.
            Fault::BadSector => (role == Role::Target) == case.seed.is_multiple_of(2),
            Fault::SourceShrinks => role == Role::Source,
            _ => false,
        };
        let sector = at / SECTOR_BYTES * SECTOR_BYTES;
        let is_bad = afflicted && case.fault == Fault::BadSector;
        let shrinks = afflicted && case.fault == Fault::SourceShrinks;
        // Some devices can zero but not punch, some can do neither.
        let poor = case.fault == Fault::ZeroUnsupported;
        Self {
            device,
            role,
            fault: case.fault,
            flaw: if role == Role::Target {
                case.flaw
            } else {
                Flaw::None
            },
            durable: image.clone(),
            image,
            dirty: Vec::new(),
            pages: Vec::new(),
            writes: 0,
            untold_loss: false,
            bad: if is_bad {
                sector..sector + SECTOR_BYTES
            } else {
                0..0
            },
            end: if shrinks { at } else { size },
            punches: !poor,
            zeroes: !poor || !case.seed.is_multiple_of(2),
        }
    }

    pub(super) fn is(&self, device: &Arc<DeviceFile>) -> bool {
        Arc::ptr_eq(&self.device, device)
    }

    /// The mark a flush takes along when it is submitted: it covers what was complete by then, no more.
    pub(super) fn mark(&self) -> u64 {
        self.writes
    }

    /// A buffered write begins: the page cache reads the pages it will change.
    pub(super) fn begin_buffered(&mut self, id: u32, offset: u64, len: usize) {
        let Ok(start) = usize::try_from(offset) else {
            return;
        };
        let first = start / PAGE_BYTES * PAGE_BYTES;
        let last = (start + len)
            .next_multiple_of(PAGE_BYTES)
            .min(self.image.len());
        if first < last {
            let bytes = self.image[first..last].to_vec();
            self.pages.push(Pages {
                id,
                start: first,
                bytes,
            });
        }
    }

    /// Direct I/O takes whole blocks only.
    fn is_misaligned(&self, via: Via, address: usize, offset: u64, len: usize) -> bool {
        let align = self.device.direct_align().max(1) as usize;
        via == Via::Direct
            && !(address.is_multiple_of(align)
                && offset.is_multiple_of(align as u64)
                && len.is_multiple_of(align))
    }

    /// How much of `len` bytes one operation moves.
    fn portion(&self, via: Via, len: usize, dice: &mut Dice) -> usize {
        if self.fault != Fault::ShortIo || !dice.once_in(2) {
            return len;
        }
        let unit = match via {
            Via::Direct => self.device.direct_align().max(1) as usize,
            Via::Buffered => 1,
        };
        match len / unit {
            0 | 1 => len,
            units => (dice.part_of(units) * unit).min(len),
        }
    }

    fn is_bad(&self, start: usize, len: usize) -> bool {
        start < self.bad.end && self.bad.start < start + len
    }

    pub(super) fn read(
        &self,
        into: &mut [u8],
        address: usize,
        offset: u64,
        via: Via,
        dice: &mut Dice,
    ) -> Result<usize, i32> {
        if self.is_misaligned(via, address, offset, into.len()) {
            return Err(EINVAL);
        }
        if self.fault == Fault::ReadEio && self.role == Role::Source && dice.once_in(12) {
            return Err(EIO);
        }
        let start = usize::try_from(offset).map_err(|_| EINVAL)?;
        let len = into.len().min(self.end.saturating_sub(start));
        if self.is_bad(start, len) {
            return Err(EIO);
        }
        let len = self.portion(via, len, dice);
        into[..len].copy_from_slice(&self.image[start..start + len]);
        Ok(len)
    }

    pub(super) fn write(&mut self, write: &DiskWrite<'_>, dice: &mut Dice) -> Result<usize, i32> {
        let DiskWrite {
            bytes,
            offset,
            dsync,
            ..
        } = *write;
        let pages = self.pages.iter().position(|pages| pages.id == write.id);
        let pages = pages.map(|at| self.pages.swap_remove(at));
        if self.is_misaligned(write.via, write.address, offset, bytes.len()) {
            return Err(EINVAL);
        }
        match self.fault {
            Fault::WriteEio if dice.once_in(12) => return Err(EIO),
            Fault::Enospc if dice.once_in(12) => {
                return if dice.once_in(2) { Ok(0) } else { Err(ENOSPC) };
            }
            _ => {}
        }
        let start = usize::try_from(offset).map_err(|_| EINVAL)?;
        if self.is_bad(start, bytes.len()) {
            return Err(EIO);
        }
        if dsync && self.fault == Fault::FlushEio && dice.once_in(8) {
            self.lose();
        }
        if dsync && std::mem::take(&mut self.untold_loss) {
            return Err(EIO);
        }
        let len = self.portion(write.via, bytes.len(), dice);
        if self.image.len().saturating_sub(start) < len {
            return Err(EINVAL);
        }
        match self.flaw {
            Flaw::ShortTakenAsFull => self.change(start, &bytes[..len / 2], dsync),
            Flaw::TailDropped => self.change(start, &bytes[..len - 1], dsync),
            Flaw::OffByOneBlock => {
                let start = start + SECTOR_BYTES;
                let room = self.image.len().saturating_sub(start).min(len);
                self.change(start.min(self.image.len()), &bytes[..room], dsync);
            }
            Flaw::None | Flaw::FlushSkipped => match pages {
                Some(pages) => self.write_back(pages, start, &bytes[..len], dsync),
                None => self.change(start, &bytes[..len], dsync),
            },
        }
        Ok(len)
    }

    /// A page goes back as it was read, but for the bytes that were written: what direct I/O wrote beside them
    /// meanwhile is gone.
    fn write_back(&mut self, mut pages: Pages, start: usize, bytes: &[u8], dsync: bool) {
        let at = start - pages.start;
        pages.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.patch_pages(start, bytes);
        self.change(pages.start, &pages.bytes, dsync);
    }

    /// Others that write through the page cache share its pages.
    fn patch_pages(&mut self, start: usize, bytes: &[u8]) {
        for pages in &mut self.pages {
            overlay(&mut pages.bytes, pages.start, bytes, start);
        }
    }

    fn change(&mut self, start: usize, bytes: &[u8], dsync: bool) {
        self.image[start..start + bytes.len()].copy_from_slice(bytes);
        self.writes += 1;
        if !dsync {
            return self.dirty.push(Dirty {
                number: self.writes,
                offset: start,
                bytes: bytes.to_vec(),
            });
        }
        self.durable[start..start + bytes.len()].copy_from_slice(bytes);
        // What the cache still holds of these bytes is as new as the medium.
        for dirty in &mut self.dirty {
            overlay(&mut dirty.bytes, dirty.offset, bytes, start);
        }
    }

    pub(super) fn zero(&mut self, offset: u64, len: u64, mode: ZeroMode) -> Result<(), i32> {
        let can = match mode {
            ZeroMode::PunchHole => self.punches,
            ZeroMode::ZeroRange => self.zeroes,
        };
        if !can {
            return Err(EOPNOTSUPP);
        }
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if end > self.image.len() as u64 {
            return Err(EINVAL);
        }
        let (start, len) = (offset, len);
        let start = usize::try_from(start).map_err(|_| EINVAL)?;
        let zeroes = vec![0; usize::try_from(len).map_err(|_| EINVAL)?];
        if self.is_bad(start, zeroes.len()) {
            return Err(EIO);
        }
        // The kernel keeps zeroing and buffered writes of one file apart by itself.
        self.patch_pages(start, &zeroes);
        self.change(start, &zeroes, false);
        Ok(())
    }

    /// What the cache holds cannot be written and is dropped. The next who asks for it to be durable is told, and nobody
    /// after that.
    pub(super) fn lose(&mut self) {
        self.untold_loss = !self.dirty.is_empty();
        self.dirty.clear();
    }

    /// Makes durable what was complete at `mark`. A failed flush loses what it was to write, and says so once.
    pub(super) fn flush(&mut self, mark: u64, dice: &mut Dice) -> Result<(), i32> {
        if self.fault == Fault::FlushEio && !dice.once_in(4) {
            self.dirty.retain(|dirty| dirty.number > mark);
            return Err(EIO);
        }
        if std::mem::take(&mut self.untold_loss) {
            return Err(EIO);
        }
        if self.flaw == Flaw::FlushSkipped {
            return Ok(());
        }
        for dirty in self.dirty.iter().filter(|dirty| dirty.number <= mark) {
            self.durable[dirty.offset..dirty.offset + dirty.bytes.len()]
                .copy_from_slice(&dirty.bytes);
        }
        self.dirty.retain(|dirty| dirty.number > mark);
        Ok(())
    }

    /// The power goes. Each change since the last good flush is kept, lost, or torn between sectors.
    pub(super) fn power_cut(&mut self, dice: &mut Dice) {
        self.pages.clear();
        // In order: an older version of a sector never comes after a newer one.
        for change in std::mem::take(&mut self.dirty) {
            let fate = dice.between(0, 2);
            let mut at = change.offset;
            for sector in change.bytes.chunks(SECTOR_BYTES) {
                if fate == 0 || (fate == 1 && dice.once_in(2)) {
                    self.durable[at..at + sector.len()].copy_from_slice(sector);
                }
                at += sector.len();
            }
        }
        self.image.clone_from(&self.durable);
    }
}

/// Puts the part of `bytes` (at `start`) that falls into `under` (at `under_start`) there.
fn overlay(under: &mut [u8], under_start: usize, bytes: &[u8], start: usize) {
    let from = start.max(under_start);
    let to = (start + bytes.len()).min(under_start + under.len());
    if from < to {
        under[from - under_start..to - under_start]
            .copy_from_slice(&bytes[from - start..to - start]);
    }
}
