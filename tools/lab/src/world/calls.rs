//! Commands: what is checked before an answer or a job, and the rows that creating commands make at once.

use super::World;
use super::deploy::{check_host_name, check_mac};
use super::jobs::Work;
use super::tables::{Snapshot, Volume};
use crate::hardware::Hardware;
use crate::params::Params;
use crate::refusal::Refusal;
use crate::site;
use serde_json::{Map, Value, json};

pub(super) const GIB: u64 = 1 << 30;

/// A UUID in lower case.
pub(super) fn is_uuid(text: &str) -> bool {
    let dashes = [8, 13, 18, 23];
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| {
            if dashes.contains(&at) {
                byte == b'-'
            } else {
                byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
            }
        })
}

impl World {
    /// Commands that are done when they answer.
    pub(super) fn answer_now(
        &mut self,
        now: u64,
        params: &Params,
        hardware: &mut dyn Hardware,
    ) -> Result<Value, Refusal> {
        match params.row.name {
            "deleteVolume" => {
                let id = params.need("id")?;
                self.may_delete(id)?;
                // Contract 11: synchronous, expunges at once.
                self.erase(id, hardware)
                    .map_err(|fault| Refusal::internal(fault.to_string()))?;
                self.tables.revision += 1;
                Ok(json!({"success": true}))
            }
            "recoverVolume" => {
                let id = params.need("id")?;
                if self.volume_row(id)?.state != "Destroy" {
                    return Err(Refusal::parameter(
                        "Please specify a volume in Destroy state.",
                    ));
                }
                let placed = self.volume_row(id)?.placed;
                self.set_volume(id, if placed { "Ready" } else { "Allocated" });
                self.tables.revision += 1;
                Ok(json!({"volume": self.volume_answer(&self.tables, self.volume_row(id)?)}))
            }
            "updateVirtualMachine" => self.update_machine(params),
            "queryAsyncJobResult" => self.query_job(params),
            _ => self.list(now, params),
        }
    }

    fn query_job(&self, params: &Params) -> Result<Value, Refusal> {
        let job = match (
            params.get("jobid"),
            params.get("resourceid"),
            params.get("resourcetype"),
        ) {
            (Some(id), _, _) => self.jobs.get(id),
            (None, Some(id), Some(kind)) => self.jobs.of_object(kind, id),
            _ => {
                return Err(Refusal::parameter(
                    "Expected parameter job id or parameters resource type and resource id",
                ));
            }
        };
        // Contract 5: a row that has expired answers 431.
        let job =
            job.ok_or_else(|| Refusal::absent("jobid", params.get("jobid").unwrap_or_default()))?;
        Ok(job.answer(&self.site.accounts[0]["id"]))
    }

    /// Contract 9: only the first entry of details is read, and it replaces the stored set.
    fn update_machine(&mut self, params: &Params) -> Result<Value, Refusal> {
        let id = params.need("id")?;
        self.machine_row(id)?;
        if let Some(name) = params.get("name") {
            check_host_name(name)?;
        }
        let details = params.map("details").next().cloned();
        if details
            .iter()
            .flatten()
            .any(|(key, _)| key.starts_with("extraconfig"))
        {
            return Err(Refusal::parameter(
                "'extraconfig' should not be included in details as key",
            ));
        }
        if let Some(row) = self.tables.machines.get_mut(id) {
            if let Some(name) = params.get("displayname") {
                row.displayname = Some(name.to_owned());
            }
            if let Some(name) = params.get("name") {
                row.name = name.to_owned();
            }
            if let Some(ostype) = params.get("ostypeid") {
                row.ostype = Some(ostype.to_owned());
            }
            if let Some(details) = details {
                row.details = details;
            }
        }
        self.tables.revision += 1;
        Ok(json!({"virtualmachine": self.machine_answer(&self.tables, self.machine_row(id)?)}))
    }

    /// Commands that answer with a job.
    pub(super) fn submit(&mut self, now: u64, params: &Params) -> Result<Value, Refusal> {
        let row = params.row;
        let (work, created) = self.work_of(now, params)?;
        let object = created.clone().or_else(|| object_of(&work));
        let instance = (row.instance != "-").then_some(row.instance).zip(object);
        // Contract 8: for creating commands the object's row is made before a duplicate job id is noticed.
        let job = self.add_job(now, row.name, params.get("customjobid"), instance, work)?;
        self.tables.revision += 1;
        let mut answer = Map::new();
        if let Some(id) = created {
            answer.insert("id".to_owned(), json!(id));
        }
        answer.insert("jobid".to_owned(), job);
        Ok(Value::Object(answer))
    }

    fn work_of(&mut self, now: u64, params: &Params) -> Result<(Work, Option<String>), Refusal> {
        let own = |name: &str| params.need(name).map(str::to_owned);
        let work = match params.row.name {
            "createVolume" => return self.new_volume(now, params),
            "createSnapshot" => return self.new_snapshot(now, params),
            "deployVirtualMachine" => return self.new_machine(now, params),
            "createVMSnapshot" => return self.new_vm_snapshot(now, params),
            "deleteVMSnapshot" => self.drop_vm_snapshot(params)?,
            "attachVolume" => self.attach_work(params)?,
            "detachVolume" => self.detach_work(params)?,
            "destroyVolume" => Work::DestroyVolume {
                volume: self.known_volume(params)?,
                expunge: params.flag("expunge").unwrap_or(false),
            },
            "resizeVolume" => Work::Resize {
                volume: self.known_volume(params)?,
                size: self.size_of(params.number("size"))?,
                shrink: params.flag("shrinkok").unwrap_or(false),
            },
            "deleteSnapshot" | "revertSnapshot" => {
                let snapshot = own("id")?;
                self.snapshot_row(&snapshot)?;
                if params.row.name == "deleteSnapshot" {
                    Work::DeleteSnapshot { snapshot }
                } else {
                    Work::Revert { snapshot }
                }
            }
            "createTags" | "deleteTags" => self.tag_work(params)?,
            _ => self.machine_work(params)?,
        };
        Ok((work, None))
    }

    fn known_volume(&self, params: &Params) -> Result<String, Refusal> {
        self.volume_row(params.need("id")?)
            .map(|row| row.id.clone())
    }

    fn attach_work(&self, params: &Params) -> Result<Work, Refusal> {
        let machine = params.need("virtualmachineid")?;
        if self.tables.machine(machine).is_none() {
            return Err(Refusal::absent("virtualmachineid", machine));
        }
        let slot = params.number("deviceid").map(|slot| {
            u32::try_from(slot).map_err(|_| Refusal::parameter("deviceid must not be negative"))
        });
        Ok(Work::Attach {
            volume: self.known_volume(params)?,
            machine: machine.to_owned(),
            slot: slot.transpose()?,
            double: false,
        })
    }

    /// Contract 11: id alone, or deviceid and virtualmachineid.
    fn detach_work(&self, params: &Params) -> Result<Work, Refusal> {
        let row = match (
            params.get("id"),
            params.number("deviceid"),
            params.get("virtualmachineid"),
        ) {
            (Some(id), None, None) => self.volume_row(id)?,
            (None, Some(slot), Some(machine)) => self
                .tables
                .of_machine(machine)
                .find(|row| row.slot.map(i64::from) == Some(slot))
                .ok_or_else(|| {
                    Refusal::parameter(format!(
                        "No volume is attached to {machine} at deviceid {slot}"
                    ))
                })?,
            _ => {
                return Err(Refusal::parameter(
                    "Please provide either a volume id, or a tuple(device id, instance id)",
                ));
            }
        };
        Ok(Work::Detach {
            volume: row.id.clone(),
            machine: row.vm.clone().unwrap_or_default(),
        })
    }

    fn tag_work(&self, params: &Params) -> Result<Work, Refusal> {
        let kind = match params.need("resourcetype")?.to_lowercase().as_str() {
            "volume" => "Volume",
            "uservm" | "virtualmachine" => "UserVm",
            "snapshot" => "Snapshot",
            other => {
                return Err(Refusal::parameter(format!(
                    "Invalid resource type: {other}"
                )));
            }
        };
        let ids: Vec<String> = params
            .list("resourceids")
            .into_iter()
            .map(str::to_owned)
            .collect();
        for id in &ids {
            let there = match kind {
                "Volume" => self.tables.volume(id).is_some(),
                "UserVm" => self.tables.machine(id).is_some(),
                _ => self.tables.snapshot(id).is_some(),
            };
            if !there {
                return Err(Refusal::absent("resourceids", id));
            }
        }
        let (kind, tags) = (kind.to_owned(), params.tags());
        Ok(if params.row.name == "createTags" {
            Work::Tag { kind, ids, tags }
        } else {
            Work::Untag { kind, ids, tags }
        })
    }

    fn machine_work(&self, params: &Params) -> Result<Work, Refusal> {
        let machine = params
            .get("virtualmachineid")
            .or_else(|| params.get("id"))
            .unwrap_or_default()
            .to_owned();
        self.machine_row(&machine)?;
        let text = |name: &str| params.get(name).map(str::to_owned);
        Ok(match params.row.name {
            "startVirtualMachine" => Work::Start { machine },
            "stopVirtualMachine" => Work::Stop { machine },
            "rebootVirtualMachine" => Work::Reboot { machine },
            "destroyVirtualMachine" => {
                let volumes: Vec<String> = params
                    .list("volumeids")
                    .into_iter()
                    .map(str::to_owned)
                    .collect();
                // Contract 11: only data volumes of this machine may be listed.
                for id in &volumes {
                    let row = self.volume_row(id)?;
                    if row.vm.as_deref() != Some(machine.as_str()) || row.root {
                        return Err(Refusal::parameter(format!(
                            "Volume {id} is not a data volume attached to this Instance"
                        )));
                    }
                }
                Work::DestroyMachine {
                    machine,
                    expunge: params.flag("expunge").unwrap_or(false),
                    volumes,
                }
            }
            "expungeVirtualMachine" => Work::Expunge { machine },
            "addNicToVirtualMachine" => {
                let network = params.need("networkid")?.to_owned();
                self.known(&self.site.networks, "networkid", &network)?;
                let (ip, mac) = (text("ipaddress"), text("macaddress"));
                mac.as_deref().map_or(Ok(()), check_mac)?;
                Work::AddNic {
                    machine,
                    network,
                    ip,
                    mac,
                }
            }
            "removeNicFromVirtualMachine" => Work::RemoveNic {
                machine,
                nic: params.need("nicid")?.to_owned(),
            },
            "updateDefaultNicForVirtualMachine" => Work::DefaultNic {
                machine,
                nic: params.need("nicid")?.to_owned(),
            },
            other => return Err(Refusal::unknown_command(other)),
        })
    }

    pub(super) fn known<'a>(
        &self,
        rows: &'a [Value],
        name: &str,
        id: &str,
    ) -> Result<&'a Value, Refusal> {
        site::row(rows, id).ok_or_else(|| Refusal::absent(name, id))
    }

    /// A size in GiB within the limits (contract 11).
    pub(super) fn size_of(&self, gib: Option<i64>) -> Result<u64, Refusal> {
        let max = self.settings.custom_size_max_gib;
        let gib = gib
            .and_then(|size| u64::try_from(size).ok())
            .filter(|size| (1..=max).contains(size));
        gib.map(|size| size * GIB).ok_or_else(|| {
            Refusal::parameter(format!("Volume size: must be between 1 and {max} GB"))
        })
    }

    /// Contract 8: `customid` of a live object gives 431, of a removed one 530.
    pub(super) fn own_id(&mut self, params: &Params) -> Result<String, Refusal> {
        let Some(id) = params.get("customid") else {
            return Ok(self.rng.uuid());
        };
        if !is_uuid(id) {
            return Err(Refusal::parameter(format!(
                "The custom id {id} is not a UUID"
            )));
        }
        if self.tables.volume(id).is_some() || self.tables.machine(id).is_some() {
            return Err(Refusal::parameter(format!(
                "The UUID {id} already exists so can't be used"
            )));
        }
        if self.tables.volumes.contains_key(id) || self.tables.machines.contains_key(id) {
            return Err(Refusal::internal(
                "DB Exception: duplicate entry for key uuid",
            ));
        }
        Ok(id.to_owned())
    }

    /// The offering of a new volume and its size in bytes.
    fn offering_and_size(
        &self,
        params: &Params,
        snapshot: Option<&str>,
    ) -> Result<(String, u64), Refusal> {
        let mut size = None;
        if let Some(id) = snapshot {
            let row = self.snapshot_row(id)?;
            // Contract 14: createVolume from a snapshot demands BackedUp.
            if row.state != "BackedUp" {
                return Err(Refusal::parameter(format!(
                    "Snapshot id={id} is not in BackedUp state yet and can't be used for volume creation"
                )));
            }
            size = Some(row.size);
        } else if params.get("diskofferingid").is_none() {
            return Err(Refusal::parameter(
                "At least one of disk Offering ID or snapshot ID must be passed whilst creating volume",
            ));
        }
        if let Some(zone) = params.get("zoneid") {
            self.known(&self.site.zones, "zoneid", zone)?;
        } else if snapshot.is_none() {
            return Err(Refusal::parameter(
                "zoneid is required to create a volume from a disk offering",
            ));
        }
        let offering = params.get("diskofferingid").map_or_else(
            || site::id_text(&self.site.disk_offerings[0]["id"]),
            str::to_owned,
        );
        let row = self.known(&self.site.disk_offerings, "diskofferingid", &offering)?;
        let custom = row["iscustomized"] == json!(true);
        let fixed = row["disksize"].as_u64().unwrap_or(0) * GIB;
        // Contract 7, createVolume: size and offering disagree.
        let size = match (size, custom, params.number("size")) {
            (Some(size), ..) => size,
            (None, true, None) => {
                return Err(Refusal::parameter(
                    "This disk offering requires a custom size specified",
                ));
            }
            (None, false, Some(_)) => {
                return Err(Refusal::parameter(
                    "This disk offering does not allow custom size",
                ));
            }
            (None, true, wanted) => self.size_of(wanted)?,
            (None, false, None) => fixed,
        };
        Ok((offering, size))
    }

    fn new_volume(&mut self, now: u64, params: &Params) -> Result<(Work, Option<String>), Refusal> {
        let live = self
            .tables
            .volumes
            .values()
            .filter(|row| !row.removed)
            .count();
        if live >= self.settings.volumes_max {
            return Err(Refusal::quota(
                "Maximum number of resources of type 'volume' for account has been exceeded.",
            ));
        }
        let snapshot = params.get("snapshotid").map(str::to_owned);
        let (offering, size) = self.offering_and_size(params, snapshot.as_deref())?;
        let placed_by = params
            .get("storageid")
            .map(|id| self.known(&self.site.pools, "storageid", id))
            .transpose()?
            .is_some();
        let id = self.own_id(params)?;
        let seq = self.tables.next_seq();
        let volume = Volume {
            id: id.clone(),
            name: params
                .get("name")
                .map_or_else(|| format!("DATA-{seq}"), str::to_owned),
            size,
            state: "Allocated",
            offering,
            created: now,
            snapshot: snapshot.clone(),
            seq,
            ..Volume::default()
        };
        self.tables.volumes.insert(id.clone(), volume);
        let work = if placed_by || snapshot.is_some() {
            Work::CreateVolume { volume: id.clone() }
        } else {
            // Contract 5, 11: a record only; the job succeeds and the disk does not exist.
            Work::RecordVolume { volume: id.clone() }
        };
        Ok((work, Some(id)))
    }

    fn new_snapshot(
        &mut self,
        now: u64,
        params: &Params,
    ) -> Result<(Work, Option<String>), Refusal> {
        let volume = params.need("volumeid")?;
        let row = self
            .tables
            .volume(volume)
            .ok_or_else(|| Refusal::absent("volumeid", volume))?;
        let (volume, size, name) = (row.id.clone(), row.size, row.name.clone());
        let id = self.rng.uuid();
        let seq = self.tables.next_seq();
        let name = params
            .get("name")
            .map_or_else(|| format!("{name}_{seq}"), str::to_owned);
        let snapshot = Snapshot {
            id: id.clone(),
            name,
            volume,
            state: "Allocated",
            size,
            created: now,
            removed: false,
            seq,
        };
        self.tables.snapshots.insert(id.clone(), snapshot);
        let tags = params.tags();
        if !tags.is_empty() {
            self.tables.tags.insert(
                ("Snapshot".to_owned(), id.clone()),
                tags.into_iter().collect(),
            );
        }
        Ok((
            Work::TakeSnapshot {
                snapshot: id.clone(),
            },
            Some(id),
        ))
    }
}

/// The object that a job is about, where the command did not make it.
fn object_of(work: &Work) -> Option<String> {
    match work {
        Work::Attach { volume, .. }
        | Work::Detach { volume, .. }
        | Work::DestroyVolume { volume, .. }
        | Work::Resize { volume, .. } => Some(volume.clone()),
        Work::DropVmSnapshot { snapshot, .. } => Some(snapshot.clone()),
        Work::DeleteSnapshot { snapshot } | Work::Revert { snapshot } => Some(snapshot.clone()),
        Work::Start { machine }
        | Work::Stop { machine }
        | Work::Reboot { machine }
        | Work::DestroyMachine { machine, .. }
        | Work::Expunge { machine }
        | Work::AddNic { machine, .. }
        | Work::RemoveNic { machine, .. }
        | Work::DefaultNic { machine, .. } => Some(machine.clone()),
        _ => None,
    }
}
