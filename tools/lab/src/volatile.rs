//! A disk with a volatile write cache over a sparse file: what was flushed is in the file, what was not is only here and
//! may be lost. Blocks that were never written hold pseudo-random bytes that nobody had to store.

use crate::files::hex;
use crate::seeded::{self, Seeded};
use aws_lc_rs::digest;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

pub(crate) const BLOCK: u64 = 4096;
const BLOCK_LEN: usize = 4096;
/// A cache is finite: beyond this the disk writes its oldest half down by itself, as disks do.
const CACHE_WRITES_MAX: usize = 32 << 10;

type Block = Box<[u8; BLOCK_LEN]>;

/// A piece of a write, within one block: the unit that a power cut keeps or loses.
struct Piece {
    block: u64,
    at: usize,
    bytes: Vec<u8>,
}

pub(crate) struct Disk {
    file: File,
    size: u64,
    seed: u64,
    /// Blocks whose content is in the file.
    written: BTreeSet<u64>,
    /// What has not been flushed, oldest first.
    pending: Vec<Piece>,
    /// How blocks with pending pieces look to a reader.
    visible: BTreeMap<u64, Block>,
}

impl Disk {
    pub(crate) fn new(file: File, size: u64, seed: u64) -> io::Result<Disk> {
        file.set_len(size)?;
        Ok(Disk {
            file,
            size,
            seed,
            written: BTreeSet::new(),
            pending: Vec::new(),
            visible: BTreeMap::new(),
        })
    }

    /// A disk of `size` that begins as a copy of this one, which must be flushed; `file` already has its bytes.
    pub(crate) fn copy(&self, file: File, size: u64) -> io::Result<Disk> {
        let mut disk = Disk::new(file, size, self.seed)?;
        disk.written.clone_from(&self.written);
        Ok(disk)
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn resize(&mut self, size: u64) -> io::Result<()> {
        self.flush()?;
        self.file.set_len(size)?;
        self.size = size;
        let gone = size.div_ceil(BLOCK);
        drop(self.written.split_off(&gone));
        Ok(())
    }

    fn durable_block(&self, block: u64) -> io::Result<Block> {
        let mut bytes = Box::new([0; BLOCK_LEN]);
        if self.written.contains(&block) {
            self.file
                .read_exact_at(bytes.as_mut_slice(), block * BLOCK)?;
        } else {
            seeded::fill(self.seed, block * BLOCK, bytes.as_mut_slice());
        }
        Ok(bytes)
    }

    fn block(&self, block: u64) -> io::Result<Block> {
        match self.visible.get(&block) {
            Some(bytes) => Ok(bytes.clone()),
            None => self.durable_block(block),
        }
    }

    /// What a reader sees; short at the end of the disk.
    pub(crate) fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let end = self.size.min(offset.saturating_add(len as u64));
        let mut bytes = Vec::with_capacity(len);
        let mut at = offset;
        while at < end {
            let from = usize::try_from(at % BLOCK).map_err(io::Error::other)?;
            let count =
                (BLOCK_LEN - from).min(usize::try_from(end - at).map_err(io::Error::other)?);
            bytes.extend_from_slice(&self.block(at / BLOCK)?[from..from + count]);
            at += count as u64;
        }
        Ok(bytes)
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset.saturating_add(bytes.len() as u64) > self.size {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let mut rest = bytes;
        let mut at = offset;
        while !rest.is_empty() {
            let from = usize::try_from(at % BLOCK).map_err(io::Error::other)?;
            let (piece, tail) = rest.split_at(rest.len().min(BLOCK_LEN - from));
            let block = at / BLOCK;
            let whole = piece.len() == BLOCK_LEN;
            let mut shown = if whole {
                Box::new([0; BLOCK_LEN])
            } else {
                self.block(block)?
            };
            shown[from..from + piece.len()].copy_from_slice(piece);
            self.visible.insert(block, shown);
            self.pending.push(Piece {
                block,
                at: from,
                bytes: piece.to_vec(),
            });
            at += piece.len() as u64;
            rest = tail;
        }
        if self.pending.len() > CACHE_WRITES_MAX {
            let half: Vec<Piece> = self.pending.drain(..CACHE_WRITES_MAX / 2).collect();
            self.put(half.iter())?;
            let open: BTreeSet<u64> = self.pending.iter().map(|piece| piece.block).collect();
            self.visible.retain(|block, _| open.contains(block));
        }
        Ok(())
    }

    /// Writes zeroes, as far as the disk goes.
    pub(crate) fn zero(&mut self, offset: u64, len: u64) -> io::Result<()> {
        static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
        let end = self.size.min(offset.saturating_add(len));
        let mut at = offset;
        while at < end {
            let count =
                usize::try_from(end - at).map_or(ZEROES.len(), |left| left.min(ZEROES.len()));
            self.write(at, &ZEROES[..count])?;
            at += count as u64;
        }
        Ok(())
    }

    fn put<'a>(&mut self, pieces: impl Iterator<Item = &'a Piece>) -> io::Result<()> {
        for piece in pieces {
            let whole = piece.bytes.len() == BLOCK_LEN;
            let mut bytes = if whole {
                Box::new([0; BLOCK_LEN])
            } else {
                self.durable_block(piece.block)?
            };
            bytes[piece.at..piece.at + piece.bytes.len()].copy_from_slice(&piece.bytes);
            self.store(piece.block, &bytes)?;
        }
        Ok(())
    }

    fn store(&mut self, block: u64, bytes: &Block) -> io::Result<()> {
        let offset = block * BLOCK;
        let len = usize::try_from(BLOCK.min(self.size - offset)).map_err(io::Error::other)?;
        self.file.write_all_at(&bytes[..len], offset)?;
        // A last block that is cut by the disk's end is read back whole.
        if len < BLOCK_LEN {
            self.file.set_len(offset + BLOCK)?;
        }
        self.written.insert(block);
        Ok(())
    }

    /// Everything written so far is durable.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        for (block, bytes) in std::mem::take(&mut self.visible) {
            self.store(block, &bytes)?;
        }
        self.pending.clear();
        Ok(())
    }

    /// Loses a random half of what was not flushed; answers how many pieces.
    pub(crate) fn power_cut(&mut self, rng: &mut Seeded) -> io::Result<u64> {
        let pending = std::mem::take(&mut self.pending);
        self.visible.clear();
        let before = pending.len();
        let kept: Vec<Piece> = pending.into_iter().filter(|_| rng.below(2) == 0).collect();
        self.put(kept.iter())?;
        Ok((before - kept.len()) as u64)
    }

    /// SHA-256 of what is visible, or of what is durable.
    pub(crate) fn digest(&self, durable: bool) -> io::Result<String> {
        let mut sum = digest::Context::new(&digest::SHA256);
        for block in 0..self.size.div_ceil(BLOCK) {
            let bytes = if durable {
                self.durable_block(block)?
            } else {
                self.block(block)?
            };
            let len =
                usize::try_from(BLOCK.min(self.size - block * BLOCK)).map_err(io::Error::other)?;
            sum.update(&bytes[..len]);
        }
        Ok(hex(sum.finish().as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 10 * BLOCK + 512;

    fn disk() -> Disk {
        Disk::new(tempfile::tempfile().expect("a file"), SIZE, 5).expect("a disk")
    }

    #[test]
    fn unwritten_blocks_are_random_to_the_last_byte() {
        let disk = disk();
        let bytes = disk.read(0, 1 << 20).expect("read");
        assert_eq!(bytes.len() as u64, SIZE);
        let mut expected = vec![0; bytes.len()];
        seeded::fill(5, 0, &mut expected);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_write_is_visible_at_once_and_durable_after_a_flush() {
        let mut disk = disk();
        let before = disk.digest(true).expect("digest");
        disk.write(4000, &[7; 5000]).expect("written");
        assert_eq!(disk.read(4000, 5000).expect("read"), [7; 5000]);
        assert_eq!(disk.digest(true).expect("digest"), before);
        assert_ne!(disk.digest(false).expect("digest"), before);
        disk.flush().expect("flushed");
        assert_eq!(
            disk.digest(true).expect("digest"),
            disk.digest(false).expect("digest")
        );
        let mut rng = Seeded::new(1);
        assert_eq!(
            disk.power_cut(&mut rng).expect("cut"),
            0,
            "nothing was pending"
        );
        assert_eq!(disk.read(4000, 5000).expect("read"), [7; 5000]);
    }

    #[test]
    fn a_power_cut_keeps_a_subset_that_follows_from_the_seed() {
        let cut = |seed| {
            let mut disk = disk();
            disk.write(0, &[1; 512]).expect("written");
            disk.flush().expect("flushed");
            for at in 0..40 {
                disk.write(at * 1024, &[2; 512]).expect("written");
            }
            let lost = disk.power_cut(&mut Seeded::new(seed)).expect("cut");
            let kept = (0..40)
                .filter(|at| disk.read(at * 1024, 512).expect("read") == [2; 512])
                .count();
            assert_eq!(kept as u64 + lost, 40);
            assert!(kept > 0 && lost > 0);
            disk.digest(false).expect("digest")
        };
        assert_eq!(cut(3), cut(3));
        assert_ne!(cut(3), cut(4));
    }

    #[test]
    fn zeroes_are_as_volatile_as_any_write() {
        let mut disk = disk();
        disk.zero(100, u64::MAX).expect("zeroed");
        assert!(
            disk.read(100, 1 << 20)
                .expect("read")
                .iter()
                .all(|byte| *byte == 0)
        );
        assert!(
            disk.read(0, 100)
                .expect("read")
                .iter()
                .any(|byte| *byte != 0)
        );
        assert!(disk.power_cut(&mut Seeded::new(2)).expect("cut") > 0);
        assert!(
            disk.read(100, 1 << 20)
                .expect("read")
                .iter()
                .any(|byte| *byte != 0)
        );
    }

    #[test]
    fn the_last_block_may_be_cut_by_the_end() {
        let mut disk = disk();
        disk.write(SIZE - 512, &[9; 512]).expect("written");
        disk.flush().expect("flushed");
        assert_eq!(disk.read(SIZE - 512, 4096).expect("read"), [9; 512]);
        assert!(disk.write(SIZE - 511, &[9; 512]).is_err());
        disk.resize(SIZE + BLOCK).expect("grown");
        assert_eq!(disk.read(SIZE - 512, 512).expect("read"), [9; 512]);
    }
}
