//! `mk-data/1`: what the data plane tells the clients of an export over TLS.

use serde::{Deserialize, Serialize};

use crate::TunablePatch;

/// What stands behind an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// A block device.
    Block,
    /// A file.
    File,
    /// Nothing: reads are zeroes, writes are thrown away.
    Null,
}

/// Which device it is, as far as can be told. A journal is bound to this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceFacts {
    /// Device, file or nothing.
    pub kind: StoreKind,
    /// The serial number the device reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// World-wide id, device-mapper or RAID uuid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wwid: Option<String>,
    /// Which attachment of a device this is; means something within one boot of the machine only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diskseq: Option<u64>,
    /// Device number of a device, or of the file system of a file; absent for a null store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<u64>,
    /// Inode of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// When a file was made, nanoseconds since 1970 UTC: a deleted file's inode goes to the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born_ns: Option<i64>,
}

/// Whether what was written can still be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushFacts {
    /// Grows with every failed flush. When it differs from what a client saw when it began to write, what it wrote
    /// since its last good flush is void.
    pub epoch: u64,
    /// Flushes that succeeded.
    pub succeeded: u64,
    /// Flushes that failed.
    pub failed: u64,
}

/// `GET /v1/exports/{name}` of `mk-data/1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportFacts {
    /// Its name.
    pub name: String,
    /// Version of the program.
    pub version: String,
    /// The kernel's id of this boot of the machine; `boot_id` beside it is that of the process.
    pub machine_boot_id: String,
    /// When this was true, RFC 3339 with milliseconds, UTC.
    pub time: String,
    /// Size.
    pub size_bytes: u64,
    /// Smallest unit the device reads and writes.
    pub logical_block_bytes: u32,
    /// Which device it is.
    pub identity: DeviceFacts,
    /// Writes are refused.
    pub read_only: bool,
    /// The content is worth nothing.
    pub scratch: bool,
    /// Written data is thrown away.
    pub discarded: bool,
    /// The page cache is bypassed; without it, hashes of the medium are a best effort.
    pub direct: bool,
    /// Whether what was written can still be believed.
    pub flush: FlushFacts,
}

/// Answer to `PUT` and `DELETE /v1/exports/{name}/stream`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    /// Name of the export.
    pub name: String,
    /// What is written to it is hashed for this connection.
    pub streaming: bool,
}

/// `PATCH /v1/tunables` of `mk-data/1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunableTrial {
    /// All of them are set, or none.
    pub values: TunablePatch,
    /// For this long only, or until the connection ends: then what was in force before is so again. Sent again in
    /// time, the trial goes on. Without it they stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_s: Option<u64>,
}
