//! Rates of a running transfer, from samples of its progress. Pure: time comes with the progress.

use std::collections::VecDeque;
use std::time::Duration;

use engine::Progress;

/// Rates are over this much of the past: long enough to be calm, short enough to tell the truth.
const WINDOW: Duration = Duration::from_secs(10);
/// Samples closer than this replace each other.
const SAMPLE_EVERY: Duration = Duration::from_millis(200);
/// A transfer that got no answer for so long is told to stall.
pub(crate) const STALL_AFTER: Duration = Duration::from_secs(5);

/// One look at the numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Reading {
    /// The numbers themselves.
    pub(crate) progress: Progress,
    /// Data bytes a second in the recent past. Zeroes and skipped ranges do not count: they would
    /// promise a speed that no data has.
    pub(crate) data_rate_bytes_per_s: u64,
    /// Time left at the recent speed over all ranges; `None` when nobody can know.
    pub(crate) eta: Option<Duration>,
    /// How long nothing was acknowledged, when that is long.
    pub(crate) stalled: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    elapsed: Duration,
    data_bytes: u64,
    done_bytes: u64,
}

/// Keeps the recent past.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    samples: VecDeque<Sample>,
}

impl Meter {
    /// Takes the present numbers in.
    pub(crate) fn read(&mut self, progress: &Progress) -> Reading {
        let now = Sample {
            elapsed: progress.elapsed,
            data_bytes: progress.data_bytes,
            done_bytes: progress.done_bytes(),
        };
        let oldest = self.oldest_with(now);
        let seconds = now.elapsed.saturating_sub(oldest.elapsed).as_secs_f64();
        let per_second =
            |from: u64, to: u64| crate::size::rate(to.saturating_sub(from), seconds).unwrap_or(0);
        let done_rate = per_second(oldest.done_bytes, now.done_bytes);
        let left = progress.total_bytes.saturating_sub(now.done_bytes);
        let stalled = Some(progress.stalled_for).filter(|time| *time >= STALL_AFTER && left > 0);
        Reading {
            progress: *progress,
            data_rate_bytes_per_s: per_second(oldest.data_bytes, now.data_bytes),
            eta: eta(left, done_rate).filter(|_| stalled.is_none()),
            stalled,
        }
    }

    /// The start of the window; before the first sample, the start of the transfer.
    fn oldest_with(&mut self, now: Sample) -> Sample {
        let start = Sample {
            elapsed: Duration::ZERO,
            data_bytes: 0,
            done_bytes: 0,
        };
        if self.samples.is_empty() {
            self.samples.push_back(start);
        }
        while self.samples.len() > 1
            && self
                .samples
                .get(1)
                .is_some_and(|next| next.elapsed + WINDOW <= now.elapsed)
        {
            self.samples.pop_front();
        }
        let oldest = self.samples.front().copied().unwrap_or(start);
        if self
            .samples
            .back()
            .is_none_or(|last| last.elapsed + SAMPLE_EVERY <= now.elapsed)
        {
            self.samples.push_back(now);
        }
        oldest
    }
}

fn eta(left_bytes: u64, rate_bytes_per_s: u64) -> Option<Duration> {
    if left_bytes == 0 {
        return Some(Duration::ZERO);
    }
    left_bytes
        .checked_div(rate_bytes_per_s)
        .map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn at(seconds: u64, data: u64, zero: u64) -> Progress {
        Progress {
            total_bytes: 1000 * MIB,
            data_bytes: data * MIB,
            zero_bytes: zero * MIB,
            elapsed: Duration::from_secs(seconds),
            ..Progress::default()
        }
    }

    #[test]
    fn only_data_makes_the_rate_and_everything_makes_the_eta() {
        let mut meter = Meter::default();
        meter.read(&at(0, 0, 0));
        let reading = meter.read(&at(2, 100, 300));
        assert_eq!(reading.data_rate_bytes_per_s, 50 * MIB);
        assert_eq!(reading.eta, Some(Duration::from_secs(3)));
    }

    #[test]
    fn the_rate_forgets_the_distant_past() {
        let mut meter = Meter::default();
        for second in 0..=20 {
            meter.read(&at(second, second * 10, 0));
        }
        let mut last = meter.read(&at(20, 200, 0));
        for second in 21..=40 {
            last = meter.read(&at(second, 200 + (second - 20), 0));
        }
        assert_eq!(last.data_rate_bytes_per_s, MIB);
        assert!(meter.samples.len() < 60);
    }

    #[test]
    fn a_stall_is_told_and_takes_the_eta_away() {
        let mut meter = Meter::default();
        let mut progress = at(20, 100, 0);
        progress.stalled_for = Duration::from_secs(4);
        assert_eq!(meter.read(&progress).stalled, None);
        progress.stalled_for = Duration::from_secs(12);
        let reading = meter.read(&progress);
        assert_eq!(reading.stalled, Some(Duration::from_secs(12)));
        assert_eq!(reading.eta, None);
    }

    #[test]
    fn before_any_time_has_passed_there_is_no_rate() {
        let reading = Meter::default().read(&at(0, 0, 0));
        assert_eq!((reading.data_rate_bytes_per_s, reading.eta), (0, None));
    }

    #[test]
    fn a_finished_transfer_waits_for_its_flush_and_not_for_bytes() {
        let mut progress = at(10, 600, 400);
        progress.stalled_for = Duration::from_secs(30);
        let reading = Meter::default().read(&progress);
        assert_eq!((reading.eta, reading.stalled), (Some(Duration::ZERO), None));
    }
}
