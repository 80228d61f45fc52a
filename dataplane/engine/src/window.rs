//! How many bytes one mover may have in flight, from what it measures.
//!
//! A near peer needs little: what is in flight should still be in the CPU's cache when it is sealed and sent. A far one
//! needs rate times round trip, and nobody knows either beforehand. So the window begins small and follows twice the
//! product of the two: as long as the window is what limits the rate, that doubles it each round; once the line is the
//! limit the product stays, and so does the window, with one round trip's worth of bytes waiting at most. The round
//! trip is the shortest that was seen, which queues of our own cannot lengthen.

use std::time::{Duration, Instant};

/// Where a window begins, and what it never goes below unless the limit is lower: two connections with this much stay
/// within the second-level caches of two cores and keep a loopback peer busy.
pub(crate) const WINDOW_BYTES_START: usize = 2 * 1024 * 1024;
/// What is kept of a window per round when less would do: the rate of a disk comes and goes.
const KEPT_EIGHTHS: usize = 7;
/// Rates are measured over at least this long, however near the peer is.
const ROUND_MIN: Duration = Duration::from_millis(2);

/// The window of one mover.
#[derive(Debug)]
pub(crate) struct Window {
    floor: usize,
    max: usize,
    bytes: usize,
    /// Shortest time from the start of a piece to its acknowledgement.
    round_trip: Option<Duration>,
    round_began: Option<Instant>,
    round_bytes: u64,
}

impl Window {
    /// Never above `max` bytes.
    pub(crate) fn new(max: usize) -> Self {
        let floor = WINDOW_BYTES_START.min(max);
        Self {
            floor,
            max,
            bytes: floor,
            round_trip: None,
            round_began: None,
            round_bytes: 0,
        }
    }

    /// Bytes that may be in flight now.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A piece of `len` bytes that was begun at `started` is acknowledged.
    pub(crate) fn acknowledged(&mut self, now: Instant, started: Instant, len: usize) {
        let took = now.saturating_duration_since(started);
        let round_trip = self.round_trip.map_or(took, |least| least.min(took));
        self.round_trip = Some(round_trip);
        let began = *self.round_began.get_or_insert(started);
        self.round_bytes += len as u64;
        let lasted = now.saturating_duration_since(began);
        if lasted < round_trip.max(ROUND_MIN) || self.round_bytes < self.bytes as u64 {
            return;
        }
        let product =
            u128::from(self.round_bytes) * round_trip.as_nanos() / lasted.as_nanos().max(1);
        let wanted = usize::try_from(2 * product).unwrap_or(self.max);
        let kept = self.bytes / 8 * KEPT_EIGHTHS;
        self.bytes = wanted.max(kept).clamp(self.floor, self.max);
        self.round_began = Some(now);
        self.round_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const PIECE: usize = 256 * 1024;

    /// A line with a fixed delay and rate: pieces leave in order, each after the one before it. Returns the window at
    /// the end and the bytes per second of the second half.
    fn run(window: &mut Window, delay: Duration, rate: u64, pieces: usize) -> (usize, u64) {
        let epoch = Instant::now();
        let (mut now, mut free) = (epoch, epoch);
        let mut flying = VecDeque::new();
        let mut half = epoch;
        for count in 0..pieces {
            while (flying.len() + 1) * PIECE <= window.bytes() {
                free = free.max(now) + Duration::from_nanos(PIECE as u64 * 1_000_000_000 / rate);
                flying.push_back((now, free + delay));
            }
            let (started, lands) = flying.pop_front().unwrap();
            now = lands;
            window.acknowledged(now, started, PIECE);
            if count == pieces / 2 {
                half = now;
            }
        }
        let bytes = (pieces - pieces / 2) as u64 * PIECE as u64;
        let rate = u128::from(bytes) * 1_000_000_000 / now.duration_since(half).as_nanos();
        (window.bytes(), u64::try_from(rate).unwrap())
    }

    #[test]
    fn a_near_peer_keeps_the_small_window() {
        let mut window = Window::new(16 << 20);
        let (bytes, _) = run(&mut window, Duration::from_micros(200), 3 << 30, 4_000);
        assert_eq!(bytes, WINDOW_BYTES_START);
    }

    #[test]
    fn a_far_peer_gets_what_the_line_holds() {
        // 50 ms at 125 MB/s hold 6.25 MB.
        let mut window = Window::new(16 << 20);
        let (bytes, rate) = run(&mut window, Duration::from_millis(50), 125_000_000, 4_000);
        assert!(bytes > 6_250_000, "{bytes}");
        assert!(rate > 118_000_000, "{rate}");
    }

    #[test]
    fn a_fixed_small_window_is_slow_there() {
        let mut window = Window::new(WINDOW_BYTES_START);
        let (_, rate) = run(&mut window, Duration::from_millis(50), 125_000_000, 1_000);
        assert!(rate < 45_000_000, "{rate}");
    }

    #[test]
    fn a_line_that_slows_down_gives_its_window_back() {
        let mut window = Window::new(16 << 20);
        run(&mut window, Duration::from_millis(50), 1 << 30, 2_000);
        assert_eq!(window.bytes(), 16 << 20);
        let (bytes, _) = run(&mut window, Duration::from_millis(50), 20_000_000, 2_000);
        assert!(bytes < 3 << 20, "{bytes}");
    }

    proptest! {
        #[test]
        fn it_stays_within_its_limits(
            max in 65_536usize..64 << 20,
            steps in prop::collection::vec((0u64..200_000, 0u64..200_000, 1usize..4 << 20), 1..200),
        ) {
            let mut window = Window::new(max);
            let mut now = Instant::now();
            for (pause, took, len) in steps {
                let started = now;
                now += Duration::from_micros(pause + took);
                window.acknowledged(now, started, len);
                prop_assert!(window.bytes() <= max);
                prop_assert!(window.bytes() >= max.min(WINDOW_BYTES_START));
            }
        }
    }
}
