//! Which parts of a device writes are on their way to.
//!
//! Whoever reads a device to hash it must know that no write came in between: a digest of half a write is a digest
//! of nothing. Every write is counted from its header to its completion, in one counter for each 4 MiB of the
//! device. Counters are shared by parts that lie far apart, so an answer may be "busy" without need; it is never
//! "quiet" wrongly.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

/// Bytes of a device that share a counter.
const PART_BYTES: u64 = 4 * 1024 * 1024;
/// Counters of one device: 64 GiB before two parts share one, in 128 KiB.
const COUNTERS_MAX: usize = 16_384;
/// Parts that one write may count in. Longer ones (WRITE_ZEROES of a whole disk) count in the wide counter, which
/// makes all of the device busy.
const PARTS_PER_WRITE_MAX: u64 = 32;

/// One more write began: the upper half counts those that ever did, and wraps.
const BEGUN: u64 = 1 << 32;
/// One more is on its way: the lower half.
const ON_ITS_WAY: u64 = 1;

const _: () = assert!(COUNTERS_MAX.is_power_of_two());
const _: () = assert!(PARTS_PER_WRITE_MAX < COUNTERS_MAX as u64);

/// Writes begun so far in a range; two of the same range compare equal when none began in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp(u32);

/// Writes on their way to one device; shared by all shards.
#[derive(Debug)]
pub struct RangeUse {
    counters: Box<[AtomicU64]>,
    wide: AtomicU64,
}

impl RangeUse {
    /// Nothing is on its way. Small devices need few counters.
    pub(crate) fn new(size_bytes: u64) -> Self {
        let parts = size_bytes.div_ceil(PART_BYTES).max(1);
        let count = usize::try_from(parts)
            .unwrap_or(COUNTERS_MAX)
            .min(COUNTERS_MAX)
            .next_power_of_two();
        Self {
            counters: (0..count).map(|_| AtomicU64::new(0)).collect(),
            wide: AtomicU64::new(0),
        }
    }

    /// A write to `range` begins. Ends with `end` and the same range.
    pub(crate) fn begin(&self, range: &Range<u64>) {
        // Ordered before the write is handed to the kernel, so that whoever sees its bytes sees this as well.
        self.each(range, |counter| {
            counter.fetch_add(BEGUN + ON_ITS_WAY, Ordering::SeqCst);
        });
    }

    /// The device has answered.
    pub(crate) fn end(&self, range: &Range<u64>) {
        self.each(range, |counter| {
            let before = counter.fetch_sub(ON_ITS_WAY, Ordering::SeqCst);
            debug_assert!(before % BEGUN > 0, "a write ended that had not begun");
        });
    }

    /// A write to `range` is on its way.
    #[must_use]
    pub fn is_busy(&self, range: &Range<u64>) -> bool {
        let is_busy = |counter: &AtomicU64| !counter.load(Ordering::SeqCst).is_multiple_of(BEGUN);
        is_busy(&self.wide) || self.counters_of(range).any(is_busy)
    }

    /// How many writes to `range` have begun.
    #[must_use]
    pub fn stamp(&self, range: &Range<u64>) -> Stamp {
        let begun = |counter: &AtomicU64| {
            u32::try_from(counter.load(Ordering::SeqCst) / BEGUN).unwrap_or(u32::MAX)
        };
        let all = self.counters_of(range).map(begun);
        // Each only grows (and wraps), so their sum is the same only when each is.
        Stamp(all.fold(begun(&self.wide), u32::wrapping_add))
    }

    fn each(&self, range: &Range<u64>, count: impl Fn(&AtomicU64)) {
        if parts(range).count_of() > PARTS_PER_WRITE_MAX {
            return count(&self.wide);
        }
        self.counters_of(range).for_each(count);
    }

    /// The counters of `range`, each once.
    fn counters_of(&self, range: &Range<u64>) -> impl Iterator<Item = &AtomicU64> {
        let parts = parts(range);
        let count = parts.count_of().min(self.counters.len() as u64);
        let mask = self.counters.len() as u64 - 1;
        (parts.first..parts.first + count).map(move |part| {
            let index = usize::try_from(part & mask).unwrap_or(0);
            &self.counters[index]
        })
    }
}

struct Parts {
    first: u64,
    end: u64,
}

impl Parts {
    fn count_of(&self) -> u64 {
        self.end - self.first
    }
}

/// The parts that `range` touches; an empty one touches none.
fn parts(range: &Range<u64>) -> Parts {
    let first = range.start / PART_BYTES;
    let end = if range.is_empty() {
        first
    } else {
        range.end.div_ceil(PART_BYTES)
    };
    Parts { first, end }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DISK: u64 = 1 << 30;

    #[test]
    fn a_range_is_busy_from_the_begin_of_a_write_to_its_end() {
        let writes = RangeUse::new(DISK);
        let (range, other) = (
            PART_BYTES..PART_BYTES + 4096,
            3 * PART_BYTES..4 * PART_BYTES,
        );
        let before = writes.stamp(&range);
        assert!(!writes.is_busy(&range));
        writes.begin(&range);
        assert!(writes.is_busy(&range) && writes.is_busy(&(0..DISK)));
        assert!(!writes.is_busy(&other));
        writes.end(&range);
        assert!(!writes.is_busy(&range));
        assert_ne!(
            writes.stamp(&range),
            before,
            "one began and ended in between"
        );
        assert_eq!(writes.stamp(&other), before);
    }

    #[test]
    fn a_write_across_a_border_is_seen_on_both_sides() {
        let writes = RangeUse::new(DISK);
        let range = PART_BYTES - 1..PART_BYTES + 1;
        writes.begin(&range);
        assert!(writes.is_busy(&(0..1)) && writes.is_busy(&(PART_BYTES..PART_BYTES + 1)));
        assert!(!writes.is_busy(&(2 * PART_BYTES..3 * PART_BYTES)));
        writes.end(&range);
        assert!(!writes.is_busy(&(0..DISK)));
    }

    #[test]
    fn a_very_long_write_makes_all_of_the_device_busy() {
        let writes = RangeUse::new(1 << 40);
        let long = 0..(PARTS_PER_WRITE_MAX + 1) * PART_BYTES;
        let far = (1 << 39)..(1 << 39) + 1;
        let before = writes.stamp(&far);
        writes.begin(&long);
        assert!(writes.is_busy(&far));
        assert_ne!(writes.stamp(&far), before);
        writes.end(&long);
        assert!(!writes.is_busy(&far));
    }

    #[test]
    fn an_empty_range_is_nowhere() {
        let writes = RangeUse::new(DISK);
        writes.begin(&(5..5));
        assert!(!writes.is_busy(&(0..DISK)));
        writes.end(&(5..5));
        assert!(!writes.is_busy(&(7..7)));
    }

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0..DISK, 1..DISK).prop_map(|(start, len)| start..(start + len).min(DISK))
    }

    proptest! {
        /// Against a list of ranges: what overlaps is busy, and when all have ended nothing is.
        #[test]
        fn no_write_that_overlaps_is_ever_missed(
            size in prop::sample::select(vec![1u64, 4096, PART_BYTES * 5, DISK, 1 << 45]),
            ranges in prop::collection::vec(range(), 1..20),
            asked in range(),
        ) {
            let writes = RangeUse::new(size);
            let before = writes.stamp(&asked);
            for range in &ranges {
                writes.begin(range);
            }
            let overlaps = |range: &Range<u64>| range.start < asked.end && asked.start < range.end;
            if ranges.iter().any(overlaps) {
                prop_assert!(writes.is_busy(&asked));
                prop_assert_ne!(writes.stamp(&asked), before);
            }
            for range in &ranges {
                writes.end(range);
            }
            prop_assert!(!writes.is_busy(&asked) && !writes.is_busy(&(0..u64::MAX)));
        }
    }
}
