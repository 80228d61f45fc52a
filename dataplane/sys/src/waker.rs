//! Wakes a sleeping shard from another thread.
//!
//! A wake-up writes an eventfd at most once until the shard has seen it: a burst of messages costs one
//! system call. The sender publishes its message first and wakes second; the shard clears the pending mark
//! first and takes messages second. So no message is left behind.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::SetupError;

/// Wakes `submit_and_wait`; clone it and send it to any thread.
#[derive(Clone)]
pub struct Waker {
    state: Option<Arc<WakerState>>,
}

/// The part that the backend holds as well.
pub(crate) struct WakerState {
    event: EventFd,
    pending: AtomicBool,
}

impl Waker {
    /// An eventfd in blocking mode: io_uring answers EAGAIN at once on a non-blocking one instead of
    /// waiting. Writing never blocks, the pending mark keeps the counter at 1.
    pub(crate) fn new() -> Result<Self, SetupError> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)
            .map_err(|errno| SetupError::from_io("eventfd", "cannot be created", errno))?;
        let state = WakerState {
            event,
            pending: AtomicBool::new(false),
        };
        Ok(Self {
            state: Some(Arc::new(state)),
        })
    }

    /// A waker that does nothing (simulator).
    pub fn noop() -> Self {
        Self { state: None }
    }

    /// Makes the present or the next `submit_and_wait` return.
    pub fn wake(&self) {
        let Some(state) = &self.state else { return };
        if !state.pending.swap(true, Ordering::AcqRel) {
            // The only documented failures are a bad descriptor (ours is open) and a full counter
            // (ours is 0 or 1).
            let _ = state.event.write(1);
        }
    }

    pub(crate) fn state(&self) -> Option<&Arc<WakerState>> {
        self.state.as_ref()
    }
}

impl WakerState {
    pub(crate) fn event(&self) -> &EventFd {
        &self.event
    }

    /// After the eventfd was read and before messages are taken.
    pub(crate) fn seen(&self) {
        // A read-modify-write, not a store: a message published before a wake() that found the mark
        // already set must be visible after this line.
        self.pending.swap(false, Ordering::AcqRel);
    }
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;

    #[test]
    fn a_burst_of_wakes_counts_once_until_seen() {
        let waker = Waker::new().unwrap();
        let state = waker.state().unwrap();
        waker.wake();
        waker.clone().wake();
        assert_eq!(state.event().read().unwrap(), 1);
        state.seen();
        waker.wake();
        assert_eq!(state.event().read().unwrap(), 1);
    }

    #[test]
    fn a_noop_waker_does_nothing() {
        Waker::noop().wake();
    }
}
