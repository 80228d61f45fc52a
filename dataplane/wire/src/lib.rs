//! NBD, both roles, as sans-io state machines.
//!
//! No I/O, no clock, no async, no unsafe: bytes and facts come in as arguments, bytes and facts go out.
//! A driver (the engine, the daemon's door, a test) owns the socket and asks a machine three things:
//! what it wants next, what the bytes meant, and what to send.
//!
//! * Handshake: [`ServerHandshake`] and [`ClientHandshake`] take every byte themselves; all their
//!   buffers have a limit from [`limits`].
//! * Transmission: [`ServerConn`] and [`ClientConn`] read headers only. When payload is next they say
//!   whose and how long it is, so the driver can receive or decrypt it into its final place.
//!
//! Every machine is total: any byte sequence, cut anywhere, ends in a [`WireError`], a refusal or a
//! clean close. A machine that returned an error returns the same error for ever after.
//!
//! Section names in comments ("Option types", "Structured reply types") are those of the protocol
//! document, `doc/proto.md` of the NBD project and its `extension-ext-header` branch.
#![forbid(unsafe_code)]

pub mod client;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod gather;
pub mod limits;
pub mod proto;
mod reader;
pub mod server;

pub use client::{
    ClientConn, ClientEvent, ClientGoal, ClientHandshake, ClientHandshakeConfig,
    ClientHandshakeEvent, ClientParams, ClientWant,
};
pub use error::WireError;
pub use proto::{
    BlockSizes, ChunkKind, Command, CommandFlags, Cookie, ExportInfo, Extent, HeaderBuf, Mode,
    NbdError, OptionCode, ReplyCode, TransmissionFlags,
};
pub use server::{
    EncodedStatus, ExportRefusal, Incoming, Query, Request, ServerConn, ServerHandshake,
    ServerHandshakeConfig, ServerHandshakeEvent, ServerParams, ServerWant, TlsPolicy,
};
