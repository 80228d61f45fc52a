//! Runs one transfer: opens, attempts, opens again after a lost connection, reports.

use super::{
    Cancel, Integrity, Progress, TargetFacts, TransferReport, TransferSpec,
    attempt::Attempt,
    book::Book,
    ends::{self, Opened, Source, Target, open_source, open_target},
    keeper::Keeper,
    patience::Patience,
    plan::ranges_of,
    shared::{Ack, AckKind},
    stamp::Stamp,
    watcher::Watcher,
};
use crate::{
    Endpoint, Engine, EngineError, ExtentSet,
    digest::ChunkTable,
    error::{Blame, ErrorKind},
};
use nix::sys::resource::{UsageWho, getrusage};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// CPU seconds this process has used.
fn cpu_seconds() -> f64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else {
        return 0.0;
    };
    let seconds = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs())
            + Duration::from_micros(time.tv_usec().unsigned_abs())
    };
    (seconds(usage.user_time()) + seconds(usage.system_time())).as_secs_f64()
}

/// Runs a transfer to its end on the calling thread. `observe` is called at least 4 times a second while bytes move,
/// and after each 64 MiB while both sides are compared before that.
///
/// A lost connection is made anew for as long as the transfer's patience lasts; the copy then goes on behind what
/// was durable. Everything else ends it.
///
/// # Errors
/// The first thing that went wrong; `ErrorKind::Cancelled` after `cancel`, once what was in flight is written and flushed.
pub fn run(
    engine: &Engine,
    spec: &TransferSpec,
    cancel: &Cancel,
    observe: &mut dyn FnMut(&Progress),
) -> Result<TransferReport, EngineError> {
    let mut job = Job::open(engine, spec)?;
    job.choose_integrity()?;
    let mut watcher = Watcher { cancel, observe };
    job.open_journal(&mut watcher)?;
    if spec.checksum_diff {
        job.find_equal(&mut watcher)?;
    }
    job.run(cancel, observe)?;
    job.source_is_unchanged()?;
    job.confirm_target_at_end()?;
    job.everything_was_compared()?;
    job.note_done()?;
    let progress = job.progress();
    observe(&progress);
    Ok(job.into_report(progress))
}

/// A transfer over all its attempts.
pub(super) struct Job<'a> {
    pub(super) engine: &'a Engine,
    pub(super) spec: &'a TransferSpec,
    pub(super) source: Source,
    pub(super) target: Target,
    pub(super) book: Book,
    /// What the target has already: it is neither sent nor compared again.
    pub(super) equal: ExtentSet,
    pub(super) totals: Totals,
    pub(super) warnings: Vec<String>,
    /// Connections in use; fewer than asked for when an end allows one only.
    pub(super) movers: usize,
    pub(super) request_bytes: usize,
    /// Digests of what passes through; in use when `hashes`.
    pub(super) table: Arc<Mutex<ChunkTable>>,
    pub(super) hashes: bool,
    /// `None` when nothing is compared nor recorded.
    pub(super) keeper: Option<Keeper>,
    pub(super) integrity: Integrity,
    /// Who the target is, when anybody can tell.
    pub(super) facts: Option<TargetFacts>,
    /// The target was restarted: what is durable has to be looked at.
    pub(super) must_look_again: bool,
    /// The target reads as zeroes where nothing was written: by the operator's word, or because it was made for this.
    pub(super) zeroes_hold: bool,
    total_bytes: u64,
    stamp: Option<Stamp>,
    reconnects: u64,
    begun: Instant,
    /// Of the attempt under way.
    pub(super) in_flight_bytes: u64,
    last_done: u64,
    last_change: Instant,
    cpu_before: f64,
}

/// Sums over all attempts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Totals {
    pub plaintext_copied_bytes: u64,
    pub ciphertext_joined_bytes: u64,
    /// The last flush covers everything.
    pub durable: bool,
}

impl<'a> Job<'a> {
    fn open(engine: &'a Engine, spec: &'a TransferSpec) -> Result<Self, EngineError> {
        let source = open_source(&spec.source)?;
        let target = open_target(spec, source.size_bytes)?;
        let mut warnings = warnings_of(&source.end, &target.end);
        let movers = connections_of(spec, &source.end, &target.end, &mut warnings);
        let ranges = ranges_of(spec.extents.as_ref(), source.size_bytes);
        let wanted = ExtentSet::from_unsorted(ranges);
        let now = Instant::now();
        Ok(Self {
            engine,
            spec,
            total_bytes: wanted.total_bytes(),
            book: Book::new(wanted),
            equal: ExtentSet::new(),
            totals: Totals::default(),
            warnings,
            movers,
            request_bytes: 0,
            table: Arc::new(Mutex::new(ChunkTable::new(source.size_bytes))),
            hashes: false,
            keeper: None,
            integrity: Integrity::None,
            facts: None,
            must_look_again: false,
            zeroes_hold: spec.target_is_zero || target.is_new,
            stamp: source.end.stamp()?,
            reconnects: 0,
            source,
            target,
            begun: now,
            in_flight_bytes: 0,
            last_done: 0,
            last_change: now,
            cpu_before: cpu_seconds(),
        })
    }

    /// Attempts until one succeeds or there is no point in another.
    fn run(
        &mut self,
        cancel: &Cancel,
        observe: &mut dyn FnMut(&Progress),
    ) -> Result<(), EngineError> {
        let mut patience = Patience::new(self.spec.reconnect_for);
        loop {
            let durable_before = self.book.ledger.durable().total_bytes();
            let Err(error) = Attempt::run(self, cancel, observe) else {
                return Ok(());
            };
            self.book.attempt_failed();
            if self.book.ledger.durable().total_bytes() > durable_before {
                patience.renew();
            }
            self.reconnect(error, &mut patience, &mut Watcher { cancel, observe })?;
        }
    }

    /// Connects anew as often as the patience allows.
    ///
    /// # Errors
    /// `error`, or the last one that followed it, when there is no point in going on.
    pub(super) fn reconnect(
        &mut self,
        mut error: EngineError,
        patience: &mut Patience,
        watcher: &mut Watcher<'_>,
    ) -> Result<(), EngineError> {
        loop {
            let is_over = watcher.cancel.is_cancelled() || !self.may_connect_anew();
            if is_over || !error.kind.may_pass() {
                return Err(error);
            }
            if !self.wait(patience, watcher.cancel, watcher.observe) {
                return Err(given_up(error, patience));
            }
            match self.open_anew(watcher) {
                Ok(()) => break,
                Err(next) => error = next,
            }
        }
        self.reconnects += 1;
        Ok(())
    }

    /// Books what the target has already; what is left to be sent.
    pub(super) fn take_equal(&mut self) -> ExtentSet {
        let (equal, others) = self.part_equal(self.book.ledger.remaining());
        for range in equal.iter() {
            self.book.acknowledged(Ack {
                offset: range.start,
                len: range.end - range.start,
                kind: AckKind::Skipped,
            });
        }
        others
    }

    /// What of `ranges` the target had before, and the rest.
    pub(super) fn part_equal(&self, ranges: ExtentSet) -> (ExtentSet, ExtentSet) {
        if self.equal.is_empty() {
            return (ExtentSet::new(), ranges);
        }
        let others = ranges.intersect(&self.equal.complement(self.source.size_bytes));
        (ranges.intersect(&self.equal), others)
    }

    /// Files and devices of this machine do not come back by being opened again.
    fn may_connect_anew(&self) -> bool {
        let is_far = |end: &Opened| matches!(end, Opened::Nbd { .. });
        is_far(&self.source.end) || is_far(&self.target.end)
    }

    /// Lets some time pass; false when the patience is at its end.
    fn wait(
        &mut self,
        patience: &mut Patience,
        cancel: &Cancel,
        observe: &mut dyn FnMut(&Progress),
    ) -> bool {
        const SLICE: Duration = Duration::from_millis(200);
        let Some(pause) = patience.next_pause(Instant::now()) else {
            return false;
        };
        let end = Instant::now() + pause;
        while !cancel.is_cancelled() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(SLICE));
            observe(&self.progress());
        }
        // The next attempt sees the wish to end and drains at once.
        true
    }

    /// Opens the far ends once more, and refuses what is not the same any more.
    fn open_anew(&mut self, watcher: &mut Watcher<'_>) -> Result<(), EngineError> {
        let size = self.source.size_bytes;
        self.source.reopen(&self.spec.source)?;
        if matches!(self.spec.source, Endpoint::Nbd(_)) && !self.book.ledger.durable().is_empty() {
            self.warn_once(
                "connections were made anew: that the source is in the same state is believed",
            );
        }
        if self.source.size_bytes != size {
            let what = format!(
                "the source has another size after the connection was lost: {} bytes, before {size}",
                self.source.size_bytes
            );
            let on = self.spec.source.name();
            return Err(
                EngineError::new(ErrorKind::SourceIo, Blame::Environment, what, on)
                    .remedy("start the copy again from its beginning"),
            );
        }
        if let Endpoint::Nbd(endpoint) = &self.spec.target {
            self.target = ends::open_nbd_target(self.spec, endpoint, size)?;
            self.meet_target_again(watcher)?;
        }
        Ok(())
    }

    /// The numbers of this moment.
    pub(super) fn progress(&mut self) -> Progress {
        let now = Instant::now();
        let tally = self.book.progress();
        let mut progress = Progress {
            total_bytes: self.total_bytes,
            data_bytes: tally.data,
            zero_bytes: tally.zero,
            skipped_bytes: tally.skipped,
            resumed_bytes: self.book.resumed_bytes(),
            void_bytes: self.book.void_bytes(),
            durable_bytes: self.book.ledger.durable().total_bytes(),
            verified_bytes: self.book.ledger.verified_ranges().total_bytes(),
            comparing_bytes: 0,
            compared_bytes: 0,
            in_flight_bytes: self.in_flight_bytes,
            elapsed: now - self.begun,
            stalled_for: Duration::ZERO,
        };
        let done = self.book.now().total() + self.book.void_bytes();
        if done != self.last_done {
            self.last_done = done;
            self.last_change = now;
        }
        progress.stalled_for = now - self.last_change;
        // Ranges may change their kind when they are sent again; their sum is what it is.
        let surplus = progress.done_bytes().saturating_sub(self.total_bytes);
        progress.data_bytes = progress.data_bytes.saturating_sub(surplus);
        progress
    }

    /// Asked to compare, a copy may not end well before it has.
    fn everything_was_compared(&self) -> Result<(), EngineError> {
        let ledger = &self.book.ledger;
        if !self.hashes || !self.totals.durable || ledger.is_verified() {
            return Ok(());
        }
        let missing = ledger.unverified().total_bytes();
        let what = format!("{missing} bytes were not compared");
        Err(EngineError::bug(what, self.spec.target.name()))
    }

    /// A source that changed under the copy is no source of anything.
    fn source_is_unchanged(&self) -> Result<(), EngineError> {
        let on = match (&self.stamp, &self.spec.source_files) {
            (Some(stamp), _) if self.source.end.stamp()?.as_ref() != Some(stamp) => {
                self.spec.source.name()
            }
            (_, Some(files)) => match files.changed()? {
                Some(path) => path.display().to_string(),
                None => return Ok(()),
            },
            _ => return Ok(()),
        };
        let (kind, what) = (ErrorKind::SourceIo, "the source changed while it was read");
        Err(EngineError::new(kind, Blame::Environment, what, on)
            .remedy("stop what writes to the source, or copy a snapshot of it; then start again"))
    }

    fn into_report(self, progress: Progress) -> TransferReport {
        let (source, target) = (&self.source.end, &self.target.end);
        let suite = target.suite().or_else(|| source.suite());
        TransferReport {
            progress,
            time_to_durable: progress.elapsed,
            connections: self.movers,
            request_bytes: u32::try_from(self.request_bytes).unwrap_or(u32::MAX),
            suite: suite.map(str::to_owned),
            tier: self.engine.runtime().tier.to_string(),
            plaintext_copied_bytes: self.totals.plaintext_copied_bytes,
            ciphertext_joined_bytes: self.totals.ciphertext_joined_bytes,
            discarded: matches!(self.spec.target, Endpoint::Null { .. }),
            durable: self.totals.durable,
            integrity: self.integrity,
            verified_by: self.keeper.as_ref().and_then(Keeper::verified_by),
            reconnects: self.reconnects,
            source_direct: source.is_direct(),
            target_direct: target.is_direct(),
            cpu_seconds: cpu_seconds() - self.cpu_before,
            warnings: self.warnings,
            latency_us: self.engine.latency_us(),
        }
    }
}

/// The error that ends a transfer whose patience is over: it can be resumed, whatever stood in the way last.
fn given_up(error: EngineError, patience: &Patience) -> EngineError {
    if patience.is_off() {
        return error;
    }
    let what = format!(
        "the connection was lost and could not be made again within {} s",
        patience.budget().as_secs()
    );
    let on = error.on.clone();
    EngineError::new(ErrorKind::ConnectionLost, error.blame, what, on)
        .remedy("bring the peer back, then start the copy again")
        .cause(error)
}

fn warnings_of(source: &Opened, target: &Opened) -> Vec<String> {
    let mut warnings = Vec::new();
    for (end, name) in [(source, "source"), (target, "target")] {
        if let Opened::Device(device) = end {
            if !device.is_direct() {
                let path = device.path().display();
                warnings.push(format!(
                    "{name} {path}: direct I/O is not possible there, the page cache is used"
                ));
            }
            warnings.extend(device.notes().iter().map(|note| format!("{name}: {note}")));
        }
    }
    warnings
}

/// One connection when an end does not promise that several see each other's writes.
fn connections_of(
    spec: &TransferSpec,
    source: &Opened,
    target: &Opened,
    warnings: &mut Vec<String>,
) -> usize {
    for (end, name) in [(source, "source"), (target, "target")] {
        if spec.connections > 1 && !end.allows_many() {
            warnings.push(format!("the {name} server allows one connection only"));
            return 1;
        }
    }
    spec.connections.max(1)
}
