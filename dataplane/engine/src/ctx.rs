//! What the parts of a shard share during one turn.

use crate::{
    command::{Outside, StatusJob},
    stats::LocalStats,
    tunables::SendZc,
};
use std::{sync::Arc, time::Instant};
use sys::{Arena, Backend, Lease, LeaseClass, Token};

/// Leases of each class one lane may hold, so that none starves and none deadlocks on another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub large: u32,
    pub small: u32,
}

/// The turn's view of the shard.
pub(crate) struct Ctx<'a, B: Backend> {
    pub backend: &'a mut B,
    pub arena: &'a Arc<Arena>,
    pub stats: &'a mut LocalStats,
    pub now: Instant,
    pub share: Share,
    pub send_batch_bytes: usize,
    pub send_zc: SendZc,
    /// Operations the shard keeps with its devices at most.
    pub device_depth: u64,
    pub outside: &'a Outside,
}

impl<B: Backend> Ctx<'_, B> {
    /// The devices have as much to do as they shall have, or as much of a lane that has `ops` operations there as is its
    /// part; a completion makes room. Without the parts, whoever has more operations gets more completions and with them
    /// more chances to start the next.
    pub(crate) fn devices_are_full(&self, ops: u32) -> bool {
        let part = (self.device_depth / self.stats.device_lanes.max(1)).max(1);
        self.stats.device_ops >= self.device_depth || u64::from(ops) >= part
    }

    /// Hands a question about a file's allocation to the thread that may block; false when its queue is full.
    pub(crate) fn ask_status(&self, job: StatusJob) -> bool {
        self.outside.ask(job)
    }
}

/// Whether a lane is counted among those that share the devices.
#[derive(Debug, Default)]
pub(crate) struct DeviceUse(bool);

impl DeviceUse {
    /// The lane has operations there or wants some, or it does not any more.
    pub(crate) fn set(&mut self, stats: &mut LocalStats, wants: bool) {
        match (std::mem::replace(&mut self.0, wants), wants) {
            (false, true) => stats.device_lanes += 1,
            (true, false) => stats.device_lanes -= 1,
            _ => {}
        }
    }
}

/// What one lane holds of the arena. Every lease that a lane takes or gives back passes here.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Hold {
    large: u32,
    small: u32,
}

impl Hold {
    /// A lease of `class`, if the lane's share and the arena have one.
    pub(crate) fn take<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        class: LeaseClass,
    ) -> Option<Lease> {
        let (held, share) = match class {
            LeaseClass::Large => (&mut self.large, ctx.share.large),
            LeaseClass::Small => (&mut self.small, ctx.share.small),
        };
        let lease = if *held < share {
            ctx.arena.take(class)
        } else {
            None
        };
        match lease {
            Some(_) => *held += 1,
            None => ctx.stats.stalls_for_memory += 1,
        }
        lease
    }

    /// Like `take`, but leaves one lease of the lane's share for sealing, so that payload never blocks its own way out.
    pub(crate) fn take_payload<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        class: LeaseClass,
    ) -> Option<Lease> {
        if self.room(ctx, class) < 2 {
            ctx.stats.stalls_for_memory += 1;
            return None;
        }
        self.take(ctx, class)
    }

    /// How many more leases of `class` the lane may take.
    pub(crate) fn room<B: Backend>(&self, ctx: &Ctx<'_, B>, class: LeaseClass) -> usize {
        let (held, share) = match class {
            LeaseClass::Large => (self.large, ctx.share.large),
            LeaseClass::Small => (self.small, ctx.share.small),
        };
        (share.saturating_sub(held) as usize).min(ctx.arena.available(class))
    }

    /// Gives a lease back to the arena.
    pub(crate) fn give(&mut self, lease: Lease) {
        let held = match lease.class() {
            LeaseClass::Large => &mut self.large,
            LeaseClass::Small => &mut self.small,
        };
        debug_assert!(*held > 0, "a lease came back that was not taken here");
        *held = held.saturating_sub(1);
        drop(lease);
    }
}

/// What a completion belongs to, inside its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Rx,
    Tx,
    Recv,
    RecvHeader,
    Read,
    Write,
    Flush,
    Zero,
}

const KINDS: [Kind; 8] = [
    Kind::Rx,
    Kind::Tx,
    Kind::Recv,
    Kind::RecvHeader,
    Kind::Read,
    Kind::Write,
    Kind::Flush,
    Kind::Zero,
];

/// Which of a lane's two ends a completion belongs to (a server lane has only `Target`: its device and its client).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Target,
}

/// The parts of a token: lane (with generation), side, kind, and a number of the kind's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag {
    pub lane: u32,
    pub generation: u16,
    pub side: Side,
    pub kind: Kind,
    /// Request or piece slot, below 65 536.
    pub slot: u16,
    /// Lease index inside the payload.
    pub aux: u8,
}

impl Tag {
    /// Packs: generation 16 | lane 19 | side 1 | kind 4 | aux 8 | slot 16.
    pub(crate) fn token(self) -> Token {
        let side = u64::from(self.side == Side::Target);
        Token(
            u64::from(self.generation) << 48
                | u64::from(self.lane & 0x7_ffff) << 29
                | side << 28
                | (self.kind as u64) << 24
                | u64::from(self.aux) << 16
                | u64::from(self.slot),
        )
    }

    /// The same tag with another kind and numbers.
    pub(crate) fn with(self, kind: Kind, slot: u32, aux: usize) -> Self {
        debug_assert!(slot <= u32::from(u16::MAX) && aux <= usize::from(u8::MAX));
        #[expect(clippy::cast_possible_truncation, reason = "tables are far smaller")]
        let (slot, aux) = (slot as u16, aux as u8);
        Self {
            kind,
            slot,
            aux,
            ..self
        }
    }
}

impl From<Token> for Tag {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "each field is masked by its width"
    )]
    fn from(token: Token) -> Self {
        let bits = token.0;
        Self {
            generation: (bits >> 48) as u16,
            lane: (bits >> 29) as u32 & 0x7_ffff,
            side: if bits >> 28 & 1 == 1 {
                Side::Target
            } else {
                Side::Source
            },
            kind: KINDS[(bits >> 24 & 0x7) as usize],
            aux: (bits >> 16) as u8,
            slot: bits as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_survives_its_token() {
        for kind in KINDS {
            for side in [Side::Source, Side::Target] {
                let tag = Tag {
                    lane: 0x7_fffe,
                    generation: 0xbeef,
                    side,
                    kind,
                    slot: 0xfff1,
                    aux: 0xa5,
                };
                assert_eq!(Tag::from(tag.token()), tag);
            }
        }
    }
}
