//! How often we send KeyUpdates of our own accord.

use std::time::{Duration, Instant};

/// Spaces KeyUpdates evenly, so that no second holds more than the limit, wherever the peer's
/// window starts.
pub(crate) struct UpdatePace {
    pub(crate) interval: Duration,
    next_at: Option<Instant>,
}

impl UpdatePace {
    /// `u32::MAX` is no limit, and 0 counts as 1.
    pub(crate) fn new(per_second: u32) -> Self {
        let interval_ns = match per_second {
            u32::MAX => 0,
            limit => 1_000_000_000_u64.div_ceil(u64::from(limit.max(1))),
        };
        Self {
            interval: Duration::from_nanos(interval_ns),
            next_at: None,
        }
    }

    #[inline]
    pub(crate) fn allows(&self, now: Instant) -> bool {
        self.next_at.is_none_or(|next_at| now >= next_at)
    }

    pub(crate) fn handle_sent(&mut self, now: Instant) {
        self.next_at = Some(now + self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_a_second_are_spaced_so_that_no_second_holds_seven() {
        assert!(UpdatePace::new(6).interval * 6 >= Duration::from_secs(1));
        assert_eq!(UpdatePace::new(0).interval, Duration::from_secs(1));
        assert_eq!(UpdatePace::new(u32::MAX).interval, Duration::ZERO);
    }

    #[test]
    fn the_first_update_may_go_at_once_and_the_next_after_the_interval() {
        let now = Instant::now();
        let mut pace = UpdatePace::new(8);
        assert!(pace.allows(now));
        pace.handle_sent(now);
        assert!(!pace.allows(now + Duration::from_millis(124)));
        assert!(pace.allows(now + Duration::from_millis(125)));
    }
}
