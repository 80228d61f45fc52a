//! Sets of byte ranges: what to copy, what is written, what is durable.
//!
//! An [`ExtentSet`] is a sorted list of ranges that neither overlap nor touch, so equal sets are equal
//! values and every walk over them is in order. [`ExtentSet::parse`] reads the text of `--extents`:
//!
//! ```text
//! # offset length, decimal bytes, any order; overlaps are merged
//! 1048576 65536
//! 0 512        # a comment may follow
//! ```

mod parse;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use parse::{EXTENT_TEXT_BYTES_MAX, EXTENTS_MAX, ExtentParser};

use crate::EngineError;

/// Sorted, merged, non-overlapping, non-touching ranges of bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtentSet {
    /// Invariant: `ranges[i].start < ranges[i].end < ranges[i + 1].start`.
    ranges: Vec<Range<u64>>,
}

impl ExtentSet {
    /// Nothing.
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// Everything from 0 to `size_bytes`.
    pub fn full(size_bytes: u64) -> Self {
        let mut set = Self::new();
        set.insert(0..size_bytes);
        set
    }

    /// Text of `--extents`; errors name the line.
    pub fn parse(text: &str, source_size_bytes: u64) -> Result<Self, EngineError> {
        let mut parser = ExtentParser::new(source_size_bytes);
        for line in text.lines() {
            parser.push_line(line)?;
        }
        parser.finish()
    }

    /// Takes ranges in any order, overlapping or empty; one sort instead of many inserts.
    pub fn from_unsorted(mut ranges: Vec<Range<u64>>) -> Self {
        ranges.retain(|range| !range.is_empty());
        ranges.sort_unstable_by_key(|range| range.start);
        let mut kept = 0;
        for index in 0..ranges.len() {
            let range = ranges[index].clone();
            match ranges[..kept].last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => {
                    ranges[kept] = range;
                    kept += 1;
                }
            }
        }
        ranges.truncate(kept);
        Self { ranges }
    }

    /// Adds a range; what it overlaps or touches becomes one with it.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // The usual caller appends in order.
        match self.ranges.last_mut() {
            None => return self.ranges.push(range),
            Some(last) if last.end < range.start => return self.ranges.push(range),
            Some(last) if last.start <= range.start => {
                last.end = last.end.max(range.end);
                return;
            }
            Some(_) => {}
        }
        let first = self.ranges.partition_point(|r| r.end < range.start);
        let behind = self.ranges.partition_point(|r| r.start <= range.end);
        if first == behind {
            self.ranges.insert(first, range);
            return;
        }
        let merged =
            range.start.min(self.ranges[first].start)..range.end.max(self.ranges[behind - 1].end);
        self.ranges[first] = merged;
        self.ranges.drain(first + 1..behind);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let first = self.ranges.partition_point(|r| r.end <= range.start);
        let behind = self.ranges.partition_point(|r| r.start < range.end);
        if first >= behind {
            return;
        }
        let before = self.ranges[first].start..range.start;
        let after = range.end..self.ranges[behind - 1].end;
        let rest = [before, after].into_iter().filter(|r| !r.is_empty());
        self.ranges.splice(first..behind, rest);
    }

    /// The ranges in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Range<u64>> + DoubleEndedIterator + '_ {
        self.ranges.iter().cloned()
    }

    /// The parts of the set inside `window`, in order.
    pub fn within(&self, window: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.ranges.partition_point(|r| r.end <= window.start);
        self.ranges[first..]
            .iter()
            .map(move |r| r.start.max(window.start)..r.end.min(window.end))
            .take_while(|r| !r.is_empty())
    }

    /// The range that holds `offset`, or else the next one behind it.
    pub fn next_from(&self, offset: u64) -> Option<Range<u64>> {
        let index = self.ranges.partition_point(|r| r.end <= offset);
        self.ranges.get(index).cloned()
    }

    /// What is in both sets.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        let (mut a, mut b) = (self.iter().peekable(), other.iter().peekable());
        let mut ranges = Vec::new();
        while let (Some(left), Some(right)) = (a.peek().cloned(), b.peek().cloned()) {
            let both = left.start.max(right.start)..left.end.min(right.end);
            if !both.is_empty() {
                ranges.push(both);
            }
            if left.end < right.end {
                a.next();
            } else {
                b.next();
            }
        }
        // Two results cannot touch: between them lies a gap of one of the two sets.
        Self { ranges }
    }

    /// What is in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::from_unsorted(self.iter().chain(other.iter()).collect())
    }

    /// What lies between 0 and `size_bytes` and is not in the set.
    #[must_use]
    pub fn complement(&self, size_bytes: u64) -> Self {
        let mut ranges = Vec::with_capacity(self.ranges.len() + 1);
        let mut start = 0;
        for range in self.within(0..size_bytes) {
            if start < range.start {
                ranges.push(start..range.start);
            }
            start = range.end;
        }
        if start < size_bytes {
            ranges.push(start..size_bytes);
        }
        Self { ranges }
    }

    /// Bytes in all ranges together.
    pub fn total_bytes(&self) -> u64 {
        self.ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum()
    }

    /// True when the byte at `offset` is in the set.
    pub fn contains(&self, offset: u64) -> bool {
        self.next_from(offset)
            .is_some_and(|range| range.start <= offset)
    }

    /// True when every byte of `range` is in the set; true for an empty range.
    pub fn contains_range(&self, range: Range<u64>) -> bool {
        range.is_empty()
            || self
                .next_from(range.start)
                .is_some_and(|found| found.start <= range.start && range.end <= found.end)
    }

    /// True when some byte of `range` is in the set.
    pub fn overlaps(&self, range: Range<u64>) -> bool {
        self.within(range).next().is_some()
    }

    /// Number of ranges.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// True when nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// One past the last byte; 0 when empty.
    pub fn end(&self) -> u64 {
        self.ranges.last().map_or(0, |range| range.end)
    }
}

impl FromIterator<Range<u64>> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        Self::from_unsorted(ranges.into_iter().collect())
    }
}
