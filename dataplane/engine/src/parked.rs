//! Device operations the queue had no room for. A full queue is weather: they go out on a later turn.

use crate::ctx::{Ctx, Hold, Tag};
use std::collections::VecDeque;
use sys::{Backend, Op, Token};

/// Operations in the order in which they were refused. Each keeps its place in the count of its request.
pub(crate) struct Parked(VecDeque<(Op, Token)>);

impl Parked {
    pub(crate) fn with_capacity(count: usize) -> Self {
        Self(VecDeque::with_capacity(count))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Starts `op`, or keeps it for `retry`. True when it is with the kernel now.
    pub(crate) fn start<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, op: Op, token: Token) -> bool {
        match ctx.backend.push(op, token) {
            Ok(_) => {
                ctx.stats.device_ops += 1;
                true
            }
            Err(refused) => {
                self.0.push_back((refused.op, token));
                false
            }
        }
    }

    /// Starts what was refused, oldest first; how many are with the kernel now.
    pub(crate) fn retry<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) -> u32 {
        let mut started = 0;
        while let Some((op, token)) = self.0.pop_front() {
            match ctx.backend.push(op, token) {
                Ok(_) => {
                    ctx.stats.device_ops += 1;
                    started += 1;
                }
                Err(refused) => {
                    self.0.push_front((refused.op, token));
                    break;
                }
            }
        }
        started
    }

    /// Forgets them all; `each` hears of them, and their leases go back.
    pub(crate) fn abandon(&mut self, hold: &mut Hold, mut each: impl FnMut(&Op, Tag)) {
        for (op, token) in self.0.drain(..) {
            each(&op, Tag::from(token));
            if let Op::Read { lease, .. } = op {
                hold.give(lease);
            }
        }
    }
}
