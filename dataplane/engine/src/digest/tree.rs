//! The grains of one chunk, merged to its digest.

use std::ops::Range;

use blake3::hazmat::{Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::{CHUNK_BYTES, Cv, Digest, GRAIN_BYTES, GRAINS_PER_CHUNK, grain_cv, zero_cv, zeroes};

/// Collects the grains of one chunk in any order.
#[derive(Debug, Clone)]
pub struct ChunkTree {
    len: u64,
    /// Bit `i` is set when `cvs[i]` is that of what the chunk holds.
    have: u64,
    cvs: [Cv; GRAINS_PER_CHUNK],
}

impl ChunkTree {
    /// A chunk of `len` bytes of which nothing is known.
    ///
    /// # Panics
    /// When `len` is 0 or more than a chunk.
    #[must_use]
    pub fn new(len: u64) -> Self {
        assert!((1..=CHUNK_BYTES).contains(&len), "the length of a chunk");
        Self {
            len,
            have: 0,
            cvs: [Cv([0; 32]); GRAINS_PER_CHUNK],
        }
    }

    /// A chunk of `len` zeroes.
    pub(super) fn zeroed(len: u64) -> Self {
        let mut tree = Self::new(len);
        for position in 0..tree.grains() {
            tree.insert_zero(position);
        }
        tree
    }

    /// Bytes of the chunk.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.len
    }

    /// Number of its grains.
    #[must_use]
    pub fn grains(&self) -> usize {
        // At most 64, by `new`.
        (self.len.div_ceil(GRAIN_BYTES) & 0x7f) as usize
    }

    /// Bytes of the grain at `position`.
    fn grain_len(&self, position: usize) -> u64 {
        (self.len - position as u64 * GRAIN_BYTES).min(GRAIN_BYTES)
    }

    /// Notes what stands at `position`, in place of what was known. A position behind the end is ignored.
    pub fn insert(&mut self, position: usize, cv: Cv) {
        if position < self.grains() {
            self.cvs[position] = cv;
            self.have |= 1 << position;
        }
    }

    /// Notes that zeroes stand at `position`, which the chunk has.
    pub(super) fn insert_zero(&mut self, position: usize) {
        let cv = match self.grain_len(position) {
            GRAIN_BYTES => zero_cv(position),
            len => grain_cv(position, std::iter::once(zeroes(len))),
        };
        self.insert(position, cv);
    }

    /// Forgets every grain of which a byte of `range` is part; offsets in the chunk, bytes.
    pub fn forget(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = range.start / GRAIN_BYTES;
        let behind = range.end.div_ceil(GRAIN_BYTES);
        for position in first..behind.min(GRAINS_PER_CHUNK as u64) {
            self.have &= !(1 << position);
        }
    }

    /// Which grains are known: bit `i` for position `i`.
    #[must_use]
    pub fn have(&self) -> u64 {
        self.have
    }

    /// The chaining value of a grain that is known.
    #[must_use]
    pub fn cv(&self, position: usize) -> Option<Cv> {
        let known = position < GRAINS_PER_CHUNK && self.have & (1 << position) != 0;
        known.then(|| self.cvs[position])
    }

    /// Every value; those of grains that are not known mean nothing.
    pub(super) fn cvs(&self) -> &[Cv; GRAINS_PER_CHUNK] {
        &self.cvs
    }

    /// True when every grain is known.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.have.count_ones() as usize == self.grains()
    }

    /// The digest, once every grain is known. A chunk that is a single grain (the last of some devices) never has one:
    /// BLAKE3 marks the root of its tree, and the mark cannot be put on a chaining value afterwards. Such a chunk
    /// *must be read*.
    #[must_use]
    pub fn root(&self) -> Option<Digest> {
        if !self.is_complete() || self.must_be_read() {
            return None;
        }
        let grains = &self.cvs[..self.grains()];
        let (left, right) = grains.split_at(left_grains(grains.len()));
        let root = merge_subtrees_root(&merged(left).0, &merged(right).0, Mode::Hash);
        Some(Digest(*root.as_bytes()))
    }

    /// True when the chunk is a single grain, see [`root`](Self::root).
    #[must_use]
    pub fn must_be_read(&self) -> bool {
        self.grains() == 1
    }
}

/// How many of `grains` (at least 2) stand in the left subtree: the largest power of two that leaves one for the right.
/// BLAKE3's rule speaks of bytes; a grain being a power of two of them, the two agree, also when the last one is short.
fn left_grains(grains: usize) -> usize {
    1 << (grains - 1).ilog2()
}

/// The chaining value of the subtree over these grains; at most six levels deep.
fn merged(grains: &[Cv]) -> Cv {
    if let [grain] = grains {
        return *grain;
    }
    let (left, right) = grains.split_at(left_grains(grains.len()));
    Cv(merge_subtrees_non_root(
        &merged(left).0,
        &merged(right).0,
        Mode::Hash,
    ))
}
