//! Leases as registered buffers.
//!
//! Registering pins memory, all of it, at once. So a slot is registered when it first carries file data: a
//! shard that works with ten slots pins ten. That is one system call per slot and life of the ring.

use std::sync::Arc;

use io_uring::IoUring;

use crate::{Arena, Lease};

/// IORING_MAX_REG_BUFFERS.
const SLOTS_MAX: usize = 1 << 14;

pub(super) struct RegisteredBuffers {
    /// Kept here because the kernel has its pages.
    arena: Arc<Arena>,
    /// By slot number; empty when nothing can be registered.
    registered: Vec<bool>,
    active: bool,
    /// Why no more can be registered.
    failed: Option<i32>,
}

impl RegisteredBuffers {
    pub(super) fn none(arena: Arc<Arena>) -> Self {
        Self {
            arena,
            registered: Vec::new(),
            active: false,
            failed: None,
        }
    }

    /// An empty table, one place per slot (large slots have the low numbers).
    pub(super) fn open_table(&mut self, uring: &IoUring) -> std::io::Result<()> {
        let count = self.arena.slot_count().min(SLOTS_MAX);
        let places = u32::try_from(count).expect("at most SLOTS_MAX");
        uring.submitter().register_buffers_sparse(places)?;
        self.registered = vec![false; count];
        self.active = true;
        Ok(())
    }

    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    /// Said once, outside the turn.
    pub(super) fn note(&self) -> Option<String> {
        let error = std::io::Error::from_raw_os_error(self.failed?);
        Some(format!(
            "no more buffers can be registered ({error}); raise the locked-memory limit (LimitMEMLOCK)"
        ))
    }

    /// The lease's place in the table, registering it if need be. None: use it unregistered.
    pub(super) fn index_of(&mut self, uring: &IoUring, lease: &Lease) -> Option<u16> {
        let number = lease.slot_number_in(&self.arena)?;
        let registered = self.registered.get_mut(number)?;
        let index = u16::try_from(number).expect("below SLOTS_MAX");
        if *registered {
            return Some(index);
        }
        if !self.active {
            return None;
        }
        let slot = libc::iovec {
            iov_base: lease.base().as_ptr().cast(),
            iov_len: lease.class().stride_bytes(),
        };
        // SAFETY: the slot is part of `self.arena`, which `Inner` keeps until after the ring is closed. That
        // nobody touches it while the kernel does is up to the operations, which own their lease.
        let result = unsafe {
            uring
                .submitter()
                .register_buffers_update(u32::from(index), &[slot], None)
        };
        match result {
            Ok(()) => {
                *registered = true;
                Some(index)
            }
            Err(error) => {
                // Most likely the locked-memory limit: what is registered stays, nothing more is tried.
                self.active = false;
                self.failed = error.raw_os_error();
                None
            }
        }
    }
}
