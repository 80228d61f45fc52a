//! Rows as CloudStack shows them. Fields that are null are left out (contract 4).

use super::World;
use super::tables::{Machine, Snapshot, Tables, Volume};
use crate::site;
use crate::time;
use serde_json::{Value, json};

impl World {
    fn owner(&self, row: &mut Value) {
        let account = &self.site.accounts[0];
        row["account"] = account["name"].clone();
        row["domainid"] = account["domainid"].clone();
        row["domain"] = account["domain"].clone();
        row["zoneid"] = self.site.zones[0]["id"].clone();
        row["zonename"] = self.site.zones[0]["name"].clone();
    }

    fn tags_answer(&self, tables: &Tables, kind: &str, id: &str) -> Value {
        let held = tables.tags_of(kind, id).into_iter().flatten();
        held.map(|(key, value)| json!({"key": key, "value": value, "resourcetype": kind, "resourceid": id, "account": self.site.accounts[0]["name"]}))
            .collect()
    }

    pub(super) fn volume_answer(&self, tables: &Tables, row: &Volume) -> Value {
        let mut answer = json!({
            "id": row.id, "name": row.name, "size": row.size, "state": row.state, "created": time::text(row.created),
            "type": if row.root { "ROOT" } else { "DATADISK" }, "storagetype": "shared", "hypervisor": "KVM",
            "provisioningtype": "thin", "displayvolume": true, "destroyed": row.state == "Destroy", "isextractable": true,
            "tags": self.tags_answer(tables, "Volume", &row.id),
        });
        self.owner(&mut answer);
        if let Some(offering) = site::row(&self.site.disk_offerings, &row.offering) {
            answer["diskofferingid"] = offering["id"].clone();
            answer["diskofferingname"] = offering["name"].clone();
        }
        // Contract 11: no pool before the disk is made.
        if row.placed {
            answer["storageid"] = self.site.pools[0]["id"].clone();
            answer["storage"] = self.site.pools[0]["name"].clone();
            answer["path"] = json!(row.id);
        }
        if let Some(machine) = row.vm.as_deref().and_then(|id| tables.machine(id)) {
            answer["virtualmachineid"] = json!(machine.id);
            answer["vmname"] = json!(machine.name);
            answer["vmdisplayname"] = json!(machine.displayname.as_ref().unwrap_or(&machine.name));
            answer["vmstate"] = json!(machine.state);
            answer["deviceid"] = json!(row.slot);
        }
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                answer[name] = value;
            }
        };
        put("attached", row.attached.map(|at| json!(time::text(at))));
        put("snapshotid", row.snapshot.as_ref().map(|id| json!(id)));
        put(
            "templateid",
            row.template
                .as_deref()
                .and_then(|id| Some(site::row(&self.site.templates, id)?["id"].clone())),
        );
        answer
    }

    pub(super) fn machine_answer(&self, tables: &Tables, row: &Machine) -> Value {
        let mut answer = json!({
            "id": row.id, "name": row.name, "displayname": row.displayname.as_ref().unwrap_or(&row.name), "state": row.state,
            "created": time::text(row.created), "hypervisor": "KVM", "haenable": false, "instancename": format!("i-2-{}-VM", row.seq),
            "displayvm": true, "details": row.details, "nic": self.nics_answer(row), "tags": self.tags_answer(tables, "UserVm", &row.id),
            "rootdevicetype": "ROOT", "passwordenabled": false, "affinitygroup": [], "securitygroup": [],
        });
        self.owner(&mut answer);
        if let Some(offering) = site::row(&self.site.service_offerings, &row.offering) {
            answer["serviceofferingid"] = offering["id"].clone();
            answer["serviceofferingname"] = offering["name"].clone();
            let number = |field: &str, detail: &str| {
                row.details
                    .get(detail)
                    .and_then(|text| text.parse().ok())
                    .or_else(|| offering[field].as_u64())
                    .unwrap_or(0)
            };
            answer["cpunumber"] = json!(number("cpunumber", "cpuNumber"));
            answer["memory"] = json!(number("memory", "memory"));
        }
        if let Some(template) = row
            .template
            .as_deref()
            .and_then(|id| site::row(&self.site.templates, id))
        {
            answer["templateid"] = template["id"].clone();
            answer["templatename"] = template["name"].clone();
        }
        if let Some(ostype) = row
            .ostype
            .as_deref()
            .and_then(|id| site::row(&self.site.os_types, id))
        {
            answer["ostypeid"] = ostype["id"].clone();
            answer["osdisplayname"] = ostype["description"].clone();
        }
        if row.state == "Running" {
            answer["hostid"] = self.site.hosts[0]["id"].clone();
            answer["hostname"] = self.site.hosts[0]["name"].clone();
        }
        // Contract 10: stored as detail UEFI, shown as boottype and bootmode.
        answer["boottype"] = json!(if row.details.contains_key("UEFI") {
            "UEFI"
        } else {
            "BIOS"
        });
        answer["bootmode"] = json!(row.details.get("UEFI").map_or("LEGACY", String::as_str));
        answer
    }

    fn nics_answer(&self, machine: &Machine) -> Value {
        let nics = machine.nics.iter().enumerate();
        nics.map(|(index, nic)| {
            let network = site::row(&self.site.networks, &nic.network);
            let field = |name: &str| network.map_or(Value::Null, |row| row[name].clone());
            json!({
                "id": nic.id, "networkid": field("id"), "networkname": field("name"), "netmask": field("netmask"), "gateway": field("gateway"),
                "ipaddress": nic.ip, "macaddress": nic.mac, "isdefault": index == 0, "traffictype": "Guest", "type": "Isolated",
                "deviceid": index.to_string(),
            })
        })
        .collect()
    }

    pub(super) fn snapshot_answer(&self, tables: &Tables, row: &Snapshot) -> Value {
        let mut answer = json!({
            "id": row.id, "name": row.name, "volumeid": row.volume, "state": row.state, "snapshottype": "MANUAL", "intervaltype": "MANUAL",
            "created": time::text(row.created), "virtualsize": row.size, "physicalsize": row.size, "revertable": row.state == "BackedUp",
            "locationtype": "PRIMARY", "tags": self.tags_answer(tables, "Snapshot", &row.id),
        });
        self.owner(&mut answer);
        if let Some(volume) = tables.volumes.get(&row.volume) {
            answer["volumename"] = json!(volume.name);
            answer["volumetype"] = json!(if volume.root { "ROOT" } else { "DATADISK" });
            answer["volumestate"] = json!(volume.state);
        }
        answer
    }
}
