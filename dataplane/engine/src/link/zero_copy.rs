//! Which sends ask the kernel not to copy.
//!
//! Pinning pages and waiting for a notification costs a few microseconds a send, and pays where the network card
//! fetches the bytes from our memory. Where the kernel has to copy after all (loopback, veth, a card without
//! scatter-gather) it is a loss; the notification tells, and `auto` believes it.

use crate::{limits::ZERO_COPY_BYTES_MIN, tunables::SendZc};

/// What is known about one socket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ZeroCopy {
    /// The peer is on another machine.
    remote: bool,
    /// The kernel said that it copied.
    copied: bool,
}

impl ZeroCopy {
    pub(crate) fn new(remote: bool) -> Self {
        Self {
            remote,
            copied: false,
        }
    }

    /// Whether a batch of `len` bytes shall go without a copy.
    pub(crate) fn is_wanted(self, mode: SendZc, len: usize) -> bool {
        match mode {
            SendZc::Off => false,
            SendZc::Auto => self.remote && !self.copied && len >= ZERO_COPY_BYTES_MIN,
            SendZc::On => true,
        }
    }

    /// What the notification of a send said.
    pub(crate) fn note(&mut self, copied: bool) {
        self.copied |= copied;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_large_batches_to_other_machines_only() {
        let (remote, local) = (ZeroCopy::new(true), ZeroCopy::new(false));
        assert!(remote.is_wanted(SendZc::Auto, ZERO_COPY_BYTES_MIN));
        assert!(!remote.is_wanted(SendZc::Auto, ZERO_COPY_BYTES_MIN - 1));
        assert!(!local.is_wanted(SendZc::Auto, 1 << 20));
        assert!(local.is_wanted(SendZc::On, 1) && !remote.is_wanted(SendZc::Off, 1 << 20));
    }

    #[test]
    fn a_socket_whose_bytes_are_copied_stops_asking() {
        let mut zero_copy = ZeroCopy::new(true);
        zero_copy.note(false);
        assert!(zero_copy.is_wanted(SendZc::Auto, 1 << 20));
        zero_copy.note(true);
        zero_copy.note(false);
        assert!(!zero_copy.is_wanted(SendZc::Auto, 1 << 20));
        assert!(
            zero_copy.is_wanted(SendZc::On, 1),
            "whoever says on means it"
        );
    }
}
