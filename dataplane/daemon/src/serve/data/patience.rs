//! How long a peer may be silent: in the middle of a request's head, and while it should take an answer.
//!
//! Between requests it may be silent for longer (the HTTP library counts that), and a request's body has a deadline
//! of its own.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context as Task, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::Client;
use crate::serve::limits::{DATA_HEAD_TIMEOUT, DATA_WRITE_TIMEOUT};

/// Requests of a connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Activity {
    /// A request has its head and is being worked on.
    pub(super) fn begin(&self) -> Busy<'_> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Busy(self)
    }

    fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    fn is_busy(&self) -> bool {
        self.begun() != self.ended.load(Ordering::Relaxed)
    }
}

/// A request that is being worked on.
pub(super) struct Busy<'a>(&'a Activity);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// A moment after which patience ends; none while nothing is waited for.
#[derive(Default)]
struct Limit(Option<Pin<Box<Sleep>>>);

impl Limit {
    fn start(&mut self, after: Duration) {
        self.0.get_or_insert_with(|| Box::pin(sleep(after)));
    }

    fn is_over(&mut self, task: &mut Task<'_>) -> bool {
        self.0
            .as_mut()
            .is_some_and(|limit| limit.as_mut().poll(task).is_ready())
    }
}

/// A stream whose peer must not dawdle.
pub(super) struct Patient<S> {
    stream: S,
    client: Arc<Client>,
    /// Requests that had begun when the limit of the head was set.
    seen: u64,
    head: Limit,
    answer: Limit,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, client: Arc<Client>) -> Self {
        Self {
            stream,
            client,
            seen: 0,
            head: Limit::default(),
            answer: Limit::default(),
        }
    }

    fn take_answer<T>(
        &mut self,
        task: &mut Task<'_>,
        taken: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if taken.is_ready() {
            self.answer = Limit::default();
            return taken;
        }
        self.answer.start(DATA_WRITE_TIMEOUT);
        match self.answer.is_over(task) {
            true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            false => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let patient = self.get_mut();
        let begun = patient.client.activity.begun();
        if begun != patient.seen {
            // The head that was waited for is complete.
            patient.seen = begun;
            patient.head = Limit::default();
        }
        let is_busy = patient.client.activity.is_busy();
        let before = buffer.filled().len();
        let read = Pin::new(&mut patient.stream).poll_read(task, buffer);
        if read.is_ready() {
            if buffer.filled().len() > before && !is_busy {
                patient.head.start(DATA_HEAD_TIMEOUT);
            }
            return read;
        }
        match !is_busy && patient.head.is_over(task) {
            true => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            false => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let patient = self.get_mut();
        let taken = Pin::new(&mut patient.stream).poll_write(task, bytes);
        patient.take_answer(task, taken)
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        let patient = self.get_mut();
        let taken = Pin::new(&mut patient.stream).poll_flush(task);
        patient.take_answer(task, taken)
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        let patient = self.get_mut();
        let taken = Pin::new(&mut patient.stream).poll_shutdown(task);
        patient.take_answer(task, taken)
    }
}
