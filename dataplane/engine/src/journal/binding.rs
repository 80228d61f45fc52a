//! Whether a journal belongs to what is there now, and what its durable ranges are worth.
//!
//! Compared are identities, not paths. What differs for certain is refused; what cannot be told apart (another boot,
//! another attachment, no serial) is believed chunk by chunk after its hashes match, or copied again.

use super::{BlockSource, Header, Medium, Session, Source, Target};
use crate::digest::Digest;

/// What is there now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// What would be written.
    pub target: Target,
    /// Boot of the machine that holds the target; `None` when its server does not tell.
    pub boot_id: Option<String>,
    /// Attachment of the target device.
    pub diskseq: Option<u64>,
    /// Whether hashes of the target, read from its medium, can be had.
    pub hashes: bool,
    /// What would be read.
    pub source: Source,
    /// The list of ranges, see [`ranges_digest`](super::ranges_digest).
    pub ranges: Digest,
    /// Size of the disk, bytes.
    pub total_bytes: u64,
}

/// What the durable ranges of a journal are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// They are there.
    Trust,
    /// Those are there whose chunk has the digest that the journal knows.
    TrustAfterHashes {
        /// Why not without.
        why: &'static str,
    },
    /// None of them counts: it cannot be told whether they are there.
    StartOver {
        /// Why.
        why: &'static str,
    },
    /// The journal is another transfer's. Nothing may be written.
    Refuse {
        /// What differs.
        what: &'static str,
    },
}

/// Decides by the header, the last session and the present facts.
#[must_use]
pub fn bind(header: &Header, last: Option<&Session>, present: &Present) -> Binding {
    let differs = transfer_differs(header, present)
        .or_else(|| source_differs(&header.source, &present.source));
    if let Some(what) = differs {
        return Binding::Refuse { what };
    }
    let told = last.is_some_and(|last| last.boot_id.is_some());
    let same = Same {
        unlike: match told {
            true => "the machine of the target was started anew",
            false => "the journal does not tell for which run of the target's machine it holds",
        },
        boot: last.is_some_and(|last| is_same(&last.boot_id, &present.boot_id)),
        diskseq: last.is_some_and(|last| is_same(&last.diskseq, &present.diskseq)),
    };
    match target_doubt(&header.target, &present.target, &same) {
        Err(what) => Binding::Refuse { what },
        Ok(None) => Binding::Trust,
        Ok(Some(why)) if present.hashes => Binding::TrustAfterHashes { why },
        Ok(Some(why)) => Binding::StartOver { why },
    }
}

/// Whether the target is still what it was when the last session began.
struct Same {
    /// Why, when not in the same boot.
    unlike: &'static str,
    boot: bool,
    diskseq: bool,
}

/// Equal and known: two unknowns are not the same.
fn is_same<T: PartialEq>(then: &Option<T>, now: &Option<T>) -> bool {
    then.is_some() && then == now
}

fn transfer_differs(header: &Header, present: &Present) -> Option<&'static str> {
    if header.total_bytes != present.total_bytes {
        Some("the size of the disk differs")
    } else if header.ranges != present.ranges {
        Some("the list of ranges differs")
    } else {
        None
    }
}

/// What differs of the source. Hashes of the target prove nothing about the source, so here nothing is left open.
fn source_differs(then: &Source, now: &Source) -> Option<&'static str> {
    let what = match (then, now) {
        (Source::Block(then), Source::Block(now)) => return block_source_differs(then, now),
        (Source::Nbd { .. }, Source::Nbd { .. }) => "the id or the size of the source differs",
        (Source::File { .. }, Source::File { .. })
        | (Source::Image { .. }, Source::Image { .. }) => {
            "the source is another file or was modified"
        }
        _ => "the source is of another kind",
    };
    (then != now).then_some(what)
}

fn block_source_differs(then: &BlockSource, now: &BlockSource) -> Option<&'static str> {
    let is_named = now.serial.is_some() || now.wwid.is_some();
    if (&then.serial, &then.wwid, then.size_bytes) != (&now.serial, &now.wwid, now.size_bytes) {
        Some("serial, wwid or size of the source device differ")
    } else if is_named || then.boot_id == now.boot_id && is_same(&then.diskseq, &now.diskseq) {
        None
    } else {
        Some("the source device has no serial and was attached anew")
    }
}

/// `Err`: another target. `Ok(Some)`: why it cannot be told whether what was durable is there. `Ok(None)`: it is.
fn target_doubt(
    then: &Target,
    now: &Target,
    same: &Same,
) -> Result<Option<&'static str>, &'static str> {
    match (then, now) {
        (Target::Local(then), Target::Local(now)) => medium_doubt(then, now, same),
        (Target::Export(then), Target::Export(now)) => {
            if (&then.name, then.size_bytes) != (&now.name, now.size_bytes) {
                return Err("name or size of the export differ");
            }
            match (&then.medium, &now.medium) {
                (Some(then), Some(now)) => medium_doubt(then, now, same),
                _ => Ok(Some(
                    "the server of the target does not tell what it exports",
                )),
            }
        }
        _ => Err("the target is of another kind"),
    }
}

fn medium_doubt(
    then: &Medium,
    now: &Medium,
    same: &Same,
) -> Result<Option<&'static str>, &'static str> {
    let rebooted = (!same.boot).then_some(same.unlike);
    match (then, now) {
        (Medium::Block { serial, wwid, .. }, Medium::Block { .. }) => {
            if then != now {
                return Err("serial, wwid, size or logical block of the target device differ");
            }
            let nameless =
                (serial.is_none() && wwid.is_none()).then_some("the target device has no serial");
            let replugged = (!same.diskseq).then_some("the target device was attached anew");
            Ok(nameless.or(rebooted).or(replugged))
        }
        (Medium::File { .. }, Medium::File { .. }) => Ok(rebooted.or(file_doubt(then, now, same)?)),
        _ => Err("the target is of another kind"),
    }
}

/// Device, inode and size alone do not name a file: the inode of a deleted one goes to the next that is made.
fn file_doubt(
    then: &Medium,
    now: &Medium,
    same: &Same,
) -> Result<Option<&'static str>, &'static str> {
    let facts = |medium: &Medium| match medium {
        Medium::File {
            dev,
            inode,
            size_bytes,
            born_ns,
        } => {
            // Another boot may number the same file system's device anew, and asks for hashes anyway.
            let place = (same.boot.then_some(*dev), *inode, *size_bytes);
            Some((place, *born_ns))
        }
        Medium::Block { .. } => None,
    };
    let (Some((then, born_then)), Some((now, born_now))) = (facts(then), facts(now)) else {
        return Err("the target is of another kind");
    };
    if then != now {
        return Err("the target is another file or has another size");
    }
    match (born_then, born_now) {
        (Some(then), Some(now)) if then == now => Ok(None),
        (Some(_), Some(_)) => Err("the file of the target was made anew"),
        _ => Ok(Some(
            "it cannot be told whether the file of the target was made anew",
        )),
    }
}

#[cfg(test)]
mod tests;
