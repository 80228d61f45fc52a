//! The rows of volumes, machines and snapshots.

use super::vm_snapshots::VmSnapshot;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default)]
pub(super) struct Volume {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) state: &'static str,
    pub(super) root: bool,
    pub(super) vm: Option<String>,
    pub(super) slot: Option<u32>,
    pub(super) offering: String,
    pub(super) created: u64,
    pub(super) attached: Option<u64>,
    pub(super) snapshot: Option<String>,
    pub(super) template: Option<String>,
    /// Whether the disk exists, and not only its record (contract 11).
    pub(super) placed: bool,
    /// Whether the appliance shows its device.
    pub(super) plugged: bool,
    /// Machines that can write to it besides `vm`: more than none is what must never happen.
    pub(super) others: BTreeSet<String>,
    pub(super) removed: bool,
    pub(super) seq: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Nic {
    pub(super) id: String,
    pub(super) network: String,
    pub(super) ip: String,
    pub(super) mac: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) displayname: Option<String>,
    pub(super) state: &'static str,
    pub(super) offering: String,
    pub(super) template: Option<String>,
    pub(super) ostype: Option<String>,
    pub(super) details: BTreeMap<String, String>,
    /// The first is the default one.
    pub(super) nics: Vec<Nic>,
    pub(super) created: u64,
    pub(super) removed: bool,
    pub(super) seq: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) volume: String,
    pub(super) state: &'static str,
    pub(super) size: u64,
    pub(super) created: u64,
    pub(super) removed: bool,
    pub(super) seq: u64,
}

impl Volume {
    /// Every machine that can write to it.
    pub(super) fn writers(&self) -> impl Iterator<Item = &String> {
        self.vm.iter().chain(&self.others)
    }
}

/// All rows. Removed ones stay, because their ids stay taken (contract 8).
#[derive(Clone, Debug, Default)]
pub(super) struct Tables {
    pub(super) volumes: BTreeMap<String, Volume>,
    pub(super) machines: BTreeMap<String, Machine>,
    pub(super) snapshots: BTreeMap<String, Snapshot>,
    pub(super) vm_snapshots: BTreeMap<String, VmSnapshot>,
    /// Tags by (type, id).
    pub(super) tags: BTreeMap<(String, String), BTreeMap<String, String>>,
    pub(super) revision: u64,
    seq: u64,
}

impl Tables {
    pub(super) fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.revision += 1;
        self.seq
    }

    pub(super) fn volume(&self, id: &str) -> Option<&Volume> {
        self.volumes.get(id).filter(|row| !row.removed)
    }

    pub(super) fn machine(&self, id: &str) -> Option<&Machine> {
        self.machines.get(id).filter(|row| !row.removed)
    }

    pub(super) fn snapshot(&self, id: &str) -> Option<&Snapshot> {
        self.snapshots.get(id).filter(|row| !row.removed)
    }

    /// The volumes of a machine.
    pub(super) fn of_machine(&self, id: &str) -> impl Iterator<Item = &Volume> {
        self.volumes
            .values()
            .filter(move |row| !row.removed && row.vm.as_deref() == Some(id))
    }

    /// Snapshots of a volume that are not done yet.
    pub(super) fn snapshots_in_flight(&self, volume: &str) -> bool {
        self.snapshots.values().any(|row| {
            row.volume == volume && !row.removed && row.state != "BackedUp" && row.state != "Error"
        })
    }

    pub(super) fn tags_of(&self, kind: &str, id: &str) -> Option<&BTreeMap<String, String>> {
        self.tags.get(&(kind.to_owned(), id.to_owned()))
    }
}
