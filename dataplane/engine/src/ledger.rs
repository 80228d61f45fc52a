//! What of a transfer is written, durable and verified.
//!
//! ```text
//! wanted ─written─► written ─begin_flush─► flushing ─flush_succeeded─► durable ─verified─► verified
//!    ▲                 │                      │                          │                   │
//!    └─────────────────┴── flush_failed, connection_lost ──┘             │                   │
//!    └───────────────────────────────── distrust, mismatch ──────────────┴───────────────────┘
//! ```
//!
//! A range is *written* when its write completed in full, *durable* when a flush that began afterwards succeeded, and
//! *verified* when the durable content was compared. A flush that failed is never repeated and believed: the kernel
//! reports an error once and drops the pages, so everything since the last good flush is void and copied again.
//!
//! Invariants: verified ⊆ durable ⊆ wanted; written, flushing and durable ⊆ wanted; nothing is durable but by a flush
//! that began after its write.

#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::ExtentSet;

/// So many inserts cost less than one merge of both sets.
const FEW_RANGES: usize = 16;

/// The state of every range of one transfer, by bytes of the target. Does no I/O and knows no time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    wanted: ExtentSet,
    /// Completed since the last flush began.
    written: ExtentSet,
    /// What the flush under way will make durable; `None` when there is none.
    flushing: Option<ExtentSet>,
    durable: ExtentSet,
    verified: ExtentSet,
}

/// Bytes in each state; what a flush is working on counts as `flushing` and, if it was written again meanwhile, as
/// `written` too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerBytes {
    /// All of the transfer.
    pub wanted: u64,
    /// Written since the last flush began.
    pub written: u64,
    /// Covered by the flush under way.
    pub flushing: u64,
    /// Behind a flush that succeeded.
    pub durable: u64,
    /// Compared.
    pub verified: u64,
}

impl Ledger {
    /// Nothing of `wanted` is written.
    #[must_use]
    pub fn new(wanted: ExtentSet) -> Self {
        Self {
            wanted,
            written: ExtentSet::new(),
            flushing: None,
            durable: ExtentSet::new(),
            verified: ExtentSet::new(),
        }
    }

    /// Takes over what an earlier session recorded. What lies outside of the ranges of this transfer is dropped, and so
    /// is "verified" of what is not durable. Everything else is forgotten.
    pub fn restore(&mut self, durable: &ExtentSet, verified: &ExtentSet) {
        *self = Self::new(std::mem::take(&mut self.wanted));
        self.durable = durable.intersect(&self.wanted);
        self.verified = verified.intersect(&self.durable);
    }

    /// A write of `range` completed in full. A range that was durable no longer is: it holds other bytes than those
    /// that the flush made durable.
    pub fn written(&mut self, range: Range<u64>) {
        self.durable.remove(range.clone());
        self.verified.remove(range.clone());
        if self.wanted.contains_range(range.clone()) {
            self.written.insert(range);
            return;
        }
        for part in self.wanted.within(range) {
            self.written.insert(part);
        }
    }

    /// A flush begins, after every write that `written` told of. False, and nothing changes, when one is under way.
    #[must_use]
    pub fn begin_flush(&mut self) -> bool {
        if self.flushing.is_some() {
            return false;
        }
        self.flushing = Some(std::mem::take(&mut self.written));
        true
    }

    /// The flush under way succeeded; returns what became durable by it. Empty when none is under way. What was written
    /// again meanwhile waits for the next flush.
    pub fn flush_succeeded(&mut self) -> ExtentSet {
        let flushed = self.flushing.take().unwrap_or_default();
        let flushed = minus(&flushed, &self.written);
        add(&mut self.durable, &flushed);
        flushed
    }

    /// The flush under way failed; everything that is not durable is void. Returns it.
    pub fn flush_failed(&mut self) -> ExtentSet {
        let mut void = self.flushing.take().unwrap_or_default();
        add(&mut void, &std::mem::take(&mut self.written));
        void
    }

    /// A connection was lost, and with it the other end's promises: everything that is not durable is void, a flush
    /// under way means nothing. Returns what is void.
    pub fn connection_lost(&mut self) -> ExtentSet {
        self.flush_failed()
    }

    /// The durable part of `range` was compared and is as it should be. What is not durable stays as it is.
    pub fn verified(&mut self, range: Range<u64>) {
        if self.durable.contains_range(range.clone()) {
            self.verified.insert(range);
            return;
        }
        for part in self.durable.within(range) {
            self.verified.insert(part);
        }
    }

    /// `range` was compared and differs: it must be copied again. Returns the part that loses "durable".
    pub fn mismatch(&mut self, range: Range<u64>) -> ExtentSet {
        self.distrust(range)
    }

    /// Nothing is known of `range` any more, whatever state it was in: it must be copied again. Returns the part that
    /// loses "durable".
    pub fn distrust(&mut self, range: Range<u64>) -> ExtentSet {
        let lost = self.durable.within(range.clone()).collect();
        self.written.remove(range.clone());
        if let Some(flushing) = &mut self.flushing {
            flushing.remove(range.clone());
        }
        self.durable.remove(range.clone());
        self.verified.remove(range);
        lost
    }

    /// What is still to be copied: wanted, and neither written nor durable.
    #[must_use]
    pub fn remaining(&self) -> ExtentSet {
        let mut done = self.durable.union(&self.written);
        if let Some(flushing) = &self.flushing {
            done = done.union(flushing);
        }
        minus(&self.wanted, &done)
    }

    /// What was written since the last flush began and is not yet part of one.
    #[must_use]
    pub fn unflushed(&self) -> &ExtentSet {
        &self.written
    }

    /// True while a flush is under way.
    #[must_use]
    pub fn is_flushing(&self) -> bool {
        self.flushing.is_some()
    }

    /// The ranges of the transfer.
    #[must_use]
    pub fn wanted(&self) -> &ExtentSet {
        &self.wanted
    }

    /// What is durable.
    #[must_use]
    pub fn durable(&self) -> &ExtentSet {
        &self.durable
    }

    /// What is durable and compared.
    #[must_use]
    pub fn verified_ranges(&self) -> &ExtentSet {
        &self.verified
    }

    /// What is durable and not yet compared.
    #[must_use]
    pub fn unverified(&self) -> ExtentSet {
        minus(&self.durable, &self.verified)
    }

    /// True when everything is durable: the transfer may say so.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.durable == self.wanted
    }

    /// True when everything is durable and compared.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.verified == self.wanted
    }

    /// Bytes in each state. Walks over the ranges: for a report now and then.
    #[must_use]
    pub fn bytes(&self) -> LedgerBytes {
        let flushing = self.flushing.as_ref();
        LedgerBytes {
            wanted: self.wanted.total_bytes(),
            written: self.written.total_bytes(),
            flushing: flushing.map_or(0, ExtentSet::total_bytes),
            durable: self.durable.total_bytes(),
            verified: self.verified.total_bytes(),
        }
    }
}

/// Adds the ranges of `more`. Few ranges next to many are inserted one by one, else both are merged at once: each
/// insert in the middle moves what is behind it.
fn add(set: &mut ExtentSet, more: &ExtentSet) {
    let appends = more
        .iter()
        .next()
        .is_none_or(|first| set.end() <= first.start);
    if appends || more.len() <= FEW_RANGES {
        for range in more.iter() {
            set.insert(range);
        }
    } else {
        *set = set.union(more);
    }
}

/// What is in `set` and not in `less`.
fn minus(set: &ExtentSet, less: &ExtentSet) -> ExtentSet {
    set.intersect(&less.complement(set.end()))
}
