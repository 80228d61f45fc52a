//! Memory for payload: one mapping, leases of two sizes.
//!
//! The arena is mapped once and costs memory only where a lease was written: slots come back in LIFO order,
//! so a shard that needs ten slots at a time touches ten, and they stay warm in its cache.

mod free_list;
mod lease;

use std::{ptr::NonNull, sync::Arc};

use crate::{SetupError, fault::SetupErrorKind, memory::Mapping};
use free_list::FreeList;
pub use lease::Lease;

/// Size classes. Each slot has 4096 bytes of slack behind its nominal size (decrypting spills one byte; a
/// sealed 256 KiB request with its header record needs 402 more) and starts on a 4096-byte boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseClass {
    /// 16 KiB nominal.
    Small,
    /// 256 KiB nominal.
    Large,
}

/// What every slot has beyond its nominal size.
const SLACK_BYTES: usize = 4096;

impl LeaseClass {
    /// The payload a slot is meant for.
    pub const fn nominal_bytes(self) -> usize {
        match self {
            Self::Small => 16 * 1024,
            Self::Large => 256 * 1024,
        }
    }

    /// The whole slot, slack included.
    pub const fn stride_bytes(self) -> usize {
        self.nominal_bytes() + SLACK_BYTES
    }
}

/// How many slots, and of what pages.
#[derive(Debug, Clone, Copy)]
pub struct ArenaConfig {
    /// Slots of `LeaseClass::Small`.
    pub small_count: usize,
    /// Slots of `LeaseClass::Large`.
    pub large_count: usize,
    /// Ask for transparent huge pages: fewer faults and cheaper pinning, but memory comes 2 MiB at a time.
    pub huge_pages: bool,
}

/// One mapping cut into slots. Large slots first: with huge pages they share them with their like.
pub struct Arena {
    mapping: Mapping,
    large: FreeList,
    small: FreeList,
    large_count: u32,
}

impl Arena {
    /// Maps the memory; none of it is touched yet.
    pub fn new(config: &ArenaConfig) -> Result<Arc<Self>, SetupError> {
        let bytes_of = |count: usize, class: LeaseClass| count.checked_mul(class.stride_bytes());
        let size = bytes_of(config.large_count, LeaseClass::Large)
            .zip(bytes_of(config.small_count, LeaseClass::Small))
            .and_then(|(large, small)| large.checked_add(small))
            .filter(|size| *size > 0 && isize::try_from(*size).is_ok());
        let counts = u32::try_from(config.large_count)
            .ok()
            .zip(u32::try_from(config.small_count).ok());
        let (Some(size), Some((large_count, small_count))) = (size, counts) else {
            let problem = format!(
                "{} large and {} small slots make no arena",
                config.large_count, config.small_count
            );
            return Err(SetupError::new(SetupErrorKind::Invalid, "arena", problem));
        };
        let mapping = Mapping::new(size).map_err(|error| {
            SetupError::from_io("arena", format!("{size} bytes cannot be mapped"), error)
                .with_remedy("use fewer or smaller buffers")
        })?;
        if config.huge_pages {
            // Only advice: a kernel built without huge pages serves small ones.
            let _ = mapping.advise_huge_pages();
        }
        let (large, small) = (FreeList::full(large_count), FreeList::full(small_count));
        Ok(Arc::new(Self {
            mapping,
            large,
            small,
            large_count,
        }))
    }

    /// A lease, or None when the class is exhausted (back-pressure).
    pub fn take(self: &Arc<Self>, class: LeaseClass) -> Option<Lease> {
        let index = self.list(class).pop()?;
        Some(Lease::new(Arc::clone(self), class, index))
    }

    /// How many leases of `class` could be taken now.
    pub fn available(&self, class: LeaseClass) -> usize {
        self.list(class).available()
    }

    /// All slots of `class`, taken or not.
    pub fn capacity(&self, class: LeaseClass) -> usize {
        self.list(class).capacity()
    }

    fn list(&self, class: LeaseClass) -> &FreeList {
        match class {
            LeaseClass::Small => &self.small,
            LeaseClass::Large => &self.large,
        }
    }

    fn give_back(&self, class: LeaseClass, index: u32) {
        self.list(class).push(index);
    }

    /// A slot's number among all slots, large ones first.
    pub(crate) fn slot_number(&self, class: LeaseClass, index: u32) -> usize {
        match class {
            LeaseClass::Large => index as usize,
            LeaseClass::Small => self.large_count as usize + index as usize,
        }
    }

    /// All slots of both classes.
    pub(crate) fn slot_count(&self) -> usize {
        self.large.capacity() + self.small.capacity()
    }

    fn slot_base(&self, class: LeaseClass, index: u32) -> NonNull<u8> {
        assert!(
            (index as usize) < self.list(class).capacity(),
            "no such slot"
        );
        let large_bytes = self.large_count as usize * LeaseClass::Large.stride_bytes();
        let start = match class {
            LeaseClass::Large => 0,
            LeaseClass::Small => large_bytes,
        };
        let at = start + index as usize * class.stride_bytes();
        debug_assert!(at + class.stride_bytes() <= self.mapping.len_bytes());
        // SAFETY: `at` lies in the mapping: `new` sized it for all slots of both classes, and the index
        // is below its class's count (asserted above).
        unsafe { self.mapping.base().add(at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arena(small_count: usize, large_count: usize) -> Arc<Arena> {
        Arena::new(&ArenaConfig {
            small_count,
            large_count,
            huge_pages: false,
        })
        .unwrap()
    }

    #[test]
    fn an_exhausted_class_gives_none_until_a_lease_comes_back() {
        let arena = arena(2, 1);
        let first = arena.take(LeaseClass::Small).unwrap();
        let _second = arena.take(LeaseClass::Small).unwrap();
        assert!(arena.take(LeaseClass::Small).is_none());
        assert_eq!(arena.available(LeaseClass::Large), 1);
        drop(first);
        assert_eq!(arena.available(LeaseClass::Small), 1);
        assert!(arena.take(LeaseClass::Small).is_some());
    }

    #[test]
    fn leases_are_page_aligned_disjoint_and_as_long_as_their_stride() {
        let arena = arena(3, 2);
        let mut leases: Vec<Lease> = (0..3)
            .map(|_| arena.take(LeaseClass::Small).unwrap())
            .chain((0..2).map(|_| arena.take(LeaseClass::Large).unwrap()))
            .collect();
        for (number, lease) in (0u8..).zip(leases.iter_mut()) {
            assert_eq!(lease.bytes().len(), lease.class().stride_bytes());
            assert_eq!(lease.bytes().as_ptr() as usize % 4096, 0);
            let bytes = lease.bytes_mut();
            let last = bytes.len() - 1;
            (bytes[0], bytes[last]) = (number, number);
        }
        for (number, lease) in (0u8..).zip(&leases) {
            assert_eq!(
                (lease.bytes()[0], *lease.bytes().last().unwrap()),
                (number, number)
            );
        }
    }

    #[test]
    fn the_slot_given_back_last_is_taken_first() {
        let arena = arena(0, 8);
        let lease = arena.take(LeaseClass::Large).unwrap();
        let address = lease.bytes().as_ptr();
        drop(lease);
        assert_eq!(
            arena.take(LeaseClass::Large).unwrap().bytes().as_ptr(),
            address
        );
    }

    #[test]
    fn a_lease_outlives_the_callers_arena_and_crosses_threads() {
        let arena = arena(1, 0);
        let mut lease = arena.take(LeaseClass::Small).unwrap();
        drop(arena);
        let lease = std::thread::spawn(move || {
            lease.bytes_mut()[5] = 42;
            lease
        })
        .join()
        .unwrap();
        assert_eq!(lease.bytes()[5], 42);
    }

    #[test]
    fn no_slots_or_absurd_counts_are_refused() {
        for (small_count, large_count) in [(0, 0), (usize::MAX, 1), (1 << 40, 0)] {
            let config = ArenaConfig {
                small_count,
                large_count,
                huge_pages: false,
            };
            assert_eq!(
                Arena::new(&config).err().unwrap().kind(),
                SetupErrorKind::Invalid
            );
        }
    }
}
