//! Bit sets: handshake, transmission and command flags.

use std::fmt;

/// Writes the names of the set bits, joined by `|`; bits without a name as a number.
fn write_bits(f: &mut fmt::Formatter<'_>, bits: u16, names: &[(u16, &str)]) -> fmt::Result {
    if bits == 0 {
        return f.write_str("0");
    }
    let mut rest = bits;
    let mut separator = "";
    for (bit, name) in names.iter().filter(|(bit, _)| bits & bit != 0) {
        write!(f, "{separator}{name}")?;
        separator = "|";
        rest &= !bit;
    }
    if rest != 0 {
        write!(f, "{separator}{rest:#x}")?;
    }
    Ok(())
}

/// Handshake flags ("Handshake flags", "Client flags"): the client answers with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HandshakeFlags;

impl HandshakeFlags {
    /// Options with replies, as opposed to EXPORT_NAME only.
    pub(crate) const FIXED_NEWSTYLE: u16 = 1;
    /// The 124 zero bytes after the answer to EXPORT_NAME may be left out.
    pub(crate) const NO_ZEROES: u16 = 2;
}

/// Command flags of a request, a bit set ("Command flags").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct CommandFlags(pub u16);

impl CommandFlags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// Answer only when the effect is on stable storage.
    pub const FUA: Self = Self(1);
    /// WRITE_ZEROES must not deallocate.
    pub const NO_HOLE: Self = Self(2);
    /// READ must be answered in one content chunk.
    pub const DF: Self = Self(4);
    /// BLOCK_STATUS must be answered with one extent.
    pub const REQ_ONE: Self = Self(8);
    /// WRITE_ZEROES must fail at once when it is not faster than writing.
    pub const FAST_ZERO: Self = Self(16);
    /// Extended requests: the length field counts payload that follows.
    pub const PAYLOAD_LEN: Self = Self(32);

    /// Every bit of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Bits of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Bits of `self` that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Display for CommandFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (1, "FUA"),
            (2, "NO_HOLE"),
            (4, "DF"),
            (8, "REQ_ONE"),
            (16, "FAST_ZERO"),
            (32, "PAYLOAD_LEN"),
        ];
        write_bits(f, self.0, &names)
    }
}

/// Transmission flags of an export, a bit set ("Transmission flags").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransmissionFlags(pub u16);

impl TransmissionFlags {
    /// Always set by a server.
    pub const HAS_FLAGS: Self = Self(1 << 0);
    /// Writes are refused.
    pub const READ_ONLY: Self = Self(1 << 1);
    /// FLUSH is supported.
    pub const SEND_FLUSH: Self = Self(1 << 2);
    /// The FUA command flag is supported.
    pub const SEND_FUA: Self = Self(1 << 3);
    /// The medium rotates.
    pub const ROTATIONAL: Self = Self(1 << 4);
    /// TRIM is supported.
    pub const SEND_TRIM: Self = Self(1 << 5);
    /// WRITE_ZEROES is supported.
    pub const SEND_WRITE_ZEROES: Self = Self(1 << 6);
    /// The DF command flag is supported; needs structured replies.
    pub const SEND_DF: Self = Self(1 << 7);
    /// A flush on one connection covers writes answered on any other.
    pub const CAN_MULTI_CONN: Self = Self(1 << 8);
    /// CACHE is supported.
    pub const SEND_CACHE: Self = Self(1 << 10);
    /// The FAST_ZERO command flag is supported; needs SEND_WRITE_ZEROES.
    pub const SEND_FAST_ZERO: Self = Self(1 << 11);

    /// The bits a server of this crate may offer: no RESIZE (experimental), no payload on
    /// BLOCK_STATUS.
    const OFFERED: Self = Self(0b1101_1111_1111);
    /// What makes no sense, or is not allowed, on a read-only export.
    const WRITING: Self = Self(1 << 5 | 1 << 6 | 1 << 11);

    /// Every bit of `other` is set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Bits of both.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Bits of `self` that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The flags a server states for an export: what the protocol makes depend on other flags is
    /// removed, what it demands is added. `df` says whether DF can be kept: it needs structured
    /// replies and payload of `limits::DF_BYTES_MIN`.
    #[must_use]
    pub(crate) const fn stated(self, df: bool) -> Self {
        let mut flags = Self(self.0 & Self::OFFERED.0).union(Self::HAS_FLAGS);
        if !df {
            flags = flags.without(Self::SEND_DF);
        }
        if flags.contains(Self::READ_ONLY) {
            flags = flags.without(Self::WRITING);
        }
        if !flags.contains(Self::SEND_WRITE_ZEROES) {
            flags = flags.without(Self::SEND_FAST_ZERO);
        }
        flags
    }
}

impl fmt::Display for TransmissionFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (1 << 0, "HAS_FLAGS"),
            (1 << 1, "READ_ONLY"),
            (1 << 2, "SEND_FLUSH"),
            (1 << 3, "SEND_FUA"),
            (1 << 4, "ROTATIONAL"),
            (1 << 5, "SEND_TRIM"),
            (1 << 6, "SEND_WRITE_ZEROES"),
            (1 << 7, "SEND_DF"),
            (1 << 8, "CAN_MULTI_CONN"),
            (1 << 9, "SEND_RESIZE"),
            (1 << 10, "SEND_CACHE"),
            (1 << 11, "SEND_FAST_ZERO"),
            (1 << 12, "BLOCK_STATUS_PAYLOAD"),
        ];
        write_bits(f, self.0, &names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_print_as_names() {
        assert_eq!(CommandFlags(0).to_string(), "0");
        assert_eq!(CommandFlags(0x8005).to_string(), "FUA|DF|0x8000");
        assert_eq!(
            TransmissionFlags(0x103).to_string(),
            "HAS_FLAGS|READ_ONLY|CAN_MULTI_CONN"
        );
    }

    #[test]
    fn stated_flags_obey_the_dependencies_of_the_protocol() {
        let all = TransmissionFlags(u16::MAX);
        assert_eq!(
            all.without(TransmissionFlags::READ_ONLY).stated(true).0,
            0b1101_1111_1101
        );
        assert!(!all.stated(false).contains(TransmissionFlags::SEND_DF));
        let read_only = all.stated(true);
        assert!(!read_only.contains(TransmissionFlags::SEND_TRIM));
        assert!(!read_only.contains(TransmissionFlags::SEND_WRITE_ZEROES));
        let fast_only = TransmissionFlags::SEND_FAST_ZERO.stated(true);
        assert_eq!(fast_only, TransmissionFlags::HAS_FLAGS);
    }
}
