//! Numbers of the handshake: options, replies, info kinds, magic.

use std::fmt;

/// First eight bytes of every server: "NBDMAGIC".
pub(crate) const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Starts every option, and follows the greeting of a newstyle server: "IHAVEOPT".
pub(crate) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// Follows the greeting of an oldstyle server.
pub(crate) const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
/// Starts every option reply.
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// An option of the handshake ("Option types").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionCode(pub u32);

impl OptionCode {
    /// Open an export, without a way to refuse.
    pub const EXPORT_NAME: Self = Self(1);
    /// End the negotiation.
    pub const ABORT: Self = Self(2);
    /// List the exports.
    pub const LIST: Self = Self(3);
    /// Upgrade to TLS.
    pub const STARTTLS: Self = Self(5);
    /// Ask about an export.
    pub const INFO: Self = Self(6);
    /// Open an export.
    pub const GO: Self = Self(7);
    /// Ask for structured replies.
    pub const STRUCTURED_REPLY: Self = Self(8);
    /// List meta contexts.
    pub const LIST_META_CONTEXT: Self = Self(9);
    /// Select meta contexts.
    pub const SET_META_CONTEXT: Self = Self(10);
    /// Ask for extended headers.
    pub const EXTENDED_HEADERS: Self = Self(11);
}

impl fmt::Display for OptionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::EXPORT_NAME => "EXPORT_NAME",
            Self::ABORT => "ABORT",
            Self::LIST => "LIST",
            // Withdrawn, but a number that peers may still send.
            Self(4) => "PEEK_EXPORT",
            Self::STARTTLS => "STARTTLS",
            Self::INFO => "INFO",
            Self::GO => "GO",
            Self::STRUCTURED_REPLY => "STRUCTURED_REPLY",
            Self::LIST_META_CONTEXT => "LIST_META_CONTEXT",
            Self::SET_META_CONTEXT => "SET_META_CONTEXT",
            Self::EXTENDED_HEADERS => "EXTENDED_HEADERS",
            Self(other) => return write!(f, "option {other}"),
        })
    }
}

/// A reply to an option ("Option reply types").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyCode(pub u32);

impl ReplyCode {
    /// Done.
    pub const ACK: Self = Self(1);
    /// One export of a listing.
    pub const SERVER: Self = Self(2);
    /// One fact about an export.
    pub const INFO: Self = Self(3);
    /// One meta context.
    pub const META_CONTEXT: Self = Self(4);
    /// The option is unknown.
    pub const ERR_UNSUP: Self = Self(0x8000_0001);
    /// The option is forbidden here.
    pub const ERR_POLICY: Self = Self(0x8000_0002);
    /// The option is malformed or out of order.
    pub const ERR_INVALID: Self = Self(0x8000_0003);
    /// The platform cannot do it.
    pub const ERR_PLATFORM: Self = Self(0x8000_0004);
    /// TLS comes first.
    pub const ERR_TLS_REQD: Self = Self(0x8000_0005);
    /// No such export.
    pub const ERR_UNKNOWN: Self = Self(0x8000_0006);
    /// The server is going down.
    pub const ERR_SHUTDOWN: Self = Self(0x8000_0007);
    /// The client must ask for block sizes.
    pub const ERR_BLOCK_SIZE_REQD: Self = Self(0x8000_0008);
    /// The option has too much data.
    pub const ERR_TOO_BIG: Self = Self(0x8000_0009);
    /// Extended headers come first, or are already there.
    pub const ERR_EXT_HEADER_REQD: Self = Self(0x8000_000a);

    /// Bit 31: an error, even one without a name here.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 & 0x8000_0000 != 0
    }
}

impl fmt::Display for ReplyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::ACK => "ACK",
            Self::SERVER => "SERVER",
            Self::INFO => "INFO",
            Self::META_CONTEXT => "META_CONTEXT",
            Self::ERR_UNSUP => "ERR_UNSUP",
            Self::ERR_POLICY => "ERR_POLICY",
            Self::ERR_INVALID => "ERR_INVALID",
            Self::ERR_PLATFORM => "ERR_PLATFORM",
            Self::ERR_TLS_REQD => "ERR_TLS_REQD",
            Self::ERR_UNKNOWN => "ERR_UNKNOWN",
            Self::ERR_SHUTDOWN => "ERR_SHUTDOWN",
            Self::ERR_BLOCK_SIZE_REQD => "ERR_BLOCK_SIZE_REQD",
            Self::ERR_TOO_BIG => "ERR_TOO_BIG",
            Self::ERR_EXT_HEADER_REQD => "ERR_EXT_HEADER_REQD",
            Self(other) => return write!(f, "reply {other:#x}"),
        })
    }
}

/// Kind of fact in an INFO reply ("NBD_REP_INFO").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InfoKind(pub u16);

impl InfoKind {
    /// Size and transmission flags; always sent.
    pub const EXPORT: Self = Self(0);
    /// Canonical name.
    pub const NAME: Self = Self(1);
    /// Text for people.
    pub const DESCRIPTION: Self = Self(2);
    /// Block size constraints.
    pub const BLOCK_SIZE: Self = Self(3);
}

impl fmt::Display for InfoKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::EXPORT => "EXPORT",
            Self::NAME => "NAME",
            Self::DESCRIPTION => "DESCRIPTION",
            Self::BLOCK_SIZE => "BLOCK_SIZE",
            Self(other) => return write!(f, "info {other}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_names() {
        assert_eq!(OptionCode(7).to_string(), "GO");
        assert_eq!(OptionCode(4).to_string(), "PEEK_EXPORT");
        assert_eq!(OptionCode(77).to_string(), "option 77");
        assert_eq!(ReplyCode(0x8000_0006).to_string(), "ERR_UNKNOWN");
        assert_eq!(ReplyCode(0x8000_00ff).to_string(), "reply 0x800000ff");
        assert_eq!(InfoKind(3).to_string(), "BLOCK_SIZE");
        assert!(ReplyCode(0x8000_00ff).is_error() && !ReplyCode::ACK.is_error());
    }

    #[test]
    fn magic_numbers_are_the_words_they_spell() {
        assert_eq!(GREETING_MAGIC.to_be_bytes(), *b"NBDMAGIC");
        assert_eq!(OPTION_MAGIC.to_be_bytes(), *b"IHAVEOPT");
    }
}
