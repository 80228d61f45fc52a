//! What is checked when a job begins, and the states in between that others see while it runs (contract 7, 15).

use super::World;
use super::jobs::Work;
use super::tables::{Machine, Snapshot, Volume};
use crate::refusal::Refusal;

/// Contract 11: 0 is the root, 3 the CD-ROM.
pub(super) const SLOT_RESERVED: u32 = 3;

impl World {
    pub(super) fn begin(&mut self, work: &Work) -> Result<(), Refusal> {
        match work {
            Work::CreateVolume { volume } => self.set_volume(volume, "Creating"),
            Work::Attach {
                volume,
                machine,
                slot,
                double,
            } => {
                self.may_attach(volume, machine, *slot, *double)?;
                self.set_volume(volume, "Attaching");
            }
            Work::Detach { volume, .. } => self.may_detach(volume)?,
            Work::DestroyVolume { volume, .. } => {
                self.may_delete(volume)?;
                self.set_volume(volume, "Destroying");
            }
            Work::Resize {
                volume,
                size,
                shrink,
            } => {
                self.may_resize(volume, *size, *shrink)?;
                self.set_volume(volume, "Resizing");
            }
            Work::TakeSnapshot { snapshot } => self.begin_snapshot(snapshot)?,
            Work::DeleteSnapshot { snapshot } => {
                let row = self.snapshot_row(snapshot)?;
                if row.state != "BackedUp" && row.state != "Error" {
                    return Err(Refusal::parameter(format!(
                        "Can't delete snapshot {snapshot} due to it is in {} state",
                        row.state
                    )));
                }
                self.set_snapshot(snapshot, "Destroying");
            }
            Work::Revert { snapshot } => {
                let volume = self.may_revert(snapshot)?;
                self.set_volume(&volume, "RevertSnapshotting");
            }
            Work::Tag { kind, ids, tags } => self.may_tag(kind, ids, tags)?,
            Work::Untag { .. } | Work::RecordVolume { .. } => {}
            _ => self.begin_machine(work)?,
        }
        Ok(())
    }

    fn begin_machine(&mut self, work: &Work) -> Result<(), Refusal> {
        match work {
            Work::Start { machine } => self.begin_start(machine)?,
            Work::Deploy { machine, start } if *start => {
                self.begin_start(machine)?;
            }
            Work::Stop { machine } => {
                let row = self.machine_row(machine)?;
                match row.state {
                    // Contract 8: stop on Stopped succeeds.
                    "Stopped" => {}
                    "Running" => self.set_machine(machine, "Stopping"),
                    state => {
                        return Err(Refusal::internal(format!(
                            "Unable to stop Instance {machine} in state {state}"
                        )));
                    }
                }
            }
            Work::Reboot { machine } => {
                let state = self.machine_row(machine)?.state;
                if state != "Running" {
                    return Err(Refusal::parameter(format!(
                        "Unable to reboot Instance {machine}: it is {state} and not Running"
                    )));
                }
            }
            Work::DestroyMachine { machine, .. } | Work::Expunge { machine } => {
                let state = self.machine_row(machine)?.state;
                if !matches!(state, "Running" | "Stopped" | "Error" | "Destroyed") {
                    return Err(Refusal::internal(format!(
                        "Unable to destroy Instance {machine} in state {state}"
                    )));
                }
                if matches!(work, Work::Expunge { .. }) && state != "Destroyed" && state != "Error"
                {
                    return Err(Refusal::parameter(
                        "Please destroy the Instance with ID before expunge",
                    ));
                }
            }
            Work::AddNic {
                machine,
                network,
                mac,
                ..
            } => self.may_add_nic(machine, network, mac.as_deref())?,
            Work::RemoveNic { machine, nic } => self.may_remove_nic(machine, nic)?,
            Work::DefaultNic { machine, nic } => {
                let row = self.machine_row(machine)?;
                if !row.nics.iter().any(|one| one.id == *nic) {
                    return Err(Refusal::parameter(format!(
                        "The NIC {nic} is not a NIC of Instance {machine}"
                    )));
                }
            }
            _ => self.begin_vm_snapshot(work)?,
        }
        Ok(())
    }

    pub(super) fn volume_row(&self, id: &str) -> Result<&Volume, Refusal> {
        self.tables
            .volume(id)
            .ok_or_else(|| Refusal::absent("id", id))
    }

    pub(super) fn machine_row(&self, id: &str) -> Result<&Machine, Refusal> {
        self.tables
            .machine(id)
            .ok_or_else(|| Refusal::absent("id", id))
    }

    pub(super) fn snapshot_row(&self, id: &str) -> Result<&Snapshot, Refusal> {
        self.tables
            .snapshot(id)
            .ok_or_else(|| Refusal::absent("id", id))
    }

    pub(super) fn set_volume(&mut self, id: &str, state: &'static str) {
        if let Some(row) = self.tables.volumes.get_mut(id) {
            row.state = state;
        }
    }

    pub(super) fn set_machine(&mut self, id: &str, state: &'static str) {
        if let Some(row) = self.tables.machines.get_mut(id) {
            row.state = state;
        }
    }

    pub(super) fn set_snapshot(&mut self, id: &str, state: &'static str) {
        if let Some(row) = self.tables.snapshots.get_mut(id) {
            row.state = state;
        }
    }

    fn may_attach(
        &self,
        id: &str,
        machine: &str,
        slot: Option<u32>,
        double: bool,
    ) -> Result<(), Refusal> {
        let volume = self.volume_row(id)?;
        // Contract 7, attach: `not attached to any VM`.
        if volume.vm.is_some() && !double {
            return Err(Refusal::parameter(
                "Please specify a volume that is not attached to any VM.",
            ));
        }
        // Contract 11: Allocated, Ready or Uploaded.
        if !matches!(volume.state, "Allocated" | "Ready" | "Uploaded") {
            return Err(Refusal::parameter(
                "Volume state must be in Allocated, Ready or in Uploaded state",
            ));
        }
        self.no_vm_snapshots(machine, "attach volume")?;
        let vm = self.machine_row(machine)?;
        // Contract 7, attach: `either running or stopped`.
        if !matches!(vm.state, "Running" | "Stopped") {
            return Err(Refusal::parameter(
                "Please specify an Instance that is either running or stopped.",
            ));
        }
        self.slot_for(machine, vm.state, slot).map(drop)
    }

    /// The slot that an attach gets: the wanted one, or the lowest free from 1 (contract 11).
    pub(super) fn slot_for(
        &self,
        machine: &str,
        state: &str,
        wanted: Option<u32>,
    ) -> Result<u32, Refusal> {
        let used: Vec<u32> = self
            .tables
            .of_machine(machine)
            .filter_map(|row| row.slot)
            .collect();
        let data = used.iter().filter(|slot| **slot != 0).count();
        let limit = self.settings.data_volumes_max;
        if wanted == Some(0) {
            // Contract 7, attach: `already has root volume`.
            if used.contains(&0) {
                return Err(Refusal::parameter(
                    "Vm already has root volume attached to it",
                ));
            }
            // Contract 13: the machine is Stopped.
            return if state == "Stopped" {
                Ok(0)
            } else {
                Err(Refusal::parameter(
                    "Root volume attach can happen only when vm is in states: Stopped",
                ))
            };
        }
        // Contract 7, attach: `maximum number of data disks`.
        if data >= limit as usize {
            return Err(Refusal::parameter(format!(
                "The specified VM already has the maximum number of data disks ({limit}) attached. Please specify another VM."
            )));
        }
        let Some(slot) = wanted else {
            let free = (1..).find(|slot| *slot != SLOT_RESERVED && !used.contains(slot));
            return free.ok_or_else(|| Refusal::internal("no free device id"));
        };
        // Contract 7, attach: slot 3 or out of range (530).
        if slot == SLOT_RESERVED || slot > limit + 1 {
            return Err(Refusal::internal(format!(
                "deviceId should be 0,1,2,4-{}",
                limit + 1
            )));
        }
        // Contract 7, attach: slot taken (530).
        if used.contains(&slot) {
            return Err(Refusal::internal(format!(
                "deviceId {slot} is used by vm {machine}"
            )));
        }
        Ok(slot)
    }

    fn may_detach(&self, id: &str) -> Result<(), Refusal> {
        let volume = self.volume_row(id)?;
        // Contract 8: detach on detached gives 431.
        let Some(machine) = volume.vm.as_deref() else {
            return Err(Refusal::parameter(
                "The specified volume is not attached to a virtual machine.",
            ));
        };
        self.no_vm_snapshots(machine, "detach volume")?;
        let state = self.machine_row(machine)?.state;
        if !matches!(state, "Running" | "Stopped" | "Destroyed") {
            return Err(Refusal::parameter(
                "Please specify an Instance that is either running or stopped.",
            ));
        }
        if volume.slot == Some(0) {
            // Contract 7, detach root: `only when vm is in states`.
            if state != "Stopped" {
                return Err(Refusal::parameter(
                    "Root volume detach can happen only when vm is in states: Stopped",
                ));
            }
            // Contract 7, detach root: `Managed DataStores`.
            if self.settings.managed_pool {
                return Err(Refusal::parameter(
                    "Root volume detach is not supported for Managed DataStores",
                ));
            }
        }
        Ok(())
    }

    pub(super) fn may_delete(&self, id: &str) -> Result<(), Refusal> {
        let volume = self.volume_row(id)?;
        if volume.vm.is_some() {
            return Err(Refusal::parameter(
                "Please specify a volume that is not attached to any VM.",
            ));
        }
        // Contract 7, delete: `snapshot operations in progress`.
        if self.tables.snapshots_in_flight(id) {
            return Err(Refusal::parameter(
                "There are snapshot operations in progress on the volume, unable to delete it",
            ));
        }
        if !matches!(volume.state, "Allocated" | "Ready" | "Destroy" | "Uploaded") {
            return Err(Refusal::parameter(format!(
                "Please specify a volume in Ready or Allocated state and not in {}",
                volume.state
            )));
        }
        Ok(())
    }

    fn may_resize(&self, id: &str, size: u64, shrink: bool) -> Result<(), Refusal> {
        let volume = self.volume_row(id)?;
        if !matches!(volume.state, "Allocated" | "Ready") {
            return Err(Refusal::parameter(format!(
                "Volume should be in ready or allocated state before attempting a resize; it is {}",
                volume.state
            )));
        }
        if self.tables.snapshots_in_flight(id) {
            return Err(Refusal::parameter(
                "A volume with unbacked up snapshot cannot be resized",
            ));
        }
        let running = volume.vm.as_deref().and_then(|vm| self.tables.machine(vm));
        if volume.root && running.is_some_and(|vm| vm.state != "Stopped") {
            return Err(Refusal::parameter(
                "VM is not on Stopped State: its ROOT volume cannot be resized",
            ));
        }
        if size < volume.size && !shrink {
            return Err(Refusal::parameter(
                "Going from existing size to a smaller one would shrink the volume. Need to sign off by supplying the shrinkok parameter with value of true.",
            ));
        }
        Ok(())
    }

    fn begin_snapshot(&mut self, id: &str) -> Result<(), Refusal> {
        let volume = self.snapshot_row(id)?.volume.clone();
        let checked = self.may_snapshot(id, &volume);
        if checked.is_err() {
            self.set_snapshot(id, "Error");
            return checked;
        }
        self.set_snapshot(id, "BackingUp");
        self.set_volume(&volume, "Snapshotting");
        Ok(())
    }

    fn may_snapshot(&self, id: &str, volume: &str) -> Result<(), Refusal> {
        let row = self.volume_row(volume)?;
        if row.state != "Ready" {
            return Err(Refusal::parameter(format!(
                "VolumeId: {volume} is not in Ready state but {}. Cannot take snapshot.",
                row.state
            )));
        }
        let Some(machine) = row.vm.as_deref().and_then(|vm| self.tables.machine(vm)) else {
            return Ok(());
        };
        // Contract 7, snapshot: kvm.snapshot.enabled is off.
        if machine.state == "Running" && !self.settings.kvm_snapshots {
            return Err(Refusal::internal(
                "KVM Snapshot is not supported for Running VMs",
            ));
        }
        // Contract 14: other snapshots in flight on the machine block it.
        let busy = self.tables.of_machine(&machine.id).any(|disk| {
            self.tables.snapshots.values().any(|other| {
                other.volume == disk.id && other.id != id && other.state == "BackingUp"
            })
        });
        if busy {
            return Err(Refusal::internal(
                "There is other active snapshot tasks on the instance to which the volume is attached, please try again later",
            ));
        }
        Ok(())
    }

    fn may_revert(&self, id: &str) -> Result<String, Refusal> {
        let row = self.snapshot_row(id)?;
        if row.state != "BackedUp" {
            return Err(Refusal::parameter(format!(
                "Snapshot {id} is not in BackedUp state"
            )));
        }
        let volume = self.volume_row(&row.volume)?;
        if volume.state != "Ready" {
            return Err(Refusal::parameter(format!(
                "The volume of snapshot {id} is not in Ready state"
            )));
        }
        // Contract 14: no snapshots of the machine.
        if let Some(machine) = volume.vm.as_deref() {
            self.no_vm_snapshots(machine, "revert snapshot")?;
        }
        // Contract 7, revert: `not in the shutdown state`.
        let machine = volume.vm.as_deref().and_then(|vm| self.tables.machine(vm));
        if machine.is_some_and(|vm| vm.state != "Stopped") {
            return Err(Refusal::parameter(
                "The VM the specified disk is attached to is not in the shutdown state.",
            ));
        }
        Ok(row.volume.clone())
    }

    fn begin_start(&mut self, id: &str) -> Result<(), Refusal> {
        match self.machine_row(id)?.state {
            "Stopped" => {}
            // Contract 8: start on Running gives 431.
            "Running" => {
                return Err(Refusal::parameter(format!(
                    "Instance {id} is already running"
                )));
            }
            state => {
                return Err(Refusal::internal(format!(
                    "Instance {id} cannot be started in state {state}"
                )));
            }
        }
        // Contract 7, start: `ROOT volume is missing`.
        if !self.tables.of_machine(id).any(|row| row.slot == Some(0)) {
            return Err(Refusal::internal(format!(
                "Unable to start Instance {id}: ROOT volume is missing"
            )));
        }
        self.set_machine(id, "Starting");
        Ok(())
    }

    fn may_add_nic(&self, machine: &str, network: &str, mac: Option<&str>) -> Result<(), Refusal> {
        self.no_vm_snapshots(machine, "add NIC")?;
        let row = self.machine_row(machine)?;
        if !matches!(row.state, "Running" | "Stopped") {
            return Err(Refusal::parameter(
                "Instance must be Running or Stopped to add a NIC",
            ));
        }
        // Contract 7, addNic: one NIC for each network.
        if row.nics.iter().any(|nic| nic.network == network) {
            return Err(Refusal::internal(format!(
                "A NIC already exists for Instance {machine} in network {network}"
            )));
        }
        let taken = |mac| {
            self.tables.machines.values().any(|vm| {
                !vm.removed
                    && vm
                        .nics
                        .iter()
                        .any(|nic| nic.mac == mac && nic.network == network)
            })
        };
        if mac.is_some_and(taken) {
            return Err(Refusal::parameter(
                "A NIC with this MAC address exists for network",
            ));
        }
        Ok(())
    }

    fn may_remove_nic(&self, machine: &str, nic: &str) -> Result<(), Refusal> {
        self.no_vm_snapshots(machine, "remove NIC")?;
        let row = self.machine_row(machine)?;
        match row.nics.iter().position(|one| one.id == *nic) {
            None => Err(Refusal::parameter(format!(
                "The NIC {nic} is not a NIC of Instance {machine}"
            ))),
            // Contract 10: the default NIC cannot be removed.
            Some(0) => Err(Refusal::parameter(format!(
                "Unable to remove NIC {nic}: it is the default NIC"
            ))),
            Some(_) => Ok(()),
        }
    }

    fn may_tag(
        &self,
        kind: &str,
        ids: &[String],
        tags: &[(String, String)],
    ) -> Result<(), Refusal> {
        for (key, value) in tags {
            // Contract 8: empty values are refused.
            if key.is_empty() || value.is_empty() {
                return Err(Refusal::parameter(format!(
                    "Value for the key {key} is either null or empty"
                )));
            }
            for id in ids {
                if self
                    .tables
                    .tags_of(kind, id)
                    .is_some_and(|held| held.contains_key(key))
                {
                    // Contract 8: an existing key gives 530, `already on`.
                    return Err(Refusal::internal(format!(
                        "tag {key} already on {kind} with id {id}"
                    )));
                }
            }
        }
        Ok(())
    }
}
