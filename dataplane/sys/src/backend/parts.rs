//! The pieces of a gathering send.

use crate::Lease;

/// A piece of a gathering send: `lease[at..at + len]`.
#[derive(Debug)]
pub struct Part {
    /// The memory.
    pub lease: Lease,
    /// Where the piece begins.
    pub at: u32,
    /// How long it is.
    pub len: u32,
}

impl Part {
    /// The bytes to send. A piece that reaches beyond its slot is a bug of whoever made it.
    pub fn bytes(&self) -> &[u8] {
        &self.lease.bytes()[self.at as usize..][..self.len as usize]
    }
}

/// How many parts one send can have.
pub const PARTS_MAX: usize = 8;

/// Up to `PARTS_MAX` parts in order, no allocation.
#[derive(Debug, Default)]
pub struct Parts {
    parts: [Option<Part>; PARTS_MAX],
    first: usize,
    count: usize,
}

impl Parts {
    /// No parts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a part; a full list gives it back.
    pub fn push(&mut self, part: Part) -> Result<(), Part> {
        if self.is_full() {
            return Err(part);
        }
        self.parts[(self.first + self.count) % PARTS_MAX] = Some(part);
        self.count += 1;
        Ok(())
    }

    /// The sum of all lengths.
    pub fn len_bytes(&self) -> usize {
        self.iter().map(|part| part.len as usize).sum()
    }

    /// True without parts.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// True when no further part fits.
    pub fn is_full(&self) -> bool {
        self.count == PARTS_MAX
    }

    /// How many parts.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The parts in order.
    pub fn iter(&self) -> impl Iterator<Item = &Part> {
        (self.first..self.first + self.count).filter_map(|at| self.parts[at % PARTS_MAX].as_ref())
    }

    /// Drops `len` bytes from the front (after a short send). Finished parts give their lease back.
    pub fn advance(&mut self, len: usize) {
        assert!(len <= self.len_bytes(), "advanced beyond the last part");
        let mut left = len;
        while let Some(part) = self.parts[self.first].as_mut() {
            let len = part.len as usize;
            if left < len {
                let step = u32::try_from(left).expect("less than a u32");
                part.at += step;
                part.len -= step;
                return;
            }
            left -= len;
            self.pop_front();
        }
    }

    /// Takes the first part.
    pub fn pop_front(&mut self) -> Option<Part> {
        let part = self.parts[self.first].take()?;
        self.first = (self.first + 1) % PARTS_MAX;
        self.count -= 1;
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arena, ArenaConfig, LeaseClass};
    use proptest::prelude::*;

    fn parts_of(lens: &[u32]) -> (Parts, Vec<u8>) {
        let config = ArenaConfig {
            small_count: PARTS_MAX + 1,
            large_count: 0,
            huge_pages: false,
        };
        let arena = Arena::new(&config).unwrap();
        let (mut parts, mut all) = (Parts::new(), Vec::new());
        let mut next = 0u8;
        for (&len, at) in lens.iter().zip(0u32..) {
            let mut lease = arena.take(LeaseClass::Small).unwrap();
            for byte in &mut lease.bytes_mut()[at as usize..][..len as usize] {
                next = next.wrapping_mul(31).wrapping_add(7);
                *byte = next;
                all.push(next);
            }
            parts.push(Part { lease, at, len }).unwrap();
        }
        (parts, all)
    }

    fn bytes(parts: &Parts) -> Vec<u8> {
        parts.iter().flat_map(Part::bytes).copied().collect()
    }

    #[test]
    fn a_full_list_gives_the_part_back() {
        let (mut parts, _) = parts_of(&[1; PARTS_MAX]);
        assert!(parts.is_full());
        let part = parts.pop_front().unwrap();
        parts.push(part).unwrap();
        let (mut extra, _) = parts_of(&[9]);
        assert_eq!(parts.push(extra.pop_front().unwrap()).unwrap_err().len, 9);
    }

    #[test]
    fn advancing_over_everything_leaves_nothing() {
        let (mut parts, all) = parts_of(&[3, 0, 5, 0]);
        parts.advance(all.len());
        assert!(
            parts.is_empty(),
            "empty parts go with the bytes before them"
        );
    }

    #[test]
    #[should_panic(expected = "advanced beyond the last part")]
    fn advancing_too_far_is_a_bug() {
        parts_of(&[3]).0.advance(4);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]
        #[test]
        fn advance_drops_exactly_the_first_bytes(
            lens in prop::collection::vec(0u32..200, 0..=PARTS_MAX),
            steps in prop::collection::vec(0usize..150, 0..20),
        ) {
            let (mut parts, mut all) = parts_of(&lens);
            for step in steps {
                let step = step.min(all.len());
                parts.advance(step);
                all.drain(..step);
                prop_assert_eq!(bytes(&parts), &all[..]);
                prop_assert_eq!(parts.len_bytes(), all.len());
            }
        }
    }
}
