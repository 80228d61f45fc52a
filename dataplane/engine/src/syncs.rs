//! Who may be told that something is durable.
//!
//! A sync is whatever asks the kernel to make things durable: the fdatasync of a FLUSH, a write with RWF_DSYNC, a flush
//! off the shards. The kernel tells a loss once, to whichever sync of the opened file asks first; the next one is told
//! that all is well. So is a device below: a loop device hears the error of its file once, whoever asked. What one sync
//! was told is known here only when its completion is reaped, and completions of several shards come in any order:
//!
//! ```text
//! kernel   A: fdatasync ── EIO      B: fdatasync ── Ok
//! here                                    B reaped: Ok ... and a little later: A reaped: EIO
//! ```
//! So a sync that ended well proves something only once every other one of the device that was under way at that
//! moment has ended, and none failed.
//!
//! Syncs are counted in two halves, by the epoch in which they began. An epoch ends when no sync of the one before is
//! left. Who waits takes a mark and waits for two ends of epochs: whatever was under way at the mark is over then. Syncs
//! that begin later count in a later epoch, so that no stream of them, however dense, keeps anybody waiting for ever.
//! Shards never wait here: they look again on a later turn. Threads that may block do.

use std::{
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

/// Which of the two counters a sync is counted in. It travels in the token of its operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Half(usize);

impl Half {
    pub(crate) const BOTH: [Self; 2] = [Self(0), Self(1)];

    fn of_epoch(epoch: u64) -> Self {
        Self(usize::from(epoch % 2 == 1))
    }

    /// As a token carries it.
    pub(crate) fn index(self) -> usize {
        self.0
    }

    /// Back from a token.
    pub(crate) fn from_index(index: u8) -> Self {
        Self(usize::from(index % 2))
    }
}

/// A moment that the syncs that were under way then are measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u64);

/// The syncs of one device, whichever export and whichever opened file they go through.
#[derive(Debug, Default)]
pub(crate) struct Syncs {
    epoch: AtomicU64,
    /// Syncs under way that began in even and in odd epochs.
    under_way: [AtomicU64; 2],
    failures: AtomicU64,
    /// Threads in `wait`.
    waiting: AtomicUsize,
    one_ended: (Mutex<()>, Condvar),
}

impl Syncs {
    /// A sync is about to be handed to the kernel. Ends with `end` or `fail`.
    pub(crate) fn begin(&self) -> Half {
        loop {
            if let Some(half) = self.enter(self.epoch.load(SeqCst)) {
                return half;
            }
        }
    }

    /// Counts a sync in `epoch`, unless that has ended.
    fn enter(&self, epoch: u64) -> Option<Half> {
        let half = Half::of_epoch(epoch);
        self.under_way[half.0].fetch_add(1, SeqCst);
        // Had the epoch ended before we were counted, who ends the next one might have looked at our counter already.
        // Seeing it unchanged afterwards proves that nobody has.
        if self.epoch.load(SeqCst) == epoch {
            return Some(half);
        }
        self.end(half);
        None
    }

    /// The sync ended well, or was never handed to the kernel.
    pub(crate) fn end(&self, half: Half) {
        let before = self.under_way[half.0].fetch_sub(1, SeqCst);
        debug_assert!(before > 0, "a sync ended that had not begun");
        if self.waiting.load(SeqCst) > 0 {
            // A thread that waits has this lock only while it looks at the counters. Without it, it might look before
            // we counted and fall asleep after we told.
            drop(self.one_ended.0.lock());
            self.one_ended.1.notify_all();
        }
    }

    /// The sync failed, or nobody knows how it ended.
    pub(crate) fn fail(&self, half: Half) {
        // First, so that whoever sees this sync gone sees its failure.
        self.failures.fetch_add(1, SeqCst);
        self.end(half);
    }

    /// How many have failed so far.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(SeqCst)
    }

    /// Now.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.epoch.load(SeqCst))
    }

    /// Every sync that had begun before `mark` has ended.
    pub(crate) fn is_past(&self, mark: Mark) -> bool {
        loop {
            let epoch = self.epoch.load(SeqCst);
            if epoch >= mark.0 + 2 {
                return true;
            }
            let before = Half::of_epoch(epoch + 1);
            if self.under_way[before.0].load(SeqCst) > 0 {
                return false;
            }
            // Refused when somebody else ended it.
            let _ended = self
                .epoch
                .compare_exchange(epoch, epoch + 1, SeqCst, SeqCst);
        }
    }

    /// Blocks until `is_past`; false on timeout.
    pub(crate) fn wait(&self, mark: Mark, timeout: Duration) -> bool {
        if self.is_past(mark) {
            return true;
        }
        let (lock, ended) = &self.one_ended;
        self.waiting.fetch_add(1, SeqCst);
        let guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = ended.wait_timeout_while(guard, timeout, |()| !self.is_past(mark));
        drop(waited);
        self.waiting.fetch_sub(1, SeqCst);
        self.is_past(mark)
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }
}

#[cfg(test)]
mod tests;
