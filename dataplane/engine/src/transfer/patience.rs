//! How long a transfer waits for a peer that went away.

use std::time::{Duration, Instant};

/// The first pause: a server that restarts is often back at once.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest: nobody should wait much longer than the peer needs.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// A budget of time, and pauses that grow inside of it.
#[derive(Debug)]
pub(super) struct Patience {
    budget: Duration,
    /// When the budget of the present trouble ends.
    until: Option<Instant>,
    pause: Duration,
}

impl Patience {
    /// Zero: none at all.
    pub(super) fn new(budget: Duration) -> Self {
        Self {
            budget,
            until: None,
            pause: PAUSE_MIN,
        }
    }

    /// Something became durable since: the next trouble has the whole budget.
    pub(super) fn renew(&mut self) {
        (self.until, self.pause) = (None, PAUSE_MIN);
    }

    /// How long to wait before the next attempt; `None` when the budget is used up.
    pub(super) fn next_pause(&mut self, now: Instant) -> Option<Duration> {
        if self.is_off() {
            return None;
        }
        let until = *self.until.get_or_insert(now + self.budget);
        let left = until.saturating_duration_since(now);
        if left.is_zero() {
            return None;
        }
        let pause = self.pause.min(left);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Some(pause)
    }

    pub(super) fn is_off(&self) -> bool {
        self.budget.is_zero()
    }

    pub(super) fn budget(&self) -> Duration {
        self.budget
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end_with_the_budget() {
        let mut patience = Patience::new(Duration::from_secs(60));
        let begin = Instant::now();
        let (mut now, mut last) = (begin, Duration::ZERO);
        while let Some(pause) = patience.next_pause(now) {
            assert!(
                pause <= PAUSE_MAX && (pause >= last || now + pause == begin + patience.budget)
            );
            last = pause;
            now += pause;
        }
        assert_eq!(now, begin + Duration::from_secs(60));
    }

    #[test]
    fn success_renews_it() {
        let mut patience = Patience::new(Duration::from_secs(1));
        let now = Instant::now();
        assert!(patience.next_pause(now).is_some());
        assert!(patience.next_pause(now + Duration::from_secs(2)).is_none());
        patience.renew();
        assert_eq!(
            patience.next_pause(now + Duration::from_secs(2)),
            Some(PAUSE_MIN)
        );
    }

    #[test]
    fn without_a_budget_there_is_no_second_attempt() {
        assert!(
            Patience::new(Duration::ZERO)
                .next_pause(Instant::now())
                .is_none()
        );
    }
}
