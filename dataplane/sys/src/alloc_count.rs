//! Counts allocations of one thread, for tests that promise a turn without any.
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: sys::alloc_count::CountingAllocator = sys::alloc_count::CountingAllocator;
//!
//! let (bytes, count) = sys::alloc_count::count(|| vec![1, 2, 3]);
//! assert_eq!((bytes.len(), count), (3, 1));
//! ```
//! Each thread counts for itself, so tests that run side by side do not see each other. No production binary installs
//! it.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

thread_local! {
    // Constant and without a destructor: reading it never allocates, also while a thread begins or ends.
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static PAUSES: Cell<u32> = const { Cell::new(0) };
}

/// The system's allocator, and a count of what each thread asked of it.
#[derive(Debug)]
pub struct CountingAllocator;

fn note() {
    if PAUSES.get() == 0 {
        COUNT.set(COUNT.get() + 1);
    }
}

// SAFETY: everything is passed on to `System`, whose promises these are; counting touches two thread-local cells only.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller's promises about `layout` are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note();
        // SAFETY: `ptr` came from `System` by one of these functions with this layout; the caller promises the rest.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as in `realloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

/// How often this thread has allocated or grown memory since it began. Stays 0 unless a [`CountingAllocator`] is the
/// global allocator.
pub fn allocations() -> u64 {
    COUNT.get()
}

/// Runs `work`; the second value says how often it allocated.
pub fn count<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = allocations();
    let done = work();
    (done, allocations() - before)
}

/// Runs `work` without counting: for what stands in a turn only because a test does.
pub fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    PAUSES.set(PAUSES.get() + 1);
    let done = work();
    PAUSES.set(PAUSES.get() - 1);
    done
}
