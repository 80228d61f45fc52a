//! What a job has done when it ends.

use super::World;
use super::jobs::Work;
use super::tables::{Nic, Tables};
use crate::hardware::{Fault, Hardware};
use crate::refusal::Refusal;
use serde_json::{Value, json};

/// Why a job's work could not be done.
pub(super) enum Undone {
    /// The guest holds the device: try again until the wait is over.
    Busy,
    Refused(Refusal),
}

impl Undone {
    pub(super) fn refusal(self) -> Refusal {
        match self {
            // Contract 7, detach: the guest did not release the device in `wait.detach.device`.
            Undone::Busy => {
                Refusal::internal("Failed to detach volume from Instance: device is busy")
            }
            Undone::Refused(refusal) => refusal,
        }
    }
}

impl From<Refusal> for Undone {
    fn from(refusal: Refusal) -> Undone {
        Undone::Refused(refusal)
    }
}

impl From<Fault> for Undone {
    fn from(fault: Fault) -> Undone {
        match fault {
            Fault::Busy => Undone::Busy,
            Fault::Failed(_) => Undone::Refused(Refusal::internal(fault.to_string())),
        }
    }
}

impl World {
    /// Does the work. `show` is false where the appliance's device is to come later than the job's success.
    pub(super) fn finish(
        &mut self,
        now: u64,
        work: &Work,
        show: bool,
        hardware: &mut dyn Hardware,
    ) -> Result<Value, Undone> {
        self.tables.revision += 1;
        match work {
            Work::CreateVolume { volume } => self.finish_create(volume, hardware)?,
            Work::RecordVolume { .. } => {}
            Work::Attach {
                volume,
                machine,
                slot,
                double,
            } => self.finish_attach(now, volume, machine, *slot, (show, *double), hardware)?,
            Work::Detach { volume, machine } => self.finish_detach(volume, machine, hardware)?,
            Work::DestroyVolume { volume, expunge } => {
                self.finish_destroy_volume(volume, *expunge, hardware)?;
            }
            Work::Resize { volume, size, .. } => self.finish_resize(volume, *size, hardware)?,
            Work::TakeSnapshot { snapshot } => self.finish_snapshot(snapshot, hardware)?,
            Work::DeleteSnapshot { snapshot } => {
                hardware.drop_snapshot(snapshot)?;
                if let Some(row) = self.tables.snapshots.get_mut(snapshot) {
                    (row.removed, row.state) = (true, "Destroyed");
                }
            }
            Work::Revert { snapshot } => {
                let volume = self.snapshot_row(snapshot)?.volume.clone();
                hardware.revert(&volume, snapshot)?;
                self.set_volume(&volume, "Ready");
            }
            Work::Deploy {
                machine,
                start: false,
            } => self.set_machine(machine, "Stopped"),
            Work::Deploy { machine, .. } | Work::Start { machine } => {
                self.power_on(machine, hardware)?;
            }
            Work::Stop { machine } => self.power_off(machine, "Stopped", hardware)?,
            Work::Reboot { machine } => {
                hardware.power_off(machine);
                hardware.power_on(machine, &self.disks_of(machine))?;
            }
            Work::DestroyMachine {
                machine,
                expunge,
                volumes,
            } => self.finish_destroy_machine(machine, *expunge, volumes, hardware)?,
            Work::Expunge { machine } => self.expunge(machine, hardware)?,
            Work::Tag { kind, ids, tags } => {
                for id in ids {
                    let held = self
                        .tables
                        .tags
                        .entry((kind.clone(), id.clone()))
                        .or_default();
                    held.extend(tags.iter().cloned());
                }
            }
            Work::Untag { kind, ids, tags } => self.untag(kind, ids, tags),
            _ => self.finish_nics(work),
        }
        Ok(self.result_of(work))
    }

    fn finish_nics(&mut self, work: &Work) {
        match work {
            Work::AddNic {
                machine,
                network,
                ip,
                mac,
            } => {
                let nic = self.new_nic(network, ip.as_deref(), mac.as_deref());
                self.nics_of(machine, |nics| nics.push(nic));
            }
            Work::RemoveNic { machine, nic } => {
                self.nics_of(machine, |nics| nics.retain(|one| one.id != *nic));
            }
            Work::DefaultNic { machine, nic } => {
                self.nics_of(machine, |nics| nics.sort_by_key(|one| one.id != *nic));
            }
            _ => self.finish_vm_snapshot(work),
        }
    }

    fn finish_create(&mut self, id: &str, hardware: &mut dyn Hardware) -> Result<(), Undone> {
        self.place(id, hardware)?;
        self.set_volume(id, "Ready");
        Ok(())
    }

    fn finish_attach(
        &mut self,
        now: u64,
        id: &str,
        machine: &str,
        slot: Option<u32>,
        (show, double): (bool, bool),
        hardware: &mut dyn Hardware,
    ) -> Result<(), Undone> {
        let state = self.machine_row(machine)?.state;
        let slot = self.slot_for(machine, state, slot)?;
        self.volume_row(id)?;
        self.place(id, hardware)?;
        if let Some(row) = self.tables.volumes.get_mut(id) {
            if double && row.vm.as_deref() != Some(machine) {
                row.others.extend(row.vm.take());
            }
            row.vm = Some(machine.to_owned());
            row.slot = Some(slot);
            row.root = slot == 0;
            row.attached = Some(now);
            row.state = "Ready";
        }
        if show {
            self.plug(id, hardware)?;
        }
        Ok(())
    }

    fn finish_detach(
        &mut self,
        id: &str,
        machine: &str,
        hardware: &mut dyn Hardware,
    ) -> Result<(), Undone> {
        if self.volume_row(id)?.vm.as_deref() != Some(machine) {
            return Err(Refusal::parameter(
                "The specified volume is not attached to a virtual machine.",
            )
            .into());
        }
        self.unplug(id, false, hardware)?;
        self.forget_place(id);
        Ok(())
    }

    fn unplug(&mut self, id: &str, force: bool, hardware: &mut dyn Hardware) -> Result<(), Fault> {
        if let Some(row) = self.tables.volumes.get_mut(id)
            && row.plugged
        {
            hardware.unplug(id, force)?;
            row.plugged = false;
        }
        Ok(())
    }

    /// Contract 13: the type turns to DATADISK, deviceid disappears.
    fn forget_place(&mut self, id: &str) {
        if let Some(row) = self.tables.volumes.get_mut(id) {
            (row.vm, row.slot, row.attached, row.root) = (None, None, None, false);
            row.others.clear();
        }
    }

    fn finish_destroy_volume(
        &mut self,
        id: &str,
        expunge: bool,
        hardware: &mut dyn Hardware,
    ) -> Result<(), Undone> {
        if expunge {
            self.erase(id, hardware)?;
        } else {
            // Contract 11: kept in Destroy until it is recovered.
            self.set_volume(id, "Destroy");
        }
        Ok(())
    }

    /// The volume and its disk are gone.
    pub(super) fn erase(&mut self, id: &str, hardware: &mut dyn Hardware) -> Result<(), Fault> {
        let Some(row) = self.tables.volumes.get_mut(id) else {
            return Ok(());
        };
        if row.placed {
            hardware.remove(id)?;
        }
        (row.removed, row.state, row.placed) = (true, "Expunged", false);
        self.tables
            .tags
            .remove(&("Volume".to_owned(), id.to_owned()));
        Ok(())
    }

    fn finish_resize(
        &mut self,
        id: &str,
        size: u64,
        hardware: &mut dyn Hardware,
    ) -> Result<(), Undone> {
        let placed = self.volume_row(id)?.placed;
        if placed {
            hardware.resize(id, size)?;
        }
        if let Some(row) = self.tables.volumes.get_mut(id) {
            row.size = size;
            row.state = settled(placed);
        }
        Ok(())
    }

    fn finish_snapshot(&mut self, id: &str, hardware: &mut dyn Hardware) -> Result<(), Undone> {
        let volume = self.snapshot_row(id)?.volume.clone();
        hardware.take(id, &volume)?;
        self.set_snapshot(id, "BackedUp");
        self.set_volume(&volume, "Ready");
        Ok(())
    }

    fn power_on(&mut self, id: &str, hardware: &mut dyn Hardware) -> Result<(), Undone> {
        let disks = self.disks_of(id);
        for volume in disks.values() {
            if id != self.appliance || disks.get(&0) != Some(volume) {
                self.place(volume, hardware)?;
            }
            self.set_volume(volume, "Ready");
        }
        if id != self.appliance {
            hardware.power_on(id, &disks)?;
        }
        self.set_machine(id, "Running");
        for volume in disks.values() {
            self.plug(volume, hardware)?;
        }
        Ok(())
    }

    fn power_off(
        &mut self,
        id: &str,
        state: &'static str,
        hardware: &mut dyn Hardware,
    ) -> Result<(), Undone> {
        for volume in self.disks_of(id).values() {
            self.unplug(volume, true, hardware)?;
        }
        hardware.power_off(id);
        self.set_machine(id, state);
        Ok(())
    }

    /// Contract 11: data volumes are detached and survive unless listed; the root goes when the machine is expunged.
    fn finish_destroy_machine(
        &mut self,
        id: &str,
        expunge: bool,
        volumes: &[String],
        hardware: &mut dyn Hardware,
    ) -> Result<(), Undone> {
        self.power_off(id, "Destroyed", hardware)?;
        for (slot, volume) in self.disks_of(id) {
            if slot == 0 {
                continue;
            }
            self.forget_place(&volume);
            if volumes.contains(&volume) {
                self.set_volume(&volume, "Destroy");
            }
        }
        if expunge {
            self.expunge(id, hardware)?;
        }
        Ok(())
    }

    fn expunge(&mut self, id: &str, hardware: &mut dyn Hardware) -> Result<(), Undone> {
        for volume in self.disks_of(id).into_values() {
            self.forget_place(&volume);
            self.erase(&volume, hardware)?;
        }
        self.tables.vm_snapshots.retain(|_, row| row.machine != id);
        if let Some(row) = self.tables.machines.get_mut(id) {
            (row.removed, row.state) = (true, "Expunging");
        }
        self.tables
            .tags
            .remove(&("UserVm".to_owned(), id.to_owned()));
        Ok(())
    }

    fn nics_of(&mut self, machine: &str, change: impl FnOnce(&mut Vec<Nic>)) {
        if let Some(row) = self.tables.machines.get_mut(machine) {
            change(&mut row.nics);
        }
    }

    fn untag(&mut self, kind: &str, ids: &[String], tags: &[(String, String)]) {
        for id in ids {
            if let Some(held) = self.tables.tags.get_mut(&(kind.to_owned(), id.clone())) {
                held.retain(|key, value| {
                    !tags
                        .iter()
                        .any(|(k, v)| k == key && (v.is_empty() || v == value))
                        && !tags.is_empty()
                });
            }
        }
    }

    /// Puts things back to how they were before a job that failed.
    pub(super) fn take_back(&mut self, work: &Work) {
        let tables = &mut self.tables;
        match work {
            Work::CreateVolume { volume } | Work::RecordVolume { volume } => retire(tables, volume),
            Work::Attach { volume, .. }
            | Work::DestroyVolume { volume, .. }
            | Work::Resize { volume, .. } => settle(tables, volume),
            Work::TakeSnapshot { snapshot } => {
                self.set_snapshot(snapshot, "Error");
                self.settle_volume_of(snapshot);
            }
            Work::Revert { snapshot } => self.settle_volume_of(snapshot),
            Work::DeleteSnapshot { snapshot } => self.set_snapshot(snapshot, "BackedUp"),
            // Contract 15: Error after a failed deploy.
            Work::Deploy {
                machine,
                start: true,
            } => self.set_machine(machine, "Error"),
            Work::Start { machine } => self.set_machine(machine, "Stopped"),
            Work::Stop { machine }
                if self
                    .machine_row(machine)
                    .is_ok_and(|row| row.state == "Stopping") =>
            {
                self.set_machine(machine, "Running");
            }
            _ => self.take_back_vm_snapshot(work),
        }
        self.tables.revision += 1;
    }

    fn settle_volume_of(&mut self, snapshot: &str) {
        if let Some(volume) = self.tables.snapshot(snapshot).map(|row| row.volume.clone()) {
            settle(&mut self.tables, &volume);
        }
    }

    fn result_of(&self, work: &Work) -> Value {
        match work {
            Work::CreateVolume { volume }
            | Work::RecordVolume { volume }
            | Work::Attach { volume, .. }
            | Work::Detach { volume, .. }
            | Work::DestroyVolume { volume, .. }
            | Work::Resize { volume, .. } => self.tables.volumes.get(volume).map_or(
                Value::Null,
                |row| json!({"volume": self.volume_answer(&self.tables, row)}),
            ),
            Work::TakeSnapshot { snapshot } | Work::Revert { snapshot } => {
                self.tables.snapshots.get(snapshot).map_or(
                    Value::Null,
                    |row| json!({"snapshot": self.snapshot_answer(&self.tables, row)}),
                )
            }
            Work::Deploy { machine, .. }
            | Work::Start { machine }
            | Work::Stop { machine }
            | Work::Reboot { machine }
            | Work::DestroyMachine { machine, .. }
            | Work::AddNic { machine, .. }
            | Work::RemoveNic { machine, .. }
            | Work::DefaultNic { machine, .. } => self.tables.machines.get(machine).map_or(
                Value::Null,
                |row| json!({"virtualmachine": self.machine_answer(&self.tables, row)}),
            ),
            Work::TakeVmSnapshot { snapshot, .. } | Work::DropVmSnapshot { snapshot, .. } => {
                self.vm_snapshot_result(snapshot)
            }
            Work::DeleteSnapshot { .. }
            | Work::Expunge { .. }
            | Work::Tag { .. }
            | Work::Untag { .. } => json!({"success": true}),
        }
    }
}

/// The state of a volume that nothing happens to.
fn settled(placed: bool) -> &'static str {
    if placed { "Ready" } else { "Allocated" }
}

fn settle(tables: &mut Tables, id: &str) {
    if let Some(row) = tables.volumes.get_mut(id)
        && row.state.ends_with("ing")
    {
        row.state = settled(row.placed);
    }
}

fn retire(tables: &mut Tables, id: &str) {
    if let Some(row) = tables.volumes.get_mut(id) {
        (row.removed, row.state) = (true, "Destroy");
    }
}
