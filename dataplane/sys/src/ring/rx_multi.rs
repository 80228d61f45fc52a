//! Receiving by one multishot RECV that consumes a buffer ring incrementally (rich tier).
//!
//! The buffers of a socket's group are consecutive stretches of its mirrored ring, handed to the kernel in
//! stream order: whatever the reader has consumed becomes the next one, across the wrap as well, because the
//! ring is mapped twice. With incremental consumption the kernel continues in a buffer where it stopped, so
//! bytes arrive without gaps and every completion just moves the write cursor.
//!
//! ```text
//! stream   ....consumed......written..........handed.........consumed + size
//! owner        | reader        | kernel         | nobody yet    |
//! ```
//!
//! Bundles (one completion for several buffers) are not used: stretches are long already, and kernels from
//! 6.13.11 on mixed up the order of incremental buffers in bundles (liburing issues 1409 and 1423).

use std::{
    io,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{IoUring, types::BufRingEntry};

use crate::memory::{Cursor, Mapping, MirroredRing, PAGE_BYTES};

/// Stretches that the kernel may hold at a time.
pub(super) const ENTRIES: u16 = 16;
/// A stretch is at least this part of the ring. So at most 8 whole ones fit into it, and the rest of one
/// begun: never more than ENTRIES. Smaller ones would cause many small receives.
const STRETCH_PART: usize = 8;
const _: () = assert!(STRETCH_PART + 1 < ENTRIES as usize && ENTRIES.is_power_of_two());
/// IOU_PBUF_RING_INC.
const INCREMENTAL: u16 = 2;

/// One socket's buffer ring: a page of `table` that the kernel reads and writes.
pub(super) struct BufferRing {
    group: u16,
    /// Stretches handed out and filled, ever; both wrap.
    handed_count: u16,
    filled_count: u16,
    /// Stream position up to which room was handed to the kernel.
    handed: u64,
    /// Stream positions where the stretches end, by buffer id.
    ends: [u64; ENTRIES as usize],
}

/// Tells the kernel where the group's ring is. It must be unregistered before `table` goes.
pub(super) fn register_group(uring: &IoUring, table: &Mapping, group: u16) -> io::Result<()> {
    let base = entries_of(table, group).expose_provenance() as u64;
    // SAFETY: `base` is the start of a page inside `table`, which `Inner` keeps until after the ring is
    // closed; ENTRIES entries of 16 bytes fit in it, and the page belongs to this group alone.
    unsafe {
        uring
            .submitter()
            .register_buf_ring_with_flags(base, ENTRIES, group, INCREMENTAL)
    }
}

/// The first entry of the group's page.
fn entries_of(table: &Mapping, group: u16) -> *mut BufRingEntry {
    const { assert!(ENTRIES as usize * size_of::<BufRingEntry>() <= PAGE_BYTES) };
    let at = group as usize * PAGE_BYTES;
    assert!(at + PAGE_BYTES <= table.len_bytes(), "one page per group");
    // SAFETY: the page lies in the mapping (asserted above).
    let page = unsafe { table.base().add(at) };
    page.cast().as_ptr()
}

/// A stretch's place in the buffer ring, which is also its buffer id.
fn place(count: u16) -> u16 {
    count & (ENTRIES - 1)
}

impl BufferRing {
    /// Registers the group and hands out the free part. `ring` may already hold initial bytes.
    pub(super) fn register(
        uring: &IoUring,
        table: &Mapping,
        group: u16,
        ring: &MirroredRing,
    ) -> io::Result<Self> {
        write_tail(table, group, 0);
        register_group(uring, table, group)?;
        let mut buffers = Self {
            group,
            handed_count: 0,
            filled_count: 0,
            handed: ring.cursor().written(),
            ends: [0; ENTRIES as usize],
        };
        buffers.hand_out(table, ring);
        Ok(buffers)
    }

    pub(super) fn group(&self) -> u16 {
        self.group
    }

    /// Bytes the kernel may still fill.
    pub(super) fn room(&self, cursor: &Cursor) -> u64 {
        self.handed - cursor.written()
    }

    /// The kernel put `len` bytes into buffer `id`. False when these are not the next ones of the stream:
    /// then it cannot be trusted any more.
    pub(super) fn fill(&mut self, cursor: &Cursor, id: u16, len: usize) -> bool {
        let current = place(self.filled_count);
        let end = self.ends[usize::from(current)];
        let reached = cursor.written() + len as u64;
        if self.filled_count == self.handed_count || id != current || reached > end {
            return false;
        }
        if reached == end {
            self.filled_count = self.filled_count.wrapping_add(1);
        }
        true
    }

    /// The reader is done with so much that handing it out is worth it.
    pub(super) fn has_stretch(&self, ring: &MirroredRing) -> bool {
        let cursor = ring.cursor();
        let len = self.limit(cursor) - self.handed;
        len >= (cursor.size_bytes() / STRETCH_PART) as u64
    }

    /// One ring size ahead of the reader: what lies behind is still unread there.
    fn limit(&self, cursor: &Cursor) -> u64 {
        cursor.consumed() + cursor.size_bytes() as u64
    }

    /// Hands what the reader is done with to the kernel, once it is worth it.
    pub(super) fn hand_out(&mut self, table: &Mapping, ring: &MirroredRing) {
        if !self.has_stretch(ring) {
            return;
        }
        let limit = self.limit(ring.cursor());
        let len = limit - self.handed;
        let held = self.handed_count.wrapping_sub(self.filled_count);
        assert!(held < ENTRIES, "see STRETCH_PART");
        self.write_entry(table, ring, len);
        self.handed = limit;
        self.ends[usize::from(place(self.handed_count))] = limit;
        self.handed_count = self.handed_count.wrapping_add(1);
        write_tail(table, self.group, self.handed_count);
    }

    fn write_entry(&self, table: &Mapping, ring: &MirroredRing, len: u64) {
        let size = ring.cursor().size_bytes() as u64;
        let position = usize::try_from(self.handed & (size - 1)).expect("below the ring's size");
        let address = ring.address(position).as_ptr();
        let id = place(self.handed_count);
        // SAFETY: `id` is below ENTRIES and all entries are in the group's page (asserted there).
        let entry = unsafe { entries_of(table, self.group).add(usize::from(id)) };
        // SAFETY: the entry is beyond the published tail and the kernel is done with its last use
        // (`held < ENTRIES`, asserted by the caller), so only we touch it. All-zero pages are valid
        // entries. The tail overlays the unused part of entry 0, which the setters leave alone.
        let entry = unsafe { &mut *entry };
        // From `position` on, at most one ring size: inside the double mapping.
        entry.set_addr(address.expose_provenance() as u64);
        entry.set_len(u32::try_from(len).expect("at most tables::RING_BYTES_MAX"));
        entry.set_bid(id);
    }
}

/// Publishes the entries before `tail`.
fn write_tail(table: &Mapping, group: u16, tail: u16) {
    // SAFETY: the address of the first entry of a ring whose page is mapped and zero-filled.
    let address = unsafe { BufRingEntry::tail(entries_of(table, group)) };
    // SAFETY: aligned, mapped as long as `table`; shared with the kernel, which only loads it.
    let shared = unsafe { AtomicU16::from_ptr(address.cast_mut()) };
    // Release: the kernel's acquiring load then sees the entries.
    shared.store(tail, Ordering::Release);
}
