//! What every answer has in common, and errors.

use serde::{Deserialize, Serialize};

/// The version of the interface. It grows when a client that knows the old one would be misled.
pub const API_VERSION: u32 = 1;

/// An answer: its own keys beside `api` and `boot_id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer<T> {
    /// [`API_VERSION`].
    pub api: u32,
    /// Changes with every start of the process; whoever owns exports puts them again then.
    pub boot_id: String,
    /// What was asked for.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Answer<T> {
    /// An answer of this version.
    pub fn new(boot_id: impl Into<String>, body: T) -> Self {
        Self {
            api: API_VERSION,
            boot_id: boot_id.into(),
            body,
        }
    }
}

/// The body of an answer that is an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// What went wrong.
    pub error: ErrorBody,
}

/// What failed, on what, whose fault it is, whether to try again, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct ErrorBody {
    /// For code.
    pub kind: ErrorKind,
    /// For people: what failed and on what, causes included.
    pub what: String,
    /// Whose turn it is to act.
    pub blame: Blame,
    /// Whether the same request can succeed later.
    pub retry: Retry,
    /// What to do about it.
    pub remedy: String,
}

/// The class of an error. The HTTP status follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request cannot be right: bad JSON, unknown key, value out of range (400).
    BadRequest,
    /// The caller may not (403).
    Forbidden,
    /// No such path, export, hold or transfer (404).
    NotFound,
    /// The path exists, this method on it does not (405).
    MethodNotAllowed,
    /// Same fence or id, other body (409).
    Conflict,
    /// The fence is lower than one already seen (409).
    StaleFence,
    /// Something else is at work on the same name, or uses the thing (409).
    Busy,
    /// Serial or size of the device differ from what was asked (409).
    IdentityMismatch,
    /// Refused for the safety of data: mounted, held by others, foreign signature (409).
    Refused,
    /// The body is larger than this path takes (413).
    TooLarge,
    /// A limit on how many of these there may be (429).
    TooMany,
    /// The process is ending (503).
    Draining,
    /// A device could not be opened or flushed (500); for a transfer: the target failed.
    Device,
    /// A defect of ours (500).
    Bug,
    /// A transfer's parameters cannot be right.
    Config,
    /// TLS or authorisation failed.
    Tls,
    /// The source failed.
    Source,
    /// The target failed.
    Target,
    /// The connection was lost; what was durable stays durable.
    ConnectionLost,
    /// Source and target differ.
    Verify,
    /// Somebody cancelled it.
    Cancelled,
}

/// Whose turn it is to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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

/// Whether the same request can succeed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// Not without a change.
    Never,
    /// At once.
    Now,
    /// After this many milliseconds.
    AfterMs(u64),
    /// With a new connection, or when the process is back.
    OnReconnect,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_stands_beside_version_and_boot_id() {
        let answer = Answer::new(
            "b",
            ErrorAnswer {
                error: ErrorBody {
                    kind: ErrorKind::StaleFence,
                    what: "w".into(),
                    blame: Blame::Operator,
                    retry: Retry::AfterMs(250),
                    remedy: "r".into(),
                },
            },
        );
        assert_eq!(
            serde_json::to_value(&answer).unwrap(),
            serde_json::json!({
                "api": 1, "boot_id": "b",
                "error": {"kind": "stale_fence", "what": "w", "blame": "operator",
                          "retry": {"after_ms": 250}, "remedy": "r"}
            })
        );
    }
}
