//! One shard: one thread's lanes, memory and ring.
//!
//! All control flow of the data plane is [`Shard::turn`]. Nobody else touches what a shard owns; other threads send
//! commands through a bounded queue and wake it.

use crate::{
    command::{Command, Outside},
    ctx::{Ctx, Hold, Kind, Share, Side, Tag},
    engine::ServerSeed,
    export::Store,
    limits::{
        COMMANDS_PER_TURN_MAX, COMPLETIONS_PER_TURN_MAX, GATE_RETRY_US, HOUSEKEEPING_MS,
        LANES_PER_SHARD_MAX,
    },
    mover::{End, Mover, MoverSeed, SeedEnd},
    server::{Next, ServerLane, ServerParts},
    slots::Slots,
    stats::{LocalStats, SharedStats},
    tunables::Tunables,
};
use crossbeam::channel::Receiver;
use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use sys::{Arena, Backend, Completion, DeviceFile, FileId, LeaseClass, RingError, RxMode};
use wire::ServerConn;

/// A connection or a stream of a transfer.
enum Lane {
    Server(Box<ServerLane>),
    Mover(Box<Mover>),
}

struct Entry {
    lane: Lane,
    generation: u16,
    /// Stands in the list of lanes to advance.
    queued: bool,
}

/// A device several lanes of the shard use, registered once.
struct SharedFile {
    device: Arc<DeviceFile>,
    file: FileId,
    users: usize,
}

/// What a shard is made of.
pub(crate) struct ShardParts<B> {
    pub backend: B,
    pub arena: Arc<Arena>,
    pub commands: Receiver<Command>,
    pub outside: Outside,
    pub stats: Arc<SharedStats>,
    pub tunables: Arc<Tunables>,
}

/// One thread of the engine.
pub(crate) struct Shard<B: Backend> {
    // Drop order: lanes give their leases back and the backend drains before the arena goes.
    lanes: Slots<Entry>,
    backend: B,
    arena: Arc<Arena>,
    files: Vec<SharedFile>,
    commands: Receiver<Command>,
    outside: Outside,
    local: LocalStats,
    shared_stats: Arc<SharedStats>,
    tunables: Arc<Tunables>,
    dirty: VecDeque<u32>,
    /// Lanes that are movers.
    movers: Vec<u32>,
    /// Lanes that want to go on next turn.
    again: bool,
    /// One of them has bytes at hand.
    at_once: bool,
    generation: u16,
    housekept: Instant,
    stopping: bool,
}

impl<B: Backend> Shard<B> {
    pub(crate) fn new(parts: ShardParts<B>) -> Self {
        let now = parts.backend.now();
        Self {
            lanes: Slots::new(LANES_PER_SHARD_MAX),
            backend: parts.backend,
            arena: parts.arena,
            files: Vec::with_capacity(LANES_PER_SHARD_MAX),
            commands: parts.commands,
            outside: parts.outside,
            local: LocalStats::new(),
            shared_stats: parts.stats,
            tunables: parts.tunables,
            dirty: VecDeque::with_capacity(LANES_PER_SHARD_MAX),
            movers: Vec::with_capacity(LANES_PER_SHARD_MAX),
            again: false,
            at_once: false,
            generation: 0,
            housekept: now,
            stopping: false,
        }
    }

    /// Turns until told to stop and nothing is left.
    pub(crate) fn run(&mut self) -> Result<(), RingError> {
        while !(self.stopping && self.lanes.is_empty()) {
            self.turn()?;
        }
        self.publish();
        Ok(())
    }

    /// One turn.
    pub(crate) fn turn(&mut self) -> Result<(), RingError> {
        let now = self.backend.now();
        self.take_commands(now);
        self.reap(now);
        self.advance(now);
        self.housekeep(now);
        self.publish();
        let until = self.deadline(now);
        self.backend.submit_and_wait(until)
    }

    /// Leases one lane may hold: an equal share, so that no lane can starve or deadlock another.
    fn share(&self) -> Share {
        let lanes = u32::try_from(self.lanes.len().max(1)).unwrap_or(u32::MAX);
        let part = |class| {
            let capacity = u32::try_from(self.arena.capacity(class)).unwrap_or(u32::MAX);
            (capacity / lanes).max(4)
        };
        Share {
            large: part(LeaseClass::Large),
            small: part(LeaseClass::Small),
        }
    }

    /// Splits the shard into its lanes and the view the lanes work with.
    fn split(&mut self, now: Instant) -> (&mut Slots<Entry>, Ctx<'_, B>) {
        let share = self.share();
        let ctx = Ctx {
            backend: &mut self.backend,
            arena: &self.arena,
            stats: &mut self.local,
            now,
            share,
            send_batch_bytes: self.tunables.send_batch_bytes(),
            send_zc: self.tunables.send_zc(),
            device_depth: self.tunables.device_depth() as u64,
            outside: &self.outside,
        };
        (&mut self.lanes, ctx)
    }

    fn take_commands(&mut self, now: Instant) {
        for _ in 0..COMMANDS_PER_TURN_MAX {
            let Ok(command) = self.commands.try_recv() else {
                break;
            };
            match command {
                Command::Serve(seed) => self.serve(now, *seed),
                Command::Move(seed) => self.add_mover(now, *seed),
                Command::CloseExport { export_id, drain } => {
                    self.close_servers(now, drain, |lane| lane.export().id() == export_id);
                }
                Command::Status { tag, answer } => {
                    let (lanes, mut ctx) = self.split(now);
                    let answer = answer.as_deref().map_err(|error| *error);
                    if let Some(entry) = lanes.get_mut(tag.lane)
                        && let (true, Lane::Server(lane)) =
                            (entry.generation == tag.generation, &mut entry.lane)
                    {
                        lane.handle_status(&mut ctx, u32::from(tag.slot), answer);
                    }
                    self.mark(tag.lane);
                }
                Command::Stop { now: at_once } => {
                    self.stopping = true;
                    self.close_servers(now, !at_once, |_| true);
                    if at_once {
                        self.close_movers(now);
                    }
                }
            }
        }
        // Movers look at what they share with other threads; a wake-up may be about that.
        for at in 0..self.movers.len() {
            self.mark(self.movers[at]);
        }
    }

    fn mark(&mut self, index: u32) {
        if let Some(entry) = self.lanes.get_mut(index)
            && !std::mem::replace(&mut entry.queued, true)
        {
            self.dirty.push_back(index);
        }
    }

    fn close_servers(&mut self, now: Instant, drain: bool, which: impl Fn(&ServerLane) -> bool) {
        let (lanes, mut ctx) = self.split(now);
        for (_, entry) in lanes.iter_mut() {
            let Lane::Server(lane) = &mut entry.lane else {
                continue;
            };
            if which(lane) {
                if drain {
                    lane.drain();
                } else {
                    lane.close(&mut ctx);
                }
            }
        }
        self.mark_all();
    }

    fn close_movers(&mut self, now: Instant) {
        let (lanes, mut ctx) = self.split(now);
        for (_, entry) in lanes.iter_mut() {
            if let Lane::Mover(mover) = &mut entry.lane {
                mover.close(&mut ctx);
            }
        }
        self.mark_all();
    }

    fn mark_all(&mut self) {
        for index in 0..u32::try_from(LANES_PER_SHARD_MAX).unwrap_or(0) {
            self.mark(index);
        }
    }

    fn reap(&mut self, now: Instant) {
        for _ in 0..COMPLETIONS_PER_TURN_MAX {
            let Some(completion) = self.backend.reap() else {
                break;
            };
            let tag = match &completion {
                Completion::Op { token, .. }
                | Completion::Sent { token, .. }
                | Completion::Released { token, .. }
                | Completion::Rx { token, .. } => Tag::from(*token),
            };
            if let Completion::Released { op, copied, .. } = &completion {
                // Here, because the connection may be gone already.
                self.local.count_zero_copy(op, *copied);
            }
            self.dispatch(now, tag, completion);
            self.mark(tag.lane);
        }
    }

    fn dispatch(&mut self, now: Instant, tag: Tag, completion: Completion) {
        let copied = self.local.plaintext_copied_bytes;
        let (lanes, mut ctx) = self.split(now);
        let Some(entry) = lanes.get_mut(tag.lane) else {
            return;
        };
        if entry.generation != tag.generation {
            return;
        }
        match (&mut entry.lane, completion) {
            (Lane::Server(lane), Completion::Op { outcome, op, .. }) => {
                lane.handle(&mut ctx, tag, outcome, op);
            }
            (Lane::Server(lane), Completion::Rx { outcome, .. }) => {
                lane.handle_stream(&mut ctx, outcome);
            }
            (Lane::Server(lane), completion) => lane.handle_zero_copy(&mut ctx, completion),
            (Lane::Mover(mover), Completion::Op { outcome, op, .. }) => {
                mover.handle(&mut ctx, tag, outcome, op);
            }
            (Lane::Mover(mover), Completion::Rx { outcome, .. }) => {
                mover.handle_stream(&mut ctx, tag.side, outcome);
            }
            (Lane::Mover(mover), completion) => {
                mover.handle_zero_copy(&mut ctx, tag.side, completion);
            }
        }
        let copied = self.local.plaintext_copied_bytes - copied;
        self.charge(tag.lane, copied);
    }

    /// Books copied bytes on the transfer they belong to.
    fn charge(&self, index: u32, copied: u64) {
        if copied == 0 {
            return;
        }
        if let Some(Entry {
            lane: Lane::Mover(mover),
            ..
        }) = self.lanes.get(index)
        {
            mover
                .shared()
                .plaintext_copied_bytes
                .fetch_add(copied, Ordering::Relaxed);
        }
    }

    fn advance(&mut self, now: Instant) {
        self.again = false;
        self.at_once = false;
        for _ in 0..self.dirty.len() {
            let Some(index) = self.dirty.pop_front() else {
                break;
            };
            let copied = self.local.plaintext_copied_bytes;
            let (lanes, mut ctx) = self.split(now);
            let Some(entry) = lanes.get_mut(index) else {
                continue;
            };
            entry.queued = false;
            let next = match &mut entry.lane {
                Lane::Server(lane) => lane.advance(&mut ctx),
                Lane::Mover(mover) => mover.advance(&mut ctx),
            };
            let copied = self.local.plaintext_copied_bytes - copied;
            self.charge(index, copied);
            match next {
                Next::Wait => {}
                Next::Again | Next::AtOnce => {
                    self.again = true;
                    self.at_once |= next == Next::AtOnce;
                    self.mark(index);
                }
                Next::Free => self.free(index),
            }
        }
    }

    fn free(&mut self, index: u32) {
        let Some(entry) = self.lanes.remove(index) else {
            return;
        };
        self.local.connections -= 1;
        match entry.lane {
            Lane::Server(mut lane) => {
                if let Some(file) = lane.file() {
                    self.release_file(file);
                }
                let fault = lane.take_fault();
                self.outside.ended(lane.peer(), lane.export().name(), fault);
                lane.export().leave();
            }
            Lane::Mover(mover) => {
                self.shared_stats.publish_latency(&self.local);
                self.movers.retain(|known| *known != index);
                for file in mover.files() {
                    self.release_file(file);
                }
            }
        }
    }

    /// Deadlines of lanes, twice a second, and draining connections that have nothing left to do.
    fn housekeep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.housekept) < Duration::from_millis(HOUSEKEEPING_MS) {
            return;
        }
        self.housekept = now;
        let stopping = self.stopping;
        let (lanes, mut ctx) = self.split(now);
        for (_, entry) in lanes.iter_mut() {
            match &mut entry.lane {
                Lane::Server(lane) => {
                    lane.housekeep(&mut ctx);
                    if stopping && lane.is_drained() {
                        lane.close(&mut ctx);
                    }
                }
                Lane::Mover(mover) => mover.housekeep(&mut ctx),
            }
        }
        self.shared_stats.publish_latency(&self.local);
        self.mark_all();
    }

    fn publish(&mut self) {
        self.local.turns += 1;
        self.shared_stats
            .publish(&self.local, self.backend.in_flight() as u64);
    }

    /// When to turn again although nothing happened.
    fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.lanes.is_empty() {
            // Told to stop in this very turn: nothing is left that could wake us.
            return self.stopping.then_some(now);
        }
        if self.at_once {
            return Some(now);
        }
        let mut until = self.housekept + Duration::from_millis(HOUSEKEEPING_MS);
        if self.again {
            until = until.min(now + Duration::from_micros(GATE_RETRY_US));
        }
        for (_, entry) in self.lanes.iter() {
            if let Lane::Mover(mover) = &entry.lane {
                until = mover.wake_at().map_or(until, |wake| until.min(wake));
            }
        }
        Some(until)
    }

    fn next_tag(&mut self, index: u32) -> Tag {
        self.generation = self.generation.wrapping_add(1);
        Tag {
            lane: index,
            generation: self.generation,
            side: Side::Target,
            kind: Kind::Rx,
            slot: 0,
            aux: 0,
        }
    }
}

mod placing;
