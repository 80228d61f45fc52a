//! Bytes of a negotiation, in the clear or through TLS.

use std::time::Instant;

use tls::{Established, Opened, RECORD_PLAINTEXT_MAX, Session};

use super::fault::{DoorFault, Phase};
use super::socket::Socket;
use crate::serve::limits::NEGOTIATION_BYTES_MAX;

/// A socket with, once there is one, its TLS session.
pub(super) struct Channel {
    pub(super) socket: Socket,
    session: Option<Session>,
    /// Ciphertext that is not a whole record yet.
    sealed: Vec<u8>,
    /// Plaintext that nobody has understood yet.
    plain: Vec<u8>,
}

impl Channel {
    pub(super) const fn new(socket: Socket) -> Self {
        Self {
            socket,
            session: None,
            sealed: Vec::new(),
            plain: Vec::new(),
        }
    }

    /// What is received from now on is ciphertext, beginning with what came behind the handshake.
    pub(super) fn start_tls(&mut self, established: Established) {
        self.sealed = established.leftover;
        self.session = Some(established.session);
    }

    /// Plaintext waiting to be understood.
    pub(super) fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// `len` bytes of it were understood.
    pub(super) fn consume(&mut self, len: usize) {
        self.plain.drain(..len);
    }

    /// Waits until there is more plaintext.
    pub(super) async fn fill(&mut self, phase: Phase) -> Result<(), DoorFault> {
        let before = self.plain.len();
        while self.plain.len() == before {
            if self.session.is_some() && self.open_records().await? {
                continue;
            }
            let held = self.plain.len() + self.sealed.len();
            if held >= NEGOTIATION_BYTES_MAX {
                return Err(DoorFault::TooLong {
                    len_bytes: held,
                    max_bytes: NEGOTIATION_BYTES_MAX,
                });
            }
            let into = if self.session.is_some() {
                &mut self.sealed
            } else {
                &mut self.plain
            };
            let received = self.socket.receive(into).await;
            if received.map_err(|source| DoorFault::Io { phase, source })? == 0 {
                return Err(DoorFault::Closed { phase });
            }
        }
        Ok(())
    }

    /// Opens one whole record, if there is one. A record may bring no data; then `true` means: look again.
    async fn open_records(&mut self) -> Result<bool, DoorFault> {
        let Some(session) = self.session.as_mut() else {
            return Ok(false);
        };
        let frame = match Session::frame(&self.sealed) {
            Ok(Some(frame)) if frame.wire_len <= self.sealed.len() => frame,
            Ok(_) => return Ok(false),
            Err(error) => return Err(self.refuse(error).await),
        };
        let start = self.plain.len();
        self.plain.resize(start + frame.inner_len, 0);
        let record = &self.sealed[..frame.wire_len];
        let opened = session.open(Instant::now(), record, &mut self.plain[start..]);
        let len = match opened {
            Ok(Opened::Data { len }) => len,
            Ok(Opened::Control | Opened::Closed) | Err(_) => 0,
        };
        self.plain.truncate(start + len);
        self.sealed.drain(..frame.wire_len);
        match opened {
            Ok(Opened::Closed) => Err(DoorFault::Closed {
                phase: Phase::Negotiation,
            }),
            Ok(_) => Ok(true),
            Err(error) => Err(self.refuse(error).await),
        }
    }

    /// Tells the peer what it did wrong, as far as it can still be told.
    async fn refuse(&mut self, error: tls::TlsError) -> DoorFault {
        if let Some(session) = self.session.as_mut() {
            session.queue_alert(&error);
            // The fault that we return says more than a failure to tell it.
            let _ = self.send(&[]).await;
        }
        DoorFault::Tls(error)
    }

    /// Sends plaintext, behind the control records that are due.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), DoorFault> {
        let broke = |source| DoorFault::Io {
            phase: Phase::Negotiation,
            source,
        };
        let Some(session) = self.session.as_mut() else {
            return self.socket.send(bytes).await.map_err(broke);
        };
        let mut out = Vec::with_capacity(
            Session::sealed_len(bytes.len()) + 2 * tls::limits::CONTROL_RECORD_MAX,
        );
        let mut control = [0; tls::limits::CONTROL_RECORD_MAX];
        loop {
            match session.poll_control(Instant::now(), &mut control)? {
                0 => break,
                len => out.extend_from_slice(&control[..len]),
            }
        }
        for piece in bytes.chunks(RECORD_PLAINTEXT_MAX) {
            let start = out.len();
            out.resize(start + Session::sealed_len(piece.len()), 0);
            let len = session.seal(piece, &mut out[start..])?;
            out.truncate(start + len);
        }
        self.socket.send(&out).await.map_err(broke)
    }

    /// Says good-bye in the language of the connection.
    pub(super) async fn close(&mut self) {
        if let Some(session) = self.session.as_mut() {
            session.queue_close();
            // Nothing is lost when the peer is already gone.
            let _ = self.send(&[]).await;
        }
    }

    /// For the shards: the socket, the session, and what was received and not understood.
    pub(super) fn into_parts(self) -> Result<(Socket, Option<Session>, Vec<u8>), DoorFault> {
        match self.session {
            // Records that were opened cannot be closed again.
            Some(_) if !self.plain.is_empty() => Err(DoorFault::Pipelined {
                len_bytes: self.plain.len(),
            }),
            Some(session) => Ok((self.socket, Some(session), self.sealed)),
            None => Ok((self.socket, None, self.plain)),
        }
    }
}
