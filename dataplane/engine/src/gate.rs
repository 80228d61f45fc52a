//! Keeps unaligned writes apart from all others on one device.
//!
//! An unaligned write goes through the page cache, and the kernel reads the rest of the page first. If a direct
//! write of that rest lands in between, the later write-back of the page would bring the old bytes
//! back. So unaligned writes hold the gate alone, aligned ones share it. Shards never wait: a refused entry is
//! tried again on a later turn.

use std::sync::atomic::{AtomicU32, Ordering};

/// Set while somebody is inside alone.
const ALONE: u32 = 1 << 31;
/// Set while somebody waits to be alone: no new sharers, so that it gets its turn.
const WANTED: u32 = 1 << 30;

/// A try-only reader-writer gate; shared by the shards.
#[derive(Debug, Default)]
pub(crate) struct Gate(AtomicU32);

impl Gate {
    /// Enters together with other aligned writes; false: try again later.
    pub(crate) fn try_share(&self) -> bool {
        self.0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
                (state & (ALONE | WANTED) == 0).then_some(state + 1)
            })
            .is_ok()
    }

    /// Leaves after `try_share`.
    pub(crate) fn leave_shared(&self) {
        let before = self.0.fetch_sub(1, Ordering::Release);
        debug_assert!(
            before & !(ALONE | WANTED) > 0,
            "left a gate that was not entered"
        );
    }

    /// Enters alone; false: try again later, new sharers are held back meanwhile.
    pub(crate) fn try_alone(&self) -> bool {
        let entered = self
            .0
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
                (state & !WANTED == 0).then_some(ALONE)
            });
        if entered.is_err() {
            self.0.fetch_or(WANTED, Ordering::Relaxed);
        }
        entered.is_ok()
    }

    /// Gives up waiting after a refused `try_alone` (the connection is gone).
    pub(crate) fn forget_wish(&self) {
        self.0.fetch_and(!WANTED, Ordering::Relaxed);
    }

    /// Leaves after `try_alone`.
    pub(crate) fn leave_alone(&self) {
        self.0.fetch_and(!ALONE, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sharers_share_and_the_lonely_one_is_alone() {
        let gate = Gate::default();
        assert!(gate.try_share() && gate.try_share());
        assert!(!gate.try_alone(), "two are inside");
        assert!(!gate.try_share(), "a waiting loner holds new sharers back");
        gate.leave_shared();
        gate.leave_shared();
        assert!(gate.try_alone());
        assert!(!gate.try_share() && !gate.try_alone());
        gate.leave_alone();
        // The refused second loner left its wish behind; it enters and leaves.
        assert!(gate.try_alone());
        gate.leave_alone();
        assert!(gate.try_share());
    }

    #[test]
    fn a_forgotten_wish_lets_sharers_in_again() {
        let gate = Gate::default();
        assert!(gate.try_share());
        assert!(!gate.try_alone());
        gate.forget_wish();
        assert!(gate.try_share());
    }
}
