//! The things of a site that do not change: one zone, one account, offerings, networks, templates.

use crate::seeded::Seeded;
use crate::settings::Identifiers;
use serde_json::{Value, json};

/// A custom-size disk offering, one of a fixed size, and so on: rows as CloudStack lists them.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) zones: Vec<Value>,
    pub(crate) disk_offerings: Vec<Value>,
    pub(crate) service_offerings: Vec<Value>,
    pub(crate) networks: Vec<Value>,
    pub(crate) templates: Vec<Value>,
    pub(crate) os_types: Vec<Value>,
    pub(crate) pools: Vec<Value>,
    pub(crate) hosts: Vec<Value>,
    pub(crate) accounts: Vec<Value>,
    pub(crate) hypervisors: Vec<Value>,
}

/// An id as text, whether it was written as text or as number.
pub(crate) fn id_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The row with this id.
pub(crate) fn row<'a>(rows: &'a [Value], id: &str) -> Option<&'a Value> {
    rows.iter().find(|row| id_text(&row["id"]) == id)
}

impl Site {
    pub(crate) fn new(rng: &mut Seeded, identifiers: Identifiers) -> Site {
        let mut count = 0;
        let mut id = || {
            count += 1;
            match identifiers {
                Identifiers::Text => Value::String(rng.uuid()),
                Identifiers::Number => Value::from(count),
            }
        };
        let zone = id();
        let (account, domain) = (id(), id());
        let placed = |mut row: Value| {
            row["zoneid"] = zone.clone();
            row["zonename"] = json!("lab-zone");
            row
        };
        let owned = |mut row: Value| {
            row["account"] = json!("migrate");
            row["domainid"] = domain.clone();
            row["domain"] = json!("ROOT");
            row
        };
        Site {
            zones: vec![json!({"id": zone, "name": "lab-zone", "networktype": "Advanced", "allocationstate": "Enabled",
                "securitygroupsenabled": false, "localstorageenabled": false})],
            disk_offerings: vec![
                json!({"id": id(), "name": "custom", "displaytext": "custom size", "iscustomized": true, "disksize": 0,
                    "storagetype": "shared", "provisioningtype": "thin", "state": "Active"}),
                json!({"id": id(), "name": "fixed-1", "displaytext": "1 GiB", "iscustomized": false, "disksize": 1,
                    "storagetype": "shared", "provisioningtype": "thin", "state": "Active"}),
            ],
            service_offerings: vec![
                json!({"id": id(), "name": "small", "displaytext": "1 core, 512 MiB", "cpunumber": 1, "cpuspeed": 1000,
                    "memory": 512, "iscustomized": false, "storagetype": "shared", "state": "Active"}),
                json!({"id": id(), "name": "custom", "displaytext": "custom", "iscustomized": true,
                    "storagetype": "shared", "state": "Active"}),
            ],
            networks: [("lab-net", "10.1.1"), ("lab-test-net", "10.1.2")]
                .into_iter()
                .map(|(name, prefix)| {
                    owned(placed(json!({"id": id(), "name": name, "displaytext": name, "traffictype": "Guest",
                        "type": "Isolated", "state": "Implemented", "gateway": format!("{prefix}.1"),
                        "netmask": "255.255.255.0", "cidr": format!("{prefix}.0/24"), "canusefordeploy": true})))
                })
                .collect(),
            templates: vec![owned(placed(json!({"id": id(), "name": "lab-shell", "displaytext": "an empty shell",
                "isready": true, "format": "RAW", "hypervisor": "KVM", "size": 1u64 << 30, "templatetype": "USER",
                "status": "Download Complete", "passwordenabled": false})))],
            os_types: ["Other PV (64-bit)", "Other PV Virtio-SCSI (64-bit)", "Windows Server 2022 (64-bit)"]
                .into_iter()
                .map(|name| json!({"id": id(), "description": name, "name": name, "isuserdefined": false}))
                .collect(),
            pools: vec![placed(json!({"id": id(), "name": "lab-pool", "type": "Linstor", "state": "Up", "scope": "ZONE",
                "hypervisor": "KVM", "managed": false, "disksizetotal": 1u64 << 44, "disksizeused": 0,
                "disksizeallocated": 0}))],
            hosts: vec![placed(json!({"id": id(), "name": "lab-host", "type": "Routing", "state": "Up",
                "resourcestate": "Enabled", "hypervisor": "KVM", "ueficapability": true}))],
            accounts: vec![json!({"id": account, "name": "migrate", "accounttype": 1, "roletype": "Admin",
                "rolename": "Root Admin", "domainid": domain, "domain": "ROOT", "state": "enabled"})],
            hypervisors: vec![json!({"id": id(), "hypervisor": "KVM", "hypervisorversion": "default",
                "maxdatavolumeslimit": 32, "maxguestslimit": 50, "vmsnapshotenabled": true})],
        }
    }
}
