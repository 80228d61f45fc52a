//! Shards, and the clock that decides which of them turns.

use super::{
    case::Case,
    core::Sim,
    side::{Side, leases_missing},
};
use std::{cell::RefCell, rc::Rc, sync::Arc};
use sys::Arena;

/// What a turn takes at most, nanoseconds.
const TURN_NS_MAX: u64 = 30_000;

/// Some shards on one thread.
pub(super) struct World {
    pub sim: Rc<RefCell<Sim>>,
    /// `None`: its machine lost power.
    sides: Vec<Option<Side>>,
    arenas: Vec<Arc<Arena>>,
    pub turns: u64,
}

impl World {
    /// A world with these shards, all asleep.
    pub(super) fn new(case: Case, names: &[&'static str], leases: (usize, usize)) -> Self {
        let sim = Rc::new(RefCell::new(Sim::new(case)));
        let side = |name: &&'static str| Side::new(&sim, name, leases);
        let sides: Vec<_> = names.iter().map(side).collect();
        Self {
            sim,
            arenas: sides.iter().map(|side| Arc::clone(side.arena())).collect(),
            sides: sides.into_iter().map(Some).collect(),
            turns: 0,
        }
    }

    pub(super) fn side(&self, index: usize) -> Option<&Side> {
        self.sides[index].as_ref()
    }

    /// Wakes these shards.
    pub(super) fn wake(&self, indices: impl Iterator<Item = usize>) {
        indices
            .filter_map(|index| self.side(index))
            .for_each(Side::wake);
    }

    /// Ends a shard as a power cut does: without a word.
    pub(super) fn kill(&mut self, index: usize) {
        self.sides[index] = None;
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.sim.borrow().now_ns
    }

    /// Turns a shard of the seed's choice among those whose sleep is over; false when all sleep.
    pub(super) fn turn_one(&mut self) -> bool {
        let chosen = {
            let sim = &mut *self.sim.borrow_mut();
            let now = sim.now_ns;
            let awake = |side: &Side| side.next_ns(sim).is_some_and(|at| at <= now);
            let awake: Vec<usize> = (0..self.sides.len())
                .filter(|index| self.sides[*index].as_ref().is_some_and(awake))
                .collect();
            if awake.is_empty() {
                return false;
            }
            sim.dice.one_of(&awake)
        };
        if let Some(side) = &mut self.sides[chosen] {
            side.turn();
        }
        self.turns += 1;
        let sim = &mut *self.sim.borrow_mut();
        sim.now_ns += sim.dice.between(1_000, TURN_NS_MAX);
        true
    }

    /// When the first sleep ends; `None`: never.
    pub(super) fn next_ns(&self) -> Option<u64> {
        let sim = self.sim.borrow();
        let sides = self.sides.iter().flatten();
        sides.filter_map(|side| side.next_ns(&sim)).min()
    }

    /// Moves the clock forward.
    pub(super) fn sleep_until(&self, at_ns: u64) {
        let sim = &mut *self.sim.borrow_mut();
        sim.now_ns = sim.now_ns.max(at_ns);
    }

    pub(super) fn leases_missing(&self) -> usize {
        self.arenas.iter().map(|arena| leases_missing(arena)).sum()
    }

    pub(super) fn held(&self) -> usize {
        self.sides.iter().flatten().map(Side::held).sum()
    }
}
