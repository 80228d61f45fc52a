//! New machines: firmware, names, NICs (contract 10).

use super::World;
use super::calls::GIB;
use super::jobs::Work;
use super::tables::{Machine, Nic, Volume};
use crate::params::Params;
use crate::refusal::Refusal;
use crate::site;
use serde_json::json;
use std::collections::BTreeMap;

impl World {
    pub(super) fn new_machine(
        &mut self,
        now: u64,
        params: &Params,
    ) -> Result<(Work, Option<String>), Refusal> {
        self.known(&self.site.zones, "zoneid", params.need("zoneid")?)?;
        let offering = params.need("serviceofferingid")?.to_owned();
        let custom = self.known(&self.site.service_offerings, "serviceofferingid", &offering)?["iscustomized"]
            == json!(true);
        let template = params.need("templateid")?.to_owned();
        self.known(&self.site.templates, "templateid", &template)?;
        let details = deploy_details(params, custom)?;
        if let Some(name) = params.get("name") {
            check_host_name(name)?;
        }
        let nics = self.deploy_nics(params)?;
        let root_offering = params.get("diskofferingid").map_or_else(
            || site::id_text(&self.site.disk_offerings[0]["id"]),
            str::to_owned,
        );
        self.known(&self.site.disk_offerings, "diskofferingid", &root_offering)?;
        let size = details
            .get("rootdisksize")
            .and_then(|gib| gib.parse().ok())
            .or_else(|| {
                params
                    .number("rootdisksize")
                    .or_else(|| params.number("size"))
            });
        let size = size.map_or(Ok(GIB), |gib| self.size_of(Some(gib)))?;
        let id = self.own_id(params)?;
        let root = self.rng.uuid();
        let seq = self.tables.next_seq();
        let name = params
            .get("name")
            .map_or_else(|| format!("VM-{id}"), str::to_owned);
        let machine = Machine {
            id: id.clone(),
            name,
            displayname: params.get("displayname").map(str::to_owned),
            state: "Stopped",
            offering,
            template: Some(template.clone()),
            details,
            nics,
            created: now,
            seq,
            ..Machine::default()
        };
        self.tables.machines.insert(id.clone(), machine);
        // Contract 10: an Allocated root volume without a pool.
        let volume = Volume {
            id: root.clone(),
            name: format!("ROOT-{seq}"),
            size,
            state: "Allocated",
            root: true,
            vm: Some(id.clone()),
            slot: Some(0),
            offering: root_offering,
            created: now,
            template: Some(template),
            seq,
            ..Volume::default()
        };
        self.tables.volumes.insert(root, volume);
        let start = params.flag("startvm").unwrap_or(true);
        Ok((
            Work::Deploy {
                machine: id.clone(),
                start,
            },
            Some(id),
        ))
    }

    /// Contract 10: either networkids or iptonetworklist; entries are kept by network, so that two on one collapse.
    fn deploy_nics(&mut self, params: &Params) -> Result<Vec<Nic>, Refusal> {
        let entries: Vec<BTreeMap<String, String>> =
            params.map("iptonetworklist").cloned().collect();
        let ids = params.list("networkids");
        if !entries.is_empty() && !ids.is_empty() {
            return Err(Refusal::parameter(
                "ipToNetworkMap can't be specified along with networkIds or ipAddress",
            ));
        }
        let mut wanted: Vec<(String, Option<String>, Option<String>)> = Vec::new();
        for entry in &entries {
            let network = entry.get("networkid").cloned().unwrap_or_default();
            wanted.retain(|(known, ..)| *known != network);
            wanted.push((network, entry.get("ip").cloned(), entry.get("mac").cloned()));
        }
        for (index, id) in ids.into_iter().enumerate() {
            let first = |name: &str| {
                (index == 0)
                    .then(|| params.get(name).map(str::to_owned))
                    .flatten()
            };
            wanted.push((id.to_owned(), first("ipaddress"), first("macaddress")));
        }
        if wanted.is_empty() {
            wanted.push((site::id_text(&self.site.networks[0]["id"]), None, None));
        }
        let mut nics = Vec::new();
        for (network, ip, mac) in wanted {
            self.known(&self.site.networks, "networkid", &network)?;
            mac.as_deref().map_or(Ok(()), check_mac)?;
            nics.push(self.new_nic(&network, ip.as_deref(), mac.as_deref()));
        }
        Ok(nics)
    }

    pub(super) fn new_nic(&mut self, network: &str, ip: Option<&str>, mac: Option<&str>) -> Nic {
        let number = self.rng.next();
        let gateway = site::row(&self.site.networks, network)
            .and_then(|row| row["gateway"].as_str())
            .unwrap_or("10.1.1.1");
        let prefix = gateway
            .rsplit_once('.')
            .map_or("10.1.1", |(prefix, _)| prefix);
        let bytes = number.to_be_bytes();
        Nic {
            id: self.rng.uuid(),
            network: network.to_owned(),
            ip: ip.map_or_else(|| format!("{prefix}.{}", 10 + number % 240), str::to_owned),
            mac: mac.map_or_else(
                || {
                    format!(
                        "02:01:{:02x}:{:02x}:{:02x}:{:02x}",
                        bytes[0], bytes[1], bytes[2], bytes[3]
                    )
                },
                str::to_lowercase,
            ),
        }
    }
}

/// Contract 10: firmware and custom offerings.
fn deploy_details(params: &Params, custom: bool) -> Result<BTreeMap<String, String>, Refusal> {
    let mut details: BTreeMap<String, String> = params
        .map("details")
        .flat_map(BTreeMap::iter)
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    match (params.get("boottype"), params.get("bootmode")) {
        (Some("UEFI"), None) => {
            return Err(Refusal::parameter(
                "bootmode must be specified with boottype UEFI",
            ));
        }
        (Some("UEFI"), Some(mode)) => drop(details.insert("UEFI".to_owned(), mode.to_owned())),
        // Contract 10: BIOS without bootmode crashes in every release scanned.
        (Some("BIOS"), None) => return Err(Refusal::internal("null")),
        (None, Some(_)) => return Err(Refusal::parameter("bootmode needs boottype")),
        (None | Some("BIOS"), _) => {}
        (Some(other), _) => return Err(Refusal::parameter(format!("Invalid boot type {other}"))),
    }
    let sized = details
        .keys()
        .any(|key| key == "cpuNumber" || key == "memory");
    match (custom, sized) {
        (true, false) => Err(Refusal::parameter(
            "Need to specify custom parameter values cpu, cpu speed and memory when using custom offering",
        )),
        (false, true) => Err(Refusal::parameter(
            "cpuNumber, cpuSpeed and memory can be given for custom offerings only",
        )),
        _ => Ok(details),
    }
}

/// Contract 10: 1 to 63 of letters, digits, hyphen; no leading digit or hyphen, no trailing hyphen.
pub(super) fn check_host_name(name: &str) -> Result<(), Refusal> {
    let letters = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let edges = name.starts_with(|c: char| c.is_ascii_alphabetic()) && !name.ends_with('-');
    if letters && edges && name.len() <= 63 {
        return Ok(());
    }
    Err(Refusal::parameter(
        "Invalid name. Instance name can contain ASCII letters 'a' through 'z', the digits '0' through '9', and the hyphen ('-'), must be between 1 and 63 characters long, and can't start or end with \"-\" and can't start with digit",
    ))
}

/// Contract 10: a MAC must be unicast.
pub(super) fn check_mac(mac: &str) -> Result<(), Refusal> {
    let bytes: Option<Vec<u8>> = mac
        .split(':')
        .map(|part| {
            (part.len() == 2)
                .then(|| u8::from_str_radix(part, 16).ok())
                .flatten()
        })
        .collect();
    match bytes {
        Some(bytes) if bytes.len() == 6 && bytes[0] & 1 == 0 => Ok(()),
        _ => Err(Refusal::parameter(format!(
            "Mac address is not unicast or not valid: {mac}"
        ))),
    }
}
