//! Which bytes of a READ have been answered.

use crate::limits::READ_SPANS_MAX;

/// Why a span cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Some of it was answered before.
    Overlap,
    /// It would leave more gaps than are tracked.
    Fragmented,
}

/// A set of bytes as sorted, disjoint spans that do not touch. Fixed size: a reply in order needs
/// one span, and no reply makes it grow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Coverage {
    /// (start, end) of each span, end exclusive.
    spans: [(u32, u32); READ_SPANS_MAX],
    count: usize,
    covered: u32,
}

impl Coverage {
    pub(super) const fn new() -> Self {
        Self {
            spans: [(0, 0); READ_SPANS_MAX],
            count: 0,
            covered: 0,
        }
    }

    /// Bytes in the set.
    pub(super) const fn covered(&self) -> u32 {
        self.covered
    }

    /// Adds `start..end`, which must not be empty.
    pub(super) fn add(&mut self, start: u32, end: u32) -> Result<(), Refused> {
        let spans = &self.spans[..self.count];
        let index = spans.partition_point(|span| span.1 <= start);
        // Everything before `index` ends at or before `start`; only the next span can overlap.
        if spans.get(index).is_some_and(|next| next.0 < end) {
            return Err(Refused::Overlap);
        }
        let joins_left = index > 0 && spans[index - 1].1 == start;
        let joins_right = spans.get(index).is_some_and(|next| next.0 == end);
        match (joins_left, joins_right) {
            (true, true) => {
                self.spans[index - 1].1 = self.spans[index].1;
                self.spans.copy_within(index + 1..self.count, index);
                self.count -= 1;
            }
            (true, false) => self.spans[index - 1].1 = end,
            (false, true) => self.spans[index].0 = start,
            (false, false) => {
                if self.count == READ_SPANS_MAX {
                    return Err(Refused::Fragmented);
                }
                self.spans.copy_within(index..self.count, index + 1);
                self.spans[index] = (start, end);
                self.count += 1;
            }
        }
        // Disjoint parts of a u32 range: their sum fits.
        self.covered += end - start;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn touching_spans_merge_and_overlaps_are_refused() {
        let mut coverage = Coverage::new();
        coverage.add(0, 10).unwrap();
        coverage.add(20, 30).unwrap();
        coverage.add(10, 20).unwrap();
        assert_eq!((coverage.count, coverage.covered()), (1, 30));
        for (start, end) in [(0, 1), (29, 31), (0, 30), (5, 40)] {
            assert_eq!(
                coverage.add(start, end),
                Err(Refused::Overlap),
                "{start}..{end}"
            );
        }
        coverage.add(30, u32::MAX).unwrap();
        assert_eq!(coverage.covered(), u32::MAX);
    }

    #[test]
    fn too_many_gaps_are_refused_and_change_nothing() {
        let mut coverage = Coverage::new();
        for index in 0..u32::try_from(READ_SPANS_MAX).unwrap() {
            coverage.add(index * 4, index * 4 + 2).unwrap();
        }
        assert_eq!(coverage.add(1000, 1001), Err(Refused::Fragmented));
        coverage.add(2, 4).unwrap();
        coverage.add(1000, 1001).unwrap();
    }

    proptest! {
        /// Against a set of bytes.
        #[test]
        fn spans_behave_like_a_set_of_bytes(
            adds in prop::collection::vec((0_u32..60, 1_u32..12), 0..40)
        ) {
            let mut coverage = Coverage::new();
            let mut model = std::collections::BTreeSet::new();
            for (start, len) in adds {
                let is_free = (start..start + len).all(|byte| !model.contains(&byte));
                let outcome = coverage.add(start, start + len);
                prop_assert_eq!(outcome, if is_free { Ok(()) } else { Err(Refused::Overlap) });
                if is_free {
                    model.extend(start..start + len);
                }
                prop_assert_eq!(coverage.covered() as usize, model.len());
            }
        }
    }
}
