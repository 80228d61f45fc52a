//! What went wrong, for code (kind), for people (context, remedy) and for the chain (source).

use std::error::Error as StdError;

/// The class of a failure; the command line maps it to an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A parameter cannot be right.
    Config,
    /// The TLS handshake or a record failed.
    Tls,
    /// The peer does not let us in.
    Authorisation,
    /// The source could not be opened or reached.
    SourceConnect,
    /// Reading the source failed.
    SourceIo,
    /// The target could not be opened or reached.
    TargetConnect,
    /// Writing or flushing the target failed.
    TargetIo,
    /// The target is full.
    OutOfSpace,
    /// A connection broke; what was durable stays durable.
    ConnectionLost,
    /// Contents differ.
    Verify,
    /// The journal of a transfer can no longer be written; what it records so far is valid.
    Journal,
    /// Somebody asked us to stop.
    Cancelled,
    /// Refused for the safety of data.
    Refused,
    /// The peer broke the protocol.
    Protocol,
    /// The peer does not offer what we asked for; callers fall back.
    Unsupported,
    /// Our own fault.
    Bug,
}

impl ErrorKind {
    /// Trying again later may help: the peer may come back.
    #[must_use]
    pub fn may_pass(self) -> bool {
        matches!(
            self,
            Self::ConnectionLost | Self::SourceConnect | Self::TargetConnect
        )
    }
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The other end of a connection.
    Peer,
    /// Whoever chose the parameters.
    Operator,
    /// The machine, the network, the device.
    Environment,
    /// Us.
    Bug,
}

/// A failure of the engine: kind for code, context for people, the cause as source.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {on}")]
pub struct EngineError {
    /// For code.
    pub kind: ErrorKind,
    /// Whose fault it is.
    pub blame: Blame,
    /// What failed.
    pub what: String,
    /// On what.
    pub on: String,
    /// What to do about it; empty when there is nothing to say.
    pub remedy: String,
    /// The cause, not repeated in the message.
    #[source]
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl EngineError {
    /// An error without cause and remedy.
    #[must_use]
    pub fn new(
        kind: ErrorKind,
        blame: Blame,
        what: impl Into<String>,
        on: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            blame,
            what: what.into(),
            on: on.into(),
            remedy: String::new(),
            source: None,
        }
    }

    /// Adds what the reader should do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn cause(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// A broken promise of our own code.
    #[must_use]
    pub fn bug(what: impl Into<String>, on: impl Into<String>) -> Self {
        Self::new(ErrorKind::Bug, Blame::Bug, what, on)
            .remedy("this is a defect of the product; please report it with this message")
    }
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
pub enum LaneFault {
    /// The peer broke NBD.
    #[error("the peer broke the nbd protocol")]
    Wire(#[from] wire::WireError),
    /// The peer broke TLS, a record was forged, or the peer sent an alert.
    #[error("tls failed")]
    Tls(#[from] Box<tls::TlsError>),
    /// The socket broke.
    #[error("the connection broke")]
    Socket(#[from] sys::IoFault),
    /// The stream ended in the middle of a message or without a good-bye.
    #[error("the peer closed the connection without saying good-bye")]
    Hangup,
    /// A message stayed incomplete for too long.
    #[error("the peer stopped in the middle of a message")]
    Stalled,
    /// A request was not answered within its deadline.
    #[error("a request was not answered within its deadline")]
    Deadline,
    /// A read failed after its reply had begun; only closing can tell the client.
    #[error("reading failed after the reply had begun")]
    ReplyBroken,
    /// The shard had no room for it.
    #[error("no room for one more connection")]
    NoRoom,
    /// We were told to close it.
    #[error("closed by order")]
    Ordered,
    /// The peer announced that it shuts down.
    #[error("the peer is shutting down")]
    PeerShutdown,
}

impl From<tls::TlsError> for LaneFault {
    fn from(error: tls::TlsError) -> Self {
        Self::Tls(Box::new(error))
    }
}
