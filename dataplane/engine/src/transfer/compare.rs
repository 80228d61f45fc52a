//! Compares what the source had with what the target has, by digests.
//!
//! A chunk that was copied as a whole is one digest. Of a chunk that was copied in part the whole grains are compared,
//! and what is less than a grain, or was not hashed on its way, is read from the source once more.

use super::service::TargetSession;
use crate::{
    EngineError, ExtentSet,
    digest::{CHUNK_BYTES, ChunkTable, ChunkView, Cv, Digest, GRAIN_BYTES, GRAINS_PER_CHUNK},
    error::{Blame, ErrorKind},
    journal::DigestMap,
};
use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

/// Chunks whose digests from the medium are asked for at once: 64 MiB are read in a fraction of a second.
const MEDIUM_CHUNKS_MAX: u64 = 16;
/// Chunks whose stream digests are asked for at once: 4 GiB in 32 KiB of answer.
const STREAM_CHUNKS_MAX: u64 = 1_024;

/// What the source had.
pub(super) trait Claims {
    /// The digest of the part of a chunk that lies before the end of the source, when it is known.
    fn digest(&self, chunk: u64) -> Option<Digest>;

    /// Chaining values of single grains of a chunk.
    fn grains(&self, chunk: u64) -> Option<(u64, [Cv; GRAINS_PER_CHUNK])>;

    /// Reads the source once more.
    ///
    /// # Errors
    /// The source's.
    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), EngineError>;
}

/// Fills a buffer from an offset of the source on.
pub(super) type ReadSource<'a> = dyn FnMut(u64, &mut [u8]) -> Result<(), EngineError> + 'a;

/// Digests from the bytes that passed through this process.
pub(super) struct HotClaims<'a> {
    pub(super) table: &'a Mutex<ChunkTable>,
    /// Those of an earlier run.
    pub(super) digests: &'a DigestMap,
    pub(super) read: &'a mut ReadSource<'a>,
}

impl Claims for HotClaims<'_> {
    fn digest(&self, chunk: u64) -> Option<Digest> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        match table.view(chunk) {
            ChunkView::Complete(digest) => Some(digest),
            ChunkView::Grains { .. } | ChunkView::Unknown => self.digests.get(chunk),
        }
    }

    fn grains(&self, chunk: u64) -> Option<(u64, [Cv; GRAINS_PER_CHUNK])> {
        let table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        match table.view(chunk) {
            ChunkView::Grains { have, cvs } => Some((have, *cvs)),
            ChunkView::Complete(_) | ChunkView::Unknown => None,
        }
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), EngineError> {
        (self.read)(offset, buf)
    }
}

/// What a comparison found.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub(super) equal: Vec<Range<u64>>,
    pub(super) different: Vec<Range<u64>>,
    /// Digests of whole chunks, as the source had them.
    pub(super) digests: Vec<(u64, Digest)>,
    bytes: u64,
}

impl Compared {
    pub(super) fn equal(&self) -> ExtentSet {
        self.equal.iter().cloned().collect()
    }

    pub(super) fn different(&self) -> ExtentSet {
        self.different.iter().cloned().collect()
    }

    fn note(&mut self, range: Range<u64>, equal: bool) {
        self.bytes += range.end - range.start;
        if equal {
            self.equal.push(range);
        } else {
            self.different.push(range);
        }
    }
}

/// Is told the bytes that are compared.
pub(super) type OnStep<'a> = dyn FnMut(u64) -> Result<(), EngineError> + 'a;

/// A comparison of some ranges.
pub(super) struct Comparison<'a> {
    pub(super) session: &'a mut dyn TargetSession,
    /// Ask first for what the target hashed on arrival; only what it does not know that way is read back.
    pub(super) stream: bool,
    /// Where the source ends: the last chunk may be short.
    pub(super) source_bytes: u64,
    /// Hears how many bytes are compared, and may end it.
    pub(super) on_step: Option<&'a mut OnStep<'a>>,
}

impl Comparison<'_> {
    /// Compares `ranges`.
    ///
    /// # Errors
    /// When one of both sides cannot tell.
    pub(super) fn compare(
        &mut self,
        ranges: &ExtentSet,
        claims: &mut dyn Claims,
    ) -> Result<Compared, EngineError> {
        let mut found = Compared::default();
        for range in ranges.iter() {
            self.step(&found)?;
            let (front, chunks, back) = self.split(&range);
            if !front.is_empty() {
                self.compare_part(front, claims, &mut found)?;
            }
            let most = if self.stream {
                STREAM_CHUNKS_MAX
            } else {
                MEDIUM_CHUNKS_MAX
            };
            let mut at = chunks.start;
            while at < chunks.end {
                let end = chunks.end.min(at + most);
                self.compare_chunks(at..end, claims, &mut found)?;
                at = end;
            }
            if !back.is_empty() {
                self.compare_part(back, claims, &mut found)?;
            }
        }
        if found.equal().union(&found.different()) != *ranges {
            let what = "the target left out what it was asked for";
            return Err(EngineError::new(
                ErrorKind::Protocol,
                Blame::Peer,
                what,
                "target",
            ));
        }
        Ok(found)
    }

    fn step(&mut self, found: &Compared) -> Result<(), EngineError> {
        match &mut self.on_step {
            Some(on_step) => on_step(found.bytes),
            None => Ok(()),
        }
    }

    /// A part of a chunk, whole chunks by index, a part of another chunk. The chunk in which the source ends is whole
    /// when it is there up to that end.
    fn split(&self, range: &Range<u64>) -> (Range<u64>, Range<u64>, Range<u64>) {
        let first = range.start.div_ceil(CHUNK_BYTES);
        let behind = if range.end == self.source_bytes {
            range.end.div_ceil(CHUNK_BYTES)
        } else {
            range.end / CHUNK_BYTES
        };
        if first >= behind {
            // At most the end of one chunk and the beginning of the next.
            let border = (first * CHUNK_BYTES).clamp(range.start, range.end);
            return (range.start..border, 0..0, border..range.end);
        }
        let whole_end = (behind * CHUNK_BYTES).min(range.end);
        (
            range.start..first * CHUNK_BYTES,
            first..behind,
            whole_end..range.end,
        )
    }

    fn range_of(&self, chunks: Range<u64>) -> Range<u64> {
        chunks.start * CHUNK_BYTES..(chunks.end * CHUNK_BYTES).min(self.source_bytes)
    }

    fn compare_chunks(
        &mut self,
        chunks: Range<u64>,
        claims: &mut dyn Claims,
        found: &mut Compared,
    ) -> Result<(), EngineError> {
        let count = chunks.end - chunks.start;
        let mut hot = vec![None; usize::try_from(count).unwrap_or(0)];
        if self.stream {
            hot = self.session.stream(chunks.start, count)?;
        }
        let mut unproven = ExtentSet::new();
        for (chunk, theirs) in chunks.clone().zip(hot) {
            match (claims.digest(chunk), theirs) {
                (Some(mine), Some(theirs)) if mine == theirs => {
                    found.note(self.range_of(chunk..chunk + 1), true);
                    found.digests.push((chunk, mine));
                }
                // A difference in flight is no proof of a wrong medium, and nothing else is one of a right one.
                _ => unproven.insert(chunk..chunk + 1),
            }
        }
        for run in unproven.iter() {
            let mut at = run.start;
            while at < run.end {
                let end = run.end.min(at + MEDIUM_CHUNKS_MAX);
                self.compare_medium(at..end, claims, found)?;
                at = end;
            }
        }
        Ok(())
    }

    fn compare_medium(
        &mut self,
        chunks: Range<u64>,
        claims: &mut dyn Claims,
        found: &mut Compared,
    ) -> Result<(), EngineError> {
        self.step(found)?;
        let theirs = self
            .session
            .hashes(self.range_of(chunks.clone()), CHUNK_BYTES)?;
        for (chunk, theirs) in chunks.zip(theirs) {
            let range = self.range_of(chunk..chunk + 1);
            let mine = match claims.digest(chunk) {
                Some(mine) => mine,
                None => read_digest(claims, range.clone())?,
            };
            found.note(range, mine == theirs);
            if mine == theirs {
                found.digests.push((chunk, mine));
            }
        }
        Ok(())
    }

    /// A range inside of one chunk.
    fn compare_part(
        &mut self,
        range: Range<u64>,
        claims: &mut dyn Claims,
        found: &mut Compared,
    ) -> Result<(), EngineError> {
        let chunk = range.start / CHUNK_BYTES;
        let base = chunk * CHUNK_BYTES;
        let first = range.start.next_multiple_of(GRAIN_BYTES).min(range.end);
        let behind = (range.end / GRAIN_BYTES * GRAIN_BYTES).max(first);
        let Some((have, mine)) = claims.grains(chunk).filter(|_| first < behind) else {
            return self.compare_by_reading(range, claims, found);
        };
        let position = |offset: u64| usize::try_from((offset - base) / GRAIN_BYTES).unwrap_or(0);
        let theirs = self.session.grains(first..behind)?;
        for (index, theirs) in (position(first)..position(behind)).zip(theirs) {
            let offset = base + index as u64 * GRAIN_BYTES;
            let grain = offset..offset + GRAIN_BYTES;
            if have & (1 << index) == 0 {
                self.compare_by_reading(grain, claims, found)?;
            } else {
                found.note(grain, mine[index] == theirs);
            }
        }
        for edge in [range.start..first, behind..range.end] {
            if !edge.is_empty() {
                self.compare_by_reading(edge, claims, found)?;
            }
        }
        Ok(())
    }

    fn compare_by_reading(
        &mut self,
        range: Range<u64>,
        claims: &mut dyn Claims,
        found: &mut Compared,
    ) -> Result<(), EngineError> {
        let theirs = self.session.hashes(range.clone(), CHUNK_BYTES)?;
        let mine = read_digest(claims, range.clone())?;
        found.note(range, theirs.first() == Some(&mine));
        Ok(())
    }
}

/// The digest of at most a chunk of the source, by reading it.
fn read_digest(claims: &mut dyn Claims, range: Range<u64>) -> Result<Digest, EngineError> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
    claims.read(range.start, &mut bytes)?;
    Ok(Digest::of(&bytes))
}
