//! The table of requests in flight.

use super::coverage::Coverage;
use crate::limits::{CONTEXTS_MAX, IN_FLIGHT_MAX};
use crate::proto::{Command, CommandFlags, Cookie, NbdError};

/// A request that waits for its reply.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    pub(super) command: Command,
    pub(super) flags: CommandFlags,
    pub(super) offset: u64,
    pub(super) len: u64,
    /// First error chunk, if any came.
    pub(super) error: Option<NbdError>,
    /// A chunk has come; a simple reply may not follow.
    pub(super) is_answered: bool,
    /// Bytes of a READ that have come.
    pub(super) coverage: Coverage,
    /// Content chunks of a READ, for DF.
    pub(super) has_content: bool,
    /// Contexts of a BLOCK_STATUS that have come, by position.
    pub(super) contexts: u32,
}

const _: () = assert!(CONTEXTS_MAX <= 32, "contexts are bits of a u32");

impl Pending {
    pub(super) const fn new(command: Command, flags: CommandFlags, offset: u64, len: u64) -> Self {
        Self {
            command,
            flags,
            offset,
            len,
            error: None,
            is_answered: false,
            coverage: Coverage::new(),
            has_content: false,
            contexts: 0,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// Counts the uses of the slot, so that a late reply does not meet its successor.
    generation: u32,
    pending: Option<Pending>,
}

/// A fixed number of slots. A cookie is the slot's generation (high half) and index (low half).
#[derive(Debug)]
pub(super) struct RequestTable {
    slots: Box<[Slot]>,
    /// Free slots, the next one last.
    free: Vec<u32>,
}

impl RequestTable {
    /// `in_flight_max` is brought into 1 to [`IN_FLIGHT_MAX`].
    pub(super) fn new(in_flight_max: usize) -> Self {
        let count = in_flight_max.clamp(1, IN_FLIGHT_MAX);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "IN_FLIGHT_MAX fits in u32 (limits)"
        )]
        let free = (0..count as u32).rev().collect();
        Self {
            slots: vec![
                Slot {
                    generation: 0,
                    pending: None
                };
                count
            ]
            .into(),
            free,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Keeps a request; `None` when every slot is taken.
    pub(super) fn insert(&mut self, pending: Pending) -> Option<Cookie> {
        let index = self.free.pop()?;
        let slot = self.slots.get_mut(index as usize)?;
        slot.generation = slot.generation.wrapping_add(1);
        slot.pending = Some(pending);
        Some(Cookie(u64::from(slot.generation) << 32 | u64::from(index)))
    }

    /// The request behind a cookie, if it is in flight under this very cookie.
    pub(super) fn get_mut(&mut self, cookie: Cookie) -> Option<&mut Pending> {
        let slot = self.slots.get_mut(slot_of(cookie))?;
        if u64::from(slot.generation) != cookie.0 >> 32 {
            return None;
        }
        slot.pending.as_mut()
    }

    /// Ends a request.
    pub(super) fn remove(&mut self, cookie: Cookie) -> Option<Pending> {
        self.get_mut(cookie)?;
        let pending = self.slots.get_mut(slot_of(cookie))?.pending.take()?;
        // Within the capacity the vector was built with: no allocation.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the slot exists, so it fits in u32"
        )]
        self.free.push(slot_of(cookie) as u32);
        Some(pending)
    }
}

/// Slot index of a cookie.
pub(super) const fn slot_of(cookie: Cookie) -> usize {
    index_of(cookie) as usize
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is the index")]
const fn index_of(cookie: Cookie) -> u32 {
    cookie.0 as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flush() -> Pending {
        Pending::new(Command::Flush, CommandFlags::NONE, 0, 0)
    }

    #[test]
    fn a_full_table_refuses_and_a_freed_slot_is_used_again() {
        let mut table = RequestTable::new(2);
        let first = table.insert(flush()).unwrap();
        let second = table.insert(flush()).unwrap();
        assert_eq!((slot_of(first), slot_of(second)), (0, 1));
        assert!(table.insert(flush()).is_none());
        assert!(table.remove(first).is_some());
        assert_eq!(table.in_flight(), 1);
        let third = table.insert(flush()).unwrap();
        assert_eq!(slot_of(third), 0);
        assert_ne!(third, first);
    }

    #[test]
    fn a_stale_cookie_finds_nothing() {
        let mut table = RequestTable::new(4);
        let old = table.insert(flush()).unwrap();
        table.remove(old).unwrap();
        assert!(table.get_mut(old).is_none());
        let new = table.insert(flush()).unwrap();
        assert!(table.get_mut(old).is_none() && table.remove(old).is_none());
        assert!(table.get_mut(new).is_some());
        assert!(table.get_mut(Cookie(u64::MAX)).is_none());
        assert!(table.get_mut(Cookie(1 << 32 | 3)).is_none(), "free slot");
    }

    #[test]
    fn generations_wrap_around() {
        let mut table = RequestTable::new(1);
        table.slots[0].generation = u32::MAX;
        assert_eq!(table.insert(flush()), Some(Cookie(0)));
        assert!(table.get_mut(Cookie(0)).is_some());
    }
}
