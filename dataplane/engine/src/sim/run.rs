//! One transfer in a world of its own, from its seed to its end.

use super::{
    case::{Case, Fault, Shape},
    check::Ending,
    copy::Copy,
    disk::Role,
    side::SCARCE,
    wiring::{Agreed, Wired, add_disk, connect, export_of},
    world::World,
};
use crate::{
    EngineError, Export,
    command::Command,
    error::{Blame, ErrorKind},
    mover::{MoverSeed, SeedEnd},
    transfer::{
        plan::{Planner, SourceMap},
        shared::MoveSettings,
    },
};
use std::{ops::Range, sync::Arc, time::Duration};
use sys::DeviceFile;
use tls::SessionLimits;

/// A run that is not over by then hangs.
const TURNS_MAX: u64 = 400_000;
/// Virtual time after the end in which the last operations come back.
const AFTER_NS: u64 = 10_000_000_000;
/// Which connection has the fault: the first.
const FIRST: usize = 0;
/// Shards of a machine.
const CLIENTS: [&str; 2] = ["client", "client2"];
const SERVERS: [&str; 2] = ["server", "server2"];
/// Disks in the order in which they are made.
const SOURCE: usize = 0;
const TARGET: usize = 1;

/// A run in progress.
struct Run {
    case: Case,
    world: World,
    clients: Range<usize>,
    servers: Range<usize>,
    export: Arc<Export>,
    copy: Copy,
    /// The server has the target.
    push: bool,
    interrupted_ns: Option<u64>,
    at_flush: Option<(Vec<u8>, Vec<u8>)>,
    /// The power went.
    dark: bool,
    /// When the last lane was gone.
    over_ns: Option<u64>,
    /// The longest time in which nothing happened anywhere.
    longest_sleep_ns: u64,
}

/// Runs a case to its end.
pub(super) fn run(case: Case) -> (Shape, Ending) {
    let shape = Shape::of(&case);
    let ending = run_shape(case, &shape);
    (shape, ending)
}

/// Runs a transfer whose shape is given.
pub(super) fn run_shape(case: Case, shape: &Shape) -> Ending {
    let mut run = Run::new(case, shape);
    let hung = !run.runs_out();
    run.ending(hung)
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
        hash_up_to: None,
    }
}

impl Run {
    fn new(case: Case, shape: &Shape) -> Self {
        let (clients, servers) = shape.shards;
        let names: Vec<_> = CLIENTS[..clients]
            .iter()
            .chain(&SERVERS[..servers])
            .copied()
            .collect();
        let world = World::new(case, &names, SCARCE);
        let (source, target) = {
            let sim = &mut *world.sim.borrow_mut();
            (
                add_disk(sim, Role::Source, shape.aligns.0, shape.source.clone()),
                add_disk(sim, Role::Target, shape.aligns.1, shape.target.clone()),
            )
        };
        let (far, near) = if shape.push {
            (target, source)
        } else {
            (source, target)
        };
        let map = SourceMap::Known(shape.map.iter().copied().collect());
        let planner = Planner::new(map, shape.ranges.clone());
        let wanted = shape.ranges.iter().cloned().collect();
        let run = Self {
            case,
            world,
            clients: 0..clients,
            servers: clients..clients + servers,
            export: export_of(far),
            copy: Copy::new(settings(shape), planner, shape.movers, wanted),
            push: shape.push,
            interrupted_ns: shape.interrupted_ns,
            at_flush: None,
            dark: false,
            over_ns: None,
            longest_sleep_ns: 0,
        };
        for index in 0..shape.movers {
            run.add_mover(shape, index, &near);
        }
        run
    }

    fn add_mover(&self, shape: &Shape, index: usize, near: &Arc<DeviceFile>) {
        let limits = SessionLimits {
            records_per_key: shape.records_per_key,
            key_updates_per_second: u32::MAX,
        };
        let agreed = Agreed {
            mode: shape.mode,
            tls: shape.tls.then_some(limits),
        };
        let Wired { server, client, up } = {
            let sim = &mut *self.world.sim.borrow_mut();
            let wired = connect(sim, &self.export, agreed);
            if index == FIRST {
                // The bulk of the bytes goes up when the server has the target.
                let bulk = if shape.push { wired.up } else { wired.up + 1 };
                sim.pipes[bulk].fate = shape.fate;
                sim.pipes[wired.up].forge_at = self.case.forge_at;
            }
            wired
        };
        debug_assert!(up.is_multiple_of(2));
        let (near, far) = (
            SeedEnd::File(Arc::clone(near)),
            SeedEnd::Nbd(Box::new(client)),
        );
        let (source, target) = if shape.push { (near, far) } else { (far, near) };
        let seed = MoverSeed {
            shared: Arc::clone(&self.copy.shared),
            index,
            source,
            target,
        };
        let at = |shards: &Range<usize>| shards.start + index % shards.len();
        let of = |side| {
            self.world
                .side(side)
                .expect("all machines run in the beginning")
        };
        of(at(&self.servers)).tell(Command::Serve(Box::new(server)));
        of(at(&self.clients)).tell(Command::Move(Box::new(seed)));
    }

    /// False when there is no end.
    fn runs_out(&mut self) -> bool {
        while self.world.turns < TURNS_MAX {
            self.interrupt();
            let stepped = self.coordinate();
            if self.world.turn_one() || stepped {
                continue;
            }
            if self.over_ns.is_none() && self.is_over() {
                self.over_ns = Some(self.world.now_ns());
            }
            let last = self.over_ns.map(|at| at + AFTER_NS);
            let next = [self.world.next_ns(), self.interrupted_ns, last];
            let Some(next) = next.into_iter().flatten().min() else {
                // Nobody will ever do anything again.
                return false;
            };
            if last == Some(next) {
                return true;
            }
            if self.over_ns.is_none() {
                let asleep_ns = next.saturating_sub(self.world.now_ns());
                self.longest_sleep_ns = self.longest_sleep_ns.max(asleep_ns);
            }
            self.world.sleep_until(next);
        }
        false
    }

    /// The coordinator's thread; it may be slow, but not when everybody waits for it.
    fn coordinate(&mut self) -> bool {
        if self.dark && !self.push {
            return false;
        }
        let idle = self
            .world
            .next_ns()
            .is_none_or(|at| at > self.world.now_ns());
        if !idle && !self.world.sim.borrow_mut().dice.once_in(3) {
            return false;
        }
        let was_flushed = self.copy.flushed;
        let durable_before = self.copy.durable.total_bytes();
        let wake = self.copy.step();
        if self.copy.durable.total_bytes() > durable_before {
            self.check_durable();
        }
        if self.copy.flushed && !was_flushed {
            let sim = self.world.sim.borrow();
            let disk = &sim.disks[TARGET];
            self.at_flush = Some((disk.image.clone(), disk.durable.clone()));
            drop(sim);
            if self.case.cut_when_flushed {
                let sim = &mut *self.world.sim.borrow_mut();
                sim.pipes.iter_mut().for_each(|pipe| pipe.break_off());
            }
        }
        if wake {
            self.world.wake(self.clients.clone());
        }
        wake
    }

    /// What a flush covered is on the medium in the moment it was answered.
    fn check_durable(&mut self) {
        let sim = self.world.sim.borrow();
        let (source, target) = (&sim.disks[SOURCE].image, &sim.disks[TARGET].durable);
        let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        let lost = self.copy.durable.iter().find(|range| {
            let range = at(range.start)..at(range.end);
            source[range.clone()] != target[range]
        });
        if let Some(range) = lost {
            let what = format!("{range:?} is called durable and is not on the medium");
            self.copy.misconduct.get_or_insert(what);
        }
    }

    /// Somebody cancels, or pulls the plug of the machine that has the target.
    fn interrupt(&mut self) {
        if self
            .interrupted_ns
            .is_none_or(|at| at > self.world.now_ns())
        {
            return;
        }
        self.interrupted_ns = None;
        if self.case.fault == Fault::Cancel {
            self.copy.cancel();
            return self.world.wake(self.clients.clone());
        }
        self.dark = true;
        let machine = if self.push {
            &self.servers
        } else {
            &self.clients
        };
        for side in machine.clone() {
            self.world.kill(side);
        }
        let sim = &mut *self.world.sim.borrow_mut();
        sim.pipes.iter_mut().for_each(|pipe| pipe.break_off());
        let (disks, dice) = (&mut sim.disks, &mut sim.dice);
        disks[TARGET].power_cut(dice);
    }

    fn is_over(&self) -> bool {
        let client_dark = self.dark && !self.push;
        let server_dark = self.dark && self.push;
        (client_dark || self.copy.has_ended()) && (server_dark || self.export.connections() == 0)
    }

    fn ending(mut self, hung: bool) -> Ending {
        let result = if self.dark && !self.push {
            let (kind, blame) = (ErrorKind::ConnectionLost, Blame::Environment);
            Err(EngineError::new(kind, blame, "lost power", "client"))
        } else {
            self.copy.result()
        };
        let sim = self.world.sim.borrow();
        Ending {
            result,
            at_flush: self.at_flush,
            durable: self.copy.durable,
            image: sim.disks[TARGET].image.clone(),
            misconduct: self.copy.misconduct,
            leases_missing: self.world.leases_missing(),
            held: self.world.held(),
            hung,
            must_succeed: self.case.fault.is_harmless() && self.case.forge_at.is_none(),
            must_be_prompt: self.case.fault.is_prompt(),
            in_crumbs: self.case.fault == Fault::ShortIo,
            cancelled: self.case.fault == Fault::Cancel,
            turns: self.world.turns,
            longest_sleep_ns: self.longest_sleep_ns,
            took_ns: self.over_ns.unwrap_or(sim.now_ns),
            trace: sim.trace,
            story: sim.story(),
        }
    }
}
