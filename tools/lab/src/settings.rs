//! What can be chosen about a lab, and changed while it runs.

use serde::{Deserialize, Serialize};

/// How identifiers that the caller did not choose are written (contract 16: old servers answer integers).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identifiers {
    /// UUIDs.
    #[default]
    Text,
    /// Zones, offerings, networks, templates, accounts and jobs have integers; disks and machines keep their UUIDs,
    /// because the serials of disks are made of them.
    Number,
}

/// What can be changed while the lab runs (`PUT /settings`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Shortest time that a job takes.
    pub job_ms_min: u64,
    /// Longest time that a job takes; the seed draws between the two.
    pub job_ms_max: u64,
    /// `wait.detach.device`: how long a detach waits for a busy device (contract 7).
    pub detach_wait_ms: u64,
    /// `job.expire.minutes`, in milliseconds (contract 5).
    pub job_expire_ms: u64,
    /// Lists show how things were this long ago.
    pub stale_lists_ms: u64,
    /// The server's clock is wrong by this much.
    pub skew_ms: i64,
    /// `enforce.post.requests.and.timestamps` (contract 1).
    pub enforce: bool,
    /// Whether a parameter that CloudStack would ignore is an error.
    pub strict: bool,
    /// `kvm.snapshot.enabled` (contract 14).
    pub kvm_snapshots: bool,
    /// Whether the pool is managed: no root can be detached (contract 7, 13).
    pub managed_pool: bool,
    /// Data volumes per machine (contract 11).
    pub data_volumes_max: u32,
    /// `resource_limits` of the account for volumes (535).
    pub volumes_max: usize,
    /// `custom.diskoffering.size.max` in GiB.
    pub custom_size_max_gib: u64,
    /// Largest page (`default.page.size`).
    pub page_size_max: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            job_ms_min: 20,
            job_ms_max: 200,
            detach_wait_ms: 10_000,
            job_expire_ms: 1_440 * 60_000,
            stale_lists_ms: 0,
            skew_ms: 0,
            enforce: true,
            strict: true,
            kvm_snapshots: true,
            managed_pool: false,
            data_volumes_max: 32,
            volumes_max: 10_000,
            custom_size_max_gib: 1024,
            page_size_max: 500,
        }
    }
}
