//! Ending a ring while operations may be in flight.

use std::{
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use io_uring::{opcode, types::CancelBuilder};
use nix::sys::socket::{Shutdown, shutdown};

use super::{Inner, enter::Wait, rx::Rx, tag::Tag};

/// A disk that does not answer for this long is not waited for.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

impl Inner {
    /// Ends everything. True when the kernel holds no memory of ours any more; false: leak it, because the
    /// kernel may still write to it.
    pub(super) fn close(&mut self) -> bool {
        match self.owner {
            // Never enabled: nothing was ever submitted.
            None => return true,
            Some(owner) if owner != std::thread::current().id() => return self.is_quiet(),
            Some(_) => {}
        }
        for (_, entry) in self.sockets.iter() {
            // An error means that the connection is gone already.
            let _ = shutdown(entry.fd.as_raw_fd(), Shutdown::Both);
        }
        let drained = self.drain();
        if drained {
            self.give_up_tables();
        }
        self.enter_fd.unregister();
        drained
    }

    /// The kernel ends a closed ring in the background. Until then its tables would keep devices claimed and
    /// sockets open that the caller believes closed.
    fn give_up_tables(&self) {
        let submitter = self.uring.submitter();
        if self.fixed_files {
            // A failure leaves it to the background, nothing more.
            let _ = submitter.unregister_files();
        }
        if self.registered.is_active() {
            let _ = submitter.unregister_buffers();
        }
    }

    fn drain(&mut self) -> bool {
        let deadline = Instant::now() + DRAIN_TIME_MAX;
        let mut cancelled = false;
        while !self.is_quiet() {
            if !cancelled {
                let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
                cancelled = self.push_entry(&cancel.user_data(Tag::Ignored.pack()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let count = u32::try_from(self.uring.submission().len()).expect("a short queue");
            if left.is_zero() || self.enter(count, Wait::For(left)).is_err() {
                return false;
            }
            while self.reap().is_some() {}
            // Whatever wanted to be tried again will not be.
            while let Some(key) = self.to_retry.pop_front() {
                self.in_flight.remove(key);
            }
        }
        true
    }

    fn is_quiet(&self) -> bool {
        let armed = |rx: &Rx| rx.is_armed();
        let receiving = self
            .sockets
            .iter()
            .any(|(_, entry)| entry.rx.as_ref().is_some_and(armed));
        self.in_flight.is_empty() && !receiving && !self.wake_armed
    }
}
