//! The client's half: [`ClientHandshake`] up to an open export, then [`ClientConn`].
//!
//! The server is not trusted: it chooses no allocation, writes nowhere but into the request it
//! answers, and a READ it did not answer completely never counts as a success.

mod chunks;
mod coverage;
mod extents;
mod handshake;
mod replies;
mod requests;
mod transmission;

pub use handshake::ClientHandshake;
pub use transmission::ClientConn;

use crate::proto::{Cookie, ExportInfo, Extent, Mode, NbdError};

/// What the handshake is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientGoal {
    /// Open the export.
    Go,
    /// Ask about it, then ABORT.
    Info,
    /// List the exports, then ABORT.
    List,
}

/// What the client asks for.
#[derive(Debug, Clone)]
pub struct ClientHandshakeConfig {
    /// Export to open or ask about; at most 4096 bytes.
    pub export_name: String,
    /// What the handshake is for.
    pub goal: ClientGoal,
    /// Upgrade to TLS first, and go no further when the server refuses.
    pub starttls: bool,
    /// Ask for extended headers; without them fall back to structured replies.
    pub extended_headers: bool,
    /// Ask for structured replies; without them fall back to simple ones.
    pub structured_replies: bool,
    /// Meta contexts to ask for, e.g. `base:allocation`; at most 32 of at most 4096 bytes.
    pub contexts: Vec<String>,
}

/// The outcome of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientParams {
    /// What the server says about the export.
    pub info: ExportInfo,
    /// How requests and replies are framed.
    pub mode: Mode,
    /// (id, name) of each context the server granted.
    pub contexts: Vec<(u32, String)>,
    /// The server stated block sizes (else the protocol's defaults stand in `info.block`).
    pub block_sizes_stated: bool,
}

/// What the handshake tells its driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientHandshakeEvent {
    /// Do the TLS handshake now, then call [`ClientHandshake::tls_established`].
    StartTls,
    /// The export is open, or described when the goal was INFO. Flush the output; after INFO close.
    Done(ClientParams),
    /// The listing, as (name, description). Flush the output and close.
    Exports(Vec<(String, String)>),
    /// The server refused, and there is no other way to the goal. Flush the output and close.
    Refused {
        /// The option that was refused; prints by `OptionCode`.
        option: u32,
        /// The error reply; prints by `ReplyCode`.
        code: u32,
        /// The server's words, cut and cleaned of control characters.
        text: String,
    },
}

/// What a [`ClientConn`] wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientWant {
    /// This many bytes for [`ClientConn::handle_header`] (exactly this many may be received).
    Header {
        /// Bytes, never zero.
        len: usize,
    },
    /// Read data: receive or decrypt it into the buffer of its request, then
    /// [`ClientConn::handle_payload`].
    Payload {
        /// The READ it belongs to.
        cookie: Cookie,
        /// Where in the request, bytes from its start.
        offset: u32,
        /// Bytes still missing, never zero; `offset + len` is within the request.
        len: u32,
    },
    /// After DISC with everything answered, or after an error: nothing more is read.
    Closed,
}

/// What replies mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientEvent {
    /// The request is over. A READ that did not cover everything is an error of the peer, never a
    /// success.
    Completed {
        /// The request.
        cookie: Cookie,
        /// Its outcome.
        result: Result<(), NbdError>,
    },
    /// Part of a READ is zeroes.
    Hole {
        /// The request.
        cookie: Cookie,
        /// Where in the request, bytes from its start.
        offset: u32,
        /// Length, bytes.
        len: u32,
        /// The request is over with this, successfully; no `Completed` follows.
        done: bool,
    },
    /// Block status of one context. The extents start at the request's offset and end at the end of
    /// the export at the latest; the last one may go beyond the request.
    Extents {
        /// The request.
        cookie: Cookie,
        /// The context's id, as in [`ClientParams::contexts`].
        context: u32,
        /// At least one, none empty.
        extents: Vec<Extent>,
        /// The request is over with this, successfully; no `Completed` follows.
        done: bool,
    },
}
