//! When a shard has to turn again: what its kernel waits for.

use super::core::Sim;
use std::cell::{Cell, RefCell};

/// Something that may end a shard's sleep.
#[derive(Debug, Clone, Copy)]
pub(super) enum Interest {
    /// An operation ends at this time.
    Due(u64),
    /// Bytes arrive in this pipe, looked at from this time on.
    Arrival(usize, u64),
    /// This pipe has room, looked at from this time on.
    Room(usize, u64),
}

/// What a kernel tells the world when its shard goes to sleep.
#[derive(Default)]
pub(super) struct Outlook {
    /// Operations the shard has not got back.
    pub held: Cell<usize>,
    /// Somebody woke the shard.
    pub woken: Cell<bool>,
    /// Completions wait to be reaped.
    pub ready: Cell<bool>,
    /// The shard's own deadline.
    pub until_ns: Cell<Option<u64>>,
    pub interests: RefCell<Vec<Interest>>,
}

impl Outlook {
    /// When the shard's sleep ends; `None`: never.
    pub(super) fn next_ns(&self, sim: &Sim) -> Option<u64> {
        if self.woken.get() || self.ready.get() {
            return Some(0);
        }
        let interests = self.interests.borrow();
        let moments = interests.iter().filter_map(|interest| match *interest {
            Interest::Due(at) => Some(at),
            Interest::Arrival(pipe, from) => sim.pipes[pipe].arrival_ns().map(|at| at.max(from)),
            Interest::Room(pipe, from) => sim.pipes[pipe].room_ns().map(|at| at.max(from)),
        });
        moments.chain(self.until_ns.get()).min()
    }
}
