//! The two system calls that the io-uring crate cannot make the way we need: entering by a registered ring
//! descriptor over the ring's whole life, and registering that descriptor for the calling thread.

use std::{io, os::fd::RawFd, time::Duration};

const IORING_ENTER_GETEVENTS: u32 = 1 << 0;
const IORING_ENTER_EXT_ARG: u32 = 1 << 3;
const IORING_ENTER_REGISTERED_RING: u32 = 1 << 4;
const IORING_REGISTER_RING_FDS: u32 = 20;
const IORING_UNREGISTER_RING_FDS: u32 = 21;

/// `struct io_uring_getevents_arg`.
#[repr(C)]
#[derive(Default)]
struct GeteventsArg {
    sigmask: u64,
    sigmask_sz: u32,
    min_wait_usec: u32,
    ts: u64,
}

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RsrcUpdate {
    offset: u32,
    resv: u32,
    data: u64,
}

/// How to name the ring to the kernel.
#[derive(Debug, Clone, Copy)]
pub(super) struct EnterFd {
    fd: RawFd,
    registered: Option<u32>,
}

/// How long to wait for a completion.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wait {
    /// Only submit, run deferred work and look.
    No,
    /// At most this long.
    For(Duration),
    /// Until there is one.
    Forever,
}

impl EnterFd {
    pub(super) fn new(fd: RawFd) -> Self {
        Self {
            fd,
            registered: None,
        }
    }

    /// For the calling thread only: saves a descriptor lookup per turn. Without it (too many registered
    /// already) the plain descriptor does.
    pub(super) fn register(&mut self) {
        let mut update = RsrcUpdate {
            offset: u32::MAX,
            resv: 0,
            data: self.fd as u64,
        };
        if register(self.fd, IORING_REGISTER_RING_FDS, &mut update).is_ok() {
            self.registered = Some(update.offset);
        }
    }

    /// On the thread that registered; otherwise the ring stays open until that thread ends.
    pub(super) fn unregister(&mut self) {
        if let Some(offset) = self.registered.take() {
            let mut update = RsrcUpdate {
                offset,
                resv: 0,
                data: 0,
            };
            // Failing only delays the closing, see above.
            let _ = register(self.fd, IORING_UNREGISTER_RING_FDS, &mut update);
        }
    }

    /// Submits `count` entries, runs deferred completion work, waits. Always with GETEVENTS: with
    /// DEFER_TASKRUN nothing completes otherwise.
    pub(super) fn enter(&self, count: u32, wait: Wait) -> io::Result<()> {
        let mut flags = IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
        let fd = match self.registered {
            Some(index) => {
                flags |= IORING_ENTER_REGISTERED_RING;
                i64::from(index)
            }
            None => i64::from(self.fd),
        };
        let time = match wait {
            Wait::For(duration) => [
                i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
                i64::from(duration.subsec_nanos()),
            ],
            Wait::No | Wait::Forever => [0; 2],
        };
        let mut arg = GeteventsArg::default();
        let complete_min = match wait {
            Wait::No => 0u32,
            Wait::Forever => 1,
            Wait::For(_) => {
                arg.ts = (&raw const time).expose_provenance() as u64;
                1
            }
        };
        // SAFETY: the descriptor is this ring's (`EnterFd` lives in the `Inner` that owns it). `arg` is a
        // whole getevents argument and `time` a whole kernel timespec, both on our stack during the
        // call. What the submitted entries point to is kept by the in-flight table, see `Inner::push_entry`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                fd,
                count,
                complete_min,
                flags,
                &raw const arg,
                size_of::<GeteventsArg>(),
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

fn register(fd: RawFd, opcode: u32, update: &mut RsrcUpdate) -> io::Result<()> {
    // SAFETY: both opcodes that come here take one RsrcUpdate, which they read and write; it is ours.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            fd,
            opcode,
            &raw mut *update,
            1u32,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
