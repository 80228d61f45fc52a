//! `--checksum-diff`: finds out which chunks need not be sent, by digests of both sides.

use super::{
    patience::Patience,
    reader::SourceReader,
    run::Job,
    watcher::{Comparing, Watcher},
};
use crate::{
    EngineError, ExtentSet,
    digest::{CHUNK_BYTES, Digest},
    error::{Blame, ErrorKind},
};
use std::{ops::Range, thread};

/// Bytes both sides read at a time; while the target reads, so do we.
const WINDOW_BYTES: u64 = 16 * CHUNK_BYTES;

impl Job<'_> {
    /// Compares all that is still to be copied with the target as it is, and takes out what is equal. A lost connection
    /// is made anew; what was found by then counts as long as the target is the same.
    ///
    /// # Errors
    /// When the target cannot be asked, or one of both sides cannot be read.
    pub(super) fn find_equal(&mut self, watcher: &mut Watcher<'_>) -> Result<(), EngineError> {
        let mut patience = Patience::new(self.spec.reconnect_for);
        let mut looked_at = ExtentSet::new();
        while let Err(error) = self.look_for_equal(&mut looked_at, &mut patience, watcher) {
            self.reconnect(error, &mut patience, watcher)?;
            if self.equal.is_empty() {
                // Nothing was equal, or the target is not what it was.
                looked_at = ExtentSet::new();
            }
        }
        Ok(())
    }

    fn look_for_equal(
        &mut self,
        looked_at: &mut ExtentSet,
        patience: &mut Patience,
        watcher: &mut Watcher<'_>,
    ) -> Result<(), EngineError> {
        let remaining = self.book.ledger.remaining();
        let comparing = Comparing::new(self.progress(), remaining.total_bytes());
        let left = remaining.intersect(&looked_at.complement(self.source.size_bytes));
        let mut compared = remaining.total_bytes() - left.total_bytes();
        let Some(session) = self
            .keeper
            .as_mut()
            .and_then(|keeper| keeper.session.as_mut())
        else {
            let what = "checksum-diff needs a target that can tell digests";
            let on = self.spec.target.name();
            return Err(
                EngineError::new(ErrorKind::Config, Blame::Operator, what, on)
                    .remedy("use a mk:// target or a local one, or copy without checksum-diff"),
            );
        };
        let mut reader = SourceReader::open(&self.spec.source, &self.source.end)?;
        for window in windows(&left) {
            comparing.step(compared, watcher)?;
            let (mine, theirs) = thread::scope(|scope| {
                let mine = scope.spawn(|| digests(&mut reader, window.clone()));
                let theirs = session.hashes(window.clone(), CHUNK_BYTES);
                (mine.join(), theirs)
            });
            let mine = mine.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            for ((piece, mine), theirs) in pieces(&window).zip(mine).zip(theirs?) {
                if mine == theirs {
                    self.equal.insert(piece);
                }
            }
            compared += window.end - window.start;
            looked_at.insert(window);
            patience.renew();
        }
        reader.end();
        Ok(())
    }
}

/// Ranges of at most `WINDOW_BYTES`, cut where chunks end.
fn windows(ranges: &ExtentSet) -> impl Iterator<Item = Range<u64>> + '_ {
    ranges.iter().flat_map(|range| {
        let first = range.start / WINDOW_BYTES;
        let last = (range.end - 1) / WINDOW_BYTES;
        (first..=last).map(move |index| {
            let window = index * WINDOW_BYTES..(index + 1) * WINDOW_BYTES;
            range.start.max(window.start)..range.end.min(window.end)
        })
    })
}

/// What one digest each stands for.
fn pieces(window: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let window = window.clone();
    let step = usize::try_from(CHUNK_BYTES).unwrap_or(usize::MAX);
    (window.start..window.end)
        .step_by(step)
        .map(move |start| start..window.end.min(start + CHUNK_BYTES))
}

fn digests(reader: &mut SourceReader, window: Range<u64>) -> Result<Vec<Digest>, EngineError> {
    let mut bytes = vec![0; usize::try_from(CHUNK_BYTES).unwrap_or(0)];
    pieces(&window)
        .map(|piece| {
            let len = usize::try_from(piece.end - piece.start).unwrap_or(0);
            reader.read(piece.start, &mut bytes[..len])?;
            Ok(Digest::of(&bytes[..len]))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_pieces_are_the_ranges() {
        let ranges: ExtentSet = [512..1024, 4_000_000..900_000_000, 1 << 40..(1 << 40) + 1]
            .into_iter()
            .collect();
        let cut: Vec<_> = windows(&ranges).collect();
        assert!(cut.iter().all(|w| w.end - w.start <= WINDOW_BYTES));
        let again: ExtentSet = cut.iter().flat_map(pieces).collect();
        assert_eq!(again, ranges);
        assert!(
            cut.iter()
                .flat_map(pieces)
                .all(|p| p.end - p.start <= CHUNK_BYTES)
        );
    }
}
