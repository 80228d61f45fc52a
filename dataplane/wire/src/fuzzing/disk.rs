//! A naive disk: what every request ought to do, written without looking at the machines.

use super::dice::Dice;
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::proto::NbdError;
use crate::{Command, CommandFlags, Extent, Mode};

/// Granularity of allocation.
const BLOCK_BYTES: usize = 512;

/// A request as the test script has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) command: Command,
    pub(super) flags: CommandFlags,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// First byte of what is written; the rest counts on.
    pub(super) fill: u8,
}

impl Wish {
    /// What a WRITE carries.
    pub(super) fn payload(&self) -> Vec<u8> {
        (0..self.len)
            .map(|index| self.fill.wrapping_add(index.to_le_bytes()[0]))
            .collect()
    }
}

/// Content of an export, and what the protocol says about requests to it.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) bytes: Vec<u8>,
    mode: Mode,
}

impl Disk {
    /// Some data, some zeroes.
    pub(super) fn new(size_bytes: usize, mode: Mode, dice: &mut Dice) -> Self {
        let mut bytes = vec![0; size_bytes];
        for block in bytes.chunks_mut(BLOCK_BYTES) {
            if dice.below(2) == 0 {
                block.fill(0xd0);
            }
        }
        Self { bytes, mode }
    }

    /// The error a request must get, from the text of the protocol. All features are offered, the
    /// minimum block size is one.
    pub(super) fn expected(&self, wish: &Wish) -> Result<(), NbdError> {
        let size = self.bytes.len() as u128;
        let end = u128::from(wish.offset) + u128::from(wish.len);
        let mut allowed = CommandFlags::FUA.0;
        allowed |= match wish.command {
            Command::Read if self.mode != Mode::Simple => CommandFlags::DF.0,
            Command::WriteZeroes => CommandFlags::NO_HOLE.0 | CommandFlags::FAST_ZERO.0,
            Command::BlockStatus => CommandFlags::REQ_ONE.0,
            _ => 0,
        };
        if wish.flags.0 & !allowed != 0 {
            return Err(NbdError::Inval);
        }
        match wish.command {
            Command::Flush if wish.offset == 0 && wish.len == 0 => Ok(()),
            Command::Flush => Err(NbdError::Inval),
            _ if wish.len == 0 => Err(NbdError::Inval),
            Command::Write | Command::WriteZeroes if end > size => Err(NbdError::NoSpace),
            _ if end > size => Err(NbdError::Inval),
            Command::Read | Command::Write if wish.len > u64::from(PAYLOAD_BYTES_MAX) => {
                Err(NbdError::Inval)
            }
            _ => Ok(()),
        }
    }

    /// Carries out a valid request; returns what a READ reads.
    pub(super) fn apply(&mut self, wish: &Wish, payload: &[u8]) -> Vec<u8> {
        let start = usize::try_from(wish.offset).expect("inside");
        let range = start..start + usize::try_from(wish.len).expect("inside");
        match wish.command {
            Command::Read => return self.bytes[range].to_vec(),
            Command::Write => self.bytes[range].copy_from_slice(payload),
            // Trimmed content is undefined; zeroes are as good as anything.
            Command::WriteZeroes | Command::Trim => self.bytes[range].fill(0),
            _ => {}
        }
        Vec::new()
    }

    /// Allocation from `offset` to the end of the disk.
    pub(super) fn extents(&self, offset: u64) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let mut position = usize::try_from(offset).expect("inside");
        while position < self.bytes.len() {
            let end = (position / BLOCK_BYTES + 1) * BLOCK_BYTES;
            let end = end.min(self.bytes.len());
            let is_zero = self.bytes[position..end].iter().all(|byte| *byte == 0);
            let flags = if is_zero {
                Extent::HOLE | Extent::ZERO
            } else {
                0
            };
            let len = (end - position) as u64;
            match extents.last_mut() {
                Some(last) if last.flags == flags => last.len += len,
                _ => extents.push(Extent { len, flags }),
            }
            position = end;
        }
        extents
    }
}
