//! What a transfer has achieved: the ledger of its ranges, and the same in numbers.

use super::shared::{Ack, AckKind};
use crate::{
    ExtentSet, Ledger,
    digest::{CHUNK_BYTES, CHUNKS_MAX},
};
use std::ops::Range;

/// What the keeper gets at once: it answers often enough for progress, and for somebody who wants to stop.
const TASK_BYTES_MAX: u64 = 4 << 30;
/// Durable bytes that may wait for the keeper; three quarters of what the table of digests holds.
const UNSETTLED_BYTES_MAX: u64 = 3 * (CHUNKS_MAX as u64 * CHUNK_BYTES / 4);

/// Bytes by how they got to the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub data: u64,
    pub zero: u64,
    pub skipped: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.data += other.data;
        self.zero += other.zero;
        self.skipped += other.skipped;
    }

    pub(super) fn total(self) -> u64 {
        self.data + self.zero + self.skipped
    }

    /// The larger of each number.
    fn max(self, other: Self) -> Self {
        Self {
            data: self.data.max(other.data),
            zero: self.zero.max(other.zero),
            skipped: self.skipped.max(other.skipped),
        }
    }
}

/// The ledger, and bytes by kind in each of its states.
pub(super) struct Book {
    pub(super) ledger: Ledger,
    written: Tally,
    flushing: Tally,
    durable: Tally,
    /// The largest numbers ever shown: progress never goes back, even when bytes have to be sent again.
    shown: Tally,
    /// Durable before this run began.
    resumed_bytes: u64,
    /// Durable, and not handed to the keeper yet.
    unsettled: ExtentSet,
    /// Bytes whose acknowledgement was void in the end: they were sent, or have to be, once more.
    void_bytes: u64,
}

impl Book {
    /// Nothing is done of `wanted`.
    pub(super) fn new(wanted: ExtentSet) -> Self {
        Self {
            ledger: Ledger::new(wanted),
            written: Tally::default(),
            flushing: Tally::default(),
            durable: Tally::default(),
            shown: Tally::default(),
            resumed_bytes: 0,
            unsettled: ExtentSet::new(),
            void_bytes: 0,
        }
    }

    /// An earlier run has made these ranges durable and verified.
    pub(super) fn restore(&mut self, durable: &ExtentSet, verified: &ExtentSet) {
        self.ledger.restore(durable, verified);
        self.resumed_bytes = self.ledger.durable().total_bytes();
    }

    /// A range is at the target.
    pub(super) fn acknowledged(&mut self, ack: Ack) {
        self.ledger.written(ack.offset..ack.offset + ack.len);
        let counter = match ack.kind {
            AckKind::Data => &mut self.written.data,
            AckKind::Zero => &mut self.written.zero,
            AckKind::Skipped => &mut self.written.skipped,
        };
        *counter += ack.len;
    }

    /// Bytes the next flush would cover.
    pub(super) fn unflushed_bytes(&self) -> u64 {
        self.written.total()
    }

    /// A flush is about to be asked for.
    pub(super) fn begin_flush(&mut self) {
        let begun = self.ledger.begin_flush();
        debug_assert!(begun, "one flush at a time");
        self.flushing.add(std::mem::take(&mut self.written));
    }

    /// It succeeded.
    pub(super) fn flush_succeeded(&mut self) {
        self.durable.add(std::mem::take(&mut self.flushing));
        let durable = self.ledger.flush_succeeded();
        self.unsettled = self.unsettled.union(&durable);
    }

    /// Takes what can be settled: of each chunk all that the transfer covers, or nothing.
    pub(super) fn take_settleable(&mut self) -> ExtentSet {
        // What was distrusted since waits for its next flush, wherever it lies in a range.
        let ready = self.unsettled.intersect(self.ledger.durable());
        let mut taken = Vec::new();
        let mut left = TASK_BYTES_MAX;
        for range in ready.iter() {
            let mut whole = self.whole_chunks_of(range);
            if whole.end - whole.start > left {
                whole.end = (whole.start + left) / CHUNK_BYTES * CHUNK_BYTES;
                left = 0;
            }
            if whole.start < whole.end {
                left = left.saturating_sub(whole.end - whole.start);
                self.unsettled.remove(whole.clone());
                taken.push(whole);
            }
            if left == 0 {
                break;
            }
        }
        ExtentSet::from_unsorted(taken)
    }

    /// What was taken could not be settled; it is durable all the same, and its turn comes again.
    pub(super) fn give_back(&mut self, ranges: &ExtentSet) {
        self.unsettled = self.unsettled.union(ranges);
    }

    /// What is durable and was never compared shall be.
    pub(super) fn unsettle_unverified(&mut self) {
        self.unsettled = self.unsettled.union(&self.ledger.unverified());
    }

    /// The keeper is so far behind that more would only be forgotten.
    pub(super) fn is_keeper_behind(&self) -> bool {
        self.unsettled.total_bytes() > UNSETTLED_BYTES_MAX
    }

    /// Cuts the ends of a durable range off whose chunks are not durable yet as far as the transfer covers them.
    fn whole_chunks_of(&self, range: Range<u64>) -> Range<u64> {
        let (mut start, mut end) = (range.start, range.end);
        if !self.is_durable_in_chunk(start / CHUNK_BYTES) {
            start = (start / CHUNK_BYTES + 1) * CHUNK_BYTES;
        }
        let last = (end - 1) / CHUNK_BYTES;
        if start < end && !self.is_durable_in_chunk(last) {
            end = last * CHUNK_BYTES;
        }
        start.min(end)..end
    }

    fn is_durable_in_chunk(&self, chunk: u64) -> bool {
        let chunk = chunk * CHUNK_BYTES..(chunk + 1) * CHUNK_BYTES;
        let durable = self.ledger.durable();
        let mut wanted = self.ledger.wanted().within(chunk);
        wanted.all(|range| durable.contains_range(range))
    }

    /// The attempt is over: what is not durable is void.
    pub(super) fn attempt_failed(&mut self) {
        self.note_shown();
        let lost = self.written.total() + self.flushing.total();
        self.void_bytes += lost;
        (self.written, self.flushing) = (Tally::default(), Tally::default());
        self.ledger.connection_lost();
    }

    /// Nothing that is durable may be relied on: the target may be another one.
    pub(super) fn start_over(&mut self) {
        let durable = self.ledger.durable().clone();
        self.distrust(&durable);
        self.unsettled = ExtentSet::new();
        self.resumed_bytes = 0;
    }

    /// These ranges have to be copied again, durable or not.
    pub(super) fn distrust(&mut self, ranges: &ExtentSet) {
        self.note_shown();
        let mut lost = 0;
        for range in ranges.iter() {
            lost += self.ledger.distrust(range.clone()).total_bytes();
            self.unsettled.remove(range);
        }
        self.void_bytes += lost;
        // Of which kind they were is not kept: a guess, that the sum of all kinds makes good.
        for counter in [
            &mut self.durable.data,
            &mut self.durable.zero,
            &mut self.durable.skipped,
            &mut self.resumed_bytes,
        ] {
            let part = lost.min(*counter);
            *counter -= part;
            lost -= part;
        }
    }

    fn note_shown(&mut self) {
        self.shown = self.shown.max(self.now());
    }

    /// Bytes by kind that are at the target by this run.
    pub(super) fn now(&self) -> Tally {
        let mut now = self.durable;
        now.add(self.flushing);
        now.add(self.written);
        now
    }

    /// The same, and never less than before.
    pub(super) fn progress(&mut self) -> Tally {
        self.note_shown();
        self.shown
    }

    pub(super) fn resumed_bytes(&self) -> u64 {
        self.resumed_bytes
    }

    pub(super) fn void_bytes(&self) -> u64 {
        self.void_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(from: u64, to: u64) -> Range<u64> {
        from * CHUNK_BYTES..to * CHUNK_BYTES
    }

    fn durable(book: &mut Book, range: Range<u64>) {
        let len = range.end - range.start;
        book.acknowledged(Ack {
            offset: range.start,
            len,
            kind: AckKind::Data,
        });
        book.begin_flush();
        book.flush_succeeded();
    }

    #[test]
    fn what_is_distrusted_in_the_middle_of_a_range_is_not_settled() {
        let mut book = Book::new(ExtentSet::full(5 * CHUNK_BYTES));
        durable(&mut book, chunks(0, 5));
        book.distrust(&[chunks(2, 3)].into_iter().collect());
        let expected: ExtentSet = [chunks(0, 2), chunks(3, 5)].into_iter().collect();
        assert_eq!(book.take_settleable(), expected);
        assert!(book.take_settleable().is_empty());
        durable(&mut book, chunks(2, 3));
        assert_eq!(book.take_settleable(), [chunks(2, 3)].into_iter().collect());
        assert!(book.ledger.is_durable());
    }

    #[test]
    fn a_chunk_is_settled_when_all_of_it_is_durable() {
        let half = CHUNK_BYTES / 2;
        let mut book = Book::new(ExtentSet::full(2 * CHUNK_BYTES));
        durable(&mut book, 0..CHUNK_BYTES + half);
        assert_eq!(book.take_settleable(), ExtentSet::full(CHUNK_BYTES));
        durable(&mut book, CHUNK_BYTES + half..2 * CHUNK_BYTES);
        assert_eq!(book.take_settleable(), [chunks(1, 2)].into_iter().collect());
    }

    #[test]
    fn long_ranges_are_settled_in_parts() {
        let total = 3 * TASK_BYTES_MAX + CHUNK_BYTES;
        let mut book = Book::new(ExtentSet::full(total));
        durable(&mut book, 0..total);
        let mut settled = ExtentSet::new();
        loop {
            let task = book.take_settleable();
            if task.is_empty() {
                break;
            }
            assert!(task.total_bytes() <= TASK_BYTES_MAX);
            settled = settled.union(&task);
        }
        assert_eq!(settled, ExtentSet::full(total));
    }
}
