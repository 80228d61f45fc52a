//! How a program of the project ends: the table of exit codes.
//!
//! A script or a service manager can tell "try again" (6, 8) from "somebody must act" (2, 3, 4, 5, 9) without reading
//! text. The numbers are an interface: one that was given out keeps its meaning.

use serde::{Deserialize, Serialize};

/// The exit codes, by meaning, in the order of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// Done and durable, and verified when that was asked for.
    Done,
    /// Our own fault.
    Bug,
    /// Wrong arguments or configuration.
    Usage,
    /// TLS or authorisation.
    Tls,
    /// The source cannot be opened or read.
    Source,
    /// The target cannot be opened, written or flushed.
    Target,
    /// The connection was lost; the transfer can be taken up again.
    ConnectionLost,
    /// Source and target differ.
    Differs,
    /// Interrupted by a signal or a request; the transfer can be taken up again.
    Interrupted,
    /// Refused because data or secrecy would be at risk.
    Refused,
    /// A limit that a benchmark asserts was not met.
    AssertionFailed,
}

impl Exit {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Done,
        Self::Bug,
        Self::Usage,
        Self::Tls,
        Self::Source,
        Self::Target,
        Self::ConnectionLost,
        Self::Differs,
        Self::Interrupted,
        Self::Refused,
        Self::AssertionFailed,
    ];

    /// The number the shell sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Bug => 1,
            Self::Usage => 2,
            Self::Tls => 3,
            Self::Source => 4,
            Self::Target => 5,
            Self::ConnectionLost => 6,
            Self::Differs => 7,
            Self::Interrupted => 8,
            Self::Refused => 9,
            Self::AssertionFailed => 10,
        }
    }

    /// Stable name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Bug => "bug",
            Self::Usage => "usage",
            Self::Tls => "tls",
            Self::Source => "source",
            Self::Target => "target",
            Self::ConnectionLost => "connection_lost",
            Self::Differs => "differs",
            Self::Interrupted => "interrupted",
            Self::Refused => "refused",
            Self::AssertionFailed => "assertion_failed",
        }
    }

    /// For help texts.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done and durable",
            Self::Bug => "a bug",
            Self::Usage => "wrong usage or configuration",
            Self::Tls => "TLS or authorisation",
            Self::Source => "the source failed",
            Self::Target => "the target failed",
            Self::ConnectionLost => "connection lost; can be resumed",
            Self::Differs => "verification found a difference",
            Self::Interrupted => "interrupted; can be resumed",
            Self::Refused => "refused for safety",
            Self::AssertionFailed => "a benchmark missed its mark",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_its_numbers_and_leaves_none_out() {
        for (code, exit) in Exit::ALL.iter().enumerate() {
            assert_eq!(usize::from(exit.code()), code);
        }
    }

    #[test]
    fn a_name_in_json_is_the_name() {
        for exit in Exit::ALL {
            let json = serde_json::to_value(exit).unwrap();
            assert_eq!(json, exit.name());
        }
    }
}
