//! Connecting to `mk-data/1`: TCP, TLS 1.3 with that protocol and no other, HTTP.

use std::sync::Arc;

use bytes::Bytes;
use engine::{Address, Blame, EngineError, ErrorKind, NbdEndpoint, TlsMode};
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tls::{Alert, ClientHandshake, Established, HandshakeStep, SessionLimits, TlsError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::credentials::ALPN_DATA;
use crate::tls_stream::TlsStream;

/// Bytes taken from the socket at once during the handshake.
const RECEIVE_BYTES: usize = 16 << 10;

/// Connects within the endpoint's limit.
pub(super) fn connect(
    endpoint: &NbdEndpoint,
) -> Result<(Runtime, SendRequest<Full<Bytes>>), EngineError> {
    let (
        Address::Tcp { host, port },
        TlsMode::First {
            config,
            server_name,
        },
    ) = (&endpoint.address, &endpoint.tls)
    else {
        return Err(unsupported(endpoint, "only mk:// has it"));
    };
    let mut config = rustls::ClientConfig::clone(config);
    config.alpn_protocols = vec![ALPN_DATA.to_vec()];
    let failed = |cause| {
        connect_error(endpoint, "cannot connect to the target's mk-data service").cause(cause)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let work = async {
        let socket = TcpStream::connect((host.as_str(), *port))
            .await
            .map_err(failed)?;
        sys::net::configure_tcp(&socket, &sys::net::TcpOptions::default())
            .map_err(|cause| connect_error(endpoint, "cannot set socket options").cause(cause))?;
        let (socket, established) = secure(endpoint, socket, config, server_name).await?;
        let stream = TokioIo::new(TlsStream::new(socket, established));
        let (sender, connection) = http1::handshake(stream)
            .await
            .map_err(|cause| connect_error(endpoint, "http cannot begin").cause(cause))?;
        // Its end is seen by whoever asks next.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    };
    let limit = endpoint.connect_timeout;
    let outcome = runtime.block_on(async { tokio::time::timeout(limit, work).await });
    match outcome {
        Ok(Ok(sender)) => Ok((runtime, sender)),
        Ok(Err(error)) => {
            runtime.shutdown_background();
            Err(error)
        }
        Err(_) => {
            runtime.shutdown_background();
            let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
            Err(failed(late))
        }
    }
}

/// The handshake. A server that does not choose our protocol would speak another one at us.
async fn secure(
    endpoint: &NbdEndpoint,
    mut socket: TcpStream,
    config: rustls::ClientConfig,
    server_name: &str,
) -> Result<(TcpStream, Established), EngineError> {
    let limits = SessionLimits::default();
    let mut handshake = ClientHandshake::new(Arc::new(config), server_name, limits)
        .map_err(|cause| tls_error(endpoint, cause))?;
    let broke =
        |cause| connect_error(endpoint, "the connection broke in the handshake").cause(cause);
    let mut input = Vec::new();
    loop {
        let step = handshake.handle_input(&input);
        let output = handshake.take_output();
        socket.write_all(&output).await.map_err(broke)?;
        match step {
            Ok(HandshakeStep::Done(established)) => {
                return match established.alpn.as_deref() {
                    Some(chosen) if chosen == ALPN_DATA => Ok((socket, *established)),
                    _ => Err(unsupported(
                        endpoint,
                        "the server chose no application protocol",
                    )),
                };
            }
            Ok(HandshakeStep::NeedInput) => {
                input.resize(RECEIVE_BYTES, 0);
                let len = socket.read(&mut input).await.map_err(broke)?;
                if len == 0 {
                    return Err(broke(std::io::ErrorKind::UnexpectedEof.into()));
                }
                input.truncate(len);
            }
            Err(TlsError::AlertReceived {
                alert: Alert::NO_APPLICATION_PROTOCOL,
            }) => {
                return Err(unsupported(
                    endpoint,
                    "the server does not know the protocol",
                ));
            }
            Err(cause) => return Err(tls_error(endpoint, cause)),
        }
    }
}

/// Callers fall back on this.
fn unsupported(endpoint: &NbdEndpoint, why: &str) -> EngineError {
    let what = format!("the target has no mk-data service: {why}");
    EngineError::new(ErrorKind::Unsupported, Blame::Peer, what, endpoint.uri.clone())
        .remedy("migratekit-dataplane serves it on the port of mk://; without it, contents are read back over nbd")
}

fn connect_error(endpoint: &NbdEndpoint, what: &str) -> EngineError {
    EngineError::new(
        ErrorKind::TargetConnect,
        Blame::Environment,
        what,
        endpoint.uri.clone(),
    )
    .remedy("check that the server runs, and the address, the port and the firewall")
}

fn tls_error(endpoint: &NbdEndpoint, cause: TlsError) -> EngineError {
    let blame = match cause.blame() {
        tls::Blame::Peer => Blame::Peer,
        tls::Blame::Operator => Blame::Operator,
        tls::Blame::Environment => Blame::Environment,
        tls::Blame::Bug => Blame::Bug,
    };
    EngineError::new(ErrorKind::Tls, blame, "tls failed", endpoint.uri.clone())
        .remedy("check the certificates of both sides")
        .cause(cause)
}
