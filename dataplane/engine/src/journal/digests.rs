//! Digests of many chunks in little memory.

use std::{collections::BTreeMap, ops::Range};

use crate::{
    ExtentSet,
    digest::{Digest, zero_chunk_digest},
};

/// Chunks of one page: 2 KiB of digests.
const PAGE_CHUNKS: u64 = 64;

/// Digests by chunk index. About 33 bytes for each chunk where they are dense; whole chunks of zeroes cost a range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DigestMap {
    pages: BTreeMap<u64, Page>,
    /// Ranges of chunk indices, none of them in `pages`.
    zero: ExtentSet,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Page {
    have: u64,
    /// Sorted by chunk, one for each bit of `have`.
    digests: Vec<Digest>,
}

impl Page {
    /// Place in `digests` of the chunk with this bit.
    fn place(&self, bit: u64) -> usize {
        (self.have & (bit - 1)).count_ones() as usize
    }
}

fn bit_of(chunk: u64) -> u64 {
    1 << (chunk % PAGE_CHUNKS)
}

impl DigestMap {
    /// Nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes the digest of a chunk, in place of what was noted.
    pub fn insert(&mut self, chunk: u64, digest: Digest) {
        if digest == zero_chunk_digest() {
            return self.insert_zero(chunk..chunk.saturating_add(1));
        }
        self.zero.remove(chunk..chunk.saturating_add(1));
        let page = self.pages.entry(chunk / PAGE_CHUNKS).or_insert(Page {
            have: 0,
            digests: Vec::new(),
        });
        let (bit, place) = (bit_of(chunk), page.place(bit_of(chunk)));
        if page.have & bit != 0 {
            page.digests[place] = digest;
        } else {
            page.digests.insert(place, digest);
            page.have |= bit;
        }
    }

    /// One past the last chunk that is noted and not all zeroes; 0 when there is none.
    pub(super) fn data_end(&self) -> u64 {
        self.pages.last_key_value().map_or(0, |(number, page)| {
            number * PAGE_CHUNKS + u64::from(u64::BITS - page.have.leading_zeros())
        })
    }

    /// Notes that these chunks are whole (a shorter last one is not) and all zeroes.
    pub fn insert_zero(&mut self, chunks: Range<u64>) {
        self.remove(chunks.clone());
        self.zero.insert(chunks);
    }

    /// Forgets these chunks.
    pub fn remove(&mut self, chunks: Range<u64>) {
        if chunks.is_empty() {
            return;
        }
        self.zero.remove(chunks.clone());
        let pages = chunks.start / PAGE_CHUNKS..=(chunks.end - 1) / PAGE_CHUNKS;
        let mut empty = Vec::new();
        for (&number, page) in self.pages.range_mut(pages) {
            let first = number * PAGE_CHUNKS;
            for chunk in chunks.start.max(first)..chunks.end.min(first + PAGE_CHUNKS) {
                let bit = bit_of(chunk);
                if page.have & bit != 0 {
                    page.digests.remove(page.place(bit));
                    page.have &= !bit;
                }
            }
            if page.have == 0 {
                empty.push(number);
            }
        }
        for number in empty {
            self.pages.remove(&number);
        }
    }

    /// The digest of a chunk.
    #[must_use]
    pub fn get(&self, chunk: u64) -> Option<Digest> {
        if self.zero.contains(chunk) {
            return Some(zero_chunk_digest());
        }
        let page = self.pages.get(&(chunk / PAGE_CHUNKS))?;
        let bit = bit_of(chunk);
        (page.have & bit != 0).then(|| page.digests[page.place(bit)])
    }

    /// Ranges of whole chunks of zeroes, by chunk index.
    #[must_use]
    pub fn zero_chunks(&self) -> &ExtentSet {
        &self.zero
    }

    /// The chunks that are not all zeroes, in order.
    pub fn iter_data(&self) -> impl Iterator<Item = (u64, Digest)> + '_ {
        self.pages.iter().flat_map(|(number, page)| {
            let chunks = (0..PAGE_CHUNKS).filter(|bit| page.have & (1 << bit) != 0);
            let first = number * PAGE_CHUNKS;
            chunks
                .map(move |index| first + index)
                .zip(page.digests.iter().copied())
        })
    }

    /// Number of chunks.
    #[must_use]
    pub fn len(&self) -> u64 {
        let data: u64 = self
            .pages
            .values()
            .map(|page| u64::from(page.have.count_ones()))
            .sum();
        data + self.zero.total_bytes()
    }

    /// True when nothing is noted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty() && self.zero.is_empty()
    }
}
