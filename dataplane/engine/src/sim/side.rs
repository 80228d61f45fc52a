//! One shard of the world, with its kernel, its memory and its queues.

use super::{backend::SimBackend, core::Sim, outlook::Outlook, quiet::Quiet};
use crate::{
    Tunables,
    command::{Command, Job, Outside},
    shard::{Shard, ShardParts},
    stats::SharedStats,
};
use crossbeam::channel::{Receiver, Sender, bounded};
use std::{cell::RefCell, rc::Rc, sync::Arc};
use sys::{Arena, ArenaConfig, Backend, LeaseClass, alloc_count::count};
use wire::Extent;

/// Leases of a shard: few enough that lanes have to wait for them.
pub(super) const SCARCE: (usize, usize) = (48, 20);
/// About what a shard has by default.
pub(super) const PLENTY: (usize, usize) = (512, 300);

/// A shard over any backend, and what stands around it.
pub(crate) struct Seat<B: Backend> {
    pub shard: Shard<B>,
    pub arena: Arc<Arena>,
    pub commands: Sender<Command>,
    pub jobs: Receiver<Job>,
}

impl<B: Backend> Seat<B> {
    pub(crate) fn new(backend: B, arena: Arc<Arena>, tunables: Arc<Tunables>) -> Self {
        let (commands, inbox) = bounded(64);
        let (jobs, outside) = bounded(64);
        let shard = Shard::new(ShardParts {
            backend,
            arena: Arc::clone(&arena),
            commands: inbox,
            outside: Outside { shard: 0, jobs },
            stats: Arc::new(SharedStats::default()),
            tunables,
        });
        Self {
            shard,
            arena,
            commands,
            jobs: outside,
        }
    }
}

/// A shard over the simulated kernel.
pub(super) struct Side {
    seat: Seat<Quiet<SimBackend>>,
    outlook: Rc<Outlook>,
    /// Allocations in turns.
    pub allocations: u64,
}

impl Side {
    pub(super) fn new(
        sim: &Rc<RefCell<Sim>>,
        who: &'static str,
        (small_count, large_count): (usize, usize),
    ) -> Self {
        let arena = Arena::new(&ArenaConfig {
            small_count,
            large_count,
            huge_pages: false,
        })
        .expect("an arena");
        let outlook = Rc::new(Outlook::default());
        let backend = SimBackend::new(Rc::clone(sim), who, Rc::clone(&outlook));
        let tunables = Tunables::new();
        if sim.borrow().case.zero_copy() {
            let word = tunables.set_text("send_zc", "on");
            assert!(matches!(word, Ok(None)), "the table has it");
        }
        Self {
            seat: Seat::new(Quiet(backend), arena, tunables),
            outlook,
            allocations: 0,
        }
    }

    pub(super) fn arena(&self) -> &Arc<Arena> {
        &self.seat.arena
    }

    /// Its queue; whoever uses it wakes the shard.
    pub(super) fn commands(&self) -> &Sender<Command> {
        &self.seat.commands
    }

    /// Hands the shard a command and wakes it.
    pub(super) fn tell(&self, command: Command) {
        let sent = self.seat.commands.try_send(command);
        assert!(sent.is_ok(), "the queue has room for a world's commands");
        self.wake();
    }

    pub(super) fn wake(&self) {
        self.outlook.woken.set(true);
    }

    /// When it has to turn.
    pub(super) fn next_ns(&self, sim: &Sim) -> Option<u64> {
        self.outlook.next_ns(sim)
    }

    /// Operations that did not come back.
    pub(super) fn held(&self) -> usize {
        self.outlook.held.get()
    }

    pub(super) fn turn(&mut self) {
        let (turned, allocations) = count(|| self.seat.shard.turn());
        self.allocations += allocations;
        turned.expect("this kernel never fails to wait");
        self.answer_jobs();
    }

    /// The thread that may block: it knows of no holes.
    fn answer_jobs(&self) {
        while let Ok(job) = self.seat.jobs.try_recv() {
            if let Job::Status { job, .. } = job {
                let (tag, len) = (job.tag, job.len);
                let answer = Ok(vec![Extent { len, flags: 0 }]);
                self.tell(Command::Status { tag, answer });
            }
        }
    }
}

/// Leases of an arena that are not in it.
pub(super) fn leases_missing(arena: &Arena) -> usize {
    [LeaseClass::Small, LeaseClass::Large]
        .into_iter()
        .map(|class| arena.capacity(class) - arena.available(class))
        .sum()
}
