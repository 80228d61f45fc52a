//! Two shards, a wire and two disks on one thread.

use super::{
    backend::SimBackend,
    case::{Case, Shape},
    check::Ending,
    core::Sim,
    disk::Disk,
    pipe::Pipe,
    secure::shake,
};
use crate::{
    EngineError, Export, ExportSpec, Store, Tunables,
    command::{Command, Job, Outside},
    dial::Dialled,
    engine::ServerSeed,
    error::{Blame, ErrorKind},
    mover::{MoverSeed, SeedEnd},
    shard::{Shard, ShardParts},
    stats::SharedStats,
    transfer::{
        plan::{Planner, SourceMap},
        shared::{MoveSettings, Phase, TransferShared},
    },
};
use crossbeam::channel::{Receiver, Sender, bounded};
use std::{
    cell::RefCell,
    os::{fd::AsRawFd, unix::net::UnixStream},
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use sys::{Arena, ArenaConfig, DeviceFile, LeaseClass};
use tls::SessionLimits;
use wire::{ClientParams, Mode, ServerParams};

/// A run that is not over by then hangs.
const TURNS_MAX: u64 = 400_000;
/// Turns after the end in which the last operations come back.
const TURNS_AFTER: u64 = 64;
/// Where the first reset or forged byte may be applied: the first connection.
const FIRST: usize = 0;

struct Side {
    shard: Shard<SimBackend>,
    arena: Arc<Arena>,
    commands: Sender<Command>,
    held: Rc<RefCell<usize>>,
    _jobs: Receiver<Job>,
}

impl Side {
    fn new(sim: &Rc<RefCell<Sim>>, who: &'static str) -> Self {
        let arena = Arena::new(&ArenaConfig {
            small_count: 48,
            large_count: 20,
            huge_pages: false,
        })
        .expect("an arena");
        let held = Rc::new(RefCell::new(0));
        let (commands, inbox) = bounded(64);
        let (jobs, outside) = bounded(64);
        let shard = Shard::new(ShardParts {
            backend: SimBackend::new(Rc::clone(sim), who, Rc::clone(&held)),
            arena: Arc::clone(&arena),
            commands: inbox,
            outside: Outside { shard: 0, jobs },
            stats: Arc::new(SharedStats::default()),
            tunables: Tunables::new(),
        });
        Self {
            shard,
            arena,
            commands,
            held,
            _jobs: outside,
        }
    }

    fn missing(&self) -> usize {
        [LeaseClass::Small, LeaseClass::Large]
            .into_iter()
            .map(|class| self.arena.capacity(class) - self.arena.available(class))
            .sum()
    }
}

/// One run in progress.
struct World {
    case: Case,
    sim: Rc<RefCell<Sim>>,
    client: Side,
    server: Side,
    export: Arc<Export>,
    shared: Arc<TransferShared>,
    planner: Option<Planner>,
    movers: usize,
    target_disk: usize,
    at_flush: Option<(Vec<u8>, Vec<u8>)>,
    /// When the last lane was gone.
    over_ns: Option<u64>,
}

/// Runs a case to its end.
pub(super) fn run(case: Case) -> (Shape, Ending) {
    let shape = Shape::of(&case);
    let mut world = World::new(case, &shape);
    let (mut turns, mut after) = (0, 0);
    while turns < TURNS_MAX && after < TURNS_AFTER {
        world.turn();
        turns += 1;
        if world.is_over() {
            world.over_ns.get_or_insert(world.sim.borrow().now_ns);
            after += 1;
        }
    }
    let ending = world.ending(turns, after < TURNS_AFTER);
    (shape, ending)
}

fn device(sim: &Rc<RefCell<Sim>>, is_target: bool, image: &[u8]) -> Arc<DeviceFile> {
    let file = DeviceFile::in_memory(image.len() as u64).expect("a file in memory");
    let file = Arc::new(file);
    let disk = Disk::new(Arc::clone(&file), is_target, image.to_vec());
    sim.borrow_mut().disks.push(disk);
    file
}

/// Two descriptors that the backends know as the ends of one connection: (client, server).
fn connect(sim: &Rc<RefCell<Sim>>, shape: &Shape, number: usize) -> (UnixStream, UnixStream) {
    let (client, server) = UnixStream::pair().expect("two descriptors");
    let sim = &mut *sim.borrow_mut();
    let up = sim.pipes.len();
    for _ in 0..2 {
        sim.pipes.push(Pipe::default());
    }
    if number == FIRST {
        // The bulk of the bytes goes up when the server has the target.
        let bulk = if shape.push { up } else { up + 1 };
        sim.pipes[bulk].reset_after = shape.reset_after;
        sim.pipes[up].forge_at = sim.case.forge_at;
    }
    sim.ends.insert(client.as_raw_fd(), (up + 1, up));
    sim.ends.insert(server.as_raw_fd(), (up, up + 1));
    (client, server)
}

fn settings(shape: &Shape) -> MoveSettings {
    MoveSettings {
        request_bytes: shape.request_bytes,
        window_bytes: shape.window_bytes,
        zero_scan_bytes: shape.zero_scan_bytes,
        skip_zeroes: false,
        can_zero: shape.can_zero,
        zero_request_bytes: shape.zero_request_bytes,
        in_flight_deadline: Duration::from_secs(60),
        flush: true,
    }
}

impl World {
    fn new(case: Case, shape: &Shape) -> Self {
        let sim = Rc::new(RefCell::new(Sim::new(case)));
        let source = device(&sim, false, &shape.source);
        let target = device(&sim, true, &shape.target);
        let (far, near) = if shape.push {
            (target, source)
        } else {
            (source, target)
        };
        let export = Export::new(ExportSpec {
            name: "disk".into(),
            store: Store::Device(far),
            read_only: false,
            scratch: false,
        });
        let map = SourceMap::Known(shape.map.iter().copied().collect());
        let world = Self {
            case,
            client: Side::new(&sim, "client"),
            server: Side::new(&sim, "server"),
            sim,
            export,
            shared: Arc::new(TransferShared::new(settings(shape), None)),
            planner: Some(Planner::new(map, shape.ranges.clone())),
            movers: shape.movers,
            target_disk: 1,
            at_flush: None,
            over_ns: None,
        };
        for index in 0..shape.movers {
            world.add_mover(shape, index, &near);
        }
        world
    }

    fn add_mover(&self, shape: &Shape, index: usize, near: &Arc<DeviceFile>) {
        let (client, server) = connect(&self.sim, shape, index);
        let limits = SessionLimits {
            records_per_key: shape.records_per_key,
            key_updates_per_second: u32::MAX,
        };
        let (mut ours, mut theirs, mut leftover) = (None, None, Vec::new());
        if shape.tls {
            let secured = shake(limits);
            (ours, theirs) = (Some(secured.client), Some(secured.server));
            leftover = secured.to_client;
        }
        let info = self.export.info();
        self.export.enter();
        let seed = ServerSeed {
            socket: server.into(),
            session: theirs,
            leftover: Vec::new(),
            params: ServerParams {
                export_name: "disk".into(),
                info: info.clone(),
                mode: shape.mode,
                base_allocation: (shape.mode != Mode::Simple).then_some(1),
                block_sizes_negotiated: true,
            },
            export: Arc::clone(&self.export),
            peer: "sim".into(),
            fingerprint: None,
        };
        let _room = self.server.commands.send(Command::Serve(Box::new(seed)));
        let dialled = SeedEnd::Nbd(Box::new(Dialled {
            socket: client.into(),
            session: ours,
            leftover,
            params: ClientParams {
                info,
                mode: shape.mode,
                contexts: Vec::new(),
                block_sizes_stated: true,
            },
        }));
        let near = SeedEnd::File(Arc::clone(near));
        let (source, target) = if shape.push {
            (near, dialled)
        } else {
            (dialled, near)
        };
        let seed = MoverSeed {
            shared: Arc::clone(&self.shared),
            index,
            source,
            target,
        };
        let _room = self.client.commands.send(Command::Move(Box::new(seed)));
    }

    /// One turn of a shard of the seed's choice, and a look at the phase.
    fn turn(&mut self) {
        let client_turns = self.sim.borrow_mut().dice.once_in(2);
        let side = if client_turns {
            &mut self.client
        } else {
            &mut self.server
        };
        side.shard.turn().expect("this kernel never fails to wait");
        self.plan();
        self.next_phase();
    }

    fn plan(&mut self) {
        let Some(planner) = &mut self.planner else {
            return;
        };
        if self.shared.work.is_full() && !self.shared.is_stopping() {
            return;
        }
        let work = planner.next_work().expect("the map is known");
        let pushed = work.is_some_and(|work| self.shared.work.push(work).is_ok());
        if !pushed || self.shared.is_stopping() {
            self.planner = None;
            self.shared.planned.store(true, Ordering::Release);
        }
    }

    fn next_phase(&mut self) {
        if self.shared.failed.load(Ordering::Acquire) {
            return;
        }
        let idle = self.shared.idle_movers.load(Ordering::Acquire) >= self.movers;
        match self.shared.phase() {
            Phase::Moving if idle => self.shared.set_phase(Phase::Flushing),
            Phase::Flushing if self.shared.is_flushed() => {
                let sim = self.sim.borrow();
                let disk = &sim.disks[self.target_disk];
                self.at_flush = Some((disk.image.clone(), disk.durable.clone()));
                self.shared.set_phase(Phase::Finishing);
            }
            _ => {}
        }
    }

    fn is_over(&self) -> bool {
        self.shared.ended_movers.load(Ordering::Acquire) >= self.movers
            && self.export.connections() == 0
    }

    fn ending(self, turns: u64, hung: bool) -> Ending {
        let result = match self.shared.take_error() {
            Some(error) => Err(error),
            None if self.at_flush.is_some() => Ok(()),
            None => Err(EngineError::new(
                ErrorKind::Bug,
                Blame::Bug,
                "ended without a flush and without an error",
                "transfer",
            )),
        };
        let sim = self.sim.borrow();
        let held = *self.client.held.borrow() + *self.server.held.borrow();
        Ending {
            result,
            at_flush: self.at_flush,
            image: sim.disks[self.target_disk].image.clone(),
            leases_missing: self.client.missing() + self.server.missing(),
            held,
            hung,
            must_succeed: self.case.fault.is_harmless() && self.case.forge_at.is_none(),
            turns,
            took_ns: self.over_ns.unwrap_or(sim.now_ns),
            trace: sim.trace,
            story: sim.story(),
        }
    }
}
