//! The socket table.

use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{opcode, squeue, types};
use nix::sys::socket::{Shutdown, shutdown};

use super::{Inner, rx::Rx, tag::Tag};
use crate::{
    RxMode, SetupError, SetupErrorKind, SocketId, Token,
    net::{self, StreamKind, set_nonblocking},
    slab::Key,
    tables,
};

pub(super) struct SocketEntry {
    pub(super) fd: OwnedFd,
    pub(super) token: Token,
    /// Present in `RxMode::Stream`.
    pub(super) rx: Option<Rx>,
    /// The socket has not taken all of a send yet. A zero-copy send whose bytes the kernel still holds does not
    /// count: they outlive the descriptor.
    pub(super) sending: bool,
    /// Sends may be zero-copy here (TCP, and the kernel did not refuse it).
    pub(super) zero_copy: bool,
    pub(super) receiving: bool,
    /// Ids are stale from here on; the entry waits for the kernel.
    pub(super) removed: bool,
}

impl Inner {
    pub(super) fn add_socket(
        &mut self,
        fd: OwnedFd,
        mode: RxMode,
        token: Token,
        initial: &[u8],
    ) -> Result<SocketId, SetupError> {
        let kind = net::require_stream(&fd)?;
        // On a non-blocking descriptor some operations answer EAGAIN instead of waiting for data.
        set_nonblocking(&fd, false)?;
        let Some(key) = self.sockets.next_key() else {
            return Err(tables::full("socket", self.sockets.capacity()));
        };
        let rx = self.make_rx(key, mode, initial)?;
        if let Err(error) = self.register_descriptor(key.index, fd.as_raw_fd()) {
            self.drop_rx(rx);
            return Err(error);
        }
        let announce = u32::try_from(initial.len()).expect("at most tables::RING_BYTES_MAX");
        let arm = rx.is_some();
        let entry = SocketEntry {
            fd,
            token,
            rx,
            sending: false,
            zero_copy: self.zero_copy && kind == StreamKind::Tcp,
            receiving: false,
            removed: false,
        };
        if self.sockets.insert(entry).is_err() {
            unreachable!("`next_key` found a free place");
        }
        if announce > 0 {
            self.to_announce.push_back((key, announce));
        }
        if arm {
            self.want_service(key);
        }
        Ok(key.into())
    }

    pub(super) fn remove_socket(&mut self, key: Key) {
        let Some(entry) = self.sockets.get_mut(key).filter(|entry| !entry.removed) else {
            return;
        };
        entry.removed = true;
        // Ends everything in flight on it. An error means that the connection is gone already.
        let _ = shutdown(entry.fd.as_raw_fd(), Shutdown::Both);
        if entry.rx.as_ref().is_some_and(Rx::is_armed) {
            let entry = opcode::AsyncCancel::new(Tag::Rx(key).pack()).build();
            // Without room the shutdown alone ends it.
            self.push_entry(&entry.user_data(Tag::Ignored.pack()));
        }
        self.to_announce.retain(|(waiting, _)| *waiting != key);
        self.to_serve.retain(|waiting| *waiting != key);
        self.release_socket(key);
    }

    /// Closes a removed socket once the kernel is done with it.
    pub(super) fn release_socket(&mut self, key: Key) {
        let over = self.sockets.get(key).is_some_and(|entry| {
            let receiving = entry.receiving || entry.rx.as_ref().is_some_and(Rx::is_armed);
            entry.removed && !entry.sending && !receiving
        });
        if !over {
            return;
        }
        let Some(entry) = self.sockets.remove(key) else {
            return;
        };
        self.unregister_descriptor(key.index);
        self.drop_rx(entry.rx);
    }

    pub(super) fn live_socket(&self, key: Key) -> Option<&SocketEntry> {
        self.sockets.get(key).filter(|entry| !entry.removed)
    }

    pub(super) fn with_socket(&mut self, key: Key, change: impl FnOnce(&mut SocketEntry)) {
        if let Some(entry) = self.sockets.get_mut(key) {
            change(entry);
        }
    }

    /// The descriptor as entries name it: its place in the kernel's table, or the number itself.
    pub(super) fn socket_target(&self, key: Key) -> (types::Fd, squeue::Flags) {
        if self.fixed_files {
            return fixed(key.index);
        }
        let fd = self
            .sockets
            .get(key)
            .map_or(-1, |entry| entry.fd.as_raw_fd());
        (types::Fd(fd), squeue::Flags::empty())
    }

    /// Puts a descriptor into the kernel's table, if there is one.
    pub(super) fn register_descriptor(&self, place: u32, fd: i32) -> Result<(), SetupError> {
        if !self.fixed_files {
            return Ok(());
        }
        match self.uring.submitter().register_files_update(place, &[fd]) {
            Ok(_) => Ok(()),
            Err(error) => {
                let problem = "the descriptor cannot be registered";
                Err(
                    SetupError::new(SetupErrorKind::Resource, super::setup::SUBJECT, problem)
                        .with_source(error),
                )
            }
        }
    }

    pub(super) fn unregister_descriptor(&self, place: u32) {
        if self.fixed_files {
            // The place was filled, so emptying it cannot fail for a reason that we could answer; at worst
            // the descriptor stays open until the place is reused.
            let _ = self.uring.submitter().register_files_update(place, &[-1]);
        }
    }
}

pub(super) fn fixed(place: u32) -> (types::Fd, squeue::Flags) {
    // Tables are far smaller than 2^31.
    (types::Fd(place as i32), squeue::Flags::FIXED_FILE)
}
