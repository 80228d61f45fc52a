//! What happens at the door, counted.

use std::sync::atomic::{AtomicU64, Ordering};

use super::fault::DoorFault;

/// A counter that orders nothing.
#[derive(Debug, Default)]
pub(in crate::serve) struct Counter(AtomicU64);

impl Counter {
    pub(in crate::serve) fn add(&self) {
        self.add_count(1);
    }

    pub(in crate::serve) fn add_count(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(in crate::serve) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Totals since the start.
#[derive(Debug, Default)]
pub(in crate::serve) struct DoorCounters {
    /// Connections accepted.
    pub(in crate::serve) accepted: Counter,
    /// TLS handshakes that succeeded.
    pub(in crate::serve) handshakes: Counter,
    /// Connections handed to the shards.
    pub(in crate::serve) served: Counter,
    /// Closed to make room, without a complete ClientHello.
    pub(in crate::serve) evicted_silent: Counter,
    /// Closed to make room, with one.
    pub(in crate::serve) evicted_greeted: Counter,
    /// Closed because there were no descriptors left.
    pub(in crate::serve) shed: Counter,
    /// Bytes read from media for hashes.
    pub(in crate::serve) medium_hashed: Counter,
    /// Ended at the door, by reason.
    faults: [(&'static str, Counter); 7],
}

impl DoorCounters {
    pub(in crate::serve) fn new() -> Self {
        let reasons = [
            "timeout", "closed", "tls", "protocol", "full", "export", "socket",
        ];
        Self {
            faults: reasons.map(|reason| (reason, Counter::default())),
            ..Self::default()
        }
    }

    pub(super) fn fault(&self, fault: &DoorFault) {
        let reason = fault.reason();
        if let Some((_, counter)) = self.faults.iter().find(|(name, _)| *name == reason) {
            counter.add();
        }
    }

    /// Reasons and their counts.
    pub(in crate::serve) fn faults(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.faults
            .iter()
            .map(|(reason, counter)| (*reason, counter.get()))
    }

    /// Connections that were closed before they could authenticate.
    pub(in crate::serve) fn turned_away(&self) -> u64 {
        self.evicted_silent.get() + self.evicted_greeted.get() + self.shed.get()
    }
}
