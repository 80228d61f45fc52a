//! One attempt: movers on their shards, the plan that feeds them, checkpoints, the last flush.

use super::{
    Cancel, Progress,
    edges::write_edges,
    ends::Opened,
    keeper::{self, Line, Settled, Task},
    plan::{Planner, SourceMap, split_edges},
    run::Job,
    shared::{Ack, AckKind, MoveSettings, Phase, TransferShared},
};
use crate::{
    Engine, EngineError,
    dial::Role,
    error::{Blame, ErrorKind},
    limits::{PAYLOAD_LEASES_MAX, PIECE_BYTES, ZERO_REQUEST_BYTES_MAX},
    mover::{MoverSeed, SOURCE_CONNECTION, TARGET_CONNECTION},
};
use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};
use wire::TransmissionFlags;

/// How often the observer hears of a transfer.
const OBSERVE_EVERY: Duration = Duration::from_millis(200);

/// Movers that run, and what the coordinator knows of them.
pub(super) struct Attempt<'a, 'b> {
    job: &'b mut Job<'a>,
    shared: Arc<TransferShared>,
    last_flush: Instant,
    /// To the keeper; `None` when nothing is compared nor recorded.
    line: Option<Line>,
    /// An end allows one connection only, and the movers have it: the keeper's turn comes after them.
    settles_late: bool,
}

impl<'a, 'b> Attempt<'a, 'b> {
    /// Copies what the ledger says is missing.
    pub(super) fn run(
        job: &'b mut Job<'a>,
        cancel: &Cancel,
        observe: &mut dyn FnMut(&Progress),
    ) -> Result<(), EngineError> {
        let remaining = job.take_equal();
        let aligned = split_edges(remaining.iter(), job.target.block);
        write_edges(&aligned.edges, job.spec, &job.source, &job.target)?;
        for edge in &aligned.edges {
            job.book.acknowledged(Ack {
                offset: edge.start,
                len: edge.end - edge.start,
                kind: AckKind::Data,
            });
        }
        let settings = settings_of(job);
        job.request_bytes = settings.request_bytes;
        let map = std::mem::replace(&mut job.source.map, SourceMap::Opaque);
        let rate = job.spec.rate_bytes_per_s;
        let mut attempt = Attempt {
            shared: Arc::new(
                TransferShared::new(settings, rate, job.movers).paced_by(job.engine.follow_rate()),
            ),
            last_flush: Instant::now(),
            line: None,
            settles_late: job.settles_late(),
            job,
        };
        let started = attempt.start().and_then(|()| attempt.job.confirm_target());
        if started.is_err() {
            // Movers that began go at once.
            attempt.shared.failed.store(true, Ordering::Release);
            attempt.job.engine.wake();
        }
        let mut keeper = attempt.job.keeper.take();
        if started.is_ok() {
            let (shared, engine) = (Arc::clone(&attempt.shared), attempt.job.engine);
            let planner = Planner::new(map, aligned.inner);
            let source = (&attempt.job.spec.source, attempt.job.source.end.clone());
            thread::scope(|scope| {
                scope.spawn(|| plan(planner, &shared, engine));
                attempt.line = keeper.as_mut().map(|keeper| {
                    let source = (source.0, &source.1);
                    keeper::spawn(scope, keeper, source, || shared.notify())
                });
                attempt.follow(cancel, observe);
                attempt.settle_rest(observe);
                // Without a line the keeper's thread ends.
                attempt.line = None;
            });
        }
        attempt.job.keeper = keeper;
        started?;
        attempt.end(cancel)
    }

    /// Dials every connection first, so that a refusal costs nothing, then hands the streams to the shards.
    fn start(&self) -> Result<(), EngineError> {
        for (index, seed) in self.dial()?.into_iter().enumerate() {
            if let Err(error) = self.job.engine.add_mover(index, seed) {
                self.shared.ended_movers.fetch_add(1, Ordering::AcqRel);
                self.shared.fail(error);
            }
        }
        Ok(())
    }

    /// All at once: a handshake is some six round trips of waiting, and over a long line one connection after the
    /// other would wait for seconds before the first byte moves.
    fn dial(&self) -> Result<Vec<MoverSeed>, EngineError> {
        let (source, target) = (&self.job.source.end, &self.job.target.end);
        let shared = &self.shared;
        let seed = |index| {
            Ok(MoverSeed {
                shared: Arc::clone(shared),
                index,
                source: source.seed(Role::Source)?,
                target: target.seed(Role::Target)?,
            })
        };
        thread::scope(|scope| {
            let dialling: Vec<_> = (1..self.job.movers)
                .map(|index| scope.spawn(move || seed(index)))
                .collect();
            let mut seeds = vec![seed(0)];
            // A panic ends the process, so that a thread without a result cannot be seen here.
            seeds.extend(dialling.into_iter().map(|dialled| {
                let panicked = || EngineError::bug("a connecting thread ended", "transfer");
                dialled.join().map_err(|_| panicked()).flatten()
            }));
            seeds.into_iter().collect()
        })
    }

    /// Waits for the movers through all phases.
    fn follow(&mut self, cancel: &Cancel, observe: &mut dyn FnMut(&Progress)) {
        let mut seen = 0;
        loop {
            self.job.engine.follow_rate();
            if cancel.is_cancelled() && !self.shared.cancelled.swap(true, Ordering::AcqRel) {
                self.job.engine.wake();
            }
            let movers_ended = self.shared.ended_movers.load(Ordering::Acquire);
            self.take_acks();
            self.take_settled();
            if movers_ended >= self.job.movers {
                return;
            }
            if self.shared.failed.load(Ordering::Acquire) {
                self.job.engine.wake();
            } else {
                self.next_phase();
            }
            self.job.in_flight_bytes = self.shared.in_flight_bytes.load(Ordering::Relaxed);
            observe(&self.job.progress());
            self.shared.wait(&mut seen, OBSERVE_EVERY);
        }
    }

    fn take_acks(&mut self) {
        let book = &mut self.job.book;
        self.shared.take_acks(|ack| book.acknowledged(ack));
        if self.shared.settings.hash_up_to.is_some() {
            let mut table = self
                .job
                .table
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            self.shared.take_hashed(|hashed| table.absorb(hashed));
        }
    }

    /// Hears what the keeper did, and gives it what has become durable meanwhile.
    fn take_settled(&mut self) {
        let Some(line) = &mut self.line else { return };
        if let Some(settled) = line.take() {
            self.settle(settled);
        }
        if self.settles_late && self.shared.ended_movers.load(Ordering::Acquire) < self.job.movers {
            return;
        }
        let is_behind = self.job.book.is_keeper_behind();
        self.shared
            .keeper_behind
            .store(is_behind, Ordering::Relaxed);
        let failed = self.shared.failed.load(Ordering::Acquire);
        if let Some(line) = self.line.as_mut().filter(|line| !line.is_busy() && !failed) {
            let ranges = self.job.book.take_settleable();
            if !ranges.is_empty() {
                let (same, others) = self.job.part_equal(ranges);
                line.give(Task { same, others });
            }
        }
    }

    /// After the movers: waits for the keeper, until it has nothing left to do.
    fn settle_rest(&mut self, observe: &mut dyn FnMut(&Progress)) {
        loop {
            self.take_settled();
            observe(&self.job.progress());
            let Some(settled) = self.line.as_mut().and_then(Line::wait) else {
                return;
            };
            self.settle(settled);
        }
    }

    fn settle(&mut self, settled: Settled) {
        let book = &mut self.job.book;
        let compared = match settled.compared {
            Ok(Some(compared)) => compared,
            Ok(None) => return,
            Err(error) => {
                if error.kind.may_pass() {
                    book.give_back(&settled.ranges);
                } else {
                    // Durable they are; whether they are right nobody can tell, so they are copied again.
                    book.distrust(&settled.ranges);
                }
                return self.shared.fail(error);
            }
        };
        let (equal, different) = (compared.equal(), compared.different());
        equal.iter().for_each(|range| book.ledger.verified(range));
        book.distrust(&different);
        if let Some(first) = different.iter().next() {
            let what = format!(
                "{} bytes of the target are not what the source has, the first at byte {}",
                different.total_bytes(),
                first.start
            );
            let on = self.job.spec.target.name();
            let error = EngineError::new(ErrorKind::Verify, Blame::Environment, what, on);
            self.shared.fail_with(error.remedy(
                "look for a second writer, then for faults of memory, controller and network; copy again",
            ));
        }
    }

    fn next_phase(&mut self) {
        let idle = self.shared.idle_movers.load(Ordering::Acquire) >= self.job.movers;
        let can_flush = self.shared.settings.flush;
        let flushed = self.shared.is_flushed();
        if can_flush && flushed && self.shared.flush_wanted() > 0 {
            self.take_flush();
        }
        match self.shared.phase() {
            Phase::Moving if idle && !can_flush => self.enter(Phase::Finishing),
            Phase::Moving if idle && flushed => {
                self.ask_flush();
                self.enter(Phase::Flushing);
            }
            Phase::Moving if can_flush && flushed && self.checkpoint_is_due() => {
                self.ask_flush();
                self.job.engine.wake();
            }
            Phase::Flushing if flushed => {
                self.job.totals.durable = true;
                self.enter(Phase::Finishing);
            }
            _ => {}
        }
    }

    fn checkpoint_is_due(&self) -> bool {
        let bytes = self.job.book.unflushed_bytes();
        let rule = &self.job.spec.checkpoint;
        bytes >= rule.bytes || (bytes > 0 && self.last_flush.elapsed() >= rule.every)
    }

    /// What was acknowledged up to now, and only that, is what the flush will make durable.
    fn ask_flush(&mut self) {
        self.take_acks();
        self.job.book.begin_flush();
        self.last_flush = Instant::now();
        self.shared.ask_flush();
    }

    /// The flush that was asked for was answered well.
    fn take_flush(&mut self) {
        self.job.book.flush_succeeded();
    }

    fn enter(&self, phase: Phase) {
        self.shared.set_phase(phase);
        self.job.engine.wake();
    }

    fn end(self, cancel: &Cancel) -> Result<(), EngineError> {
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let totals = &mut self.job.totals;
        self.job.in_flight_bytes = 0;
        totals.plaintext_copied_bytes += load(&self.shared.plaintext_copied_bytes);
        totals.ciphertext_joined_bytes += load(&self.shared.ciphertext_joined_bytes);
        if let Some(mut error) = self.shared.take_error() {
            totals.durable = false;
            let spec = self.job.spec;
            for (end, endpoint) in [
                (SOURCE_CONNECTION, &spec.source),
                (TARGET_CONNECTION, &spec.target),
            ] {
                if error.on == end {
                    error.on = endpoint.name();
                }
            }
            return Err(error);
        }
        if cancel.is_cancelled() {
            let what = "interrupted; what was in flight is written";
            return Err(
                EngineError::new(ErrorKind::Cancelled, Blame::Operator, what, "transfer")
                    .remedy("start the copy again"),
            );
        }
        if self.shared.settings.flush && !totals.durable {
            return Err(EngineError::bug("the target was not flushed", "transfer"));
        }
        if totals.durable && !self.job.book.ledger.is_durable() {
            let missing = self.job.book.ledger.remaining().total_bytes();
            let what = format!("{missing} bytes were neither written nor missed by anybody");
            return Err(EngineError::bug(what, "transfer"));
        }
        Ok(())
    }
}

fn settings_of(job: &Job<'_>) -> MoveSettings {
    let (spec, target) = (job.spec, &job.target);
    let payload_max = match &target.end {
        Opened::Nbd { params, .. } => params.info.block.payload_max as usize,
        Opened::Device(_) | Opened::Null => usize::MAX,
    };
    // A request must fit the memory of its stream beside what the sealing needs.
    let payload_bytes = job.engine.payload_bytes_per_mover(job.movers);
    let leases_max = (payload_bytes / PIECE_BYTES / 2).clamp(1, PAYLOAD_LEASES_MAX);
    let request_max = payload_max.min(leases_max * PIECE_BYTES);
    let block = usize::try_from(target.block).unwrap_or(PIECE_BYTES);
    let request_bytes = (spec.request_bytes as usize).clamp(4_096, request_max.max(4_096));
    let request_bytes = (request_bytes / block * block).max(block);
    MoveSettings {
        request_bytes,
        window_bytes: spec.window_bytes.max(request_bytes),
        zero_scan_bytes: match spec.zero_scan_bytes as usize {
            0 => 0,
            bytes => bytes.max(block).next_multiple_of(block),
        },
        // Zeroes inside of given extents are always written: the target has old bytes there.
        skip_zeroes: job.zeroes_hold && spec.extents.is_none(),
        can_zero: target.end.has_flag(TransmissionFlags::SEND_WRITE_ZEROES),
        zero_request_bytes: ZERO_REQUEST_BYTES_MAX / target.block * target.block,
        in_flight_deadline: spec.in_flight_deadline,
        flush: target.end.has_flag(TransmissionFlags::SEND_FLUSH),
        hash_up_to: job.hashes.then_some(job.source.size_bytes),
    }
}

/// Feeds the shards; ends with the plan, an error, or the transfer.
fn plan(mut planner: Planner, shared: &TransferShared, engine: &Engine) {
    let mut seen = 0;
    'planning: while !shared.is_stopping() {
        let mut work = match planner.next_work() {
            Ok(Some(work)) => work,
            Ok(None) => break,
            Err(error) => {
                shared.fail(error);
                break;
            }
        };
        while let Err(back) = shared.work.push(work) {
            work = back;
            if shared.is_stopping() {
                break 'planning;
            }
            // Full: a mover that finds the queue empty says so; until then there is time.
            shared.wait(&mut seen, Duration::from_millis(5));
        }
        if shared.hungry.swap(false, Ordering::AcqRel) {
            engine.wake();
        }
    }
    shared.planned.store(true, Ordering::Release);
    engine.wake();
    planner.end();
}
