//! Snapshots of machines. They hold no bytes here: what matters to a migration is what they block (contract 7, 14).

use super::World;
use super::jobs::Work;
use crate::params::Params;
use crate::refusal::Refusal;
use crate::site;
use crate::time;
use serde_json::{Value, json};

/// `vmsnapshot.max` (contract 14).
const PER_MACHINE_MAX: usize = 10;

#[derive(Clone, Debug)]
pub(super) struct VmSnapshot {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) machine: String,
    pub(super) state: &'static str,
    memory: bool,
    created: u64,
    seq: u64,
}

impl World {
    /// Contract 7, attach and detach; contract 10, NICs: not while snapshots of the machine exist.
    pub(super) fn no_vm_snapshots(&self, machine: &str, what: &str) -> Result<(), Refusal> {
        let any = self
            .tables
            .vm_snapshots
            .values()
            .any(|row| row.machine == machine && row.state != "Error");
        if any {
            return Err(Refusal::parameter(format!(
                "Unable to {what}, please specify an Instance that does not have Instance Snapshots"
            )));
        }
        Ok(())
    }

    pub(super) fn new_vm_snapshot(
        &mut self,
        now: u64,
        params: &Params,
    ) -> Result<(Work, Option<String>), Refusal> {
        let machine = params.need("virtualmachineid")?.to_owned();
        let state = self
            .tables
            .machine(&machine)
            .ok_or_else(|| Refusal::absent("virtualmachineid", &machine))?
            .state;
        let memory = params.flag("snapshotmemory").unwrap_or(false);
        if !matches!(state, "Running" | "Stopped") {
            return Err(Refusal::parameter(format!(
                "Creating Instance Snapshot failed: Instance is {state}"
            )));
        }
        // Contract 14: memory only when Running, and never on Linstor, which this site is.
        if memory {
            return Err(Refusal::parameter(
                "Cannot snapshot the memory of this Instance: its disks are on Linstor",
            ));
        }
        let held: Vec<_> = self
            .tables
            .vm_snapshots
            .values()
            .filter(|row| row.machine == machine)
            .collect();
        if held.len() >= PER_MACHINE_MAX {
            return Err(Refusal::parameter(
                "Creating Instance Snapshot failed due to Instance snapshot limit",
            ));
        }
        let id = self.rng.uuid();
        let name = params
            .get("name")
            .map_or_else(|| format!("snapshot-{id}"), str::to_owned);
        // Contract 8: names are unique within a machine.
        if held.iter().any(|row| row.name == name) {
            return Err(Refusal::parameter(format!(
                "Creating Instance Snapshot failed: the name {name} exists"
            )));
        }
        let seq = self.tables.next_seq();
        let row = VmSnapshot {
            id: id.clone(),
            name,
            machine: machine.clone(),
            state: "Allocated",
            memory,
            created: now,
            seq,
        };
        self.tables.vm_snapshots.insert(id.clone(), row);
        Ok((
            Work::TakeVmSnapshot {
                snapshot: id.clone(),
                machine,
            },
            Some(id),
        ))
    }

    pub(super) fn drop_vm_snapshot(&self, params: &Params) -> Result<Work, Refusal> {
        let snapshot = params.need("vmsnapshotid")?;
        let row = self
            .tables
            .vm_snapshots
            .get(snapshot)
            .ok_or_else(|| Refusal::absent("vmsnapshotid", snapshot))?;
        Ok(Work::DropVmSnapshot {
            snapshot: row.id.clone(),
            machine: row.machine.clone(),
        })
    }

    pub(super) fn begin_vm_snapshot(&mut self, work: &Work) -> Result<(), Refusal> {
        match work {
            Work::TakeVmSnapshot { snapshot, machine } => {
                let busy = self
                    .tables
                    .of_machine(machine)
                    .any(|row| !matches!(row.state, "Ready" | "Allocated"));
                if busy {
                    self.set_vm_snapshot(snapshot, "Error");
                    return Err(Refusal::internal(
                        "There is other active volume snapshot tasks on the Instance",
                    ));
                }
                self.set_vm_snapshot(snapshot, "Creating");
            }
            Work::DropVmSnapshot { snapshot, .. } => {
                let row = self
                    .tables
                    .vm_snapshots
                    .get(snapshot)
                    .ok_or_else(|| Refusal::absent("vmsnapshotid", snapshot))?;
                if !matches!(row.state, "Ready" | "Error") {
                    return Err(Refusal::parameter(format!(
                        "Can't delete the Instance Snapshot: it is {}",
                        row.state
                    )));
                }
                self.set_vm_snapshot(snapshot, "Expunging");
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn finish_vm_snapshot(&mut self, work: &Work) {
        match work {
            Work::TakeVmSnapshot { snapshot, .. } => self.set_vm_snapshot(snapshot, "Ready"),
            Work::DropVmSnapshot { snapshot, .. } => {
                drop(self.tables.vm_snapshots.remove(snapshot));
            }
            _ => {}
        }
    }

    pub(super) fn take_back_vm_snapshot(&mut self, work: &Work) {
        match work {
            Work::TakeVmSnapshot { snapshot, .. } => self.set_vm_snapshot(snapshot, "Error"),
            Work::DropVmSnapshot { snapshot, .. } => self.set_vm_snapshot(snapshot, "Ready"),
            _ => {}
        }
    }

    fn set_vm_snapshot(&mut self, id: &str, state: &'static str) {
        if let Some(row) = self.tables.vm_snapshots.get_mut(id) {
            row.state = state;
        }
    }

    /// Contract 4: the key is `vmsnapshot` here and `vmSnapshot` in lists.
    pub(super) fn vm_snapshot_result(&self, id: &str) -> Value {
        let row = self.tables.vm_snapshots.get(id);
        row.map_or_else(
            || json!({"success": true}),
            |row| json!({"vmsnapshot": self.vm_snapshot_answer(row)}),
        )
    }

    fn vm_snapshot_answer(&self, row: &VmSnapshot) -> Value {
        json!({"id": row.id, "name": row.name, "displayname": row.name, "state": row.state, "virtualmachineid": row.machine,
            "type": if row.memory { "DiskAndMemory" } else { "Disk" }, "created": time::text(row.created), "current": false,
            "zoneid": self.site.zones[0]["id"], "account": self.site.accounts[0]["name"]})
    }

    pub(super) fn vm_snapshots(&self, params: &Params) -> Vec<Value> {
        let mut rows: Vec<_> = self.listed().vm_snapshots.values().collect();
        rows.sort_by_key(|row| row.seq);
        let is = |name: &str, held: &str| {
            params
                .get(name)
                .is_none_or(|wanted| wanted.eq_ignore_ascii_case(held))
        };
        rows.into_iter()
            .filter(|row| is("vmsnapshotid", &row.id) && is("virtualmachineid", &row.machine))
            .filter(|row| is("name", &row.name) && is("state", row.state))
            .map(|row| self.vm_snapshot_answer(row))
            .collect()
    }

    /// The one domain of the account.
    pub(super) fn domains(&self, params: &Params) -> Vec<Value> {
        let id = &self.site.accounts[0]["domainid"];
        let wanted = params
            .get("id")
            .is_none_or(|wanted| wanted == site::id_text(id))
            && params.get("name").is_none_or(|name| name == "ROOT");
        let row = json!({"id": id, "name": "ROOT", "level": 0, "path": "ROOT", "haschild": false, "state": "Active"});
        wanted.then_some(row).into_iter().collect()
    }
}
