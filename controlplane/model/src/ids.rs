//! Identifiers. All are UUIDs in their textual form, each a type of its own, so that a VM never passes for a volume.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A UUID, kept as its sixteen bytes and written in lower case with dashes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Uuid([u8; 16]);

/// A text that was to be an identifier is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no UUID (8-4-4-4-12 hex digits); the one who sent it must name the object by its id"
)]
pub struct NotAnId {
    /// The text, cut to 64 characters.
    pub text: String,
}

impl Uuid {
    /// A version 7 UUID of a time in milliseconds and ten random bytes, both from the caller.
    #[must_use]
    pub fn v7(unix_ms: u64, random: [u8; 10]) -> Self {
        let mut bytes = [0; 16];
        bytes[..6].copy_from_slice(&unix_ms.to_be_bytes()[2..]);
        bytes[6..].copy_from_slice(&random);
        bytes[6] = bytes[6] & 0x0f | 0x70;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// The 32 hex digits without dashes.
    #[must_use]
    pub fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                out.write_str("-")?;
            }
            write!(out, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Uuid {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        let refused = || NotAnId {
            text: text.chars().take(64).collect(),
        };
        if text.len() != 36 || !text.is_ascii() {
            return Err(refused());
        }
        let mut digits = Vec::with_capacity(32);
        for (at, character) in text.chars().enumerate() {
            if matches!(at, 8 | 13 | 18 | 23) {
                if character != '-' {
                    return Err(refused());
                }
            } else {
                let digit = character
                    .to_digit(16)
                    .and_then(|digit| u8::try_from(digit).ok());
                digits.push(digit.ok_or_else(refused)?);
            }
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Uuid {
    type Error = NotAnId;

    fn try_from(text: String) -> Result<Self, NotAnId> {
        text.parse()
    }
}

impl From<Uuid> for String {
    fn from(id: Uuid) -> Self {
        id.to_string()
    }
}

macro_rules! id {
    ($(#[doc = $doc:literal])+ $name:ident) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(out)
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                text.parse().map(Self)
            }
        }
    };
}

id!(
    /// A job of the joblog.
    JobId
);
id!(
    /// What one request of an operator set in motion, across all programs: the id of the topmost job.
    CorrelationId
);
id!(
    /// An operation of the Volume Daemon.
    OperationId
);
id!(
    /// A volume, by CloudStack's id.
    VolumeId
);
id!(
    /// A virtual machine of CloudStack.
    VmId
);
id!(
    /// An export row.
    ExportId
);
id!(
    /// The row that stands for one asynchronous CloudStack call: what is sent as `customjobid`.
    IntentId
);

impl From<JobId> for CorrelationId {
    fn from(job: JobId) -> Self {
        Self(job.0)
    }
}

impl VolumeId {
    /// The serial under which the guest sees the volume: the first twenty hex digits of the id.
    #[must_use]
    pub fn serial(&self) -> String {
        let mut hex = self.0.hex();
        hex.truncate(20);
        hex
    }
}

impl OperationId {
    /// The exact name that marks what this operation created, before tags exist.
    #[must_use]
    pub fn mark(&self) -> String {
        format!("mk-{}", self.0.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_text_and_nothing_else_passes() {
        let text = "0197a3c4-5d6e-7f80-9a1b-2c3d4e5f6071";
        let id: VolumeId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.serial(), "0197a3c45d6e7f809a1b");
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<VolumeId>(&json).unwrap(), id);
        for bad in [
            "",
            "x",
            &text[1..],
            &text.replace('-', "0"),
            &text.replace('0', "é"),
            &text.replace('a', "g"),
        ] {
            assert!(bad.parse::<Uuid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn version_seven_sorts_by_time() {
        let early = Uuid::v7(1_000, [0xff; 10]);
        let late = Uuid::v7(1_001, [0; 10]);
        assert!(early < late && early.to_string() < late.to_string());
        assert_eq!(&late.to_string()[14..15], "7");
        assert_eq!(OperationId(late).mark().len(), 35);
    }
}
