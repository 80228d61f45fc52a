//! A ring mapped twice, back to back: what wraps around is still one slice.
//!
//! ```text
//! virtual   | 0 ........ size | size ...... 2*size |
//! memory    | A               | A again            |
//! unread        [ tail ----------- head ]            always contiguous, from tail % size
//! free                         [ head -- tail + size ]   likewise
//! ```

use std::{io, num::NonZeroUsize, os::fd::OwnedFd, ptr::NonNull};

use nix::{
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap},
    },
    unistd::ftruncate,
};

/// How much was ever written and read. Positions in the ring follow by masking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    size_bytes: usize,
    written: u64,
    consumed: u64,
}

impl Cursor {
    /// An empty ring. `size_bytes` must be a power of two.
    pub fn new(size_bytes: usize) -> Self {
        assert!(
            size_bytes.is_power_of_two(),
            "positions are taken by masking"
        );
        Self {
            size_bytes,
            written: 0,
            consumed: 0,
        }
    }

    /// The ring's size.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }

    /// Bytes that wait to be consumed.
    pub fn unread_bytes(&self) -> usize {
        usize::try_from(self.written - self.consumed).expect("at most size_bytes")
    }

    /// Bytes that may be written.
    pub fn free_bytes(&self) -> usize {
        self.size_bytes - self.unread_bytes()
    }

    /// Where the unread bytes begin in the first mapping.
    pub fn unread_at(&self) -> usize {
        self.masked(self.consumed)
    }

    /// Where the free bytes begin in the first mapping.
    pub fn free_at(&self) -> usize {
        self.masked(self.written)
    }

    /// Everything ever written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Everything ever consumed.
    pub fn consumed(&self) -> u64 {
        self.consumed
    }

    /// `len` bytes were written at `free_at`.
    pub fn write(&mut self, len: usize) {
        assert!(len <= self.free_bytes(), "written over unread bytes");
        self.written += len as u64;
    }

    /// `len` bytes from `unread_at` are no longer needed.
    pub fn consume(&mut self, len: usize) {
        assert!(
            len <= self.unread_bytes(),
            "consumed more than was received"
        );
        self.consumed += len as u64;
    }

    fn masked(&self, position: u64) -> usize {
        let at = position & (self.size_bytes as u64 - 1);
        usize::try_from(at).expect("the mask keeps it below size_bytes")
    }
}

/// The memory of a receive ring. The kernel writes to the free part while an operation is in flight; the
/// unread part is ours.
pub struct MirroredRing {
    base: NonNull<u8>,
    cursor: Cursor,
}

// SAFETY: the mapping belongs to this value alone; references are only made through `&self`/`&mut self`.
unsafe impl Send for MirroredRing {}

impl MirroredRing {
    /// A ring of `size_bytes`, a power of two of at least one page.
    pub fn new(size_bytes: usize) -> io::Result<Self> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        if !size_bytes.is_power_of_two() || size_bytes < super::mapping::PAGE_BYTES {
            return Err(invalid());
        }
        let both = size_bytes
            .checked_mul(2)
            .and_then(NonZeroUsize::new)
            .ok_or_else(invalid)?;
        let len = i64::try_from(size_bytes).map_err(|_| invalid())?;
        let memory = memfd_create(c"migratekit-rx", MFdFlags::MFD_CLOEXEC)?;
        ftruncate(&memory, len)?;
        // Reserve the addresses first; the two halves then replace exactly what we reserved.
        // SAFETY: no hint and no MAP_FIXED: nothing existing is replaced.
        let base =
            unsafe { mmap_anonymous(None, both, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) }?;
        let ring = Self {
            base: base.cast(),
            cursor: Cursor::new(size_bytes),
        };
        ring.map_half(&memory, 0)?;
        ring.map_half(&memory, size_bytes)?;
        Ok(ring)
    }

    fn map_half(&self, memory: &OwnedFd, at: usize) -> io::Result<()> {
        let len = NonZeroUsize::new(self.cursor.size_bytes).expect("checked in `new`");
        let address = self.base.as_ptr() as usize + at;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        // SAFETY: MAP_FIXED replaces `address..address + size`, which lies in the 2 * size bytes that
        // `new` reserved for this ring a moment ago and nobody else knows.
        unsafe { mmap(NonZeroUsize::new(address), len, prot, flags, memory, 0) }?;
        Ok(())
    }

    /// Positions and counts.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// The address of byte `at` of the first half. For the kernel's use only: the bytes behind it are
    /// touched through `unread` alone.
    pub(crate) fn address(&self, at: usize) -> NonNull<u8> {
        assert!(at < self.cursor.size_bytes, "beyond the first half");
        // SAFETY: `at` lies in the mapping of 2 * size bytes (asserted above).
        unsafe { self.base.add(at) }
    }

    /// All bytes not yet consumed, in one piece.
    pub fn unread(&self) -> &[u8] {
        let from = self.address(self.cursor.unread_at());
        // SAFETY: `unread_at + unread_bytes <= 2 * size`, both halves mapped until drop. The kernel only
        // writes to the free part (`Cursor::write` is called after it did; buffers handed to it come
        // from `free_at`, see `ring::rx`), so nothing changes behind this reference.
        unsafe { std::slice::from_raw_parts(from.as_ptr(), self.cursor.unread_bytes()) }
    }

    /// Appends bytes that were received before the ring existed. Only while no operation is in flight.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        assert!(
            bytes.len() <= self.cursor.free_bytes(),
            "more than the ring can hold"
        );
        let to = self.address(self.cursor.free_at());
        // SAFETY: `free_at + len <= 2 * size`; `bytes` is outside the mapping, because the only
        // references into it borrow `self`, which is borrowed mutably here.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) };
        self.cursor.write(bytes.len());
    }

    /// The free part, for a system call that fills it now (epoll).
    pub(crate) fn free_mut(&mut self) -> &mut [u8] {
        let from = self.address(self.cursor.free_at());
        // SAFETY: `free_at + free_bytes <= 2 * size`, mapped until drop and exclusively borrowed; the
        // two halves alias each other only beyond `size` bytes, and the slice is at most `size` long.
        unsafe { std::slice::from_raw_parts_mut(from.as_ptr(), self.cursor.free_bytes()) }
    }

    /// `len` bytes were received into the free part.
    pub(crate) fn received(&mut self, len: usize) {
        self.cursor.write(len);
    }

    /// Gives `len` unread bytes back.
    pub fn consume(&mut self, len: usize) {
        self.cursor.consume(len);
    }
}

impl Drop for MirroredRing {
    fn drop(&mut self) {
        let len = self.cursor.size_bytes * 2;
        // SAFETY: exactly the 2 * size bytes reserved in `new`, once. The kernel's last use is over: the
        // backend drops a ring only after the receive operation's last completion.
        let result = unsafe { munmap(self.base.cast(), len) };
        debug_assert!(result.is_ok(), "munmap of an own mapping failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[cfg(not(miri))]
    #[test]
    fn unread_bytes_are_one_slice_across_the_wrap() {
        let mut ring = MirroredRing::new(4096).unwrap();
        ring.append(&[1; 4000]);
        ring.consume(4000);
        let bytes: Vec<u8> = (0..200u8).collect();
        ring.append(&bytes);
        assert_eq!(ring.unread(), bytes);
        ring.free_mut().fill(7);
        assert_eq!(
            ring.unread(),
            bytes,
            "the free part does not overlap the unread part"
        );
    }

    #[cfg(not(miri))]
    #[test]
    fn odd_sizes_are_refused() {
        for size in [0, 1, 1024, 4095, 12_288, usize::MAX / 2 + 1] {
            assert!(MirroredRing::new(size).is_err(), "{size}");
        }
    }

    #[test]
    #[should_panic(expected = "consumed more than was received")]
    fn consuming_too_much_is_a_bug() {
        Cursor::new(4096).consume(1);
    }

    #[cfg(not(miri))]
    proptest! {
        #[test]
        fn the_ring_is_a_queue_of_bytes(steps in prop::collection::vec((any::<bool>(), 0usize..6000), 1..200)) {
            let mut ring = MirroredRing::new(4096).unwrap();
            let mut model: VecDeque<u8> = VecDeque::new();
            let mut next = 0u8;
            for (write, len) in steps {
                if write {
                    let len = len.min(ring.cursor().free_bytes());
                    let bytes: Vec<u8> = (0..len).map(|_| { next = next.wrapping_add(1); next }).collect();
                    ring.append(&bytes);
                    model.extend(&bytes);
                } else {
                    let len = len.min(ring.cursor().unread_bytes());
                    ring.consume(len);
                    model.drain(..len);
                }
                prop_assert_eq!(ring.unread(), model.make_contiguous() as &[u8]);
                prop_assert_eq!(ring.cursor().free_bytes() + model.len(), 4096);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]
        #[test]
        fn positions_follow_the_totals(steps in prop::collection::vec((0usize..9000, 0usize..9000), 1..100)) {
            let mut cursor = Cursor::new(8192);
            for (write, consume) in steps {
                cursor.write(write.min(cursor.free_bytes()));
                cursor.consume(consume.min(cursor.unread_bytes()));
                prop_assert_eq!(cursor.free_at() as u64, cursor.written() % 8192);
                prop_assert_eq!(cursor.unread_at() as u64, cursor.consumed() % 8192);
                prop_assert_eq!(cursor.unread_bytes() + cursor.free_bytes(), 8192);
            }
        }
    }
}
