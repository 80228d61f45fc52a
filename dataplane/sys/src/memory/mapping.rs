//! One anonymous mapping, unmapped on drop.

use std::{io, ptr::NonNull};

/// An anonymous, private, zero-filled mapping. Pages cost memory only once they are touched.
///
/// Hands out its address, never references: who may touch which part is the business of the owner
/// (`Arena` by leases, the buffer-ring table by socket index).
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len_bytes: usize,
}

// SAFETY: the address is only data here. Everything that dereferences it (`Lease::bytes`,
// `BufferRing::publish`) proves its own exclusive or shared access.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` offers nothing but the address and the length.
unsafe impl Sync for Mapping {}

/// What mappings are aligned to and counted in.
pub(crate) const PAGE_BYTES: usize = 4096;

impl Mapping {
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn len_bytes(&self) -> usize {
        self.len_bytes
    }
}

#[cfg(not(miri))]
mod kernel {
    use super::*;
    use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
    use std::num::NonZeroUsize;

    impl Mapping {
        /// `len_bytes` is rounded up to whole pages; zero is refused.
        pub(crate) fn new(len_bytes: usize) -> io::Result<Self> {
            let len = len_bytes
                .checked_next_multiple_of(PAGE_BYTES)
                .and_then(NonZeroUsize::new)
                .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
            let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
            let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            // SAFETY: no address hint and no MAP_FIXED, so no existing mapping is replaced.
            let base = unsafe { mmap_anonymous(None, len, prot, flags) }?;
            Ok(Self {
                base: base.cast(),
                len_bytes: len.get(),
            })
        }

        /// Asks for huge pages; a kernel without them is fine.
        pub(crate) fn advise_huge_pages(&self) -> io::Result<()> {
            let advice = MmapAdvise::MADV_HUGEPAGE;
            // SAFETY: the range is exactly the mapping made in `new`, alive as long as `self`; this
            // advice changes page sizes, not contents.
            unsafe { madvise(self.base.cast(), self.len_bytes, advice) }?;
            Ok(())
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: exactly the range mapped in `new`, unmapped once. Nobody looks at it any more:
            // leases and rings keep their owner, and so this mapping, alive.
            let result = unsafe { munmap(self.base.cast(), self.len_bytes) };
            debug_assert!(result.is_ok(), "munmap of an own mapping failed");
        }
    }
}

/// Miri knows no MAP_NORESERVE; the allocator stands in, so that every access is still checked.
#[cfg(miri)]
mod interpreted {
    use super::*;
    use std::alloc::{Layout, alloc_zeroed, dealloc};

    fn layout(len_bytes: usize) -> io::Result<Layout> {
        Layout::from_size_align(len_bytes.next_multiple_of(PAGE_BYTES), PAGE_BYTES)
            .ok()
            .filter(|layout| layout.size() > 0)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
    }

    impl Mapping {
        pub(crate) fn new(len_bytes: usize) -> io::Result<Self> {
            let layout = layout(len_bytes)?;
            // SAFETY: `layout` refuses a size of zero.
            let base = unsafe { alloc_zeroed(layout) };
            let base =
                NonNull::new(base).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
            Ok(Self {
                base,
                len_bytes: layout.size(),
            })
        }

        pub(crate) fn advise_huge_pages(&self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            let layout = layout(self.len_bytes).expect("the layout was valid in `new`");
            // SAFETY: allocated in `new` with this very layout, freed once.
            unsafe { dealloc(self.base.as_ptr(), layout) };
        }
    }
}
