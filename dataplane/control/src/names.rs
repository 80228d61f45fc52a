//! Names, ids and numbers that can be right or wrong by themselves.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Invalid;
use crate::limits::{
    CLIENT_FINGERPRINTS_MAX, EXPORT_NAME_BYTES_MAX, FINGERPRINT_DIGITS, HOLD_NAME_BYTES_MAX,
    SERIAL_BYTES_MAX, TRANSFER_ID_BYTES_MAX,
};

/// The word that stands for every certificate of our authority.
const ANY: &str = "any";

/// A name that goes into a path segment: not empty, bounded, no slash, no control characters.
fn check_segment(field: &'static str, name: &str, len_max: usize) -> Result<(), Invalid> {
    let problem = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > len_max {
        format!("has {} bytes; at most {len_max} are possible", name.len())
    } else if name.contains('/') {
        "holds a slash".to_owned()
    } else if name.chars().any(char::is_control) {
        "holds a control character".to_owned()
    } else if name == "." || name == ".." {
        "is a path component with a meaning of its own".to_owned()
    } else {
        return Ok(());
    };
    Err(Invalid::new(field, problem))
}

/// Checks the name of an export.
///
/// # Errors
/// When it is empty, too long, or holds a slash or a control character.
pub fn check_export_name(name: &str) -> Result<(), Invalid> {
    check_segment("export name", name, EXPORT_NAME_BYTES_MAX)
}

/// Makes a newtype over `String` that is checked on its way in from JSON.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;
            fn try_from(text: String) -> Result<Self, Invalid> {
                let check: fn(&str) -> Result<(), Invalid> = $check;
                check(&text)?;
                Ok(Self(text))
            }
        }

        impl FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text!(
    /// The name under which a device is held; the owner's own, for example a volume id.
    HoldName,
    |name| check_segment("hold name", name, HOLD_NAME_BYTES_MAX)
);
checked_text!(
    /// A transfer's id, chosen by the client so that a repeated request finds the first one.
    TransferId,
    check_transfer_id
);
checked_text!(
    /// A device's serial number as the kernel shows it.
    Serial,
    check_serial
);

fn check_transfer_id(id: &str) -> Result<(), Invalid> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    check_segment("transfer id", id, TRANSFER_ID_BYTES_MAX)?;
    if id.chars().all(is_plain) {
        return Ok(());
    }
    Err(Invalid::new(
        "transfer id",
        "holds something other than letters, digits, '-', '_', '.' and ':'",
    ))
}

fn check_serial(serial: &str) -> Result<(), Invalid> {
    let problem = if serial.is_empty() {
        "is empty; leave it out when the device has none".to_owned()
    } else if serial.len() > SERIAL_BYTES_MAX {
        format!(
            "has {} bytes; at most {SERIAL_BYTES_MAX} are possible",
            serial.len()
        )
    } else if serial.chars().any(char::is_control) {
        "holds a control character".to_owned()
    } else {
        return Ok(());
    };
    Err(Invalid::new("serial", problem))
}

/// The number of the operation that asks; a lower one than the last is refused.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Fence(pub u64);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// SHA-256 of a client certificate in DER form.
///
/// Read with or without colons and in either case; written as 64 lower-case digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub [u8; 32]);

impl FromStr for Fingerprint {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |problem: String| Invalid::new("fingerprint", problem);
        let digits = if text.contains(':') {
            // Colons separate bytes; anywhere else they are a sign of a damaged value.
            if text.split(':').any(|byte| byte.len() != 2) {
                return Err(wrong(
                    "has a colon that does not stand between two bytes".into(),
                ));
            }
            text.replace(':', "")
        } else {
            text.to_owned()
        };
        if digits.chars().count() != FINGERPRINT_DIGITS {
            let count = digits.chars().count();
            return Err(wrong(format!(
                "has {count} digits; the SHA-256 of a certificate has {FINGERPRINT_DIGITS}"
            )));
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
            *byte = match (hex(pair[0]), hex(pair[1])) {
                (Some(high), Some(low)) => (high << 4) | low,
                _ => {
                    return Err(wrong(
                        "holds something other than hexadecimal digits".into(),
                    ));
                }
            };
        }
        Ok(Self(bytes))
    }
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// Which client certificates open an export over TLS.
///
/// In JSON a list: `["any"]`, or fingerprints; an empty list admits nobody over TLS. The order does not
/// matter, so two lists with the same members are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub enum ClientRule {
    /// Every certificate that our authority issued.
    Any,
    /// These, sorted, each once.
    Only(Vec<Fingerprint>),
}

impl ClientRule {
    /// True when the certificate with this fingerprint may open the export.
    pub fn admits(&self, fingerprint: &Fingerprint) -> bool {
        match self {
            Self::Any => true,
            Self::Only(list) => list.binary_search(fingerprint).is_ok(),
        }
    }
}

impl TryFrom<Vec<String>> for ClientRule {
    type Error = Invalid;

    fn try_from(list: Vec<String>) -> Result<Self, Invalid> {
        let wrong = |problem: String| Invalid::new("client_fingerprints", problem);
        if list.len() > CLIENT_FINGERPRINTS_MAX {
            return Err(wrong(format!(
                "has {} entries; at most {CLIENT_FINGERPRINTS_MAX} are possible",
                list.len()
            )));
        }
        if list.iter().any(|entry| entry == ANY) {
            return match list.len() {
                1 => Ok(Self::Any),
                _ => Err(wrong("has \"any\" beside others; it stands alone".into())),
            };
        }
        let mut fingerprints = list
            .iter()
            .map(|entry| entry.parse().map_err(|error: Invalid| wrong(error.problem)))
            .collect::<Result<Vec<Fingerprint>, Invalid>>()?;
        fingerprints.sort_unstable();
        fingerprints.dedup();
        Ok(Self::Only(fingerprints))
    }
}

impl From<ClientRule> for Vec<String> {
    fn from(rule: ClientRule) -> Self {
        match rule {
            ClientRule::Any => vec![ANY.to_owned()],
            ClientRule::Only(list) => list.iter().map(ToString::to_string).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn export_names_have_one_to_255_bytes_without_slash_and_controls() {
        for good in ["a", "vm-1 disk 0", "größe", &"x".repeat(255), "...", "-"] {
            assert_eq!(check_export_name(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a/b",
            "a\nb",
            "a\0",
            "\u{7f}",
            &"x".repeat(256),
            ".",
            "..",
        ] {
            assert!(check_export_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_fingerprint_is_read_in_every_usual_form_and_written_in_one() {
        let upper = HEX.to_ascii_uppercase();
        let colons: Vec<&str> = (0..32).map(|at| &upper[2 * at..2 * at + 2]).collect();
        let colons = colons.join(":");
        for form in [HEX, upper.as_str(), colons.as_str()] {
            assert_eq!(form.parse::<Fingerprint>().unwrap().to_string(), HEX);
        }
    }

    #[test]
    fn a_damaged_fingerprint_is_refused() {
        let colon_inside = format!("0:0{}", &HEX[2..]);
        for bad in [
            "",
            "any",
            &HEX[1..],
            &format!("{HEX}0"),
            &colon_inside,
            &HEX.replace('a', "g"),
        ] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_client_rule_is_any_alone_or_a_set() {
        let rule = |list: &[&str]| {
            ClientRule::try_from(list.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        let other = HEX.replace('0', "1");
        assert_eq!(rule(&["any"]), Ok(ClientRule::Any));
        assert_eq!(rule(&[HEX, &other]), rule(&[&other, HEX, HEX]));
        assert!(rule(&["any", HEX]).is_err());
        assert!(rule(&["Any"]).is_err());
        let nobody = rule(&[]).unwrap();
        assert!(!nobody.admits(&HEX.parse().unwrap()));
        assert!(rule(&[HEX]).unwrap().admits(&HEX.parse().unwrap()));
        assert!(!rule(&[HEX]).unwrap().admits(&other.parse().unwrap()));
    }

    #[test]
    fn transfer_ids_and_serials_are_bounded_and_plain() {
        assert!("cycle-7:disk.0_a".parse::<TransferId>().is_ok());
        for bad in ["", "a b", "a/b", "ä", &"x".repeat(129)] {
            assert!(bad.parse::<TransferId>().is_err(), "{bad}");
        }
        assert!("WD-1234 5678".parse::<Serial>().is_ok());
        for bad in ["", "a\tb", &"x".repeat(253)] {
            assert!(bad.parse::<Serial>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_value_or_an_error(text in "\\PC{0,80}|[0-9a-fA-F:]{60,100}") {
            let _ = check_export_name(&text);
            let _ = text.parse::<TransferId>();
            let _ = text.parse::<HoldName>();
            if let Ok(fingerprint) = text.parse::<Fingerprint>() {
                prop_assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
            }
        }
    }
}
