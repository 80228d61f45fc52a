//! Why a connection did not reach the shards.

use std::fmt;
use std::io;

use engine::EngineError;
use tls::TlsError;
use wire::WireError;

/// Where a connection was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    /// Before a complete ClientHello.
    Hello,
    /// In the TLS handshake.
    Tls,
    /// Negotiating NBD.
    Negotiation,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hello => "the ClientHello",
            Self::Tls => "the TLS handshake",
            Self::Negotiation => "the negotiation",
        })
    }
}

/// Why a connection ended at the door.
#[derive(Debug, thiserror::Error)]
pub(super) enum DoorFault {
    #[error("the client did not finish {phase} in time")]
    Timeout { phase: Phase },
    #[error("the client closed the connection during {phase}")]
    Closed { phase: Phase },
    #[error("the connection broke during {phase}")]
    Io {
        phase: Phase,
        #[source]
        source: io::Error,
    },
    #[error("tls failed")]
    Tls(#[from] TlsError),
    #[error("the client broke the nbd protocol")]
    Wire(#[from] WireError),
    #[error("the client sent {len_bytes} bytes before its export was answered")]
    Pipelined { len_bytes: usize },
    #[error("the client sent {len_bytes} bytes where less than {max_bytes} are needed")]
    TooLong { len_bytes: usize, max_bytes: usize },
    #[error("the client has no certificate although one is required")]
    NoCertificate,
    #[error("{count} connections are negotiating, and no more may")]
    TooManyNegotiating { count: usize },
    #[error(
        "there are as many mk-data/1 connections as may be, all together or of this certificate"
    )]
    TooManyData,
    #[error("the export was closed while the client negotiated")]
    ExportGone,
    #[error("the shards did not take the connection")]
    Engine(#[source] Box<EngineError>),
    #[error("the socket cannot be configured")]
    Socket(#[from] sys::SetupError),
}

impl DoorFault {
    /// Faults of strangers are debug noise on an open port; those of clients with a certificate, and ours,
    /// are worth a line.
    pub(super) fn is_noise(&self) -> bool {
        matches!(
            self,
            Self::Timeout {
                phase: Phase::Hello
            } | Self::Closed {
                phase: Phase::Hello
            } | Self::Io {
                phase: Phase::Hello,
                ..
            } | Self::Tls(TlsError::NotTls)
        )
    }

    /// For metrics.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "timeout",
            Self::Closed { .. } | Self::Io { .. } => "closed",
            Self::Tls(_) | Self::NoCertificate => "tls",
            Self::Wire(_) | Self::Pipelined { .. } | Self::TooLong { .. } => "protocol",
            Self::TooManyNegotiating { .. } | Self::TooManyData | Self::Engine(_) => "full",
            Self::ExportGone => "export",
            Self::Socket(_) => "socket",
        }
    }
}
