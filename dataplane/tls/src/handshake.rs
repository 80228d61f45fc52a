//! Handshakes, sans-io: bytes in, bytes out, a [`Session`] at the end.
//!
//! ```text
//! loop {
//!     match handshake.handle_input(received)? {      // on Err: send take_output(), then close
//!         NeedInput => { send(take_output()); received = recv(); }
//!         Done(established) => { send(take_output()); break; }
//!     }
//! }
//! ```
//! A client starts with `handle_input(&[])`. rustls is fed record by record, so that nothing behind
//! the handshake is opened by it: what is left over belongs to the session.

use std::mem;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;

use crate::error::TlsError;
use crate::handoff::{Handshake, Progress};
use crate::hello::plaintext_alert;
pub use crate::hello::{ClientHello, HelloReader};
use crate::limits::{HANDSHAKE_BYTES_MAX, HANDSHAKE_HELD_BYTES_MAX, RECORD_HEADER_LEN};
use crate::pki;
use crate::session::{Session, SessionLimits};

/// Length field rustls accepts during a handshake: 2^14 + 2048, the bound TLS 1.2 set.
const HANDSHAKE_RECORD_MAX: usize = 16_384 + 2_048;

/// What a piece of input came to.
#[derive(Debug)]
pub enum HandshakeStep {
    /// Feed more bytes; send [`ServerHandshake::take_output`] first.
    NeedInput,
    /// Over. Send `take_output` before anything the session seals.
    Done(Box<Established>),
}

/// A connection whose handshake is over.
pub struct Established {
    /// The record layer.
    pub session: Session,
    /// Ciphertext that came behind the handshake; belongs in front of what is received next.
    pub leftover: Vec<u8>,
    /// The application protocol, when the client offered any.
    pub alpn: Option<Vec<u8>>,
    /// SHA-256 of the peer's leaf certificate (DER).
    pub peer_fingerprint: Option<[u8; 32]>,
    /// Subject common name of that certificate, for messages only.
    pub peer_name: Option<String>,
}

impl std::fmt::Debug for Established {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Established")
            .field("suite", &self.session.suite_name())
            .field("alpn", &self.alpn)
            .field("peer_name", &self.peer_name)
            .field("leftover_bytes", &self.leftover.len())
            .finish_non_exhaustive()
    }
}

/// The server's side of a handshake.
pub struct ServerHandshake(Driver);

impl ServerHandshake {
    /// `config` comes from [`server_config`](crate::server_config).
    pub fn new(config: Arc<ServerConfig>, limits: SessionLimits) -> Result<Self, TlsError> {
        Ok(Self(Driver::new(Handshake::server(config)?, limits)))
    }

    /// Takes any piece of what the client sent.
    pub fn handle_input(&mut self, bytes: &[u8]) -> Result<HandshakeStep, TlsError> {
        self.0.handle_input(bytes)
    }

    /// Bytes to send; also after an error (the alert).
    pub fn take_output(&mut self) -> Vec<u8> {
        mem::take(&mut self.0.outgoing)
    }
}

/// The client's side of a handshake.
pub struct ClientHandshake(Driver);

impl ClientHandshake {
    /// `server_name`: DNS name or IP address the server's certificate must carry.
    pub fn new(
        config: Arc<ClientConfig>,
        server_name: &str,
        limits: SessionLimits,
    ) -> Result<Self, TlsError> {
        let name = ServerName::try_from(server_name.to_owned()).map_err(|_| TlsError::BadName {
            name: server_name.to_owned(),
        })?;
        Ok(Self(Driver::new(Handshake::client(config, name)?, limits)))
    }

    /// Takes any piece of what the server sent; an empty one starts the handshake.
    ///
    /// A client is done before the server has looked at its certificate (RFC 8446 section 4.4.2.4):
    /// a refusal comes as an alert record, which [`Session::open`] turns into
    /// [`TlsError::AlertReceived`].
    pub fn handle_input(&mut self, bytes: &[u8]) -> Result<HandshakeStep, TlsError> {
        self.0.handle_input(bytes)
    }

    /// Bytes to send; also after an error (the alert).
    pub fn take_output(&mut self) -> Vec<u8> {
        mem::take(&mut self.0.outgoing)
    }
}

/// Feeds a handshake record by record and holds both buffers.
struct Driver {
    /// `None` after the end, good or bad.
    handshake: Option<Handshake>,
    limits: SessionLimits,
    /// What came and is not done with.
    incoming: Vec<u8>,
    /// How much of `incoming` rustls has seen: whole records of a message that is incomplete.
    shown: usize,
    consumed_bytes: usize,
    outgoing: Vec<u8>,
}

impl Driver {
    fn new(handshake: Handshake, limits: SessionLimits) -> Self {
        Self {
            handshake: Some(handshake),
            limits,
            incoming: Vec::new(),
            shown: 0,
            consumed_bytes: 0,
            outgoing: Vec::new(),
        }
    }

    fn handle_input(&mut self, bytes: &[u8]) -> Result<HandshakeStep, TlsError> {
        let handshake = self.handshake.take().ok_or(TlsError::UsedAfterEnd)?;
        self.incoming.extend_from_slice(bytes);
        let outcome = self.drive(handshake);
        if let Err(error) = &outcome {
            // rustls has no alert for some errors. Before it took anything there are no keys, so
            // ours can go in the clear.
            if self.outgoing.is_empty() && self.consumed_bytes == 0 {
                self.outgoing = plaintext_alert(error);
            }
        }
        outcome
    }

    fn drive(&mut self, mut handshake: Handshake) -> Result<HandshakeStep, TlsError> {
        loop {
            match self.advance(&mut handshake)? {
                Progress::Again => {}
                Progress::Done => return self.finish(handshake),
                Progress::ClosedByPeer => return Err(TlsError::ClosedInHandshake),
                Progress::EarlyData => {
                    return Err(TlsError::UnexpectedContent { content_type: 23 });
                }
                Progress::NeedInput => {
                    if let Some(len) = record_len(&self.incoming[self.shown..]) {
                        self.shown += len;
                    } else {
                        self.check_held()?;
                        self.handshake = Some(handshake);
                        return Ok(HandshakeStep::NeedInput);
                    }
                }
            }
        }
    }

    /// One step of rustls over the records shown so far.
    fn advance(&mut self, handshake: &mut Handshake) -> Result<Progress, TlsError> {
        let (discard, outcome) =
            handshake.step(&mut self.incoming[..self.shown], &mut self.outgoing);
        self.incoming.drain(..discard);
        self.shown -= discard;
        self.consumed_bytes += discard;
        if self.consumed_bytes > HANDSHAKE_BYTES_MAX {
            return Err(TlsError::HandshakeTooLong {
                limit_bytes: HANDSHAKE_BYTES_MAX,
            });
        }
        outcome
    }

    /// Only an incomplete handshake is bounded: behind a complete one any amount may wait.
    fn check_held(&self) -> Result<(), TlsError> {
        if self.incoming.len() > HANDSHAKE_HELD_BYTES_MAX {
            return Err(TlsError::HandshakeTooLong {
                limit_bytes: HANDSHAKE_HELD_BYTES_MAX,
            });
        }
        Ok(())
    }

    fn finish(&mut self, handshake: Handshake) -> Result<HandshakeStep, TlsError> {
        // A message that starts under the keys of the handshake cannot end under those of the data
        // (RFC 8446 section 5.1).
        if self.shown != 0 {
            return Err(TlsError::KeyUpdateNotLast);
        }
        let alpn = handshake.alpn().map(<[u8]>::to_vec);
        let leaf = handshake.peer_leaf();
        let peer_fingerprint = leaf.map(|leaf| pki::fingerprint_der(leaf));
        let peer_name = leaf.and_then(|leaf| pki::common_name(leaf));
        let session = Session::new(handshake.into_keys()?, self.limits);
        let leftover = mem::take(&mut self.incoming);
        Ok(HandshakeStep::Done(Box::new(Established {
            session,
            leftover,
            alpn,
            peer_fingerprint,
            peer_name,
        })))
    }
}

/// Length of the whole record at the front of `bytes`; `None` while it is incomplete. With a header
/// that makes no sense it is everything, for rustls to refuse.
pub(crate) fn record_len(bytes: &[u8]) -> Option<usize> {
    let &[content_type, major, _, high, low] = bytes.first_chunk::<RECORD_HEADER_LEN>()?;
    let len_bytes = usize::from(u16::from_be_bytes([high, low]));
    if !(20..=23).contains(&content_type) || major != 3 || len_bytes > HANDSHAKE_RECORD_MAX {
        return Some(bytes.len());
    }
    let wire_len = RECORD_HEADER_LEN + len_bytes;
    (bytes.len() >= wire_len).then_some(wire_len)
}
