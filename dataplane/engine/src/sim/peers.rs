//! Scripted clients against the shards of a server: each answer must be true.

use super::{
    case::{Case, Fault},
    core::Dice,
    disk::Role,
    model::Model,
    peer::Peer,
    side::SCARCE,
    wiring::{Agreed, add_disk, connect, export_of},
    world::World,
};
use crate::{Export, command::Command};
use std::sync::Arc;
use tls::SessionLimits;
use wire::Mode;

const SEEDS: u64 = 60;
const TURNS_MAX: u64 = 200_000;
const PEERS_MAX: usize = 4;
const REQUESTS_MAX: usize = 60;
/// Time in which the last connection has to end.
const AFTER_NS: u64 = 200_000_000_000;

struct Meeting {
    case: Case,
    world: World,
    export: Arc<Export>,
    model: Model,
    peers: Vec<Peer>,
}

impl Meeting {
    fn new(case: Case) -> Self {
        let dice = &mut Dice::new(case.seed ^ 0x9ee2);
        let world = World::new(case, &["server", "server2"], SCARCE);
        let mut image = vec![0; dice.part_of(512 * 1024) + 512 * 1024];
        dice.fill(&mut image);
        let align = dice.one_of(&[1, 512, 4096]);
        let disk = add_disk(
            &mut world.sim.borrow_mut(),
            Role::Target,
            align,
            image.clone(),
        );
        let mut meeting = Self {
            case,
            world,
            export: export_of(disk),
            model: Model::new(&image),
            peers: Vec::new(),
        };
        for index in 0..dice.part_of(PEERS_MAX) {
            meeting.add_peer(index, dice);
        }
        meeting
    }

    fn add_peer(&mut self, index: usize, dice: &mut Dice) {
        let limits = SessionLimits {
            records_per_key: 64,
            key_updates_per_second: u32::MAX,
        };
        let agreed = Agreed {
            mode: dice.one_of(&[Mode::Simple, Mode::Structured, Mode::Extended]),
            tls: dice.once_in(2).then_some(limits),
        };
        let sim = &mut *self.world.sim.borrow_mut();
        let wired = connect(sim, &self.export, agreed);
        if index == 0 {
            let fate = self.case.fault.fate();
            sim.pipes[wired.up].fate = fate.map(|fate| (dice.between(1, 200_000), fate));
        }
        let (peer, seed) = Peer::new(wired, dice.part_of(REQUESTS_MAX), dice);
        self.peers.push(peer);
        let side = self.world.side(index % 2).expect("it runs");
        side.tell(Command::Serve(Box::new(seed)));
    }

    fn step_peers(&mut self) -> Result<(), String> {
        let sim = &mut *self.world.sim.borrow_mut();
        for peer in &mut self.peers {
            let ready = peer.next_ns(sim).is_some_and(|at| at <= sim.now_ns);
            if ready && !sim.dice.once_in(3) {
                peer.step(sim, &mut self.model)?;
            }
        }
        Ok(())
    }

    fn next_ns(&self) -> Option<u64> {
        let sim = self.world.sim.borrow();
        let peers = self
            .peers
            .iter()
            .filter_map(|peer| peer.next_ns(&sim))
            .min();
        peers.into_iter().chain(self.world.next_ns()).min()
    }

    /// Until all connections are over; says what went wrong.
    fn hold(&mut self) -> Result<(), String> {
        let mut last = None;
        while self.world.turns < TURNS_MAX {
            self.step_peers()?;
            if self.world.turn_one() {
                continue;
            }
            let over = self.peers.iter().all(|peer| peer.ended) && self.export.connections() == 0;
            if over && last.is_none() {
                last = Some(self.world.now_ns() + AFTER_NS);
            }
            match (self.next_ns(), last) {
                (None, None) => return Err("everybody sleeps for ever".into()),
                (None, Some(_)) => return self.verdict(),
                (Some(next), Some(last)) if next >= last => return self.verdict(),
                (Some(next), _) => self.world.sleep_until(next),
            }
        }
        Err("no end".into())
    }

    fn verdict(&self) -> Result<(), String> {
        let sim = self.world.sim.borrow();
        self.model.check_image(&sim.disks[0].image)?;
        if self.world.leases_missing() + self.world.held() > 0 {
            return Err("leases or operations are missing".into());
        }
        for (index, peer) in self.peers.iter().enumerate() {
            if peer.failures > 0 && self.case.fault.is_harmless() {
                return Err(format!("client {index} was told errors"));
            }
            // A simple reply that has begun can only be broken off when its read fails.
            let may_break = index == 0 && self.case.fault.fate().is_some();
            if peer.broken && !may_break && self.case.fault != Fault::BadSector {
                return Err(format!("client {index} was hung up on"));
            }
        }
        Ok(())
    }
}

fn campaign(fault: Fault) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let only = number("MK_SIM_SEED");
    let count = number("MK_SIM_SEEDS").unwrap_or(SEEDS);
    for seed in only.map_or(0..count, |seed: u64| seed..seed + 1) {
        let mut meeting = Meeting::new(Case::new(seed, fault));
        if let Err(problem) = meeting.hold() {
            let story = meeting.world.sim.borrow().story();
            panic!("MK_SIM_SEED={seed} {fault:?}: {problem}; last events:\n{story}");
        }
    }
}

macro_rules! campaigns {
    ($($name:ident: $fault:ident,)*) => {
        $(#[test]
        fn $name() {
            campaign(Fault::$fault);
        })*
    };
}

campaigns! {
    answers_are_true: None,
    answers_are_true_with_short_reads_and_writes: ShortIo,
    answers_are_true_when_writes_fail: WriteEio,
    answers_are_true_when_a_sector_is_bad: BadSector,
    answers_are_true_when_the_disk_is_full: Enospc,
    answers_are_true_when_flushes_fail: FlushEio,
    answers_are_true_when_the_disk_is_slow: SlowDisk,
    answers_are_true_when_the_disk_cannot_zero: ZeroUnsupported,
    answers_are_true_when_the_queue_is_full: QueueFull,
    answers_are_true_when_a_neighbour_is_reset: ResetMidPayload,
    answers_are_true_when_a_neighbour_hangs_up: Hangup,
    answers_are_true_when_a_neighbour_falls_silent: Stall,
}
