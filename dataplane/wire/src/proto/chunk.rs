//! Chunk kinds and error numbers of replies.

use std::fmt;

/// What a structured or extended chunk holds ("Structured reply types").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkKind(pub u16);

impl ChunkKind {
    /// Nothing: the end of a reply.
    pub const NONE: Self = Self(0);
    /// An offset and data.
    pub const OFFSET_DATA: Self = Self(1);
    /// An offset and the length of a run of zeroes.
    pub const OFFSET_HOLE: Self = Self(2);
    /// Extents with 32-bit lengths.
    pub const BLOCK_STATUS: Self = Self(5);
    /// Extents with 64-bit lengths.
    pub const BLOCK_STATUS_EXT: Self = Self(6);
    /// An error number and a text.
    pub const ERROR: Self = Self(0x8001);
    /// An error number, a text and the offset where it happened.
    pub const ERROR_OFFSET: Self = Self(0x8002);

    /// Bit 15: the reply has failed, whatever the rest of the kind says.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 & 0x8000 != 0
    }
}

impl fmt::Display for ChunkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::NONE => "NONE",
            Self::OFFSET_DATA => "OFFSET_DATA",
            Self::OFFSET_HOLE => "OFFSET_HOLE",
            Self::BLOCK_STATUS => "BLOCK_STATUS",
            Self::BLOCK_STATUS_EXT => "BLOCK_STATUS_EXT",
            Self::ERROR => "ERROR",
            Self::ERROR_OFFSET => "ERROR_OFFSET",
            Self(other) => return write!(f, "{other:#06x}"),
        })
    }
}

/// Errors that may cross the wire ("Error values"). The numbers are the protocol's own, not the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NbdError {
    /// EPERM: read-only.
    Perm,
    /// EIO: the medium or what stands for it failed.
    Io,
    /// ENOMEM.
    NoMem,
    /// EINVAL: the request is wrong.
    Inval,
    /// ENOSPC: past the end, or no space left.
    NoSpace,
    /// EOVERFLOW: a command without payload, or with DF, is too large.
    Overflow,
    /// ENOTSUP: FAST_ZERO would not be fast.
    NotSup,
    /// ESHUTDOWN: the server is going down.
    Shutdown,
}

impl NbdError {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Perm => 1,
            Self::Io => 5,
            Self::NoMem => 12,
            Self::Inval => 22,
            Self::NoSpace => 28,
            Self::Overflow => 75,
            Self::NotSup => 95,
            Self::Shutdown => 108,
        }
    }

    /// The error behind a number; numbers outside the list read as EINVAL, as the protocol asks of
    /// clients. `None` for zero, which is success.
    #[must_use]
    pub const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => return None,
            1 => Self::Perm,
            5 => Self::Io,
            12 => Self::NoMem,
            28 => Self::NoSpace,
            75 => Self::Overflow,
            95 => Self::NotSup,
            108 => Self::Shutdown,
            _ => Self::Inval,
        })
    }

    /// A few words for the text of an error chunk.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Perm => "read-only export",
            Self::Io => "device error",
            Self::NoMem => "out of memory",
            Self::Inval => "invalid request",
            Self::NoSpace => "no space",
            Self::Overflow => "too large",
            Self::NotSup => "not fast",
            Self::Shutdown => "shutting down",
        }
    }
}

impl fmt::Display for NbdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Perm => "EPERM",
            Self::Io => "EIO",
            Self::NoMem => "ENOMEM",
            Self::Inval => "EINVAL",
            Self::NoSpace => "ENOSPC",
            Self::Overflow => "EOVERFLOW",
            Self::NotSup => "ENOTSUP",
            Self::Shutdown => "ESHUTDOWN",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_error_numbers_read_as_einval_and_known_ones_survive() {
        assert_eq!(NbdError::from_code(0), None);
        assert_eq!(NbdError::from_code(22), Some(NbdError::Inval));
        assert_eq!(NbdError::from_code(30), Some(NbdError::Inval));
        assert_eq!(NbdError::from_code(u32::MAX), Some(NbdError::Inval));
        for code in [1, 5, 12, 22, 28, 75, 95, 108] {
            assert_eq!(NbdError::from_code(code).map(NbdError::code), Some(code));
        }
    }

    #[test]
    fn chunk_kinds_print_as_names() {
        assert_eq!(ChunkKind::ERROR_OFFSET.to_string(), "ERROR_OFFSET");
        assert_eq!(ChunkKind(3).to_string(), "0x0003");
        assert!(ChunkKind(0x8abc).is_error() && !ChunkKind(6).is_error());
    }
}
