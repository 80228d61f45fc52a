//! How long a server may take for an answer.

use std::time::{Duration, Instant};
use wire::Command;

use crate::limits::FLUSH_SECONDS_MAX;

/// Deadlines of the requests of one connection.
///
/// A server with a page cache has to write out what it took since the last flush, a few GiB perhaps, and many do nothing
/// else meanwhile, on any connection. So a flush has a deadline of its own; other requests of its target are not
/// late while it is out, and count from its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    request: Duration,
    flush: Duration,
    /// A flush of this target was out then.
    flush_seen: Option<Instant>,
}

impl Deadlines {
    /// Where nothing is flushed.
    pub(crate) fn new(request: Duration) -> Self {
        Self {
            request,
            flush: request.max(Duration::from_secs(FLUSH_SECONDS_MAX)),
            flush_seen: None,
        }
    }

    /// At a target of which a flush was out at `seen`, the last time anybody looked.
    pub(crate) fn with_flush(self, seen: Option<Instant>) -> Self {
        Self {
            flush_seen: seen,
            ..self
        }
    }

    /// Whether a request of `started` is late at `now`.
    pub(crate) fn is_overdue(&self, now: Instant, command: Command, started: Instant) -> bool {
        let age = now.saturating_duration_since(started);
        if command == Command::Flush || self.flush_seen == Some(now) {
            return age > self.flush;
        }
        let since = self.flush_seen.map_or(started, |seen| seen.max(started));
        now.saturating_duration_since(since) > self.request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST_S: u64 = 60;

    /// A request of second 0, asked about at second `now_s`.
    #[track_caller]
    fn check(command: Command, flush_seen_s: Option<u64>, now_s: u64, expected: bool) {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let deadlines =
            Deadlines::new(Duration::from_secs(REQUEST_S)).with_flush(flush_seen_s.map(at));
        assert_eq!(deadlines.is_overdue(at(now_s), command, start), expected);
    }

    #[test]
    fn a_flush_has_more_time_than_a_write() {
        check(Command::Write, None, REQUEST_S, false);
        check(Command::Write, None, REQUEST_S + 1, true);
        check(Command::Flush, Some(REQUEST_S + 1), REQUEST_S + 1, false);
        check(
            Command::Flush,
            Some(FLUSH_SECONDS_MAX),
            FLUSH_SECONDS_MAX,
            false,
        );
        let late = FLUSH_SECONDS_MAX + 1;
        check(Command::Flush, Some(late), late, true);
    }

    #[test]
    fn a_write_is_not_late_behind_a_flush_and_counts_from_its_answer() {
        check(Command::Write, Some(300), 300, false);
        check(Command::Write, Some(300), 300 + REQUEST_S, false);
        check(Command::Write, Some(300), 301 + REQUEST_S, true);
        // Nobody waits for ever behind a flush that was never sent.
        let late = FLUSH_SECONDS_MAX + 1;
        check(Command::Write, Some(late), late, true);
    }

    #[test]
    fn a_longer_deadline_of_the_operator_is_that_of_flushes_too() {
        let hour = Duration::from_secs(3_600);
        let start = Instant::now();
        let deadlines = Deadlines::new(hour);
        assert!(!deadlines.is_overdue(start + hour, Command::Flush, start));
    }
}
