//! Commands, cookies and modes of the transmission phase.

use std::fmt;

/// The client's mark on a request; replies carry it back. Opaque to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cookie(pub u64);

impl fmt::Display for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cookie {:#x}", self.0)
    }
}

/// How requests and replies are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Simple replies only.
    Simple,
    /// Structured replies.
    Structured,
    /// Extended headers: 64-bit lengths in requests and chunks.
    Extended,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Simple => "simple replies",
            Self::Structured => "structured replies",
            Self::Extended => "extended headers",
        })
    }
}

/// Commands of the transmission phase ("Request types").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Read bytes.
    Read,
    /// Write the bytes that follow.
    Write,
    /// End the connection politely; gets no reply.
    Disconnect,
    /// Make every answered write durable.
    Flush,
    /// The bytes are no longer needed; their content becomes undefined.
    Trim,
    /// Prefetch.
    Cache,
    /// Make bytes read as zero.
    WriteZeroes,
    /// Ask about allocation.
    BlockStatus,
    /// Any other number (RESIZE among them). A server meets it in `Incoming::Invalid` only.
    Unknown(u16),
}

impl Command {
    /// The name of a number on the wire.
    #[must_use]
    pub const fn from_code(code: u16) -> Self {
        match code {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Unknown(other),
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::Cache => 5,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
            Self::Unknown(code) => code,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "READ",
            Self::Write => "WRITE",
            Self::Disconnect => "DISC",
            Self::Flush => "FLUSH",
            Self::Trim => "TRIM",
            Self::Cache => "CACHE",
            Self::WriteZeroes => "WRITE_ZEROES",
            Self::BlockStatus => "BLOCK_STATUS",
            // Number 8 of the experimental branch `extension-resize`; nobody implements it.
            Self::Unknown(8) => "RESIZE",
            Self::Unknown(code) => return write!(f, "command {code}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_survives_the_round_trip() {
        for code in 0..=u16::MAX {
            assert_eq!(Command::from_code(code).code(), code);
        }
    }

    #[test]
    fn commands_print_as_names() {
        assert_eq!(Command::from_code(6).to_string(), "WRITE_ZEROES");
        assert_eq!(Command::from_code(8).to_string(), "RESIZE");
        assert_eq!(Command::from_code(99).to_string(), "command 99");
    }
}
