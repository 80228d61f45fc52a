//! A blocking connection: bytes in, bytes out, TLS or not.

use super::{Dialled, Role, tls_error};
use crate::error::{Blame, EngineError, ErrorKind};
use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};
use tls::{Opened, Session, session::RECORD_PLAINTEXT_MAX};
use wire::{ClientParams, WireError};

/// Bytes asked of the socket at a time.
const READ_BYTES: usize = 64 * 1024;

/// A connection before it goes to a shard, or one that never does (`info`, block status).
pub(crate) struct Conn {
    stream: File,
    pub(super) role: Role,
    pub(super) uri: String,
    /// Time for each step.
    timeout: Duration,
    session: Option<Session>,
    /// The server chose an application protocol: it knows that there are several.
    chose_protocol: bool,
    /// Received, not yet opened (TLS).
    sealed: Vec<u8>,
    /// Ready for the protocol.
    plain: Vec<u8>,
}

impl Conn {
    pub(super) fn new(
        fd: OwnedFd,
        role: Role,
        uri: String,
        timeout: Duration,
    ) -> Result<Self, EngineError> {
        let conn = Self {
            stream: File::from(fd),
            role,
            uri,
            timeout,
            session: None,
            chose_protocol: false,
            sealed: Vec::new(),
            plain: Vec::new(),
        };
        conn.set_timeout(Some(timeout))?;
        Ok(conn)
    }

    /// The next steps may take `time`, where that is more than the usual limit; `None`: as usual again.
    pub(super) fn allow(&mut self, time: Option<Duration>) -> Result<(), EngineError> {
        self.set_timeout(Some(time.unwrap_or_default().max(self.timeout)))
    }

    fn set_timeout(&self, timeout: Option<Duration>) -> Result<(), EngineError> {
        // The options are the same for all stream sockets; std offers them on this type.
        let fail = |cause| self.broke("cannot set socket time-outs", cause);
        let handle = self.stream.as_fd().try_clone_to_owned().map_err(fail)?;
        let socket = UnixStream::from(handle);
        socket.set_read_timeout(timeout).map_err(fail)?;
        socket.set_write_timeout(timeout).map_err(fail)
    }

    fn broke(&self, what: &str, cause: std::io::Error) -> EngineError {
        EngineError::new(
            self.role.connect_kind(),
            Blame::Environment,
            what,
            self.uri.clone(),
        )
        .remedy("check the network and the server's own log")
        .cause(cause)
    }

    pub(super) fn protocol(&self, what: &str) -> EngineError {
        EngineError::new(ErrorKind::Protocol, Blame::Peer, what, self.uri.clone())
            .remedy("check that the other end speaks NBD on this port, and how (mk:// or nbds://)")
    }

    pub(super) fn wire(&self, fault: WireError) -> EngineError {
        self.protocol("the server broke the nbd protocol")
            .cause(fault)
    }

    /// Sends everything, sealed when TLS is up.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Some(session) = &mut self.session else {
            let sent = self.stream.write_all(bytes);
            return sent.map_err(|cause| self.broke("sending failed", cause));
        };
        let mut out = vec![0; Session::sealed_len(bytes.len()) + 256];
        let mut len = 0;
        let sealed = (|| {
            let now = Instant::now();
            for plain in bytes.chunks(RECORD_PLAINTEXT_MAX) {
                while session.control_pending(now) {
                    let wrote = session.poll_control(now, &mut out[len..])?;
                    if wrote == 0 {
                        break;
                    }
                    len += wrote;
                }
                len += session.seal(plain, &mut out[len..])?;
            }
            Ok(())
        })();
        sealed.map_err(|cause| tls_error(self, cause))?;
        let sent = self.stream.write_all(&out[..len]);
        sent.map_err(|cause| self.broke("sending failed", cause))
    }

    /// Receives until at least one more byte is ready for the protocol.
    pub(super) fn fill(&mut self) -> Result<(), EngineError> {
        let before = self.plain.len();
        while self.plain.len() == before {
            if self.session.is_some() && self.open_one()? {
                continue;
            }
            let inbox = if self.session.is_some() {
                &mut self.sealed
            } else {
                &mut self.plain
            };
            let at = inbox.len();
            inbox.resize(at + READ_BYTES, 0);
            let read = self.stream.read(&mut inbox[at..]);
            inbox.truncate(at + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Err(self.hung_up()),
                Ok(_) => {}
                Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
                Err(cause) if cause.kind() == std::io::ErrorKind::WouldBlock => {
                    let cause = std::io::Error::from(std::io::ErrorKind::TimedOut);
                    return Err(self.broke("the server did not answer in time", cause));
                }
                Err(cause) => return Err(self.broke("receiving failed", cause)),
            }
        }
        Ok(())
    }

    fn hung_up(&self) -> EngineError {
        let what = "the server closed the connection during negotiation";
        EngineError::new(
            self.role.connect_kind(),
            Blame::Peer,
            what,
            self.uri.clone(),
        )
        .remedy(
            "check the export's name, whether the server wants TLS (mk:// or nbds://), and its log",
        )
    }

    /// Opens one record; false when none is whole.
    fn open_one(&mut self) -> Result<bool, EngineError> {
        let frame = Session::frame(&self.sealed).map_err(|cause| tls_error(self, cause))?;
        let Some(frame) = frame.filter(|frame| self.sealed.len() >= frame.wire_len) else {
            return Ok(false);
        };
        let Some(session) = &mut self.session else {
            return Ok(false);
        };
        let at = self.plain.len();
        self.plain.resize(at + frame.inner_len, 0);
        let now = Instant::now();
        let opened = session.open(now, &self.sealed[..frame.wire_len], &mut self.plain[at..]);
        self.sealed.drain(..frame.wire_len);
        let len = match &opened {
            Ok(Opened::Data { len }) => *len,
            _ => 0,
        };
        self.plain.truncate(at + len);
        match opened {
            Ok(Opened::Closed) => Err(self.hung_up()),
            Ok(_) => Ok(true),
            Err(cause) => Err(tls_error(self, cause)),
        }
    }

    /// Bytes ready for the protocol.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.plain
    }

    pub(super) fn consume(&mut self, len: usize) {
        self.plain.drain(..len);
    }

    pub(super) fn take_bytes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.plain)
    }

    /// Bytes received and not used: must be none when TLS begins.
    pub(super) fn unread(&self) -> usize {
        self.plain.len()
    }

    pub(super) fn secured(&mut self, established: tls::Established) {
        self.chose_protocol = established.alpn.is_some();
        self.session = Some(established.session);
        self.sealed = established.leftover;
        self.plain.clear();
    }

    pub(super) fn suite_name(&self) -> Option<&'static str> {
        self.session.as_ref().map(Session::suite_name)
    }

    pub(super) fn chose_protocol(&self) -> bool {
        self.chose_protocol
    }

    /// Closes politely; a peer that is gone already is no concern.
    pub(super) fn close(&mut self) {
        if let Some(session) = &mut self.session {
            session.queue_close();
            let mut out = [0; 64];
            if let Ok(len) = session.poll_control(Instant::now(), &mut out) {
                let _gone = self.stream.write_all(&out[..len]);
            }
        }
    }

    pub(super) fn into_dialled(self, params: ClientParams) -> Result<Dialled, EngineError> {
        self.set_timeout(None)?;
        if self.session.is_some() && !self.plain.is_empty() {
            return Err(self.protocol("the server sent data behind the negotiation"));
        }
        let leftover = if self.session.is_some() {
            self.sealed
        } else {
            self.plain
        };
        if self.session.is_none() && !leftover.is_empty() {
            return Err(EngineError::new(
                ErrorKind::Protocol,
                Blame::Peer,
                "the server sent data behind the negotiation",
                self.uri,
            ));
        }
        Ok(Dialled {
            socket: self.stream.into(),
            session: self.session,
            leftover,
            params,
        })
    }
}
