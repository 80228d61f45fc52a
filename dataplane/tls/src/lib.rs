//! TLS 1.3: the rustls handshake, and our own record layer over the caller's memory.
//!
//! ```text
//! HelloReader ---> ServerHandshake --.
//!   (ALPN)                            >--> Established { session, leftover, .. }
//!                  ClientHandshake --'                      |
//!                                           frame, open, seal, poll_control
//! ```
//! rustls does everything up to the last Finished; then it hands over secrets and sequence numbers,
//! and [`Session`] seals and opens records between buffers of the caller, without a copy. Nothing
//! here touches sockets, files or clocks: bytes and times are arguments (except that rustls checks
//! certificates against the clock).
//!
//! Invariants:
//! - a sequence number is used once per key, and a key is gone after its KeyUpdate;
//! - plaintext counts only after its tag was checked;
//! - an error is never mistaken for the end of the stream ([`Opened::Closed`] is close_notify);
//! - everything a peer can make us hold or compute is bounded by [`limits`].
//!
//! Absent on purpose: TLS 1.2, resumption and tickets, early data, renegotiation, post-handshake
//! client authentication, kTLS.
#![forbid(unsafe_code)]

pub mod alert;
pub mod config;
pub mod error;
mod handoff;
pub mod handshake;
mod hello;
pub mod limits;
mod loopback;
mod pace;
pub mod pki;
mod post_handshake;
mod record;
pub mod session;
#[cfg(any(test, feature = "fuzzing"))]
pub mod testing;

pub use alert::Alert;
pub use config::{Credentials, TlsPolicy, client_config, server_config};
pub use error::{Blame, TlsError};
pub use handshake::{
    ClientHandshake, ClientHello, Established, HandshakeStep, HelloReader, ServerHandshake,
};
pub use hello::ALPN_NBD;
pub use loopback::{LoopbackEnds, LoopbackPair, LoopbackSite};
pub use session::{
    Opened, RECORD_OVERHEAD, RECORD_PLAINTEXT_MAX, RECORD_WIRE_MAX, RecordFrame, Session,
    SessionLimits,
};
