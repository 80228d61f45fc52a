//! What an export is: size, flags, block sizes, extents.

use super::TransmissionFlags;
use crate::WireError;
use crate::limits::{BLOCK_MIN_BYTES_MAX, EXPORT_BYTES_MAX, PAYLOAD_BYTES_MAX};

/// Block size constraints, bytes ("Block size constraints").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    /// Offsets and lengths are multiples of it; a power of two up to 65 536.
    pub min: u32,
    /// What the server handles best; a power of two, at least `min` and 512.
    pub preferred: u32,
    /// Longest payload of one READ or WRITE; `u32::MAX` means no limit was stated.
    pub payload_max: u32,
}

impl BlockSizes {
    /// What holds when nothing was negotiated: 1, 4096, 32 MiB.
    pub const DEFAULT: Self = Self {
        min: 1,
        preferred: 4096,
        payload_max: PAYLOAD_BYTES_MAX,
    };

    /// Checks the rules the protocol sets for the three numbers.
    ///
    /// # Errors
    /// [`WireError::BadBlockSizes`] with the numbers.
    pub const fn check(self) -> Result<Self, WireError> {
        let Self {
            min,
            preferred,
            payload_max,
        } = self;
        let powers = min.is_power_of_two() && preferred.is_power_of_two();
        let floors = min <= BLOCK_MIN_BYTES_MAX && preferred >= min && preferred >= 512;
        if powers && floors && payload_max >= preferred {
            Ok(self)
        } else {
            Err(WireError::BadBlockSizes {
                min,
                preferred,
                payload_max,
            })
        }
    }

    /// Longest payload that may really be used, bytes: the stated one within our own limit.
    #[must_use]
    pub const fn payload_bytes_max(self) -> u32 {
        if self.payload_max < PAYLOAD_BYTES_MAX {
            self.payload_max
        } else {
            PAYLOAD_BYTES_MAX
        }
    }
}

/// What an export is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// Size, bytes; at most 2^63 - 1.
    pub size_bytes: u64,
    /// What the server offers.
    pub flags: TransmissionFlags,
    /// Block size constraints.
    pub block: BlockSizes,
    /// For people; may be empty.
    pub description: String,
}

impl ExportInfo {
    /// Checks a size from the wire.
    pub(crate) const fn check_size(size_bytes: u64) -> Result<u64, WireError> {
        if size_bytes > EXPORT_BYTES_MAX {
            return Err(WireError::ExportTooLarge {
                found: size_bytes,
                max: EXPORT_BYTES_MAX,
            });
        }
        Ok(size_bytes)
    }
}

/// One run of a block status answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Length, bytes; never zero when it comes from the wire.
    pub len: u64,
    /// Context flags. For `base:allocation` see [`Extent::is_hole`] and [`Extent::is_zero`]; other
    /// bits are to be ignored.
    pub flags: u64,
}

impl Extent {
    /// `base:allocation` bit 0, NBD_STATE_HOLE: not allocated.
    pub const HOLE: u64 = 1;
    /// `base:allocation` bit 1, NBD_STATE_ZERO: reads as zeroes.
    pub const ZERO: u64 = 2;

    /// Not allocated. This says nothing about content: a hole that is not also
    /// [zero](Self::is_zero) reads as anything, so its bytes are data to a copier.
    #[must_use]
    pub const fn is_hole(&self) -> bool {
        self.flags & Self::HOLE != 0
    }

    /// Reads as zeroes, so reading it can be skipped.
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        self.flags & Self::ZERO != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(min: u32, preferred: u32, payload_max: u32) -> bool {
        BlockSizes {
            min,
            preferred,
            payload_max,
        }
        .check()
        .is_ok()
    }

    #[test]
    fn block_sizes_follow_the_rules() {
        assert!(BlockSizes::DEFAULT.check().is_ok());
        assert!(check(1, 512, 512));
        assert!(check(65_536, 65_536, u32::MAX));
        assert!(!check(0, 512, 4096), "zero minimum");
        assert!(!check(3, 512, 4096), "not a power of two");
        assert!(!check(131_072, 131_072, u32::MAX), "minimum too large");
        assert!(!check(4096, 512, 8192), "preferred below minimum");
        assert!(!check(1, 256, 8192), "preferred below 512");
        assert!(!check(1, 4096, 2048), "payload below preferred");
    }

    #[test]
    fn payload_is_capped_by_our_own_limit() {
        let unlimited = BlockSizes {
            payload_max: u32::MAX,
            ..BlockSizes::DEFAULT
        };
        assert_eq!(unlimited.payload_bytes_max(), PAYLOAD_BYTES_MAX);
        let small = BlockSizes {
            payload_max: 4096,
            ..BlockSizes::DEFAULT
        };
        assert_eq!(small.payload_bytes_max(), 4096);
    }

    #[test]
    fn a_hole_is_not_a_zero() {
        let hole = Extent {
            len: 1,
            flags: Extent::HOLE,
        };
        assert!(hole.is_hole() && !hole.is_zero());
        let zero = Extent {
            len: 1,
            flags: Extent::ZERO | 0x100,
        };
        assert!(zero.is_zero() && !zero.is_hole());
    }

    #[test]
    fn sizes_above_the_signed_range_are_refused() {
        assert!(ExportInfo::check_size(EXPORT_BYTES_MAX).is_ok());
        assert!(ExportInfo::check_size(EXPORT_BYTES_MAX + 1).is_err());
    }
}
