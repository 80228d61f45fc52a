//! Which slots are free: a lock-free stack of indices.
//!
//! A queue (crossbeam's) would walk through all slots in turn and touch all of the arena; a stack keeps
//! reusing the few that are warm. The head carries a tag next to the index, counted up by every change, so
//! that a pop that was overtaken by a pop-and-push of the same slot notices (the ABA problem). The links
//! live in a table of their own, never in the slots: the slot's memory is not touched.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Stands for "no slot" in links and head.
const NONE: u32 = u32::MAX;

pub(super) struct FreeList {
    /// Tag in the upper half, index in the lower.
    head: AtomicU64,
    next: Box<[AtomicU32]>,
    available: AtomicUsize,
}

fn pack(tag: u32, index: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(index)
}

fn unpack(head: u64) -> (u32, u32) {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).expect("masked to 32 bits");
    (half(head >> 32), half(head))
}

impl FreeList {
    /// All `count` slots free; the lowest comes first.
    pub(super) fn full(count: u32) -> Self {
        assert!(count < NONE, "the last index means none");
        let link = |index| if index + 1 < count { index + 1 } else { NONE };
        let next = (0..count)
            .map(|index| AtomicU32::new(link(index)))
            .collect();
        let first = if count == 0 { NONE } else { 0 };
        let available = AtomicUsize::new(count as usize);
        Self {
            head: AtomicU64::new(pack(0, first)),
            next,
            available,
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.next.len()
    }

    /// A moment's count; exact while only one thread is at work.
    pub(super) fn available(&self) -> usize {
        self.available.load(Ordering::Relaxed)
    }

    pub(super) fn pop(&self) -> Option<u32> {
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let (tag, index) = unpack(head);
            if index == NONE {
                return None;
            }
            // May be stale when another thread took the slot meanwhile; the tag then fails the exchange.
            let next = self.next[index as usize].load(Ordering::Relaxed);
            let new = pack(tag.wrapping_add(1), next);
            // Acquire pairs with the Release in `push`: whoever gave the slot back is done with its bytes.
            match self
                .head
                .compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => {
                    self.available.fetch_sub(1, Ordering::Relaxed);
                    return Some(index);
                }
                Err(current) => head = current,
            }
        }
    }

    /// Gives back a slot that `pop` handed out.
    pub(super) fn push(&self, index: u32) {
        // Counted before it can be taken, so that the count never drops below zero.
        self.available.fetch_add(1, Ordering::Relaxed);
        let mut head = self.head.load(Ordering::Acquire);
        loop {
            let (tag, first) = unpack(head);
            self.next[index as usize].store(first, Ordering::Relaxed);
            let new = pack(tag.wrapping_add(1), index);
            match self
                .head
                .compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return,
                Err(current) => head = current,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn slots_come_in_order_and_return_last_in_first_out() {
        let list = FreeList::full(3);
        assert_eq!(
            [list.pop(), list.pop(), list.pop(), list.pop()],
            [Some(0), Some(1), Some(2), None]
        );
        list.push(1);
        list.push(0);
        assert_eq!(
            [list.pop(), list.pop(), list.pop()],
            [Some(0), Some(1), None]
        );
        assert_eq!(FreeList::full(0).pop(), None);
    }

    #[test]
    fn no_slot_is_ever_in_two_hands() {
        const SLOTS: u32 = 4;
        let rounds = if cfg!(miri) { 60 } else { 50_000 };
        let list = FreeList::full(SLOTS);
        let taken: Vec<AtomicBool> = (0..SLOTS).map(|_| AtomicBool::new(false)).collect();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..rounds {
                        let Some(index) = list.pop() else { continue };
                        assert!(!taken[index as usize].swap(true, Ordering::Relaxed));
                        taken[index as usize].store(false, Ordering::Relaxed);
                        list.push(index);
                    }
                });
            }
        });
        assert_eq!(list.available(), SLOTS as usize);
        let mut all: Vec<u32> = std::iter::from_fn(|| list.pop()).collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3]);
    }
}
