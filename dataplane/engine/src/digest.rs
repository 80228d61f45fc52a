//! Digests of what a disk holds, built while the bytes are hot, in any order, on any shard.
//!
//! A disk is cut into *chunks* of 4 MiB and each chunk into *grains* of 64 KiB. The [`Digest`] of a chunk is the plain
//! BLAKE3 of its bytes, so `dd bs=4M skip=N count=1 | b3sum` agrees. A grain is an aligned subtree of BLAKE3's tree:
//! its chaining value [`Cv`] depends on its bytes and on its position in the chunk only, and [`ChunkTree`] merges the
//! 64 of them to the digest, whoever made them and in whatever order.
//!
//! ```text
//! shard: payload -> hash_payload -> Hashed (Copy, bounded queue) -> ChunkTable -> Digest of each chunk
//! ```

mod hashed;
mod table;
#[cfg(test)]
mod tests;
mod tree;

use std::{borrow::Cow, fmt, str::FromStr, sync::LazyLock};

use blake3::{Hasher, hazmat::HasherExt};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use hashed::{GRAINS_PER_BATCH, GrainBatch, Hashed, hash_payload};
pub use table::{CHUNKS_MAX, ChunkTable, ChunkView, ZERO_RUNS_MAX};
pub use tree::ChunkTree;

/// Bytes of a chunk, the unit that has a digest; the last one of a device may be shorter.
pub const CHUNK_BYTES: u64 = 4 * 1024 * 1024;
/// Bytes of a grain, the unit that is hashed at once; the last one of a device may be shorter. Of the sizes that a
/// request of 256 KiB holds several of, it is the smallest that keeps BLAKE3's widest vectors busy for long.
pub const GRAIN_BYTES: u64 = 64 * 1024;
/// Grains of a whole chunk.
pub const GRAINS_PER_CHUNK: usize = u64::BITS as usize;

const GRAIN: usize = 64 * 1024;

// Grains are subtrees only when both are powers of two; the bitmap of a chunk is a u64.
const _: () = assert!(CHUNK_BYTES.is_power_of_two() && GRAIN_BYTES.is_power_of_two());
const _: () = assert!(GRAINS_PER_CHUNK as u64 * GRAIN_BYTES == CHUNK_BYTES);
const _: () = assert!(GRAIN as u64 == GRAIN_BYTES && GRAIN >= blake3::CHUNK_LEN);

static ZEROES: [u8; GRAIN] = [0; GRAIN];

/// The plain BLAKE3 of the bytes of one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of a chunk that is at hand as a whole.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// 64 lower-case hexadecimal digits, as b3sum prints them.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A text that is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest has 64 lower-case hexadecimal digits")]
pub struct NoDigest;

impl FromStr for Digest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        // One spelling only: what is compared as text must be equal when the digests are.
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(NoDigest);
        }
        blake3::Hash::from_hex(text)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| NoDigest)
    }
}

/// As text.
impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(from)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// The chaining value of one grain at its position in its chunk, never the root of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cv(pub [u8; 32]);

/// The chaining value of the grain at `position` in its chunk (0 to 63), whose bytes come in `parts` of any length.
/// Together they are `GRAIN_BYTES`, or fewer for the last grain of a device. Allocates nothing.
///
/// # Panics
/// When the parts are empty or longer than a grain.
#[must_use]
pub fn grain_cv<'a>(position: usize, parts: impl Iterator<Item = &'a [u8]>) -> Cv {
    let mut hasher = Hasher::new();
    hasher.set_input_offset(position as u64 * GRAIN_BYTES);
    for part in parts {
        hasher.update(part);
    }
    // BLAKE3 itself refuses a subtree that is too long for its offset, except at offset 0.
    assert!(hasher.count() <= GRAIN_BYTES, "no more than one grain");
    Cv(hasher.finalize_non_root())
}

/// The chaining value of a whole grain of zeroes at `position` in its chunk (0 to 63).
///
/// # Panics
/// When there is no such position.
#[must_use]
pub fn zero_cv(position: usize) -> Cv {
    static TABLE: LazyLock<[Cv; GRAINS_PER_CHUNK]> = LazyLock::new(|| {
        std::array::from_fn(|position| grain_cv(position, std::iter::once(ZEROES.as_slice())))
    });
    TABLE[position]
}

/// The digest of a whole chunk of zeroes.
#[must_use]
pub fn zero_chunk_digest() -> Digest {
    static DIGEST: LazyLock<Digest> = LazyLock::new(|| zero_digest(CHUNK_BYTES));
    *DIGEST
}

/// Number of chunks of a device of `device_bytes`, the last one perhaps shorter.
#[must_use]
pub const fn chunk_count(device_bytes: u64) -> u64 {
    device_bytes.div_ceil(CHUNK_BYTES)
}

/// Bytes of the chunk with this index on a device of `device_bytes`; 0 when it has no such chunk.
#[must_use]
pub fn chunk_len(device_bytes: u64, chunk: u64) -> u64 {
    let start = chunk.saturating_mul(CHUNK_BYTES);
    device_bytes.saturating_sub(start).min(CHUNK_BYTES)
}

/// The digest of `len` zeroes, at most a chunk.
fn zero_digest(len: u64) -> Digest {
    // A single grain is its own root, see `ChunkTree::root`.
    ChunkTree::zeroed(len)
        .root()
        .unwrap_or_else(|| Digest::of(zeroes(len)))
}

/// The position in its chunk of a grain of the device.
fn position_of(grain: u64) -> usize {
    usize::try_from(grain % GRAINS_PER_CHUNK as u64).expect("below 64")
}

/// At most a grain of zeroes.
fn zeroes(len: u64) -> &'static [u8] {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    &ZEROES[..len.min(ZEROES.len())]
}
