//! Ids of volumes and operations, and the two names that follow from them.

use std::fmt;
use std::str::FromStr;

/// How many digits of a volume's UUID CloudStack gives the guest as the disk's serial.
pub const SERIAL_DIGITS: usize = 20;

const UUID_DIGITS: usize = 32;
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

/// A text that is no UUID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a UUID; write 32 hexadecimal digits in groups of 8-4-4-4-12")]
pub struct NotUuid(String);

/// A UUID of CloudStack's or ours, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uuid(String);

impl Uuid {
    /// The text with hyphens.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn digits(&self) -> impl Iterator<Item = char> {
        self.0.chars().filter(|c| *c != '-')
    }

    /// The serial that a disk of this volume has in any guest: the first 20 digits.
    pub fn serial(&self) -> Serial {
        Serial(self.digits().take(SERIAL_DIGITS).collect())
    }

    /// The exact name that marks what the operation with this id creates, before tags exist.
    pub fn mark(&self) -> String {
        let mut mark = String::with_capacity(3 + UUID_DIGITS);
        mark.push_str("mk-");
        mark.extend(self.digits());
        mark
    }
}

impl FromStr for Uuid {
    type Err = NotUuid;

    fn from_str(text: &str) -> Result<Self, NotUuid> {
        let fits = |(at, c): (usize, char)| {
            if HYPHENS.contains(&at) {
                c == '-'
            } else {
                c.is_ascii_hexdigit()
            }
        };
        if text.len() == UUID_DIGITS + HYPHENS.len() && text.char_indices().all(fits) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err(NotUuid(text.to_owned()))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The serial of a CloudStack volume as a guest's kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(String);

impl Serial {
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

    const VOLUME: &str = "60338035-92fb-4d27-98d4-b60ad4b38b87";

    #[test]
    fn a_serial_is_the_first_twenty_digits() {
        let volume: Uuid = VOLUME.parse().unwrap();
        assert_eq!(volume.serial().as_str(), "6033803592fb4d2798d4");
        assert_eq!(volume.mark(), "mk-6033803592fb4d2798d4b60ad4b38b87");
        assert!(is_mark(&volume.mark()));
        let upper: Uuid = VOLUME.to_uppercase().parse().unwrap();
        assert_eq!(upper, volume);
    }

    #[test]
    fn what_is_no_uuid_is_refused() {
        for text in [
            "",
            "6033803592fb4d2798d4b60ad4b38b87",
            "60338035-92fb-4d27-98d4-b60ad4b38b8g",
            "60338035-92fb-4d27-98d4-b60ad4b38b87 ",
            "6033803-592fb-4d27-98d4-b60ad4b38b87",
            "ü0338035-92fb-4d27-98d4-b60ad4b38b8",
        ] {
            assert!(text.parse::<Uuid>().is_err(), "{text}");
        }
    }

    #[test]
    fn marks_are_exact() {
        assert!(!is_mark("mk-6033803592fb4d2798d4b60ad4b38b8"));
        assert!(!is_mark("mk-6033803592FB4D2798D4B60AD4B38B87"));
        assert!(!is_mark("disk mk-6033803592fb4d2798d4b60ad4b38b87"));
    }

    #[test]
    fn whole_disks_and_no_partitions() {
        let serial = VOLUME.parse::<Uuid>().unwrap().serial();
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
