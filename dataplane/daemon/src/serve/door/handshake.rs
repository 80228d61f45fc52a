//! TLS at the door: the whole ClientHello, a route by ALPN, then the handshake.

use std::sync::Arc;

use rustls::ServerConfig;
use tls::{
    ALPN_NBD, ClientHello, Established, HandshakeStep, HelloReader, SessionLimits, TlsError,
};

use super::fault::{DoorFault, Phase};
use super::socket::Socket;
use crate::credentials::ALPN_DATA;
use crate::serve::limits::GOOD_BYE_BYTES_MAX;

/// What is inside TLS, by ALPN.
///
/// The next ones (`mk-agent/1`, HTTP) are each a variant here, a name in [`SERVED`] and an arm where the route is taken; those that ask for no
/// client certificate get a configuration of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// The NBD service; also for clients that offer no ALPN at all.
    Nbd,
    /// Identities, hashes and tunables.
    Data,
}

/// Protocols in our order of preference.
const SERVED: [(&[u8], Route); 2] = [(ALPN_NBD, Route::Nbd), (ALPN_DATA, Route::Data)];

impl Route {
    /// Chooses by what the client offers.
    pub(super) fn of(hello: &ClientHello) -> Result<Self, TlsError> {
        let names = SERVED.map(|(name, _)| name);
        let chosen = hello.choose_alpn(&names)?;
        SERVED
            .iter()
            .find(|(name, _)| *name == chosen)
            .map(|(_, route)| *route)
            .ok_or(TlsError::NoApplicationProtocol)
    }
}

/// Reads until the ClientHello is complete. A fault has been told to the client.
pub(super) async fn read_hello(socket: &Socket) -> Result<ClientHello, DoorFault> {
    let mut reader = HelloReader::new();
    let mut received = Vec::new();
    loop {
        receive(socket, &mut received, Phase::Hello).await?;
        match reader.handle_input(&received) {
            Ok(Some(hello)) => return Ok(hello),
            Ok(None) => received.clear(),
            Err(error) => {
                good_bye(socket, &reader.take_alert()).await;
                return Err(DoorFault::Tls(error));
            }
        }
    }
}

/// Refuses a ClientHello before any key exists.
pub(super) async fn refuse_hello(socket: &Socket, error: TlsError) -> DoorFault {
    let alert = error.alert().map(|alert| alert.plaintext_record().to_vec());
    good_bye(socket, &alert.unwrap_or_default()).await;
    DoorFault::Tls(error)
}

/// Drives the handshake to its end. A fault has been told to the client.
pub(super) async fn handshake(
    socket: &Socket,
    config: Arc<ServerConfig>,
    limits: SessionLimits,
    hello: ClientHello,
) -> Result<Established, DoorFault> {
    let broke = |source| DoorFault::Io {
        phase: Phase::Tls,
        source,
    };
    let mut machine = tls::ServerHandshake::new(config, limits)?;
    let mut input = hello.bytes;
    loop {
        let step = machine.handle_input(&input);
        let output = machine.take_output();
        match step {
            Ok(HandshakeStep::Done(established)) => {
                socket.send(&output).await.map_err(broke)?;
                return Ok(*established);
            }
            Ok(HandshakeStep::NeedInput) => {
                socket.send(&output).await.map_err(broke)?;
                input.clear();
                receive(socket, &mut input, Phase::Tls).await?;
            }
            Err(error) => {
                good_bye(socket, &output).await;
                return Err(DoorFault::Tls(error));
            }
        }
    }
}

async fn receive(socket: &Socket, into: &mut Vec<u8>, phase: Phase) -> Result<(), DoorFault> {
    match socket.receive(into).await {
        Ok(0) => Err(DoorFault::Closed { phase }),
        Ok(_) => Ok(()),
        Err(source) => Err(DoorFault::Io { phase, source }),
    }
}

/// Sends a last word and gives the client time to read it.
///
/// Closing with unread bytes in the receive buffer makes the kernel send a reset, which may destroy the
/// alert on its way; a client in TLS 1.3 has usually sent more by the time we refuse its certificate.
pub(super) async fn good_bye(socket: &Socket, last_word: &[u8]) {
    let talk = async {
        socket.send(last_word).await?;
        socket.shutdown_write()?;
        let (mut thrown_away, mut received) = (0, Vec::new());
        while thrown_away < GOOD_BYE_BYTES_MAX {
            match socket.receive(&mut received).await? {
                0 => break,
                len => thrown_away += len,
            }
            received.clear();
        }
        std::io::Result::Ok(())
    };
    // The connection is over either way.
    let _ = tokio::time::timeout(crate::serve::limits::GOOD_BYE_TIMEOUT, talk).await;
}
