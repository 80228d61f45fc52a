//! Whether a device is large enough for what it is to hold.

/// A device that is too small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooSmall {
    /// The kernel shows less than CloudStack says: not the right disk, or a resize that did not arrive.
    #[error(
        "the device has {device} bytes, CloudStack says {cloudstack}; compare the volume and the disk of that serial, do not write to it"
    )]
    ThanCloudStackSays {
        /// Bytes of the device.
        device: u64,
        /// Bytes of the volume in CloudStack.
        cloudstack: u64,
    },
    /// The source's disk does not fit.
    #[error(
        "the device has {device} bytes, the source's disk {source_bytes}; resize the volume to at least that"
    )]
    ThanSource {
        /// Bytes of the device.
        device: u64,
        /// Bytes of the source's disk.
        source_bytes: u64,
    },
}

/// How far a device that is large enough exceeds CloudStack's size, by the rounding of its pool. It is recorded.
///
/// # Errors
/// When the device is smaller than CloudStack's size or the source's capacity.
pub fn check(device: u64, cloudstack: u64, source: Option<u64>) -> Result<u64, TooSmall> {
    let Some(excess) = device.checked_sub(cloudstack) else {
        return Err(TooSmall::ThanCloudStackSays { device, cloudstack });
    };
    match source {
        Some(source_bytes) if device < source_bytes => Err(TooSmall::ThanSource {
            device,
            source_bytes,
        }),
        _ => Ok(excess),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_least_both_sizes() {
        assert_eq!(check(100, 100, Some(100)), Ok(0));
        assert_eq!(check(104, 100, None), Ok(4));
        assert!(matches!(
            check(99, 100, None),
            Err(TooSmall::ThanCloudStackSays { .. })
        ));
        assert!(matches!(
            check(100, 100, Some(101)),
            Err(TooSmall::ThanSource { .. })
        ));
    }
}
