//! What is known of the chunks of one device while they are written.

use std::{collections::BTreeMap, ops::Range};

use super::{
    CHUNK_BYTES, ChunkTree, Cv, Digest, GRAIN_BYTES, GRAINS_PER_CHUNK, Hashed, chunk_count,
    chunk_len, position_of, zero_chunk_digest, zero_digest,
};
use crate::ExtentSet;

/// Chunks a table keeps values of: 16 GiB of a device in 9 MiB of memory. Between two checkpoints a transfer writes
/// less; what is older is read again.
pub const CHUNKS_MAX: usize = 4_096;
/// Runs of zero chunks a table keeps, 16 bytes each: only a disk whose every second chunk is empty has as many in
/// 512 GiB, and then the first are read again.
pub const ZERO_RUNS_MAX: usize = 65_536;

/// What is known of one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkView<'a> {
    /// All of it.
    Complete(Digest),
    /// Some grains, or the only grain of a chunk that [must be read](ChunkTree::root).
    Grains {
        /// Bit `i` for the grain at position `i`.
        have: u64,
        /// By position; those whose bit is not set mean nothing.
        cvs: &'a [Cv; GRAINS_PER_CHUNK],
    },
    /// Nothing.
    Unknown,
}

/// What the chunks of one device hold, as far as [`Hashed`] messages told.
///
/// At most [`CHUNKS_MAX`] chunks are kept with their grains; one more makes the one that was touched longest ago
/// unknown. Whole chunks of zeroes cost nothing each: their runs are kept.
#[derive(Debug)]
pub struct ChunkTable {
    device_bytes: u64,
    chunks_max: usize,
    zero_runs_max: usize,
    kept: BTreeMap<u64, Kept>,
    /// When a chunk of `kept` was touched, and which.
    by_touch: BTreeMap<u64, u64>,
    touches: u64,
    /// Ranges of chunk indices, none of them in `kept`.
    zero_chunks: ExtentSet,
    evicted: u64,
}

#[derive(Debug)]
struct Kept {
    touched: u64,
    tree: Box<ChunkTree>,
}

impl ChunkTable {
    /// Nothing is known of a device of `device_bytes`.
    #[must_use]
    pub fn new(device_bytes: u64) -> Self {
        Self::bounded(device_bytes, CHUNKS_MAX, ZERO_RUNS_MAX)
    }

    pub(super) fn bounded(device_bytes: u64, chunks_max: usize, zero_runs_max: usize) -> Self {
        Self {
            device_bytes,
            chunks_max,
            zero_runs_max,
            kept: BTreeMap::new(),
            by_touch: BTreeMap::new(),
            touches: 0,
            zero_chunks: ExtentSet::new(),
            evicted: 0,
        }
    }

    /// Takes one message; what lies behind the end of the device is ignored. Messages about one place count in the
    /// order in which they come.
    pub fn absorb(&mut self, hashed: Hashed) {
        match hashed {
            Hashed::Grains(batch) => {
                for (grain, cv) in batch.iter() {
                    let chunk = grain / GRAINS_PER_CHUNK as u64;
                    if chunk < chunk_count(self.device_bytes) {
                        self.touch(chunk).insert(position_of(grain), cv);
                    }
                }
            }
            Hashed::Zero { offset, len } => self.zero(offset..offset.saturating_add(len)),
            Hashed::Unknown { offset, len } => self.forget(offset..offset.saturating_add(len)),
        }
    }

    /// What is known of a chunk.
    #[must_use]
    pub fn view(&self, chunk: u64) -> ChunkView<'_> {
        if self.zero_chunks.contains(chunk) {
            let len = chunk_len(self.device_bytes, chunk);
            return ChunkView::Complete(if len == CHUNK_BYTES {
                zero_chunk_digest()
            } else {
                zero_digest(len)
            });
        }
        match self.kept.get(&chunk) {
            None => ChunkView::Unknown,
            Some(Kept { tree, .. }) => match tree.root() {
                Some(digest) => ChunkView::Complete(digest),
                None => ChunkView::Grains {
                    have: tree.have(),
                    cvs: tree.cvs(),
                },
            },
        }
    }

    /// The digest of a complete chunk, which the table then no longer knows; a chunk that is not complete stays.
    pub fn take(&mut self, chunk: u64) -> Option<Digest> {
        let ChunkView::Complete(digest) = self.view(chunk) else {
            return None;
        };
        self.drop_chunks(chunk..chunk + 1);
        Some(digest)
    }

    /// The runs of zero chunks as ranges of chunk indices: a TiB of zeroes is one of them, and 262,144 digests. A shorter
    /// chunk at the end of the device has another digest and is not part of them.
    pub fn zero_chunks(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.zero_chunks.within(0..self.device_bytes / CHUNK_BYTES)
    }

    /// Takes [`zero_chunks`](Self::zero_chunks) out of the table.
    pub fn take_zero_chunks(&mut self) -> ExtentSet {
        let taken = self.zero_chunks().collect();
        self.zero_chunks.remove(0..self.device_bytes / CHUNK_BYTES);
        taken
    }

    /// Forgets every grain of which a byte of `range` (bytes of the device) is part.
    pub fn forget(&mut self, range: Range<u64>) {
        let (range, whole) = self.cut(range);
        self.drop_chunks(whole.clone());
        for (chunk, part) in borders(&range, &whole) {
            // Not a touch: a chunk that loses something is not worth keeping longer.
            if self.zero_chunks.contains(chunk) {
                self.touch(chunk);
            }
            if let Some(kept) = self.kept.get_mut(&chunk) {
                kept.tree.forget(part);
                if kept.tree.have() == 0 {
                    self.drop_chunks(chunk..chunk + 1);
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        assert_eq!(self.kept.len(), self.by_touch.len());
        self.kept.len()
    }

    /// Forgets everything; the count of evictions stays.
    pub fn clear(&mut self) {
        self.kept.clear();
        self.by_touch.clear();
        self.zero_chunks = ExtentSet::new();
    }

    /// How many chunks and runs of zero chunks were forgotten for want of room.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    fn zero(&mut self, range: Range<u64>) {
        let (range, whole) = self.cut(range);
        self.drop_chunks(whole.clone());
        self.zero_chunks.insert(whole.clone());
        self.bound_zero_runs(&whole);
        for (chunk, part) in borders(&range, &whole) {
            if self.zero_chunks.contains(chunk) {
                continue;
            }
            let at_end = chunk * CHUNK_BYTES + part.end == self.device_bytes;
            let first = part.start.div_ceil(GRAIN_BYTES);
            let behind = if at_end {
                part.end.div_ceil(GRAIN_BYTES)
            } else {
                part.end / GRAIN_BYTES
            };
            let tree = self.touch(chunk);
            tree.forget(part);
            for position in first..behind {
                tree.insert_zero(position_of(position));
            }
            if tree.have() == 0 {
                self.drop_chunks(chunk..chunk + 1);
            }
        }
    }

    /// Cuts a range of bytes to the device, and gives the chunks that lie in it as a whole.
    fn cut(&self, range: Range<u64>) -> (Range<u64>, Range<u64>) {
        let end = range.end.min(self.device_bytes);
        let first = range.start.div_ceil(CHUNK_BYTES);
        let behind = if end == self.device_bytes {
            chunk_count(end)
        } else {
            end / CHUNK_BYTES
        };
        (range.start..end, first..behind.max(first))
    }

    /// The tree of a chunk of the device, made if need be and now the youngest.
    fn touch(&mut self, chunk: u64) -> &mut ChunkTree {
        self.touches += 1;
        let touched = self.touches;
        let kept = self.kept.entry(chunk).or_insert_with(|| {
            let len = chunk_len(self.device_bytes, chunk);
            let tree = if self.zero_chunks.contains(chunk) {
                self.zero_chunks.remove(chunk..chunk + 1);
                ChunkTree::zeroed(len)
            } else {
                ChunkTree::new(len)
            };
            Kept {
                touched,
                tree: Box::new(tree),
            }
        });
        self.by_touch.remove(&kept.touched);
        kept.touched = touched;
        self.by_touch.insert(touched, chunk);
        if self.kept.len() > self.chunks_max
            && let Some((_, oldest)) = self.by_touch.pop_first()
        {
            self.kept.remove(&oldest);
            self.evicted += 1;
        }
        self.bound_zero_runs(&(chunk..chunk + 1));
        &mut self.kept.get_mut(&chunk).expect("the youngest stays").tree
    }

    fn drop_chunks(&mut self, chunks: Range<u64>) {
        while let Some((&chunk, kept)) = self.kept.range(chunks.clone()).next() {
            self.by_touch.remove(&kept.touched);
            self.kept.remove(&chunk);
        }
        self.zero_chunks.remove(chunks.clone());
        self.bound_zero_runs(&chunks);
    }

    /// Drops the first run when there are too many; transfers go upwards, so it is the oldest. A run that holds a part
    /// of what was just noted is kept.
    fn bound_zero_runs(&mut self, newest: &Range<u64>) {
        while self.zero_chunks.len() > self.zero_runs_max.max(1) {
            let first = self.zero_chunks.iter().next();
            let old = first.filter(|run| run.end <= newest.start);
            let Some(run) = old.or_else(|| self.zero_chunks.iter().next_back()) else {
                return;
            };
            self.zero_chunks.remove(run);
            self.evicted += 1;
        }
    }
}

/// The parts of `range` in the chunks that it holds only in part: at most two, as chunk and offsets in it.
fn borders(range: &Range<u64>, whole: &Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
    let first = range.start / CHUNK_BYTES;
    let last = range.end.saturating_sub(1) / CHUNK_BYTES;
    let part = |chunk: u64| {
        if range.is_empty() || whole.contains(&chunk) {
            return None;
        }
        let start = chunk * CHUNK_BYTES;
        let part_end = (range.end - start).min(CHUNK_BYTES);
        Some((chunk, range.start.saturating_sub(start)..part_end))
    };
    let second = if last == first { None } else { part(last) };
    [part(first), second].into_iter().flatten()
}
