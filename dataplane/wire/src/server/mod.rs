//! The server's half: [`ServerHandshake`] up to GO, then [`ServerConn`].
//!
//! The handshake owns all of its bytes. Facts about exports come from the driver: the machine asks
//! ([`ServerHandshakeEvent::ExportQuery`]) and waits for the answer, so that nothing is opened before
//! negotiation asks for it by name.

mod encode;
mod handshake;
mod negotiate;
mod options;
mod transmission;
mod validate;

pub use handshake::ServerHandshake;
pub use transmission::ServerConn;

use std::fmt;

use crate::WireError;
use crate::proto::{Command, CommandFlags, Cookie, ExportInfo, Mode, NbdError};

/// What the server does about STARTTLS ("Server-side requirements").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsPolicy {
    /// The connection is already inside TLS, or is a Unix socket: STARTTLS is answered ERR_POLICY.
    NotOffered,
    /// FORCEDTLS: until TLS is up only STARTTLS and ABORT are accepted.
    Forced,
}

/// What the server offers in the handshake.
#[derive(Debug, Clone)]
pub struct ServerHandshakeConfig {
    /// STARTTLS policy.
    pub tls: TlsPolicy,
    /// LIST is answered; otherwise ERR_POLICY, so that names do not leak.
    pub list: bool,
    /// EXTENDED_HEADERS is offered.
    pub extended_headers: bool,
}

/// Why the driver is asked about an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// INFO: describe it.
    Info,
    /// GO: open it; the handshake ends when the answer is `Ok`.
    Go,
    /// EXPORT_NAME: like GO, but a refusal ends the connection.
    ExportName,
    /// A meta context option: does it exist?
    MetaContext,
}

/// Why an export, or a listing, is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportRefusal {
    /// No such export (ERR_UNKNOWN).
    Unknown,
    /// This client may not (ERR_POLICY).
    Policy,
    /// The server is going down (ERR_SHUTDOWN).
    Shutdown,
    /// The device behind it is not usable (ERR_PLATFORM).
    Platform,
}

impl fmt::Display for ExportRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "no such export",
            Self::Policy => "forbidden by policy",
            Self::Shutdown => "server is shutting down",
            Self::Platform => "export is not usable",
        })
    }
}

/// What the handshake tells or asks its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerHandshakeEvent {
    /// Answer with [`ServerHandshake::answer_export`].
    ExportQuery {
        /// The name the client gave; may be empty (the default export).
        name: String,
        /// What the answer is for.
        query: Query,
    },
    /// Answer with [`ServerHandshake::answer_list`].
    ListQuery,
    /// The ACK is in the output: flush it, do the TLS handshake, then call
    /// [`ServerHandshake::tls_established`].
    StartTls,
    /// Negotiation is over; the output holds the last answer.
    Done(ServerParams),
    /// The client ended politely: flush the output and close.
    Aborted,
    /// We end the connection as the protocol demands (for example EXPORT_NAME of an unknown export):
    /// flush the output and close.
    Terminate(WireError),
}

/// The outcome of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerParams {
    /// The export the client opened.
    pub export_name: String,
    /// What the client was told about it (flags as stated, not as given).
    pub info: ExportInfo,
    /// How requests and replies are framed.
    pub mode: Mode,
    /// Id under which base:allocation was negotiated for this very export.
    pub base_allocation: Option<u32>,
    /// The client asked for INFO_BLOCK_SIZE in GO and so must obey the minimum.
    pub block_sizes_negotiated: bool,
}

/// A request, free of its framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The client's mark; goes back in the reply.
    pub cookie: Cookie,
    /// What to do.
    pub command: Command,
    /// How; framing flags (PAYLOAD_LEN) are removed from valid requests.
    pub flags: CommandFlags,
    /// Where, bytes.
    pub offset: u64,
    /// How much, bytes.
    pub len: u64,
}

/// What a completed request header means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// A valid request: inside the export, of an offered kind, never of zero length (FLUSH excepted).
    /// For WRITE [`ServerConn::want`] now says Payload.
    Request(Request),
    /// An invalid one that can be answered; a payload that follows is to be discarded (`want` says so).
    Invalid {
        /// What was asked.
        request: Request,
        /// What to answer.
        error: NbdError,
    },
    /// DISC: answer what is outstanding, then close.
    Disconnect,
}

/// What [`ServerConn::encode_block_status`] wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodedStatus {
    /// Length of the reply, bytes.
    pub len_bytes: usize,
    /// How many of the extents given went in.
    pub extents: usize,
}

/// What a [`ServerConn`] wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerWant {
    /// This many header bytes are still missing (exactly this many may be received).
    Header {
        /// Bytes, never zero.
        len: usize,
    },
    /// Payload of the last request: receive or decrypt it where you like, then
    /// [`ServerConn::handle_payload`].
    Payload {
        /// Bytes still missing, never zero.
        len: u32,
        /// Nobody needs the bytes.
        discard: bool,
    },
    /// After DISC or an error: nothing more is read.
    Closed,
}
