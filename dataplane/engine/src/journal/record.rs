//! What the records say.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use sys::device::{DeviceIdentity, DeviceKind};

use super::{DIGESTS_PER_RECORD_MAX, DigestMap, RANGES_PER_RECORD_MAX, REASON_BYTES_MAX};
use crate::{
    ExtentSet,
    digest::{CHUNK_BYTES, Digest, chunk_count},
};

/// The version of the format that is written, and the newest that is read.
pub const SCHEMA: u32 = 1;

/// What is copied where. Written once, compared at every resume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of the format, [`SCHEMA`].
    pub schema: u32,
    /// What is written.
    pub target: Target,
    /// What is read.
    pub source: Source,
    /// The list of ranges that are copied, see [`ranges_digest`].
    pub ranges: Digest,
    /// Size of the disk, bytes.
    pub total_bytes: u64,
    /// When the journal was created, seconds since 1970 UTC.
    pub created_unix_s: u64,
    /// Version of the product that created it.
    pub version: String,
}

/// What is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// A device or file of this machine.
    Local(Medium),
    /// An export of a server.
    Export(ExportTarget),
}

/// An export of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportTarget {
    /// Its name.
    pub name: String,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// What stands behind it, when its server tells.
    pub medium: Option<Medium>,
}

/// What holds the bytes of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Medium {
    /// A block device.
    Block {
        /// The serial number it reports.
        serial: Option<String>,
        /// Its world-wide id.
        wwid: Option<String>,
        /// Its size, bytes.
        size_bytes: u64,
        /// Its logical block, bytes.
        logical_block: u32,
    },
    /// A regular file.
    File {
        /// `st_dev`.
        dev: u64,
        /// `st_ino`.
        inode: u64,
        /// Its size, bytes.
        size_bytes: u64,
        /// When it was made, nanoseconds since 1970 UTC; unknown where its file system or server does not tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        born_ns: Option<i64>,
    },
}

impl From<&DeviceIdentity> for Medium {
    fn from(identity: &DeviceIdentity) -> Self {
        match identity.kind {
            DeviceKind::Block => Self::Block {
                serial: identity.serial.clone(),
                wwid: identity.wwid.clone(),
                size_bytes: identity.size_bytes,
                logical_block: identity.logical_block,
            },
            DeviceKind::Regular => Self::File {
                dev: identity.dev,
                inode: identity.inode,
                size_bytes: identity.size_bytes,
                born_ns: identity.born_ns,
            },
        }
    }
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// A regular file, read as it is.
    File {
        /// `st_dev`.
        dev: u64,
        /// `st_ino`.
        inode: u64,
        /// Its size, bytes.
        size_bytes: u64,
        /// When it was last modified, nanoseconds since 1970 UTC.
        mtime_ns: i64,
    },
    /// A disk inside an image file, read through another program.
    Image {
        /// How the image is read (`vmdk`, `qcow2`).
        format: String,
        /// `st_dev` of the image file.
        dev: u64,
        /// `st_ino` of the image file.
        inode: u64,
        /// Size of the image file, bytes.
        size_bytes: u64,
        /// When the image file was last modified, nanoseconds since 1970 UTC.
        mtime_ns: i64,
        /// The same of every file that the disk is read from (a backing file, a part of it), the image among them.
        files: Digest,
    },
    /// A block device.
    Block(BlockSource),
    /// An export of a server, which cannot tell what it is; the operator says it with `--source-id`.
    Nbd {
        /// The operator's name for this very state of the source.
        source_id: String,
        /// Size of the export, bytes.
        size_bytes: u64,
    },
}

/// A block device that is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockSource {
    /// The serial number it reports.
    pub serial: Option<String>,
    /// Its world-wide id.
    pub wwid: Option<String>,
    /// Its size, bytes.
    pub size_bytes: u64,
    /// The boot in which `diskseq` means something.
    pub boot_id: String,
    /// Which attachment of a device it is.
    pub diskseq: Option<u64>,
}

/// One start of the program that went on with the transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// Boot of the machine that holds the target; `None` when its server does not tell.
    pub boot_id: Option<String>,
    /// Attachment of the target device as seen at this start; files have none.
    pub diskseq: Option<u64>,
    /// Process that wrote what follows.
    pub pid: u32,
    /// When it started, seconds since 1970 UTC.
    pub unix_s: u64,
}

impl Session {
    /// Stands in a journal behind damage: of no run of any machine, so that nothing before it is believed unseen.
    pub(super) fn unknown() -> Self {
        Self {
            boot_id: None,
            diskseq: None,
            pid: std::process::id(),
            unix_s: 0,
        }
    }
}

/// How the transfer ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// When, seconds since 1970 UTC.
    pub unix_s: u64,
}

/// One fact to append. Long ones are split on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A program begins or goes on.
    Session(Session),
    /// A flush succeeded.
    Durable {
        /// What became durable by it.
        ranges: ExtentSet,
        /// Digests of chunks that are durable as a whole and known.
        digests: DigestMap,
    },
    /// Durable content was compared.
    Verified {
        /// What was found equal.
        ranges: ExtentSet,
    },
    /// What was durable no longer counts.
    Void {
        /// What must be copied again.
        ranges: ExtentSet,
        /// Why, for people; cut to [`REASON_BYTES_MAX`].
        reason: String,
    },
    /// Nothing is left to do.
    Done(Done),
}

/// A record as it stands in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Body {
    Header(Box<Header>),
    Session(Session),
    Durable {
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ranges: Vec<Piece>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        digests: Vec<(u64, Digest)>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        zero_chunks: Vec<Piece>,
    },
    Verified {
        ranges: Vec<Piece>,
    },
    Void {
        ranges: Vec<Piece>,
        reason: String,
    },
    Done(Done),
}

/// First unit and number of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Piece(u64, u64);

impl Piece {
    /// The range; `None` when it is empty or ends behind `limit`.
    pub(super) fn within(self, limit: u64) -> Option<Range<u64>> {
        let end = self.0.checked_add(self.1)?;
        (self.1 > 0 && end <= limit).then_some(self.0..end)
    }
}

/// The ranges in groups that fit a record each.
fn pieces(ranges: &ExtentSet) -> Vec<Vec<Piece>> {
    let pieces = ranges.iter().map(|r| Piece(r.start, r.end - r.start));
    grouped(pieces, RANGES_PER_RECORD_MAX)
}

fn grouped<T>(items: impl Iterator<Item = T>, len_max: usize) -> Vec<Vec<T>> {
    let mut items = items.peekable();
    let mut groups = Vec::new();
    while items.peek().is_some() {
        groups.push(items.by_ref().take(len_max).collect());
    }
    groups
}

impl Record {
    /// True when it speaks of places that a disk of `total_bytes` has; another record would be refused when it is read.
    pub(super) fn is_within(&self, total_bytes: u64) -> bool {
        let none = DigestMap::new();
        let (ranges, digests) = match self {
            Self::Session(_) | Self::Done(_) => return true,
            Self::Durable { ranges, digests } => (ranges, digests),
            Self::Verified { ranges } | Self::Void { ranges, .. } => (ranges, &none),
        };
        ranges.end() <= total_bytes
            && digests.data_end() <= chunk_count(total_bytes)
            && digests.zero_chunks().end() <= total_bytes / CHUNK_BYTES
    }

    /// The records on disk, in order: ranges first, because new ranges void the digests of their chunks.
    pub(super) fn bodies(&self) -> Vec<Body> {
        match self {
            Self::Session(session) => vec![Body::Session(session.clone())],
            Self::Done(done) => vec![Body::Done(done.clone())],
            Self::Durable { ranges, digests } => durable_bodies(ranges, digests),
            Self::Verified { ranges } => {
                let groups = pieces(ranges).into_iter();
                groups.map(|ranges| Body::Verified { ranges }).collect()
            }
            Self::Void { ranges, reason } => {
                let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
                let groups = pieces(ranges).into_iter();
                let body = |ranges| Body::Void {
                    ranges,
                    reason: reason.to_owned(),
                };
                groups.map(body).collect()
            }
        }
    }
}

fn durable_bodies(ranges: &ExtentSet, digests: &DigestMap) -> Vec<Body> {
    let body = |ranges, digests, zero_chunks| Body::Durable {
        ranges,
        digests,
        zero_chunks,
    };
    let mut bodies: Vec<Body> = pieces(ranges)
        .into_iter()
        .map(|ranges| body(ranges, Vec::new(), Vec::new()))
        .collect();
    let zero_chunks = pieces(digests.zero_chunks()).into_iter();
    bodies.extend(zero_chunks.map(|zero| body(Vec::new(), Vec::new(), zero)));
    let digests = grouped(digests.iter_data(), DIGESTS_PER_RECORD_MAX).into_iter();
    bodies.extend(digests.map(|digests| body(Vec::new(), digests, Vec::new())));
    bodies
}

/// A digest of a list of ranges: equal lists and only they have equal ones.
#[must_use]
pub fn ranges_digest(ranges: &ExtentSet) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for range in ranges.iter() {
        hasher.update(&range.start.to_le_bytes());
        hasher.update(&range.end.to_le_bytes());
    }
    Digest(*hasher.finalize().as_bytes())
}
