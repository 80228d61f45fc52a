//! Exclusive use of one slot.

use std::{fmt, ptr::NonNull, sync::Arc};

use super::{Arena, LeaseClass};

/// One slot of an arena; given back on drop. The arena lives as long as its last lease.
///
/// Leases are taken out of one free list, so no two of them share a byte.
pub struct Lease {
    arena: Arc<Arena>,
    class: LeaseClass,
    index: u32,
}

impl Lease {
    /// Only for indices that the class's free list just handed out.
    pub(super) fn new(arena: Arc<Arena>, class: LeaseClass, index: u32) -> Self {
        Self {
            arena,
            class,
            index,
        }
    }

    /// The slot's size class.
    pub fn class(&self) -> LeaseClass {
        self.class
    }

    /// The whole slot, slack included (`stride_bytes` long). What it held before is still there.
    pub fn bytes(&self) -> &[u8] {
        let base = self.base();
        // SAFETY: `stride_bytes` from the slot's base are mapped as long as `arena` lives, and were
        // zero-filled by the kernel, so initialised. Writers need `&mut self` or own the lease (an
        // operation in flight holds it in the slab), so nothing changes behind this reference.
        unsafe { std::slice::from_raw_parts(base.as_ptr(), self.class.stride_bytes()) }
    }

    /// The whole slot, slack included (`stride_bytes` long), for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let base = self.base();
        // SAFETY: as in `bytes`; exclusive, because this is the only lease of the slot (`FreeList::pop`
        // hands an index out once) and it is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), self.class.stride_bytes()) }
    }

    /// Where the slot begins, for operations that hold the lease until the kernel is done.
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.arena.slot_base(self.class, self.index)
    }

    /// The number of the slot in `arena`, if it is from that arena.
    pub(crate) fn slot_number_in(&self, arena: &Arc<Arena>) -> Option<usize> {
        Arc::ptr_eq(&self.arena, arena).then(|| arena.slot_number(self.class, self.index))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.arena.give_back(self.class, self.index);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({:?} {})", self.class, self.index)
    }
}
