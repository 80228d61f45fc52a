//! Runs one transfer: ends, plan, movers, flush, report.

use super::{
    Cancel, Progress, TransferReport, TransferSpec,
    ends::{Opened, Source, Target, open_source, open_target},
    plan::{Planner, ranges_of, split_edges},
    shared::{MoveSettings, Phase, TransferShared},
};
use crate::{
    Endpoint, Engine, EngineError,
    dial::{NbdClient, Role},
    error::{Blame, ErrorKind},
    limits::{PAYLOAD_LEASES_MAX, PIECE_BYTES, ZERO_REQUEST_BYTES_MAX},
    mover::MoverSeed,
};
use nix::sys::resource::{UsageWho, getrusage};
use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};
use sys::DeviceFile;
use wire::TransmissionFlags;

/// How often the observer hears of a transfer.
const OBSERVE_EVERY: Duration = Duration::from_millis(200);

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

/// A transfer whose movers run.
struct Running<'a> {
    engine: &'a Engine,
    shared: Arc<TransferShared>,
    movers: usize,
    total_bytes: u64,
    begun: Instant,
    last_done: u64,
    last_change: Instant,
    durable: bool,
}

/// Runs a transfer to its end on the calling thread. `observe` is called at least 4 times a second.
///
/// # Errors
/// The first thing that went wrong; `ErrorKind::Cancelled` after `cancel`, once what was in flight is written and flushed.
pub fn run(
    engine: &Engine,
    spec: &TransferSpec,
    cancel: &Cancel,
    observe: &mut dyn FnMut(&Progress),
) -> Result<TransferReport, EngineError> {
    let source = open_source(&spec.source)?;
    let target = open_target(spec, source.size_bytes)?;
    let mut warnings = warnings_of(&source.end, &target.end);
    let movers = connections_of(spec, &source.end, &target.end, &mut warnings);
    let settings = settings_of(spec, &target, engine.payload_bytes_per_mover(movers));
    let ranges = ranges_of(spec.extents.as_ref(), source.size_bytes);
    let total_bytes = ranges.iter().map(|range| range.end - range.start).sum();
    let cpu_before = cpu_seconds();
    let begun = Instant::now();
    let aligned = split_edges(ranges.into_iter(), target.block);
    let edge_bytes: u64 = aligned.edges.iter().map(|edge| edge.end - edge.start).sum();
    write_edges(&aligned.edges, spec, &source, &target)?;

    let shared = TransferShared::new(settings, spec.rate_bytes_per_s);
    let shared = Arc::new(shared.paced_by(engine.follow_rate()));
    shared.data_bytes.store(edge_bytes, Ordering::Relaxed);
    let mut running = Running {
        engine,
        shared: Arc::clone(&shared),
        movers,
        total_bytes,
        begun,
        last_done: 0,
        last_change: begun,
        durable: false,
    };
    let Source {
        end: source_end,
        map,
        ..
    } = source;
    running.start(&source_end, &target.end)?;
    let planner = Planner::new(map, aligned.inner);
    thread::scope(|scope| {
        scope.spawn(|| plan(planner, &shared, engine));
        running.follow(cancel, observe);
    });
    running.outcome(cancel)?;
    let progress = running.progress();
    observe(&progress);
    let suite = target.end.suite().or_else(|| source_end.suite());
    Ok(TransferReport {
        progress,
        time_to_durable: progress.elapsed,
        connections: movers,
        request_bytes: u32::try_from(settings.request_bytes).unwrap_or(u32::MAX),
        suite: suite.map(str::to_owned),
        tier: engine.runtime().tier.to_string(),
        plaintext_copied_bytes: shared.plaintext_copied_bytes.load(Ordering::Relaxed),
        ciphertext_joined_bytes: shared.ciphertext_joined_bytes.load(Ordering::Relaxed),
        discarded: matches!(spec.target, Endpoint::Null { .. }),
        durable: running.durable,
        source_direct: source_end.is_direct(),
        target_direct: target.end.is_direct(),
        cpu_seconds: cpu_seconds() - cpu_before,
        warnings,
        latency_us: engine.latency_us(),
    })
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

fn settings_of(spec: &TransferSpec, target: &Target, payload_bytes: usize) -> MoveSettings {
    let payload_max = match &target.end {
        Opened::Nbd { params, .. } => params.info.block.payload_max as usize,
        Opened::Device(_) | Opened::Null => usize::MAX,
    };
    // A request must fit the memory of its stream beside what the sealing needs.
    let leases_max = (payload_bytes / PIECE_BYTES / 2).clamp(1, PAYLOAD_LEASES_MAX);
    let request_max = payload_max.min(leases_max * PIECE_BYTES);
    let block = usize::try_from(target.block).unwrap_or(PIECE_BYTES);
    let request_bytes = (spec.request_bytes as usize).clamp(4_096, request_max.max(4_096));
    let request_bytes = (request_bytes / block * block).max(block);
    let knows_zero = target.end.has_flag(TransmissionFlags::SEND_WRITE_ZEROES);
    MoveSettings {
        request_bytes,
        window_bytes: spec.window_bytes.max(request_bytes),
        zero_scan_bytes: match spec.zero_scan_bytes as usize {
            0 => 0,
            bytes => bytes.max(block).next_multiple_of(block),
        },
        skip_zeroes: (spec.target_is_zero || target.is_new) && spec.extents.is_none(),
        can_zero: knows_zero,
        zero_request_bytes: ZERO_REQUEST_BYTES_MAX / target.block * target.block,
        in_flight_deadline: spec.in_flight_deadline,
        flush: target.end.has_flag(TransmissionFlags::SEND_FLUSH),
    }
}

/// Ends of ranges that are no whole blocks of the target: read the block, put the bytes in, write it back. Nobody
/// else writes the target meanwhile, and the final flush covers these writes too.
fn write_edges(
    edges: &[Range<u64>],
    spec: &TransferSpec,
    source: &Source,
    target: &Target,
) -> Result<(), EngineError> {
    let Opened::Nbd { endpoint, .. } = &target.end else {
        return Ok(());
    };
    if edges.is_empty() {
        return Ok(());
    }
    let mut writer = NbdClient::connect_as(endpoint, Role::Target)?;
    let mut reader = EdgeReader::open(&spec.source, &source.end)?;
    for edge in edges {
        let block_start = edge.start / target.block * target.block;
        let block_end = edge.end.next_multiple_of(target.block);
        if block_end > writer.params().info.size_bytes {
            return Err(EngineError::new(
                ErrorKind::TargetConnect,
                Blame::Operator,
                format!(
                    "the last {} bytes of the source end inside a block that reaches past the target",
                    edge.end - edge.start
                ),
                endpoint.uri.clone(),
            )
            .remedy(format!("use a target of at least {block_end} bytes")));
        }
        let mut block = vec![0; usize::try_from(block_end - block_start).unwrap_or(0)];
        writer.read(block_start, &mut block)?;
        let from = usize::try_from(edge.start - block_start).unwrap_or(0);
        let to = usize::try_from(edge.end - block_start).unwrap_or(0);
        reader.read(edge.start, &mut block[from..to])?;
        writer.write(block_start, &block)?;
    }
    if target.end.has_flag(TransmissionFlags::SEND_FLUSH) {
        writer.flush()?;
    }
    writer.disconnect();
    if let EdgeReader::Nbd(client) = reader {
        client.disconnect();
    }
    Ok(())
}

/// Reads a few odd bytes of the source.
enum EdgeReader {
    Device(Arc<DeviceFile>),
    Nbd(Box<NbdClient>),
    Null,
}

impl EdgeReader {
    fn open(endpoint: &Endpoint, end: &Opened) -> Result<Self, EngineError> {
        Ok(match (endpoint, end) {
            (_, Opened::Device(device)) => Self::Device(Arc::clone(device)),
            (Endpoint::Nbd(endpoint), _) => {
                Self::Nbd(Box::new(NbdClient::connect_as(endpoint, Role::Source)?))
            }
            _ => Self::Null,
        })
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), EngineError> {
        match self {
            Self::Nbd(client) => read_aligned(client, offset, buf),
            Self::Null => {
                buf.fill(0);
                Ok(())
            }
            Self::Device(device) => {
                let mut done = 0;
                while done < buf.len() {
                    let read = device.read_at(&mut buf[done..], offset + done as u64);
                    let on = device.path().display().to_string();
                    done += match read {
                        Ok(0) => {
                            let what = "the source ended before its size";
                            return Err(EngineError::new(
                                ErrorKind::SourceIo,
                                Blame::Environment,
                                what,
                                on,
                            ));
                        }
                        Ok(len) => len,
                        Err(cause) => {
                            let what = "reading the source failed";
                            return Err(EngineError::new(
                                ErrorKind::SourceIo,
                                Blame::Environment,
                                what,
                                on,
                            )
                            .cause(cause));
                        }
                    };
                }
                Ok(())
            }
        }
    }
}

/// Reads a range of a source that may have a block size of its own.
fn read_aligned(client: &mut NbdClient, offset: u64, buf: &mut [u8]) -> Result<(), EngineError> {
    let (size, min) = (
        client.params().info.size_bytes,
        client.params().info.block.min,
    );
    let block = u64::from(min.max(1));
    let start = offset / block * block;
    let end = (offset + buf.len() as u64)
        .next_multiple_of(block)
        .min(size);
    let mut cover = vec![0; usize::try_from(end - start).unwrap_or(0)];
    client.read(start, &mut cover)?;
    let from = usize::try_from(offset - start).unwrap_or(0);
    buf.copy_from_slice(&cover[from..from + buf.len()]);
    Ok(())
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

impl Running<'_> {
    /// Dials every connection first, so that a refusal costs nothing, then hands the streams to the shards.
    fn start(&self, source: &Opened, target: &Opened) -> Result<(), EngineError> {
        let mut seeds = Vec::with_capacity(self.movers);
        for index in 0..self.movers {
            seeds.push(MoverSeed {
                shared: Arc::clone(&self.shared),
                index,
                source: source.seed(Role::Source)?,
                target: target.seed(Role::Target)?,
            });
        }
        for (index, seed) in seeds.into_iter().enumerate() {
            if let Err(error) = self.engine.add_mover(index, seed) {
                self.shared.ended_movers.fetch_add(1, Ordering::AcqRel);
                self.shared.fail(error);
            }
        }
        Ok(())
    }

    /// Waits for the movers through all phases.
    fn follow(&mut self, cancel: &Cancel, observe: &mut dyn FnMut(&Progress)) {
        let mut seen = 0;
        loop {
            self.engine.follow_rate();
            if cancel.is_cancelled() && !self.shared.cancelled.swap(true, Ordering::AcqRel) {
                self.engine.wake();
            }
            let movers_ended = self.shared.ended_movers.load(Ordering::Acquire);
            if movers_ended >= self.movers {
                return;
            }
            if self.shared.failed.load(Ordering::Acquire) {
                self.engine.wake();
            } else {
                self.next_phase();
            }
            let progress = self.progress();
            observe(&progress);
            self.shared.wait(&mut seen, OBSERVE_EVERY);
        }
    }

    fn next_phase(&mut self) {
        let idle = self.shared.idle_movers.load(Ordering::Acquire) >= self.movers;
        let flush = self.shared.settings.flush;
        match self.shared.phase() {
            Phase::Moving if idle && flush => self.enter(Phase::Flushing),
            Phase::Moving if idle => self.enter(Phase::Finishing),
            Phase::Flushing if self.shared.is_flushed() => {
                self.durable = true;
                self.enter(Phase::Finishing);
            }
            _ => {}
        }
    }

    fn enter(&self, phase: Phase) {
        self.shared.set_phase(phase);
        self.engine.wake();
    }

    fn progress(&mut self) -> Progress {
        let value = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let now = Instant::now();
        let mut progress = Progress {
            total_bytes: self.total_bytes,
            data_bytes: value(&self.shared.data_bytes),
            zero_bytes: value(&self.shared.zero_bytes),
            skipped_bytes: value(&self.shared.skipped_bytes),
            durable_bytes: 0,
            in_flight_bytes: value(&self.shared.in_flight_bytes),
            elapsed: now - self.begun,
            stalled_for: Duration::ZERO,
        };
        let done = progress.done_bytes();
        if done != self.last_done {
            self.last_done = done;
            self.last_change = now;
        }
        progress.stalled_for = now - self.last_change;
        if self.durable {
            progress.durable_bytes = done;
        }
        progress
    }

    fn outcome(&self, cancel: &Cancel) -> Result<(), EngineError> {
        if let Some(error) = self.shared.take_error() {
            return Err(error);
        }
        if cancel.is_cancelled() {
            let what = "interrupted; what was in flight is written";
            return Err(
                EngineError::new(ErrorKind::Cancelled, Blame::Operator, what, "transfer")
                    .remedy("start the copy again"),
            );
        }
        let done = self.last_done;
        if self.shared.settings.flush && !self.durable {
            return Err(EngineError::bug("the target was not flushed", "transfer"));
        }
        debug_assert!(done <= self.total_bytes);
        Ok(())
    }
}
