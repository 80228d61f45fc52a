//! Receiving by one multishot RECV that consumes a buffer ring piece by piece (rich tier).
//!
//! The buffers of a socket's group are the pieces of its mirrored ring, handed to the kernel in stream order.
//! With incremental consumption the kernel continues in a piece where it stopped, so bytes arrive without
//! gaps and every completion just moves the write cursor. A piece goes back to the kernel once it is
//! consumed to its end.
//!
//! ```text
//! stream   ....consumed......written..........handed.........consumed + size
//! owner        | reader        | kernel         | nobody yet    |
//! ```

use std::{
    io,
    sync::atomic::{AtomicU16, Ordering},
};

use io_uring::{IoUring, types::BufRingEntry};

use crate::memory::{Cursor, Mapping, MirroredRing, PAGE_BYTES};

/// Pieces per ring: what is not yet usable again is at most an eighth.
pub(super) const PIECES: u16 = 8;
/// IOU_PBUF_RING_INC.
const INCREMENTAL: u16 = 2;

/// One socket's buffer ring: a page of `table` that the kernel reads and writes.
pub(super) struct BufferRing {
    group: u16,
    tail: u16,
    /// Stream position up to which room was handed to the kernel; a multiple of the piece size.
    handed: u64,
    piece_bytes: u64,
}

/// Tells the kernel where the group's ring is. It must be unregistered before `table` goes.
pub(super) fn register_group(uring: &IoUring, table: &Mapping, group: u16) -> io::Result<()> {
    let base = entries_of(table, group) as u64;
    // SAFETY: `base` is the start of a page inside `table`, which `Inner` keeps until after the ring is
    // closed; PIECES entries of 16 bytes fit in it, and the page belongs to this group alone.
    unsafe {
        uring
            .submitter()
            .register_buf_ring_with_flags(base, PIECES, group, INCREMENTAL)
    }
}

/// The first entry of the group's page.
fn entries_of(table: &Mapping, group: u16) -> *mut BufRingEntry {
    const { assert!(PIECES as usize * size_of::<BufRingEntry>() <= PAGE_BYTES) };
    let at = group as usize * PAGE_BYTES;
    assert!(at + PAGE_BYTES <= table.len_bytes(), "one page per group");
    // SAFETY: the page lies in the mapping (asserted above).
    let page = unsafe { table.base().add(at) };
    page.cast().as_ptr()
}

impl BufferRing {
    /// Registers the group. `cursor` may already stand behind initial bytes.
    pub(super) fn register(
        uring: &IoUring,
        table: &Mapping,
        group: u16,
        ring: &MirroredRing,
    ) -> io::Result<Self> {
        let cursor = ring.cursor();
        let piece_bytes = (cursor.size_bytes() / usize::from(PIECES)) as u64;
        write_tail(table, group, 0);
        register_group(uring, table, group)?;
        let mut buffers = Self {
            group,
            tail: 0,
            handed: cursor.written(),
            piece_bytes,
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

    /// True when `len` bytes in buffer `id` are what comes next in the stream.
    pub(super) fn continues(&self, cursor: &Cursor, id: u16, len: usize) -> bool {
        let piece = cursor.written() / self.piece_bytes;
        let end = ((piece + 1) * self.piece_bytes).min(self.handed);
        let expected = piece % u64::from(PIECES);
        expected == u64::from(id) && cursor.written() + len as u64 <= end
    }

    /// Hands every piece to the kernel that the reader is done with. True if there was one.
    pub(super) fn hand_out(&mut self, table: &Mapping, ring: &MirroredRing) -> bool {
        let limit = ring.cursor().consumed() + ring.cursor().size_bytes() as u64;
        let before = self.tail;
        loop {
            let piece = self.handed / self.piece_bytes;
            let end = (piece + 1) * self.piece_bytes;
            if end > limit {
                break;
            }
            self.write_entry(table, ring, piece, end - self.handed);
            self.handed = end;
        }
        if self.tail != before {
            write_tail(table, self.group, self.tail);
        }
        self.tail != before
    }

    fn write_entry(&mut self, table: &Mapping, ring: &MirroredRing, piece: u64, len: u64) {
        let size = ring.cursor().size_bytes() as u64;
        let position = usize::try_from(self.handed & (size - 1)).expect("below the ring's size");
        let address = ring.address(position);
        let at = usize::from(self.tail & (PIECES - 1));
        // SAFETY: `at` is below PIECES and the entries are in the group's page (asserted there).
        let entry = unsafe { entries_of(table, self.group).add(at) };
        // SAFETY: the entry is beyond the published tail, so the kernel does not look at it: at most
        // PIECES pieces are handed out at a time (`limit` is one ring size ahead of the reader). All-zero
        // pages are valid entries. The tail field overlays the unused part of entry 0, which the
        // setters leave alone.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address.as_ptr() as u64);
        entry.set_len(u32::try_from(len).expect("a piece is far below 4 GiB"));
        entry.set_bid(u16::try_from(piece % u64::from(PIECES)).expect("below PIECES"));
        self.tail = self.tail.wrapping_add(1);
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
