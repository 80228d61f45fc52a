//! The shards as a whole: threads, placement, statistics, the end.

use crate::{
    EngineError, Export, Tunables,
    command::{Command, Job, Outside, StatusJob},
    error::{Blame, ErrorKind},
    export::Store,
    limits::COMMANDS_QUEUED_MAX,
    mover::MoverSeed,
    shard::{Shard, ShardParts},
    stats::{ShardStats, SharedStats},
    transfer::shared::Pacer,
};
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use sys::{
    Arena, ArenaConfig, Backend, LeaseClass, RuntimeChoice, RuntimeReport, Tier, Waker,
    poll::{Poll, PollConfig},
    ring::{Ring, RingConfig},
};
use wire::{Extent, NbdError};

/// How the shards are set up.
pub struct EngineConfig {
    /// Threads; each is a shard.
    pub shards: usize,
    /// What `sys::runtime::select` found.
    pub runtime: RuntimeReport,
    /// Payload memory of all shards together, bytes.
    pub arena_bytes: usize,
    /// Pin each shard to a CPU.
    pub pin: bool,
    /// Values in force.
    pub tunables: Arc<Tunables>,
}

/// Payload memory of a process when nobody says otherwise, bytes.
pub const ARENA_BYTES: usize = 96 * 1024 * 1024;
/// Entries of a shard's ring.
const RING_ENTRIES: u32 = 1_024;
/// Sockets and files one ring can know.
const RING_FILES: u16 = 1_024;
/// Threads per shard for file I/O where io_uring is forbidden.
const POLL_IO_THREADS: usize = 4;

/// A connection that finished TLS and NBD negotiation at the door.
pub struct ServerSeed {
    /// The connected socket.
    pub socket: OwnedFd,
    /// `None`: plain NBD on a Unix socket.
    pub session: Option<tls::Session>,
    /// Bytes received behind the handshake (ciphertext when TLS).
    pub leftover: Vec<u8>,
    /// What was negotiated.
    pub params: wire::ServerParams,
    /// The export that was opened.
    pub export: Arc<Export>,
    /// For messages: address or uid.
    pub peer: String,
    /// SHA-256 of the client certificate.
    pub fingerprint: Option<[u8; 32]>,
}

/// How to close an export's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseHow {
    /// At once: what is with the device is finished, not answered.
    Now,
    /// New requests are answered ESHUTDOWN; the client closes.
    Drain,
}

struct ShardHandle {
    commands: Sender<Command>,
    waker: Waker,
    stats: Arc<SharedStats>,
    /// Connections given to it, for placement.
    placed: AtomicUsize,
    thread: Mutex<Option<JoinHandle<Result<(), EngineError>>>>,
}

/// The shards.
pub struct Engine {
    shards: Arc<Vec<ShardHandle>>,
    jobs: Sender<Job>,
    outside: Mutex<Option<JoinHandle<()>>>,
    runtime: RuntimeReport,
    tunables: Arc<Tunables>,
    /// Of all transfers together.
    pacer: Arc<Pacer>,
    arena_bytes: usize,
    next: AtomicUsize,
}

/// What a new shard thread needs.
struct Birth {
    index: usize,
    arena: Arc<Arena>,
    tier: Tier,
    pin: bool,
    commands: Receiver<Command>,
    jobs: Sender<Job>,
    stats: Arc<SharedStats>,
    tunables: Arc<Tunables>,
    ready: Sender<Result<Waker, EngineError>>,
}

impl Engine {
    /// Starts the threads and waits until each has its ring.
    ///
    /// # Errors
    /// A thread, its memory or its ring could not be had. Without rings, and unless the operator wants a certain tier,
    /// epoll is used instead.
    pub fn start(mut config: EngineConfig) -> Result<Self, EngineError> {
        let (jobs, job_queue) = bounded(COMMANDS_QUEUED_MAX);
        let is_free = config.tunables.runtime() == RuntimeChoice::Auto;
        let shards = match spawn_shards(&config, &jobs) {
            Err(NotStarted::Ring(error)) if is_free && config.runtime.tier != Tier::Epoll => {
                config.runtime = config.runtime.fall_back(&chain_of(&error));
                spawn_shards(&config, &jobs)
            }
            other => other,
        };
        let shards = Arc::new(shards.map_err(NotStarted::into_error)?);
        let for_outside = Arc::clone(&shards);
        let outside = thread::Builder::new()
            .name("mk-outside".into())
            .spawn(move || run_outside(&job_queue, &for_outside))
            .map_err(|cause| thread_failed("outside", cause))?;
        Ok(Self {
            shards,
            jobs,
            outside: Mutex::new(Some(outside)),
            runtime: config.runtime,
            tunables: config.tunables,
            pacer: Arc::new(Pacer::new(None)),
            arena_bytes: config.arena_bytes,
            next: AtomicUsize::new(0),
        })
    }

    /// How many shards run.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// The tier and why.
    #[must_use]
    pub fn runtime(&self) -> &RuntimeReport {
        &self.runtime
    }

    /// Values in force.
    #[must_use]
    pub fn tunables(&self) -> &Tunables {
        &self.tunables
    }

    /// What paces all transfers, at the rate that is in force now. Running transfers call it again and again.
    pub(crate) fn follow_rate(&self) -> Arc<Pacer> {
        let rate = self.tunables.rate_bytes_per_s();
        self.pacer.set_rate(rate.unwrap_or(0));
        Arc::clone(&self.pacer)
    }

    /// Payload memory one of `movers` streams may count on, bytes.
    pub(crate) fn payload_bytes_per_mover(&self, movers: usize) -> usize {
        let per_shard = self.arena_bytes / self.shards.len();
        per_shard / movers.div_ceil(self.shards.len()).max(1)
    }

    /// Hands a connection to the shard with the fewest. It counts in `export.connections()` from now on.
    ///
    /// # Errors
    /// The shard's queue is full, or the engine is stopping.
    pub fn serve(&self, seed: ServerSeed) -> Result<(), EngineError> {
        let shard = self.least_loaded();
        let export = Arc::clone(&seed.export);
        export.enter();
        let sent = self.send(shard, Command::Serve(Box::new(seed)));
        if sent.is_err() {
            export.leave();
        }
        sent
    }

    /// The shard with the fewest live lanes; among equals they take turns.
    fn least_loaded(&self) -> usize {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.shards.len();
        (0..count)
            .map(|step| (start + step) % count)
            .min_by_key(|index| {
                let shard = &self.shards[*index];
                let waiting = shard.commands.len() as u64;
                shard.stats.connections() + waiting
            })
            .unwrap_or(0)
    }

    /// Places a transfer's stream: stream `i` on shard `i` modulo their number.
    pub(crate) fn add_mover(&self, index: usize, seed: MoverSeed) -> Result<(), EngineError> {
        self.send(index % self.shards.len(), Command::Move(Box::new(seed)))
    }

    fn send(&self, shard: usize, command: Command) -> Result<(), EngineError> {
        let handle = &self.shards[shard];
        match handle.commands.try_send(command) {
            Ok(()) => {
                handle.placed.fetch_add(1, Ordering::Relaxed);
                handle.waker.wake();
                Ok(())
            }
            Err(TrySendError::Full(_)) => Err(EngineError::new(
                ErrorKind::Config,
                Blame::Environment,
                "too many commands wait",
                format!("shard {shard}"),
            )
            .remedy("try again in a moment")),
            Err(TrySendError::Disconnected(_)) => Err(EngineError::bug(
                "the shard ended",
                format!("shard {shard}"),
            )),
        }
    }

    /// Wakes every shard, so that movers look at what they share.
    pub(crate) fn wake(&self) {
        self.shards.iter().for_each(|shard| shard.waker.wake());
    }

    /// Closes all connections of an export; wait for the end by `Export::wait_idle`.
    pub fn close_export(&self, export: &Arc<Export>, how: CloseHow) {
        let drain = how == CloseHow::Drain;
        export.begin_closing();
        self.tell_all(|| Command::CloseExport {
            export_id: export.id(),
            drain,
        });
    }

    /// Control commands may not be lost: the sender waits for room, which a turning shard makes at once.
    fn tell_all(&self, command: impl Fn() -> Command) {
        for shard in self.shards.iter() {
            if shard.commands.send(command()).is_ok() {
                shard.waker.wake();
            }
        }
    }

    /// Totals of each shard.
    #[must_use]
    pub fn stats(&self) -> Vec<ShardStats> {
        self.shards
            .iter()
            .enumerate()
            .map(|(index, shard)| shard.stats.totals(index))
            .collect()
    }

    /// The slowest shard's latency percentiles, microseconds.
    pub(crate) fn latency_us(&self) -> [u64; 4] {
        let mut worst = [0; 4];
        for stats in self.stats() {
            for (worst, value) in worst.iter_mut().zip(stats.latency_us) {
                *worst = (*worst).max(value);
            }
        }
        worst
    }

    /// Drains every connection, closes what is left after the time, joins the threads. Devices are flushed
    /// by whoever owns the exports, after this returns.
    ///
    /// # Errors
    /// A shard ended with an error.
    pub fn stop(self, drain_timeout: Duration) -> Result<(), EngineError> {
        let deadline = Instant::now() + drain_timeout;
        self.tell_all(|| Command::Stop {
            now: drain_timeout.is_zero(),
        });
        let mut told_again = drain_timeout.is_zero();
        let mut first_error = None;
        for shard in self.shards.iter() {
            let thread = shard
                .thread
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            let Some(thread) = thread else { continue };
            while !thread.is_finished() && !told_again {
                if Instant::now() >= deadline {
                    self.tell_all(|| Command::Stop { now: true });
                    told_again = true;
                }
                // Joining has no time-out in std; look again soon.
                thread::park_timeout(Duration::from_millis(10));
            }
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => first_error = first_error.or(Some(error)),
                Err(_) => first_error = first_error.or(Some(EngineError::bug("panicked", "shard"))),
            }
        }
        let _stopping = self.jobs.send(Job::Stop);
        let outside = self
            .outside
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(outside) = outside {
            let _ended = outside.join();
        }
        first_error.map_or(Ok(()), Err)
    }
}

/// An eighth of the memory in small leases, the rest in large ones.
fn arena_config(bytes: usize, tunables: &Tunables) -> ArenaConfig {
    let small = bytes / 8;
    ArenaConfig {
        small_count: (small / LeaseClass::Small.stride_bytes()).max(64),
        large_count: ((bytes - small) / LeaseClass::Large.stride_bytes()).max(8),
        huge_pages: tunables.huge_pages(),
    }
}

fn setup_failed(what: &str, shard: usize, cause: sys::SetupError) -> EngineError {
    let remedy = cause.remedy().to_owned();
    EngineError::new(
        ErrorKind::Config,
        Blame::Environment,
        what,
        format!("shard {shard}"),
    )
    .remedy(remedy)
    .cause(cause)
}

fn thread_failed(name: &str, cause: std::io::Error) -> EngineError {
    EngineError::new(
        ErrorKind::Config,
        Blame::Environment,
        "cannot start a thread",
        name,
    )
    .remedy("raise the limit of processes (ulimit -u, TasksMax)")
    .cause(cause)
}

/// Why there are no shards.
enum NotStarted {
    /// A ring could not be had.
    Ring(EngineError),
    /// Something that another tier would need as well.
    Else(EngineError),
}

impl NotStarted {
    fn into_error(self) -> EngineError {
        match self {
            Self::Ring(error) | Self::Else(error) => error,
        }
    }
}

/// All shards, or none.
fn spawn_shards(config: &EngineConfig, jobs: &Sender<Job>) -> Result<Vec<ShardHandle>, NotStarted> {
    let count = config.shards.max(1);
    let mut shards = Vec::with_capacity(count);
    for index in 0..count {
        let shard = Arena::new(&arena_config(config.arena_bytes / count, &config.tunables))
            .map_err(|cause| NotStarted::Else(setup_failed("no memory for payload", index, cause)))
            .and_then(|arena| spawn_shard(config, index, arena, jobs.clone()));
        match shard {
            Ok(shard) => shards.push(shard),
            Err(error) => {
                shards.iter().for_each(ShardHandle::end);
                return Err(error);
            }
        }
    }
    Ok(shards)
}

impl ShardHandle {
    /// Ends a shard that nobody was given to yet.
    fn end(&self) {
        // A shard that ended by itself takes no orders.
        let _ended = self.commands.send(Command::Stop { now: true });
        self.waker.wake();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let _ended = thread.join();
        }
    }
}

fn spawn_shard(
    config: &EngineConfig,
    index: usize,
    arena: Arc<Arena>,
    jobs: Sender<Job>,
) -> Result<ShardHandle, NotStarted> {
    let (commands, command_queue) = bounded(COMMANDS_QUEUED_MAX);
    let (ready, born) = bounded(1);
    let stats = Arc::new(SharedStats::default());
    let birth = Birth {
        index,
        arena,
        tier: config.runtime.tier,
        pin: config.pin,
        commands: command_queue,
        jobs,
        stats: Arc::clone(&stats),
        tunables: Arc::clone(&config.tunables),
        ready,
    };
    let thread = thread::Builder::new()
        .name(format!("mk-shard-{index}"))
        .spawn(move || run_shard(birth))
        .map_err(|cause| NotStarted::Else(thread_failed("shard", cause)))?;
    let waker = born
        .recv()
        .map_err(|_| NotStarted::Else(EngineError::bug("a shard died at birth", "engine")))?
        .map_err(NotStarted::Ring)?;
    Ok(ShardHandle {
        commands,
        waker,
        stats,
        placed: AtomicUsize::new(0),
        thread: Mutex::new(Some(thread)),
    })
}

fn run_shard(birth: Birth) -> Result<(), EngineError> {
    if birth.pin
        && let Err(cause) = sys::cpu::pin(birth.index)
    {
        tracing::warn!(shard = birth.index, %cause, "not pinned");
    }
    let arena = Arc::clone(&birth.arena);
    match birth.tier {
        Tier::Rich | Tier::Plain => {
            let config = RingConfig {
                tier: birth.tier,
                entries: RING_ENTRIES,
                files_max: RING_FILES,
                sockets_max: RING_FILES,
                arena,
            };
            turn_with(birth, Ring::new(&config))
        }
        Tier::Epoll => {
            let config = PollConfig {
                entries: RING_ENTRIES,
                files_max: RING_FILES,
                sockets_max: RING_FILES,
                threads: POLL_IO_THREADS,
            };
            turn_with(birth, Poll::new(&config))
        }
    }
}

fn turn_with<B: Backend>(
    birth: Birth,
    backend: Result<B, sys::SetupError>,
) -> Result<(), EngineError> {
    let backend = match backend {
        Ok(backend) => backend,
        Err(cause) => {
            let error = setup_failed("no ring for the shard", birth.index, cause);
            let _parent_gone = birth.ready.send(Err(error));
            return Ok(());
        }
    };
    let _parent_gone = birth.ready.send(Ok(backend.waker()));
    let mut shard = Shard::new(ShardParts {
        backend,
        arena: birth.arena,
        commands: birth.commands,
        outside: Outside {
            shard: birth.index,
            jobs: birth.jobs,
        },
        stats: birth.stats,
        tunables: birth.tunables,
    });
    shard.run().map_err(|cause| {
        EngineError::new(
            ErrorKind::Bug,
            Blame::Environment,
            "the ring broke",
            format!("shard {}", birth.index),
        )
        .remedy("restart; what was durable stays durable")
        .cause(cause)
    })
}

/// The thread that may block and log for the shards.
fn run_outside(jobs: &Receiver<Job>, shards: &[ShardHandle]) {
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Stop => return,
            Job::Ended {
                shard,
                peer,
                export,
                fault: None,
            } => {
                tracing::info!(shard, peer, export, "connection closed");
            }
            Job::Ended {
                shard,
                peer,
                export,
                fault: Some(fault),
            } => {
                let chain = chain_of(&fault);
                tracing::warn!(shard, peer, export, reason = chain, "connection ended");
            }
            Job::Status { shard, job } => {
                let answer = allocation(&job);
                let command = Command::Status {
                    tag: job.tag,
                    answer,
                };
                if let Some(handle) = shards.get(shard)
                    && handle.commands.send(command).is_ok()
                {
                    handle.waker.wake();
                }
            }
        }
    }
}

/// An error and its causes in one line.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Allocation of a file's range: data, or holes that read as zeroes.
fn allocation(job: &StatusJob) -> Result<Vec<Extent>, NbdError> {
    const DATA: u64 = 0;
    const HOLE_ZERO: u64 = 3;
    let Store::Device(device) = job.export.store() else {
        return Err(NbdError::Inval);
    };
    let end = job.offset + job.len;
    let (mut at, mut extents) = (job.offset, Vec::new());
    while at < end && extents.len() < crate::limits::STATUS_EXTENTS_MAX {
        let next = device.next_data(at).map_err(|_| NbdError::Io)?;
        let (data, data_end) = next.unwrap_or((end, end));
        let (data, data_end) = (data.min(end), data_end.min(end));
        if data > at {
            extents.push(Extent {
                len: data - at,
                flags: HOLE_ZERO,
            });
        }
        if data_end > data {
            extents.push(Extent {
                len: data_end - data,
                flags: DATA,
            });
        }
        at = data_end.max(data).max(at + 1);
    }
    Ok(extents)
}
