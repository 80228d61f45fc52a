//! What the movers of one transfer and its coordinator share.

use crate::{
    EngineError,
    digest::Hashed,
    gate::Gate,
    limits::{ACKS_PER_MOVER_MAX, ACKS_QUEUED_MIN, HASHED_QUEUED_MAX, WORK_QUEUED_MAX},
    stats::add,
    syncs::Syncs,
};
use crossbeam::queue::ArrayQueue;
use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// What to do with a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WorkKind {
    /// Read it and write it; zeroes found on the way may be written as such.
    Data,
    /// It reads as zeroes; make the target read as zeroes.
    Zero,
    /// Zeroes that must be written as data (the target knows no other way).
    ExplicitZero,
}

/// A range of the transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Work {
    pub offset: u64,
    pub len: u64,
    pub kind: WorkKind,
}

/// How a range got its content at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckKind {
    /// Written as data.
    Data,
    /// Written as zeroes.
    Zero,
    /// Not written: the target reads as zeroes there already.
    Skipped,
}

/// A range that is at the target; not durable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    pub offset: u64,
    pub len: u64,
    pub kind: AckKind,
}

/// How far the transfer is; only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Work may still come.
    Moving = 0,
    /// All work is done; the last flush is under way.
    Flushing = 1,
    /// Say good-bye.
    Finishing = 2,
}

/// Shared by the movers of one transfer. Counters are relaxed; the phase and the end go through the signal.
pub(crate) struct TransferShared {
    pub work: ArrayQueue<Work>,
    /// No more work will be queued.
    pub planned: AtomicBool,
    /// A mover found no work and sleeps.
    pub hungry: AtomicBool,
    pub cancelled: AtomicBool,
    pub failed: AtomicBool,
    phase: AtomicU8,
    pub data_bytes: AtomicU64,
    pub zero_bytes: AtomicU64,
    pub skipped_bytes: AtomicU64,
    pub plaintext_copied_bytes: AtomicU64,
    pub ciphertext_joined_bytes: AtomicU64,
    /// What the coordinator has not heard of yet.
    acks: ArrayQueue<Ack>,
    /// Where acknowledgements go that find the queue full: that takes a target which writes in crumbs.
    acks_spilled: Mutex<Vec<Ack>>,
    /// What is durable waits for being compared: nothing new shall be started meanwhile.
    pub keeper_behind: AtomicBool,
    /// The coordinator was told that a queue fills.
    acks_told: AtomicBool,
    /// Digests the coordinator has not heard of yet; none when nothing is hashed.
    hashed: ArrayQueue<Hashed>,
    hashed_spilled: Mutex<Vec<Hashed>>,
    pub idle_movers: AtomicUsize,
    pub ended_movers: AtomicUsize,
    /// Local targets: keeps unaligned writes alone.
    pub gate: Gate,
    /// Flushes and synchronous writes of a local target, from all movers.
    pub syncs: Syncs,
    /// Local targets: ways of zeroing the device refused (0 none, 1 punching, 2 both).
    pub zero_refused: AtomicU8,
    pub pacer: Pacer,
    /// Of all transfers together.
    total_pacer: Arc<Pacer>,
    /// Data that was taken from the plan and is not acknowledged.
    pub in_flight_bytes: AtomicU64,
    /// Flushes the coordinator asked for, and how many of them were answered well.
    flush_wanted: AtomicU64,
    flush_done: AtomicU64,
    error: Mutex<Option<EngineError>>,
    signal: (Mutex<u64>, Condvar),
    pub settings: MoveSettings,
}

/// What a transfer fixes for its movers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MoveSettings {
    pub request_bytes: usize,
    /// Most that one mover's window may grow to.
    pub window_bytes: usize,
    /// 0: do not look for zeroes.
    pub zero_scan_bytes: usize,
    /// Zeroes need not be written.
    pub skip_zeroes: bool,
    /// The target has a cheap way to write zeroes.
    pub can_zero: bool,
    /// Longest zero request.
    pub zero_request_bytes: u64,
    pub in_flight_deadline: Duration,
    /// The target can and shall be flushed.
    pub flush: bool,
    /// Hash what is read, up to this end of the source; `None`: do not.
    pub hash_up_to: Option<u64>,
}

impl TransferShared {
    pub(crate) fn new(
        settings: MoveSettings,
        rate_bytes_per_s: Option<u64>,
        movers: usize,
    ) -> Self {
        // Half of it stops the movers, and what they have in flight by then fits the other half.
        let acks = (2 * movers * ACKS_PER_MOVER_MAX).max(ACKS_QUEUED_MIN);
        let hashed = settings.hash_up_to.map_or(1, |_| HASHED_QUEUED_MAX);
        Self {
            work: ArrayQueue::new(WORK_QUEUED_MAX),
            planned: AtomicBool::new(false),
            hungry: AtomicBool::new(false),
            cancelled: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            phase: AtomicU8::new(0),
            data_bytes: AtomicU64::new(0),
            zero_bytes: AtomicU64::new(0),
            skipped_bytes: AtomicU64::new(0),
            plaintext_copied_bytes: AtomicU64::new(0),
            ciphertext_joined_bytes: AtomicU64::new(0),
            acks: ArrayQueue::new(acks),
            acks_spilled: Mutex::new(Vec::new()),
            keeper_behind: AtomicBool::new(false),
            acks_told: AtomicBool::new(false),
            hashed: ArrayQueue::new(hashed),
            hashed_spilled: Mutex::new(Vec::new()),
            idle_movers: AtomicUsize::new(0),
            ended_movers: AtomicUsize::new(0),
            gate: Gate::default(),
            syncs: Syncs::default(),
            zero_refused: AtomicU8::new(0),
            pacer: Pacer::new(rate_bytes_per_s),
            total_pacer: Arc::new(Pacer::new(None)),
            in_flight_bytes: AtomicU64::new(0),
            flush_wanted: AtomicU64::new(0),
            flush_done: AtomicU64::new(0),
            error: Mutex::new(None),
            signal: (Mutex::new(0), Condvar::new()),
            settings,
        }
    }

    /// Shares a rate with other transfers.
    pub(crate) fn paced_by(mut self, total: Arc<Pacer>) -> Self {
        self.total_pacer = total;
        self
    }

    /// Grants `len` bytes of data by both rates, or says when to ask again.
    pub(crate) fn try_pace(&self, now: Instant, len: u64) -> Result<(), Instant> {
        // Asked before either is charged: what one refuses must not cost anything at the other.
        self.pacer.is_open(now)?;
        self.total_pacer.try_take(now, len)?;
        self.pacer.charge(now, len);
        Ok(())
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Moving,
            1 => Phase::Flushing,
            _ => Phase::Finishing,
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// No mover should start anything new.
    pub(crate) fn is_stopping(&self) -> bool {
        self.failed.load(Ordering::Acquire) || self.cancelled.load(Ordering::Acquire)
    }

    /// Ends the transfer with its first error.
    pub(crate) fn fail(&self, error: EngineError) {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
        self.failed.store(true, Ordering::Release);
        self.notify();
    }

    /// Ends the transfer with this error, whatever else went wrong before.
    pub(crate) fn fail_with(&self, error: EngineError) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.failed.store(true, Ordering::Release);
        self.notify();
    }

    pub(crate) fn take_error(&self) -> Option<EngineError> {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Asks the first mover for a flush. It covers what was acknowledged before this call.
    pub(crate) fn ask_flush(&self) {
        self.flush_wanted.fetch_add(1, Ordering::AcqRel);
    }

    /// Number of the newest flush that was asked for; 0: none.
    pub(crate) fn flush_wanted(&self) -> u64 {
        self.flush_wanted.load(Ordering::Acquire)
    }

    /// The target answered flush `number`.
    pub(crate) fn flushed(&self, number: u64) {
        self.flush_done.fetch_max(number, Ordering::AcqRel);
        self.notify();
    }

    /// Number of the newest flush that was answered well.
    pub(crate) fn flush_done(&self) -> u64 {
        self.flush_done.load(Ordering::Acquire)
    }

    /// Every flush that was asked for is answered.
    pub(crate) fn is_flushed(&self) -> bool {
        self.flush_done() >= self.flush_wanted()
    }

    /// Something changed that the coordinator waits for.
    pub(crate) fn notify(&self) {
        *self.signal.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.signal.1.notify_all();
    }

    /// Waits for a change or the timeout.
    pub(crate) fn wait(&self, seen: &mut u64, timeout: Duration) {
        let guard = self.signal.0.lock().unwrap_or_else(PoisonError::into_inner);
        let guard = self
            .signal
            .1
            .wait_timeout_while(guard, timeout, |count| *count == *seen)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        *seen = *guard;
    }

    /// A range is at the target.
    pub(crate) fn done(&self, kind: AckKind, offset: u64, len: u64) {
        let counter = match kind {
            AckKind::Data => &self.data_bytes,
            AckKind::Zero => &self.zero_bytes,
            AckKind::Skipped => &self.skipped_bytes,
        };
        add(counter, len);
        if let Err(ack) = self.acks.push(Ack { offset, len, kind }) {
            self.acks_spilled
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(ack);
        }
        if self.acks.len() >= self.acks.capacity() / 4 {
            self.tell_full();
        }
    }

    /// What a range of the source holds.
    pub(crate) fn hashed(&self, hashed: Hashed) {
        if let Err(hashed) = self.hashed.push(hashed) {
            self.hashed_spilled
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(hashed);
        }
        if self.hashed.len() >= self.hashed.capacity() / 4 {
            self.tell_full();
        }
    }

    fn tell_full(&self) {
        if !self.acks_told.swap(true, Ordering::AcqRel) {
            self.notify();
        }
    }

    /// The coordinator is behind: nothing new shall be started before it has caught up.
    pub(crate) fn acks_are_full(&self) -> bool {
        self.keeper_behind.load(Ordering::Relaxed)
            || self.acks.len() > self.acks.capacity() / 2
            || self.hashed.len() > self.hashed.capacity() / 2
    }

    /// Hands over the digests since the last call. What was acknowledged before this call was hashed before.
    pub(crate) fn take_hashed(&self, mut take: impl FnMut(Hashed)) {
        for _ in 0..self.hashed.capacity() {
            let Some(hashed) = self.hashed.pop() else {
                break;
            };
            take(hashed);
        }
        let spilled = std::mem::take(
            &mut *self
                .hashed_spilled
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        spilled.into_iter().for_each(take);
    }

    /// Hands over what was acknowledged since the last call. Each was acknowledged before this call.
    pub(crate) fn take_acks(&self, mut take: impl FnMut(Ack)) {
        self.acks_told.store(false, Ordering::Release);
        for _ in 0..self.acks.capacity() {
            let Some(ack) = self.acks.pop() else { break };
            take(ack);
        }
        let spilled = std::mem::take(
            &mut *self
                .acks_spilled
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        spilled.into_iter().for_each(take);
    }
}

/// Spreads bytes over time without a lock: each taker moves the moment at which the next may go.
pub(crate) struct Pacer {
    rate_bytes_per_s: AtomicU64,
    start: Instant,
    /// Nanoseconds after `start` at which the bytes granted so far are used up.
    spent_until_ns: AtomicU64,
}

/// How far ahead of the rate a burst may run.
const BURST_NS: u64 = 50_000_000;

impl Pacer {
    pub(crate) fn new(rate_bytes_per_s: Option<u64>) -> Self {
        Self {
            rate_bytes_per_s: AtomicU64::new(rate_bytes_per_s.unwrap_or(0)),
            start: Instant::now(),
            spent_until_ns: AtomicU64::new(0),
        }
    }

    /// Changes the rate; 0 is unlimited.
    pub(crate) fn set_rate(&self, rate_bytes_per_s: u64) {
        self.rate_bytes_per_s
            .store(rate_bytes_per_s, Ordering::Relaxed);
    }

    /// Whether something would be granted now, else when to ask again.
    fn is_open(&self, now: Instant) -> Result<(), Instant> {
        if self.rate_bytes_per_s.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let until = self.spent_until_ns.load(Ordering::Relaxed);
        if until <= self.at_ns(now).saturating_add(BURST_NS) {
            return Ok(());
        }
        Err(self.start + Duration::from_nanos(until.saturating_sub(BURST_NS)))
    }

    /// Takes `len` bytes that were granted elsewhere. Two movers may be let in at once and the second one goes into
    /// debt; the average stays.
    fn charge(&self, now: Instant, len: u64) {
        let rate = self.rate_bytes_per_s.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let (now_ns, cost_ns) = (self.at_ns(now), cost_ns(len, rate));
        let until = &self.spent_until_ns;
        // The closure always has an answer.
        let _ = until.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
            Some(until.max(now_ns).saturating_add(cost_ns))
        });
    }

    fn at_ns(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.start))
    }

    /// Grants `len` bytes, or says when to ask again.
    pub(crate) fn try_take(&self, now: Instant, len: u64) -> Result<(), Instant> {
        let rate = self.rate_bytes_per_s.load(Ordering::Relaxed);
        if rate == 0 {
            return Ok(());
        }
        let (now_ns, cost_ns) = (self.at_ns(now), cost_ns(len, rate));
        let granted =
            self.spent_until_ns
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
                    (until <= now_ns.saturating_add(BURST_NS))
                        .then(|| until.max(now_ns).saturating_add(cost_ns))
                });
        match granted {
            Ok(_) => Ok(()),
            Err(until) => Err(self.start + Duration::from_nanos(until.saturating_sub(BURST_NS))),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn cost_ns(len: u64, rate_bytes_per_s: u64) -> u64 {
    let cost = u128::from(len) * 1_000_000_000 / u128::from(rate_bytes_per_s);
    u64::try_from(cost).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pacer_keeps_its_rate_over_any_second() {
        let pacer = Pacer::new(Some(1_000_000));
        let mut now = pacer.start;
        let (mut taken, mut refused) = (0u64, 0);
        let end = now + Duration::from_secs(10);
        while now < end {
            match pacer.try_take(now, 10_000) {
                Ok(()) => taken += 10_000,
                Err(later) => {
                    assert!(later > now, "a refusal names a later moment");
                    refused += 1;
                    now = later;
                }
            }
        }
        assert!(
            (9_900_000..=10_200_000).contains(&taken),
            "{taken} bytes in 10 s"
        );
        assert!(refused > 0);
        pacer.set_rate(0);
        assert!(pacer.try_take(now, u64::MAX).is_ok());
    }
    fn shared(rate: u64, total: &Arc<Pacer>) -> TransferShared {
        let settings = MoveSettings {
            request_bytes: 65_536,
            window_bytes: 1 << 20,
            zero_scan_bytes: 0,
            skip_zeroes: false,
            can_zero: false,
            zero_request_bytes: 1 << 20,
            in_flight_deadline: Duration::from_secs(60),
            flush: false,
            hash_up_to: None,
        };
        TransferShared::new(settings, Some(rate), 1).paced_by(Arc::clone(total))
    }

    #[test]
    fn two_transfers_together_keep_the_rate_of_all_and_each_its_own() {
        let total = Arc::new(Pacer::new(Some(1_000_000)));
        // The first one is slow by its own rate; the second may use what is left.
        let both = [shared(200_000, &total), shared(10_000_000, &total)];
        let mut now = both[1].pacer.start;
        let end = now + Duration::from_secs(10);
        let mut taken = [0u64; 2];
        while now < end {
            let mut next = end;
            for (one, taken) in both.iter().zip(&mut taken) {
                match one.try_pace(now, 10_000) {
                    Ok(()) => {
                        *taken += 10_000;
                        next = now;
                    }
                    Err(later) => next = next.min(later),
                }
            }
            now = next;
        }
        assert!((1_900_000..=2_100_000).contains(&taken[0]), "{taken:?}");
        let sum = taken[0] + taken[1];
        assert!((9_900_000..=10_200_000).contains(&sum), "{taken:?}");
    }
}
