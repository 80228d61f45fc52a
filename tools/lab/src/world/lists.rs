//! Lists: filters, paging and the limits of a page (contract 6).

use super::World;
use super::tables::Tables;
use crate::params::Params;
use crate::refusal::Refusal;
use crate::site::id_text;
use crate::table;
use serde_json::{Value, json};

impl World {
    pub(super) fn list(&self, now: u64, params: &Params) -> Result<Value, Refusal> {
        let site = &self.site;
        let rows = match params.row.name {
            "listCapabilities" => return Ok(self.capabilities()),
            "listVolumes" => self.volumes(params),
            "listVirtualMachines" => self.machines(params),
            "listSnapshots" => self.snapshots(params),
            "listAsyncJobs" => self
                .jobs
                .open()
                .map(|job| job.answer(&site.accounts[0]["id"]))
                .collect(),
            "listVMSnapshot" => self.vm_snapshots(params),
            "listDomains" => self.domains(params),
            "listTags" => self.tags(params),
            "listApis" => apis(params),
            "listConfigurations" => self.configurations(params),
            "listZones" => pick(&site.zones, params),
            "listDiskOfferings" => pick(&site.disk_offerings, params),
            "listServiceOfferings" => pick(&site.service_offerings, params),
            "listNetworks" => pick(&site.networks, params),
            "listTemplates" => pick(&site.templates, params),
            "listOsTypes" => pick(&site.os_types, params),
            "listStoragePools" => pick(&site.pools, params),
            "listHosts" => pick(&site.hosts, params),
            "listAccounts" => pick(&site.accounts, params),
            "listHypervisorCapabilities" => {
                let mut rows = pick(&site.hypervisors, params);
                rows.iter_mut().for_each(|row| {
                    row["maxdatavolumeslimit"] = json!(self.settings.data_volumes_max);
                });
                rows
            }
            other => return Err(Refusal::unknown_command(other)),
        };
        let _ = now;
        self.page(params, rows)
    }

    fn page(&self, params: &Params, rows: Vec<Value>) -> Result<Value, Refusal> {
        let max = self.settings.page_size_max;
        let count = rows.len();
        if params.flag("retrieveonlyresourcecount") == Some(true) {
            return Ok(json!({ "count": count }));
        }
        let (skip, take) = match (params.number("page"), params.number("pagesize")) {
            (None, None) => (0, max),
            (None, Some(-1)) => (0, count),
            (Some(page), Some(size)) if page >= 1 && size >= 1 => {
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                if size > max {
                    return Err(Refusal::parameter(format!(
                        "Page size can not exceed max allowed page size {max}"
                    )));
                }
                ((usize::try_from(page).unwrap_or(1) - 1) * size, size)
            }
            _ => {
                return Err(Refusal::parameter(
                    "\"page\" parameter has to be specified along with \"pagesize\" parameter",
                ));
            }
        };
        // Contract 4: empty without count and array; past the end: count without array.
        if count == 0 {
            return Ok(json!({}));
        }
        let page: Vec<Value> = rows.into_iter().skip(skip).take(take).collect();
        if page.is_empty() {
            return Ok(json!({ "count": count }));
        }
        Ok(json!({ "count": count, params.row.key: page }))
    }

    fn volumes(&self, params: &Params) -> Vec<Value> {
        let tables = self.listed();
        let vm = params.get("virtualmachineid");
        let mut rows: Vec<_> = tables.volumes.values().filter(|row| !row.removed).collect();
        rows.sort_by_key(|row| row.seq);
        rows.into_iter()
            .filter(|row| vm.is_none_or(|id| row.vm.as_deref() == Some(id)))
            .filter(|row| wanted(&row.id, &row.name, params))
            .filter(|row| has_tags(tables, "Volume", &row.id, params))
            .map(|row| self.volume_answer(tables, row))
            .filter(|row| matches(row, params, &["type", "state", "diskofferingid"]))
            .collect()
    }

    fn machines(&self, params: &Params) -> Vec<Value> {
        let tables = self.listed();
        let mut rows: Vec<_> = tables
            .machines
            .values()
            .filter(|row| !row.removed)
            .collect();
        rows.sort_by_key(|row| row.seq);
        rows.into_iter()
            .filter(|row| {
                params
                    .get("networkid")
                    .is_none_or(|id| row.nics.iter().any(|nic| nic.network == id))
            })
            .filter(|row| wanted(&row.id, &row.name, params))
            .filter(|row| has_tags(tables, "UserVm", &row.id, params))
            .map(|row| self.machine_answer(tables, row))
            .filter(|row| matches(row, params, &["state", "templateid", "serviceofferingid"]))
            .collect()
    }

    fn snapshots(&self, params: &Params) -> Vec<Value> {
        let tables = self.listed();
        let mut rows: Vec<_> = tables
            .snapshots
            .values()
            .filter(|row| !row.removed)
            .collect();
        rows.sort_by_key(|row| row.seq);
        rows.into_iter()
            .filter(|row| wanted(&row.id, &row.name, params))
            .filter(|row| has_tags(tables, "Snapshot", &row.id, params))
            .map(|row| self.snapshot_answer(tables, row))
            .filter(|row| matches(row, params, &["volumeid", "snapshottype", "intervaltype"]))
            .collect()
    }

    fn tags(&self, params: &Params) -> Vec<Value> {
        let tables = self.listed();
        let all = tables.tags.iter().flat_map(|((kind, id), held)| {
            held.iter().map(move |(key, value)| json!({"resourcetype": kind, "resourceid": id, "key": key, "value": value}))
        });
        all.filter(|row| matches(row, params, &["resourcetype", "resourceid", "key", "value"]))
            .collect()
    }

    fn capabilities(&self) -> Value {
        json!({"capability": {
            "cloudstackversion": "4.22.1.0", "securitygroupsenabled": false, "dynamicrolesenabled": true,
            "userpublictemplateenabled": true, "kvmsnapshotenabled": self.settings.kvm_snapshots,
            "customdiskofferingminsize": 1, "customdiskofferingmaxsize": self.settings.custom_size_max_gib,
            "allowuserviewdestroyedvm": true, "allowuserexpungerecovervm": true, "allowuserexpungerecovervolume": true,
            "supportELB": "false", "defaultuipagesize": 20,
        }})
    }

    fn configurations(&self, params: &Params) -> Vec<Value> {
        let settings = &self.settings;
        let all = [
            (
                "custom.diskoffering.size.max",
                settings.custom_size_max_gib.to_string(),
            ),
            ("storage.max.volume.size", "2000".to_owned()),
            ("default.page.size", settings.page_size_max.to_string()),
            (
                "job.expire.minutes",
                (settings.job_expire_ms / 60_000).to_string(),
            ),
            ("wait.detach.device", settings.detach_wait_ms.to_string()),
            ("kvm.snapshot.enabled", settings.kvm_snapshots.to_string()),
            ("expunge.delay", "86400".to_owned()),
            (
                "enforce.post.requests.and.timestamps",
                settings.enforce.to_string(),
            ),
        ];
        let rows =
            all.map(|(name, value)| json!({"name": name, "value": value, "category": "Advanced"}));
        rows.into_iter()
            .filter(|row| matches(row, params, &[]))
            .collect()
    }
}

fn apis(params: &Params) -> Vec<Value> {
    table::all()
        .map(|row| {
            let names: Vec<Value> = row.parameters.iter().map(|(name, p)| json!({"name": name, "type": p.kind, "required": p.required})).collect();
            json!({"name": row.name, "isasync": row.dispatch != table::Dispatch::Sync, "params": names})
        })
        .filter(|row| matches(row, params, &[]))
        .collect()
}

fn pick(rows: &[Value], params: &Params) -> Vec<Value> {
    rows.iter()
        .filter(|row| {
            matches(
                row,
                params,
                &["hypervisor", "type", "canusefordeploy", "description"],
            )
        })
        .cloned()
        .collect()
}

/// Whether a row may be the one that was asked for, before it is written out.
fn wanted(id: &str, name: &str, params: &Params) -> bool {
    params
        .get("id")
        .is_none_or(|only| only.eq_ignore_ascii_case(id))
        && params
            .get("name")
            .is_none_or(|only| only.eq_ignore_ascii_case(name))
}

fn has_tags(tables: &Tables, kind: &str, id: &str, params: &Params) -> bool {
    params.tags().iter().all(|(key, value)| {
        tables
            .tags_of(kind, id)
            .is_some_and(|held| held.get(key) == Some(value))
    })
}

/// Whether a row fits the filters that all lists have, and those of `fields` that were given.
fn matches(row: &Value, params: &Params, fields: &[&str]) -> bool {
    let same = |field: &str| {
        params.get(field).is_none_or(|wanted| {
            row.get(field)
                .is_some_and(|held| id_text(held).eq_ignore_ascii_case(wanted))
        })
    };
    let ids = params.list("ids");
    let text = |field: &str| row[field].as_str().unwrap_or_default();
    same("id")
        && same("name")
        && (row.get("zoneid").is_none() || same("zoneid"))
        && (ids.is_empty() || ids.contains(&id_text(&row["id"]).as_str()))
        && params
            .get("keyword")
            .is_none_or(|word| text("name").contains(word) || text("displayname").contains(word))
        && fields.iter().all(|field| same(field))
}
