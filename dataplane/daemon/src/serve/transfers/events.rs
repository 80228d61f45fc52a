//! The events of one transfer: numbered, and kept for a while for clients that come back.

use std::collections::VecDeque;

use control::limits::EVENTS_KEPT_MAX;
use control::{EventGap, TransferEvent};

/// Events with ids that count from 1.
#[derive(Debug, Default)]
pub(super) struct EventLog {
    last_id: u64,
    kept: VecDeque<(u64, TransferEvent)>,
}

impl EventLog {
    /// Adds one; the oldest goes when there are too many.
    pub(super) fn push(&mut self, event: TransferEvent) {
        if self.kept.len() == EVENTS_KEPT_MAX {
            self.kept.pop_front();
        }
        self.last_id += 1;
        self.kept.push_back((self.last_id, event));
    }

    /// Id of the newest event; 0 before the first.
    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// The event that follows `seen`. When it is no longer kept, a gap that ends just before the oldest
    /// kept one. An id from the future (of an earlier process) starts over.
    pub(super) fn after(&self, seen: u64) -> Option<(u64, TransferEvent)> {
        let seen = if seen > self.last_id { 0 } else { seen };
        let (oldest, _) = self.kept.front()?;
        if seen + 1 < *oldest {
            let gap = EventGap {
                first_missing: seen + 1,
                last_missing: oldest - 1,
            };
            return Some((gap.last_missing, TransferEvent::Gap(gap)));
        }
        let index = usize::try_from(seen + 1 - oldest).ok()?;
        self.kept.get(index).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::TransferProgress;

    fn event(data_bytes: u64) -> TransferEvent {
        let progress = TransferProgress {
            data_bytes,
            ..TransferProgress::default()
        };
        TransferEvent::Progress { at_ms: 0, progress }
    }

    fn log(count: u64) -> EventLog {
        let mut log = EventLog::default();
        (1..=count).for_each(|number| log.push(event(number)));
        log
    }

    #[test]
    fn a_client_sees_every_event_once_and_then_waits() {
        let log = log(3);
        assert_eq!(log.after(0), Some((1, event(1))));
        assert_eq!(log.after(2), Some((3, event(3))));
        assert_eq!(log.after(3), None);
        assert_eq!(EventLog::default().after(0), None);
    }

    #[test]
    fn what_is_no_longer_kept_is_told_as_a_gap() {
        let kept = EVENTS_KEPT_MAX as u64;
        let log = log(kept + 10);
        let gap = EventGap {
            first_missing: 3,
            last_missing: 10,
        };
        assert_eq!(log.after(2), Some((10, TransferEvent::Gap(gap))));
        assert_eq!(log.after(10), Some((11, event(11))));
        assert_eq!(log.kept.len(), EVENTS_KEPT_MAX);
    }

    #[test]
    fn an_id_of_an_earlier_process_starts_over() {
        assert_eq!(log(2).after(77), Some((1, event(1))));
    }
}
