//! What the pure state machine asks of disks and machines that really exist.

use std::collections::BTreeMap;

/// What a new disk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// Pseudo-random bytes that follow from the volume's UUID.
    Fresh,
    /// The bytes of a snapshot.
    Snapshot(&'a str),
}

/// Why a piece of hardware did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// A process holds the device open: the guest does not let go.
    #[error("device is busy")]
    Busy,
    /// The machine below the lab failed.
    #[error("the lab's own machine failed: {0}")]
    Failed(String),
}

/// Digests of a disk: what a reader sees, and what a power cut could not take any more.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Digests {
    /// SHA-256 of what a reader sees.
    pub visible: String,
    /// SHA-256 of what has been made durable.
    pub durable: String,
}

/// Disks by volume UUID, devices of the appliance, machines that boot.
pub(crate) trait Hardware: Send {
    fn make(&mut self, volume: &str, size: u64, content: Content<'_>) -> Result<(), Fault>;
    fn remove(&mut self, volume: &str) -> Result<(), Fault>;
    fn resize(&mut self, volume: &str, size: u64) -> Result<(), Fault>;
    /// The device appears in the appliance under its serial.
    fn plug(&mut self, volume: &str) -> Result<(), Fault>;
    /// The device goes; `Busy` while somebody holds it, unless `force`.
    fn unplug(&mut self, volume: &str, force: bool) -> Result<(), Fault>;
    fn take(&mut self, snapshot: &str, volume: &str) -> Result<(), Fault>;
    fn revert(&mut self, volume: &str, snapshot: &str) -> Result<(), Fault>;
    fn drop_snapshot(&mut self, snapshot: &str) -> Result<(), Fault>;
    /// Starts a machine on its disks, by slot.
    fn power_on(&mut self, machine: &str, disks: &BTreeMap<u32, String>) -> Result<(), Fault>;
    fn power_off(&mut self, machine: &str);
    /// Loses a seeded random subset of what has not been flushed; answers how many writes were lost.
    fn power_cut(&mut self, seed: u64) -> Result<u64, Fault>;
    /// Writes an image from the beginning of a disk, durably.
    fn load(&mut self, volume: &str, image: &std::path::Path) -> Result<(), Fault>;
    fn digests(&mut self, volume: &str) -> Result<Digests, Fault>;
}
