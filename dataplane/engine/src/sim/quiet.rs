//! A backend whose own allocations are not counted: only what the shard does in a turn is.

use std::{os::fd::OwnedFd, sync::Arc, time::Instant};
use sys::{
    Backend, Completion, DeviceFile, FileId, Op, Refused, RingError, RxMode, SetupError, SlotId,
    SocketId, Token, Waker, alloc_count::uncounted,
};

/// The decorator.
pub(super) struct Quiet<B>(pub B);

impl<B: Backend> Backend for Quiet<B> {
    fn add_socket(
        &mut self,
        fd: OwnedFd,
        mode: RxMode,
        token: Token,
        initial: &[u8],
    ) -> Result<SocketId, SetupError> {
        uncounted(|| self.0.add_socket(fd, mode, token, initial))
    }

    fn remove_socket(&mut self, socket: SocketId) {
        uncounted(|| self.0.remove_socket(socket));
    }

    fn add_file(&mut self, file: Arc<DeviceFile>) -> Result<FileId, SetupError> {
        uncounted(|| self.0.add_file(file))
    }

    fn remove_file(&mut self, file: FileId) {
        uncounted(|| self.0.remove_file(file));
    }

    fn rx_bytes(&self, socket: SocketId) -> &[u8] {
        self.0.rx_bytes(socket)
    }

    fn rx_consume(&mut self, socket: SocketId, len: usize) {
        uncounted(|| self.0.rx_consume(socket, len));
    }

    fn push(&mut self, op: Op, token: Token) -> Result<SlotId, Refused> {
        let mut pushed = None;
        uncounted(|| pushed = Some(self.0.push(op, token)));
        pushed.expect("it was pushed just now")
    }

    fn submit_and_wait(&mut self, until: Option<Instant>) -> Result<(), RingError> {
        uncounted(|| self.0.submit_and_wait(until))
    }

    fn reap(&mut self) -> Option<Completion> {
        uncounted(|| self.0.reap())
    }

    fn now(&self) -> Instant {
        self.0.now()
    }

    fn waker(&self) -> Waker {
        self.0.waker()
    }

    fn in_flight(&self) -> usize {
        self.0.in_flight()
    }
}
