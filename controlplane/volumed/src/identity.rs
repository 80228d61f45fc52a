//! The serial of a volume's disk, and the mark of what an operation created.

use model::ids::VolumeId;
use std::fmt;

/// Hexadecimal digits of a UUID.
const UUID_DIGITS: usize = 32;

/// The serial of a CloudStack volume as a guest's kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(String);

impl Serial {
    /// The serial that a disk of this volume has in any guest.
    pub fn of(volume: VolumeId) -> Self {
        Self(volume.serial())
    }

    /// The 20 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a link of this name under by-id is this whole disk; a partition never is.
    pub fn names_link(&self, link: &str) -> bool {
        if let Some(rest) = link.strip_prefix("virtio-") {
            return rest == self.0;
        }
        link.strip_prefix("scsi-")
            .and_then(|rest| rest.strip_suffix(&self.0))
            .is_some_and(|maker| maker.ends_with('_'))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a name is a mark of ours.
pub fn is_mark(name: &str) -> bool {
    name.strip_prefix("mk-").is_some_and(|digits| {
        digits.len() == UUID_DIGITS
            && digits
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ids::OperationId;

    fn volume() -> VolumeId {
        "60338035-92fb-4d27-98d4-b60ad4b38b87".parse().unwrap()
    }

    #[test]
    fn a_serial_is_the_first_twenty_digits_in_lower_case() {
        assert_eq!(Serial::of(volume()).as_str(), "6033803592fb4d2798d4");
        let upper = volume().to_string().to_uppercase();
        assert_eq!(upper.parse(), Ok(volume()));
    }

    #[test]
    fn marks_are_exact() {
        let operation: OperationId = volume().to_string().parse().unwrap();
        assert!(is_mark(&operation.mark()));
        assert!(!is_mark("mk-6033803592fb4d2798d4b60ad4b38b8"));
        assert!(!is_mark("mk-6033803592FB4D2798D4B60AD4B38B87"));
        assert!(!is_mark("disk mk-6033803592fb4d2798d4b60ad4b38b87"));
    }

    #[test]
    fn whole_disks_and_no_partitions() {
        let serial = Serial::of(volume());
        for (link, ours) in [
            ("virtio-6033803592fb4d2798d4", true),
            ("scsi-0QEMU_QEMU_HARDDISK_6033803592fb4d2798d4", true),
            ("virtio-6033803592fb4d2798d4-part1", false),
            ("scsi-0QEMU_QEMU_HARDDISK_6033803592fb4d2798d4-part1", false),
            ("virtio-6033803592fb4d2798d", false),
            ("virtio-6033803592fb4d2798d45", false),
            ("scsi-6033803592fb4d2798d4", false),
            ("scsi-0QEMU_QEMU_HARDDISK_a6033803592fb4d2798d4", false),
            ("ata-QEMU_6033803592fb4d2798d4", false),
        ] {
            assert_eq!(serial.names_link(link), ours, "{link}");
        }
    }
}
