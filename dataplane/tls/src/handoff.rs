//! The one place that knows how rustls hands a finished handshake over.
//!
//! rustls 0.23: the unbuffered connections work on byte slices of ours, and
//! `dangerous_into_kernel_connection` gives the secrets, the sequence numbers and an object that
//! derives the next secrets. A later rustls changes this file and no other.

use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{
    ClientConfig, CommonState, ConnectionTrafficSecrets, Error as RustlsError, ExtractedSecrets,
    ServerConfig,
};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::error::TlsError;
use crate::record::{DirectionKeys, Suite};
use crate::session::Keys;

/// Records fetched after an error: its alert, and what was waiting before it.
const ALERT_STEPS_MAX: usize = 8;

/// What one step of the handshake came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Call again.
    Again,
    /// Another record is needed.
    NeedInput,
    /// Both Finished messages are through, and ours is in the output.
    Done,
    /// close_notify came.
    ClosedByPeer,
    /// Application data before the end of the handshake, which we never allow.
    EarlyData,
}

/// A handshake of either role.
pub(crate) enum Handshake {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

impl Handshake {
    pub(crate) fn server(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        UnbufferedServerConnection::new(config)
            .map(|connection| Self::Server(Box::new(connection)))
            .map_err(TlsError::from_handshake)
    }

    pub(crate) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, TlsError> {
        UnbufferedClientConnection::new(config, name)
            .map(|connection| Self::Client(Box::new(connection)))
            .map_err(TlsError::from_handshake)
    }

    /// One step over `incoming`, which is whole records. Returns how many bytes at its front are
    /// done with; what goes out is appended to `outgoing`, after an error its alert.
    pub(crate) fn step(
        &mut self,
        incoming: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> (usize, Result<Progress, TlsError>) {
        let (mut discard, outcome) = self.step_once(incoming, outgoing);
        if outcome.is_err() {
            // Only as long as an alert waits, and over the bytes that are left: with nothing to
            // send rustls would parse on, and it remembers where later messages stand in them.
            for _ in 0..ALERT_STEPS_MAX {
                if !self.common().wants_write() {
                    break;
                }
                discard += self.step_once(&mut incoming[discard..], outgoing).0;
            }
        }
        (discard, outcome.map_err(TlsError::from_handshake))
    }

    fn step_once(
        &mut self,
        incoming: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> (usize, Result<Progress, RustlsError>) {
        match self {
            Self::Server(connection) => absorb(connection.process_tls_records(incoming), outgoing),
            Self::Client(connection) => absorb(connection.process_tls_records(incoming), outgoing),
        }
    }

    fn common(&self) -> &CommonState {
        match self {
            Self::Server(connection) => connection,
            Self::Client(connection) => connection,
        }
    }

    /// The application protocol both sides agreed on.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    /// The peer's own certificate.
    pub(crate) fn peer_leaf(&self) -> Option<&CertificateDer<'static>> {
        self.common().peer_certificates().and_then(<[_]>::first)
    }

    /// Takes the keys after [`Progress::Done`].
    pub(crate) fn into_keys(self) -> Result<Keys, TlsError> {
        let refused = |source| TlsError::Library {
            what: "taking over the keys",
            source: Box::new(source),
        };
        let (secrets, schedule) = match self {
            Self::Server(connection) => {
                let (secrets, kernel) = connection
                    .dangerous_into_kernel_connection()
                    .map_err(refused)?;
                (secrets, KeySchedule::Server(Box::new(kernel)))
            }
            Self::Client(connection) => {
                let (secrets, kernel) = connection
                    .dangerous_into_kernel_connection()
                    .map_err(refused)?;
                (secrets, KeySchedule::Client(Box::new(kernel)))
            }
        };
        let ExtractedSecrets {
            tx: (tx_seq, tx),
            rx: (rx_seq, rx),
        } = secrets;
        let suite = suite_of(&tx)?;
        let tx = keys_of(suite, &tx, tx_seq)?;
        let rx = keys_of(suite, &rx, rx_seq)?;
        Ok(Keys {
            suite,
            tx,
            rx,
            schedule,
        })
    }
}

/// Moves what rustls wants to send to `outgoing` and names the state.
fn absorb<Side>(
    status: UnbufferedStatus<'_, '_, Side>,
    outgoing: &mut Vec<u8>,
) -> (usize, Result<Progress, RustlsError>) {
    let progress = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::EncodeTlsData(mut chunk)) => {
            let start = outgoing.len();
            // The chunk tells its size by refusing an empty buffer.
            if let Err(EncodeError::InsufficientSize(size)) = chunk.encode(&mut []) {
                outgoing.resize(start + size.required_size, 0);
                let written = chunk.encode(&mut outgoing[start..]).unwrap_or(0);
                outgoing.truncate(start + written);
            }
            Ok(Progress::Again)
        }
        Ok(ConnectionState::TransmitTlsData(chunk)) => {
            chunk.done();
            Ok(Progress::Again)
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Progress::NeedInput),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Progress::Done),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Progress::ClosedByPeer),
        Ok(_) => Ok(Progress::EarlyData),
    };
    (status.discard, progress)
}

/// Derives the secrets that follow a KeyUpdate (RFC 8446 section 7.2).
pub(crate) enum KeySchedule {
    Server(Box<KernelConnection<ServerConnectionData>>),
    Client(Box<KernelConnection<ClientConnectionData>>),
    #[cfg(any(test, feature = "fuzzing"))]
    Fixed(crate::testing::FixedSchedule),
}

impl KeySchedule {
    pub(crate) const fn is_client(&self) -> bool {
        match self {
            Self::Server(_) => false,
            Self::Client(_) => true,
            #[cfg(any(test, feature = "fuzzing"))]
            Self::Fixed(schedule) => schedule.is_client,
        }
    }

    /// The next sending key, at record 0.
    pub(crate) fn next_tx(&mut self, suite: Suite) -> Result<DirectionKeys, TlsError> {
        let next = match self {
            Self::Server(kernel) => kernel.update_tx_secret(),
            Self::Client(kernel) => kernel.update_tx_secret(),
            #[cfg(any(test, feature = "fuzzing"))]
            Self::Fixed(schedule) => return schedule.next_tx(suite),
        };
        next_keys(suite, next)
    }

    /// The next receiving key, at record 0.
    pub(crate) fn next_rx(&mut self, suite: Suite) -> Result<DirectionKeys, TlsError> {
        let next = match self {
            Self::Server(kernel) => kernel.update_rx_secret(),
            Self::Client(kernel) => kernel.update_rx_secret(),
            #[cfg(any(test, feature = "fuzzing"))]
            Self::Fixed(schedule) => return schedule.next_rx(suite),
        };
        next_keys(suite, next)
    }
}

fn next_keys(
    suite: Suite,
    next: Result<(u64, ConnectionTrafficSecrets), RustlsError>,
) -> Result<DirectionKeys, TlsError> {
    let (seq, secrets) = next.map_err(|source| TlsError::Library {
        what: "deriving the next key",
        source: Box::new(source),
    })?;
    keys_of(suite, &secrets, seq)
}

fn suite_of(secrets: &ConnectionTrafficSecrets) -> Result<Suite, TlsError> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { .. } => Ok(Suite::Aes128Gcm),
        ConnectionTrafficSecrets::Aes256Gcm { .. } => Ok(Suite::Aes256Gcm),
        ConnectionTrafficSecrets::Chacha20Poly1305 { .. } => Ok(Suite::ChaCha20Poly1305),
        _ => Err(TlsError::Crypto {
            what: "choice of an unknown aead",
        }),
    }
}

fn keys_of(
    suite: Suite,
    secrets: &ConnectionTrafficSecrets,
    seq: u64,
) -> Result<DirectionKeys, TlsError> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
            DirectionKeys::new(suite, key.as_ref(), iv.as_ref(), seq)
        }
        _ => Err(TlsError::Crypto {
            what: "choice of an unknown aead",
        }),
    }
}
