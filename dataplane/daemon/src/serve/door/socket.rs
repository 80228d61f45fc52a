//! One accepted socket, TCP or Unix, before the shards have it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context as Task, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::serve::limits::RECEIVE_BYTES;

/// An accepted socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Waits for bytes and appends at most `RECEIVE_BYTES` of them; 0 at the end of the stream.
    ///
    /// Safe to cancel: bytes are taken from the socket only when this returns.
    pub(super) async fn receive(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            match self {
                Self::Tcp(stream) => stream.readable().await?,
                Self::Unix(stream) => stream.readable().await?,
            }
            // Lives between two waits only, so thousands of silent connections hold no buffers.
            let mut chunk = [0; RECEIVE_BYTES];
            let received = match self {
                Self::Tcp(stream) => stream.try_read(&mut chunk),
                Self::Unix(stream) => stream.try_read(&mut chunk),
            };
            match received {
                Ok(len) => {
                    into.extend_from_slice(&chunk[..len]);
                    return Ok(len);
                }
                Err(error) if is_weather(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends everything. Not safe to cancel: part of it may be gone.
    pub(super) async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self {
                Self::Tcp(stream) => stream.writable().await?,
                Self::Unix(stream) => stream.writable().await?,
            }
            let sent = match self {
                Self::Tcp(stream) => stream.try_write(bytes),
                Self::Unix(stream) => stream.try_write(bytes),
            };
            match sent {
                Ok(len) => bytes = &bytes[len..],
                Err(error) if is_weather(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// No more bytes from us.
    pub(super) fn shutdown_write(&self) -> io::Result<()> {
        nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&self.as_fd()),
            nix::sys::socket::Shutdown::Write,
        )
        .map_err(io::Error::from)
    }

    /// The descriptor, free of the runtime. Stays non-blocking.
    pub(super) fn into_fd(self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(OwnedFd::from),
            Self::Unix(stream) => stream.into_std().map(OwnedFd::from),
        }
    }

    pub(super) const fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(task, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(task, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(task, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(task, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _task: &mut Task<'_>) -> Poll<io::Result<()>> {
        // Sockets hold nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shutdown_write())
    }
}

/// Readiness was wrong, or a signal came: wait again.
fn is_weather(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
