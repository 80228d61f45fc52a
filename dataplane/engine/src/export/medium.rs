//! Digests of what is on the medium. Blocking: nothing here runs on a shard.
//!
//! With direct I/O the kernel reads from the device and not from its page cache. What the device does then is its
//! own business: it may answer from a cache of its own, and a loop device answers from the page cache of its file.
//! A file that is not opened for direct I/O is flushed and dropped from the page cache first; another process that
//! reads it at the same time may bring it back, and a file system may keep what it likes.

use super::{Export, Store};
use crate::{
    EngineError,
    digest::{CHUNK_BYTES, Cv, Digest, GRAIN_BYTES, grain_cv},
};
use std::ops::Range;
use sys::{DeviceFile, SetupError};

/// Bytes one call hashes at most: seconds on any disk.
pub const MEDIUM_BYTES_MAX: u64 = 1 << 30;
/// Digests one call gives at most: 2 MiB of them.
pub const MEDIUM_DIGESTS_MAX: u64 = 65_536;
/// Smallest and largest chunk.
pub const MEDIUM_CHUNK_BYTES: std::ops::RangeInclusive<u64> = 4096..=PIECE_BYTES as u64;
/// What the offset must be a multiple of: the smallest block there is.
pub const MEDIUM_OFFSET_ALIGN: u64 = 512;
/// Bytes read at once: enough for a disk to be busy, and every chunk fits in.
const PIECE_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of a grain, which every piece is a multiple of.
const GRAIN: usize = 64 * 1024;
/// Alignment of the buffer, and of reads at least: a page.
const PAGE_BYTES: u64 = 4096;

const _: () = assert!(GRAIN as u64 == GRAIN_BYTES && PIECE_BYTES.is_multiple_of(GRAIN));

/// Why the medium was not hashed.
#[derive(Debug, thiserror::Error)]
pub enum MediumError {
    /// Ask for something else.
    #[error("{what} is {value}; {allowed}")]
    Bounds {
        /// The parameter.
        what: &'static str,
        /// What it was.
        value: u64,
        /// What it may be.
        allowed: String,
    },
    /// Ask again when the writes are done.
    #[error("a write to the range is in flight")]
    Busy,
    /// The export is being closed.
    #[error("the export is closing")]
    Closing,
    /// The device failed.
    #[error("the medium cannot be read")]
    Read(#[source] SetupError),
    /// The file has less bytes than when it was opened.
    #[error("the medium ends at {at_bytes}")]
    Short {
        /// Where reading ended.
        at_bytes: u64,
    },
    /// What had not reached the medium could not be brought there.
    #[error("the medium cannot be flushed")]
    Flush(#[source] Box<EngineError>),
}

impl Export {
    /// BLAKE3 of each `chunk_bytes` of `range`, read from the medium; the last chunk may be shorter.
    ///
    /// Flush first: what a client wrote and did not flush may be in a cache of the device.
    ///
    /// # Errors
    /// `Bounds` for what no export can answer, `Busy` while a write to the range is on its way (from the header of
    /// its request on) or when one began meanwhile, the device's errors.
    pub fn hash_medium(
        &self,
        range: Range<u64>,
        chunk_bytes: u64,
    ) -> Result<Vec<Digest>, MediumError> {
        check_range(&range, self.size_bytes(), MEDIUM_OFFSET_ALIGN)?;
        let chunk = check_chunk(&range, chunk_bytes)?;
        let mut digests = Vec::new();
        self.read_medium(range, |_, piece| {
            digests.extend(piece.chunks(chunk).map(Digest::of));
        })?;
        Ok(digests)
    }

    /// The chaining value of each grain of `range`, read from the medium, each at its position in its chunk of the
    /// device. The range begins with a grain and ends with one, or with the device.
    ///
    /// # Errors
    /// As for [`hash_medium`](Self::hash_medium).
    pub fn grains_medium(&self, range: Range<u64>) -> Result<Vec<Cv>, MediumError> {
        check_range(&range, self.size_bytes(), GRAIN_BYTES)?;
        if range.end != self.size_bytes() && !range.end.is_multiple_of(GRAIN_BYTES) {
            return Err(MediumError::Bounds {
                what: "the end of the range",
                value: range.end,
                allowed: format!(
                    "it must be a multiple of {GRAIN_BYTES}, or the end of the export"
                ),
            });
        }
        let mut grains = Vec::new();
        self.read_medium(range, |offset, piece| {
            for (index, grain) in (0..).zip(piece.chunks(GRAIN)) {
                let at = offset + index * GRAIN_BYTES;
                let position = usize::try_from(at % CHUNK_BYTES / GRAIN_BYTES).unwrap_or(0);
                grains.push(grain_cv(position, std::iter::once(grain)));
            }
        })?;
        Ok(grains)
    }

    /// Shows `each` all of `range`, piece by piece with their offsets, and proves that nobody wrote meanwhile.
    fn read_medium(
        &self,
        range: Range<u64>,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<(), MediumError> {
        let writes = &self.watch.writes;
        let before = writes.stamp(&range);
        if writes.is_busy(&range) {
            return Err(MediumError::Busy);
        }
        let mut reader = self.reader()?;
        let mut at = range.start;
        while at < range.end {
            if self.is_closing() {
                return Err(MediumError::Closing);
            }
            let end = range.end.min(at + PIECE_BYTES as u64);
            each(at, reader.read(at..end)?);
            if writes.stamp(&range) != before {
                return Err(MediumError::Busy);
            }
            at = end;
        }
        Ok(())
    }

    fn reader(&self) -> Result<Reader<'_>, MediumError> {
        let Store::Device(file) = self.store() else {
            return Ok(Reader::new(None));
        };
        if !file.is_direct() && !file.is_read_only() {
            self.flush_blocking()
                .map_err(|error| MediumError::Flush(Box::new(error)))?;
        }
        if !file.is_direct() {
            file.drop_page_cache().map_err(MediumError::Read)?;
        }
        Ok(Reader::new(Some(file)))
    }
}

fn check_range(range: &Range<u64>, size_bytes: u64, align: u64) -> Result<(), MediumError> {
    let bounds = |what, value, allowed| {
        Err(MediumError::Bounds {
            what,
            value,
            allowed,
        })
    };
    if !range.start.is_multiple_of(align) {
        return bounds(
            "offset",
            range.start,
            format!("it must be a multiple of {align}"),
        );
    }
    if range.start > range.end || range.end > size_bytes {
        return bounds(
            "the end of the range",
            range.end,
            format!("the export has {size_bytes} bytes"),
        );
    }
    let len = range.end - range.start;
    if len == 0 || len > MEDIUM_BYTES_MAX {
        return bounds("len", len, format!("1 to {MEDIUM_BYTES_MAX} are possible"));
    }
    Ok(())
}

fn check_chunk(range: &Range<u64>, chunk_bytes: u64) -> Result<usize, MediumError> {
    let (min, max) = MEDIUM_CHUNK_BYTES.into_inner();
    let fits = usize::try_from(chunk_bytes)
        .ok()
        .filter(|_| chunk_bytes.is_power_of_two() && MEDIUM_CHUNK_BYTES.contains(&chunk_bytes));
    let Some(chunk) = fits else {
        return Err(MediumError::Bounds {
            what: "chunk",
            value: chunk_bytes,
            allowed: format!("powers of two from {min} to {max} are possible"),
        });
    };
    let digests = (range.end - range.start).div_ceil(chunk_bytes);
    if digests > MEDIUM_DIGESTS_MAX {
        return Err(MediumError::Bounds {
            what: "the number of chunks",
            value: digests,
            allowed: format!(
                "at most {MEDIUM_DIGESTS_MAX} fit one answer; ask for less, or for larger chunks"
            ),
        });
    }
    Ok(chunk)
}

/// Reads pieces of any place and length: what direct I/O cannot do is read as a cover and cut.
struct Reader<'a> {
    /// `None`: zeroes.
    file: Option<&'a DeviceFile>,
    align: u64,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(file: Option<&'a DeviceFile>) -> Self {
        let align = file
            .map_or(1, |file| u64::from(file.direct_align()))
            .max(PAGE_BYTES);
        // A cover is longer by less than one block at each end, and the buffer begins at a block's border.
        let spare = usize::try_from(3 * align).unwrap_or(0);
        Self {
            file,
            align,
            buffer: vec![0; PIECE_BYTES + spare],
        }
    }

    /// At most `PIECE_BYTES`.
    fn read(&mut self, range: Range<u64>) -> Result<&[u8], MediumError> {
        let bytes = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
        let Some(file) = self.file else {
            return Ok(&self.buffer[..bytes(range.end - range.start)]);
        };
        let start = range.start / self.align * self.align;
        let cover = bytes(range.end.next_multiple_of(self.align) - start);
        let from = self.buffer.as_ptr().align_offset(bytes(self.align));
        let into = &mut self.buffer[from..from + cover];
        let got = file
            .read_medium_at(into, start)
            .map_err(MediumError::Read)?;
        let cut = bytes(range.start - start)..bytes(range.end - start);
        if got < cut.end {
            let at_bytes = start + got as u64;
            return Err(MediumError::Short { at_bytes });
        }
        Ok(&self.buffer[from..][cut])
    }
}

#[cfg(test)]
mod tests;
