//! Blocking connects for transfers and `info`: TCP or Unix, TLS, NBD negotiation, each with a deadline.

mod client;
mod conn;

pub use client::NbdClient;

use crate::error::{Blame, EngineError, ErrorKind};
use conn::Conn;
use std::{
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tls::{SessionLimits, TlsError};
use wire::{
    ClientGoal, ClientHandshake, ClientHandshakeConfig, ClientHandshakeEvent, ClientParams,
};

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Host name or address, and port.
    Tcp {
        /// DNS name, IPv4 or IPv6 address (no brackets).
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

/// Whether and when TLS begins.
#[derive(Clone)]
pub enum TlsMode {
    /// Plain NBD; Unix sockets and loopback only, which the URI parser sees to.
    None,
    /// `mk://`: TLS from the first byte, ALPN `nbd`.
    First {
        /// Certificates and trust.
        config: Arc<rustls::ClientConfig>,
        /// The name the server's certificate must carry.
        server_name: String,
    },
    /// `nbds://`: NBD STARTTLS.
    StartTls {
        /// Certificates and trust.
        config: Arc<rustls::ClientConfig>,
        /// The name the server's certificate must carry.
        server_name: String,
    },
}

/// A server and one of its exports.
#[derive(Clone)]
pub struct NbdEndpoint {
    /// Where it listens.
    pub address: Address,
    /// Whether and when TLS begins.
    pub tls: TlsMode,
    /// Name of the export; empty for the default one.
    pub export: String,
    /// Limit for connecting and for each step of both handshakes.
    pub connect_timeout: Duration,
    /// As the operator wrote it, for messages and reports.
    pub uri: String,
}

/// One end of a copy.
#[derive(Clone)]
pub enum Endpoint {
    /// A file or block device.
    Path(PathBuf),
    /// A source of zeroes, or a target that keeps nothing.
    Null {
        /// Needed for a source.
        size_bytes: Option<u64>,
    },
    /// An NBD export.
    Nbd(NbdEndpoint),
}

impl Endpoint {
    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Null { .. } => "null:".into(),
            Self::Nbd(endpoint) => endpoint.uri.clone(),
        }
    }
}

/// Which end of a copy a connection is, for the class of its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Source,
    Target,
}

impl Role {
    pub(crate) fn connect_kind(self) -> ErrorKind {
        match self {
            Self::Source => ErrorKind::SourceConnect,
            Self::Target => ErrorKind::TargetConnect,
        }
    }
}

/// A connection after negotiation, ready for a shard.
pub struct Dialled {
    /// The connected socket.
    pub socket: OwnedFd,
    /// `None`: plain.
    pub session: Option<tls::Session>,
    /// Bytes that came behind the negotiation.
    pub leftover: Vec<u8>,
    /// What was negotiated.
    pub params: ClientParams,
}

/// Connects, secures and negotiates.
pub(crate) fn dial(endpoint: &NbdEndpoint, role: Role) -> Result<Dialled, EngineError> {
    let (conn, event) = open(endpoint, role, ClientGoal::Go)?;
    match event {
        ClientHandshakeEvent::Done(params) => Ok(conn.into_dialled(params)?),
        _ => Err(conn.protocol("the server did not open the export")),
    }
}

/// The handshake up to its end, whatever its goal.
fn open(
    endpoint: &NbdEndpoint,
    role: Role,
    goal: ClientGoal,
) -> Result<(Conn, ClientHandshakeEvent), EngineError> {
    let mut conn = connect(endpoint, role)?;
    let starttls = matches!(endpoint.tls, TlsMode::StartTls { .. });
    if let TlsMode::First {
        config,
        server_name,
    } = &endpoint.tls
    {
        secure(&mut conn, config, server_name)?;
    }
    let mut handshake = ClientHandshake::new(ClientHandshakeConfig {
        export_name: endpoint.export.clone(),
        goal,
        starttls,
        extended_headers: true,
        structured_replies: true,
        contexts: vec!["base:allocation".into()],
    });
    loop {
        let output = handshake.take_output();
        conn.send(&output)?;
        match handshake.poll_event() {
            Some(ClientHandshakeEvent::StartTls) => {
                let TlsMode::StartTls {
                    config,
                    server_name,
                } = &endpoint.tls
                else {
                    return Err(conn.protocol("TLS was asked for twice"));
                };
                let surplus = conn.unread();
                handshake
                    .tls_established(surplus)
                    .map_err(|fault| conn.wire(fault))?;
                secure(&mut conn, config, server_name)?;
            }
            Some(ClientHandshakeEvent::Refused { option, code, text }) => {
                let output = handshake.take_output();
                conn.send(&output)?;
                return Err(refused(&conn, endpoint, option, code, &text));
            }
            Some(event) => {
                let output = handshake.take_output();
                conn.send(&output)?;
                return Ok((conn, event));
            }
            None => {
                conn.fill()?;
                let used = handshake.handle_input(conn.bytes());
                let used = used.map_err(|fault| conn.wire(fault))?;
                conn.consume(used);
            }
        }
    }
}

fn refused(conn: &Conn, endpoint: &NbdEndpoint, option: u32, code: u32, text: &str) -> EngineError {
    use wire::proto::{OptionCode, ReplyCode};
    let reply = ReplyCode(code);
    let policy = matches!(reply, ReplyCode::ERR_POLICY | ReplyCode::ERR_TLS_REQD);
    let kind = if policy {
        ErrorKind::Authorisation
    } else {
        conn.role.connect_kind()
    };
    let words = if text.is_empty() {
        String::new()
    } else {
        format!(" (\"{text}\")")
    };
    let what = format!(
        "the server refused {} with {reply}{words}",
        OptionCode(option)
    );
    let remedy = match reply {
        ReplyCode::ERR_UNKNOWN => "check the export's name; `info --list` may show what there is",
        ReplyCode::ERR_TLS_REQD => "use mk:// or nbds:// with certificates",
        ReplyCode::ERR_POLICY => "ask the server's operator to admit this client's certificate",
        _ => "look at the server's own log",
    };
    let export = if endpoint.export.is_empty() {
        "(default)"
    } else {
        &endpoint.export
    };
    EngineError::new(
        kind,
        Blame::Peer,
        what,
        format!("{}, export {export}", endpoint.uri),
    )
    .remedy(remedy)
}

fn connect(endpoint: &NbdEndpoint, role: Role) -> Result<Conn, EngineError> {
    let fail = |cause: std::io::Error| {
        EngineError::new(
            role.connect_kind(),
            Blame::Environment,
            "cannot connect",
            endpoint.uri.clone(),
        )
        .remedy("check that the server runs, and the address, the port and the firewall")
        .cause(cause)
    };
    let fd: OwnedFd = match &endpoint.address {
        Address::Unix(path) => UnixStream::connect(path).map_err(fail)?.into(),
        Address::Tcp { host, port } => {
            let stream = connect_tcp(host, *port, endpoint.connect_timeout).map_err(fail)?;
            let options = sys::net::TcpOptions::default();
            sys::net::configure_tcp(&stream, &options).map_err(|cause| {
                EngineError::new(
                    role.connect_kind(),
                    Blame::Environment,
                    "cannot set socket options",
                    endpoint.uri.clone(),
                )
                .cause(cause)
            })?;
            stream.into()
        }
    };
    Conn::new(fd, role, endpoint.uri.clone(), endpoint.connect_timeout)
}

/// Tries every address of the name; the last error counts.
fn connect_tcp(host: &str, port: u16, timeout: Duration) -> std::io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The TLS handshake on a connection that has no unread bytes.
fn secure(
    conn: &mut Conn,
    config: &Arc<rustls::ClientConfig>,
    server_name: &str,
) -> Result<(), EngineError> {
    let limits = SessionLimits::default();
    let mut handshake = tls::ClientHandshake::new(Arc::clone(config), server_name, limits)
        .map_err(|cause| tls_error(conn, cause))?;
    let mut input: Vec<u8> = Vec::new();
    loop {
        let step = handshake.handle_input(&input);
        let output = handshake.take_output();
        conn.send(&output)?;
        match step {
            Ok(tls::HandshakeStep::Done(established)) => {
                conn.secured(*established);
                return Ok(());
            }
            Ok(tls::HandshakeStep::NeedInput) => {
                conn.fill()?;
                input = conn.take_bytes();
            }
            Err(cause) => return Err(tls_error(conn, cause)),
        }
    }
}

pub(crate) fn tls_error(conn: &Conn, cause: TlsError) -> EngineError {
    let blame = match cause.blame() {
        tls::Blame::Peer => Blame::Peer,
        tls::Blame::Operator => Blame::Operator,
        tls::Blame::Environment => Blame::Environment,
        tls::Blame::Bug => Blame::Bug,
    };
    EngineError::new(ErrorKind::Tls, blame, "tls failed", conn.uri.clone())
        .remedy("check the certificates of both sides")
        .cause(cause)
}
