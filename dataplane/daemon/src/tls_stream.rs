//! An established TLS session as a stream of bytes for the async runtime: `mk-data/1`, both ends.
//!
//! Both buffers are bounded: one record of ciphertext on the way in, one batch on the way out. Nothing is read
//! before what was opened is taken, and nothing sealed before what was sealed is gone.

use std::io;
use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};
use std::time::Instant;

use tls::limits::CONTROL_RECORD_MAX;
use tls::{Established, Opened, RECORD_PLAINTEXT_MAX, Session, TlsError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Plaintext sealed at once.
const BATCH_BYTES: usize = 4 * RECORD_PLAINTEXT_MAX;
/// Ciphertext taken from the socket at once; the longest record fits.
const RECEIVE_BYTES: usize = 32 << 10;

const _: () = assert!(RECEIVE_BYTES >= tls::session::RECORD_WIRE_MAX);

/// A socket and its session.
pub(crate) struct TlsStream<S> {
    socket: S,
    session: Session,
    /// Ciphertext that is not a whole record yet.
    sealed: Vec<u8>,
    /// Plaintext that nobody has taken yet, from `plain_at` on.
    plain: Vec<u8>,
    plain_at: usize,
    /// Ciphertext that the socket has not taken yet, from `out_at` on.
    out: Vec<u8>,
    out_at: usize,
    /// The peer said that nothing more will come.
    is_over: bool,
}

impl<S> TlsStream<S> {
    /// What comes from `socket` now belongs behind what the handshake left over.
    pub(crate) fn new(socket: S, established: Established) -> Self {
        Self {
            socket,
            session: established.session,
            sealed: established.leftover,
            plain: Vec::new(),
            plain_at: 0,
            out: Vec::new(),
            out_at: 0,
            is_over: false,
        }
    }

    /// Opens one whole record, if there is one.
    fn open_record(&mut self) -> Result<bool, TlsError> {
        let frame = match Session::frame(&self.sealed)? {
            Some(frame) if frame.wire_len <= self.sealed.len() => frame,
            _ => return Ok(false),
        };
        self.plain.resize(frame.inner_len, 0);
        self.plain_at = 0;
        let record = &self.sealed[..frame.wire_len];
        let opened = self.session.open(Instant::now(), record, &mut self.plain);
        self.sealed.drain(..frame.wire_len);
        let len = match &opened {
            Ok(Opened::Data { len }) => *len,
            _ => 0,
        };
        self.plain.truncate(len);
        self.is_over |= opened? == Opened::Closed;
        Ok(true)
    }

    /// Appends the control records that are due.
    fn seal_control(&mut self) -> Result<(), TlsError> {
        loop {
            let start = self.out.len();
            self.out.resize(start + CONTROL_RECORD_MAX, 0);
            let sealed = self
                .session
                .poll_control(Instant::now(), &mut self.out[start..]);
            let len = sealed.as_ref().map_or(0, |len| *len);
            self.out.truncate(start + len);
            if sealed? == 0 {
                return Ok(());
            }
        }
    }

    fn seal(&mut self, bytes: &[u8]) -> Result<(), TlsError> {
        self.seal_control()?;
        for piece in bytes.chunks(RECORD_PLAINTEXT_MAX) {
            let start = self.out.len();
            self.out.resize(start + Session::sealed_len(piece.len()), 0);
            let sealed = self.session.seal(piece, &mut self.out[start..]);
            self.out
                .truncate(start + sealed.as_ref().map_or(0, |len| *len));
            sealed?;
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// Waits until the socket has taken everything that was sealed.
    fn poll_drain(&mut self, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        while self.out_at < self.out.len() {
            let rest = &self.out[self.out_at..];
            match ready!(Pin::new(&mut self.socket).poll_write(task, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                len => self.out_at += len,
            }
        }
        self.out.clear();
        self.out_at = 0;
        Poll::Ready(Ok(()))
    }

    /// Sends what the session has to say as far as the socket takes it; the rest goes with the next bytes.
    fn send_control(&mut self, task: &mut Task<'_>) -> io::Result<()> {
        self.seal_control().map_err(io::Error::other)?;
        match self.poll_drain(task) {
            Poll::Ready(sent) => sent,
            Poll::Pending => Ok(()),
        }
    }

    /// Tells the peer what it did wrong, as far as it can still be told.
    fn refuse(&mut self, task: &mut Task<'_>, error: TlsError) -> io::Error {
        self.session.queue_alert(&error);
        // The error that we return says more than a failure to tell it.
        let _ = self.send_control(task);
        io::Error::other(error)
    }

    fn poll_receive(&mut self, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        let start = self.sealed.len();
        self.sealed.resize(start.max(RECEIVE_BYTES), 0);
        let mut into = ReadBuf::new(&mut self.sealed[start..]);
        let received = Pin::new(&mut self.socket).poll_read(task, &mut into);
        let len = into.filled().len();
        self.sealed.truncate(start + len);
        ready!(received)?;
        if len == 0 {
            // Without the peer's good-bye somebody may have cut the stream.
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        loop {
            let plain = &stream.plain[stream.plain_at..];
            if !plain.is_empty() {
                let len = plain.len().min(buffer.remaining());
                buffer.put_slice(&plain[..len]);
                stream.plain_at += len;
                return Poll::Ready(Ok(()));
            }
            if stream.is_over {
                return Poll::Ready(Ok(()));
            }
            match stream.open_record() {
                Ok(true) => stream.send_control(task)?,
                Ok(false) => ready!(stream.poll_receive(task))?,
                Err(error) => return Poll::Ready(Err(stream.refuse(task, error))),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        ready!(stream.poll_drain(task))?;
        let bytes = &bytes[..bytes.len().min(BATCH_BYTES)];
        stream.seal(bytes).map_err(io::Error::other)?;
        // What the socket does not take now goes with the next call; the bytes are ours either way.
        match stream.poll_drain(task) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(bytes.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        ready!(stream.poll_drain(task))?;
        Pin::new(&mut stream.socket).poll_flush(task)
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        stream.session.queue_close();
        stream.seal_control().map_err(io::Error::other)?;
        ready!(stream.poll_drain(task))?;
        Pin::new(&mut stream.socket).poll_shutdown(task)
    }
}
