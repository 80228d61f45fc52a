//! The state machine: volumes, machines, snapshots, jobs. Calls and the time go in, answers come out; disks and machines
//! are reached through [`Hardware`], which a test may replace by nothing.

mod answers;
mod begin;
mod calls;
mod deploy;
mod finish;
mod jobs;
mod lists;
mod operator;
mod tables;
mod vm_snapshots;

pub use operator::Restart;

use crate::faults::{self, Armed, Fault, Place};
use crate::hardware::{Content, Hardware};
use crate::params::Params;
use crate::refusal::Refusal;
use crate::seeded::Seeded;
use crate::settings::{Identifiers, Settings};
use crate::site::Site;
use crate::table;
use jobs::Jobs;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use tables::{Machine, Nic, Tables, Volume};

/// What goes back over the wire.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Json {
        status: u16,
        body: Value,
    },
    /// What something in front of CloudStack says.
    Proxy {
        status: u16,
    },
    /// Nothing: the connection ends.
    Lost,
}

/// Something that happens later without a job.
#[derive(Clone, Debug)]
pub(crate) enum Errand {
    /// The work of a job whose record has already failed.
    Work(jobs::Work),
    /// A device that appears late.
    Plug(String),
}

/// The whole of the lab's CloudStack.
pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) faults: Vec<Armed>,
    site: Site,
    identifiers: Identifiers,
    tables: Tables,
    jobs: Jobs,
    errands: Vec<(u64, Errand)>,
    /// Earlier tables with the time from which they held, for stale lists.
    history: VecDeque<(u64, Tables)>,
    rng: Seeded,
    appliance: String,
}

impl World {
    pub(crate) fn new(seed: u64, identifiers: Identifiers, settings: Settings, now: u64) -> World {
        let mut rng = Seeded::new(seed);
        let site = Site::new(&mut rng, identifiers);
        let mut world = World {
            settings,
            faults: Vec::new(),
            site,
            identifiers,
            tables: Tables::default(),
            jobs: Jobs::default(),
            errands: Vec::new(),
            history: VecDeque::new(),
            rng,
            appliance: String::new(),
        };
        world.appliance = world.new_appliance(now);
        world
    }

    /// A running machine with a root volume, a NIC, and nothing else.
    fn new_appliance(&mut self, now: u64) -> String {
        let id = self.rng.uuid();
        let root = self.rng.uuid();
        let nic = Nic {
            id: self.rng.uuid(),
            network: crate::site::id_text(&self.site.networks[0]["id"]),
            ip: "10.1.1.2".to_owned(),
            mac: "02:00:00:00:00:02".to_owned(),
        };
        let seq = self.tables.next_seq();
        self.tables.machines.insert(
            id.clone(),
            Machine {
                id: id.clone(),
                name: "appliance".to_owned(),
                state: "Running",
                offering: crate::site::id_text(&self.site.service_offerings[0]["id"]),
                template: Some(crate::site::id_text(&self.site.templates[0]["id"])),
                nics: vec![nic],
                created: now,
                seq,
                ..Machine::default()
            },
        );
        let seq = self.tables.next_seq();
        self.tables.volumes.insert(
            root.clone(),
            Volume {
                id: root.clone(),
                name: "ROOT-appliance".to_owned(),
                size: 1 << 30,
                state: "Ready",
                root: true,
                vm: Some(id.clone()),
                slot: Some(0),
                offering: crate::site::id_text(&self.site.disk_offerings[0]["id"]),
                created: now,
                placed: true,
                seq,
                ..Volume::default()
            },
        );
        id
    }

    pub(crate) fn appliance(&self) -> &str {
        &self.appliance
    }

    pub(crate) fn site(&self) -> &Site {
        &self.site
    }

    /// One call whose signature has been checked.
    pub(crate) fn call(
        &mut self,
        now: u64,
        pairs: &[(String, String)],
        hardware: &mut dyn Hardware,
    ) -> Reply {
        self.tick(now, hardware);
        let command = pairs
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("command"))
            .map_or("", |(_, value)| value.as_str());
        let fault = faults::take(&mut self.faults, Place::Call, command);
        match fault {
            Some(Fault::LostRequest) => return Reply::Lost,
            Some(Fault::Status { code }) => return struck(command, code),
            _ => {}
        }
        let reply = match self.carry_out(now, command, pairs, hardware) {
            Ok(body) => Reply::Json { status: 200, body },
            Err(refusal) => refused(command, &refusal),
        };
        self.tick(now, hardware);
        if fault.is_some() { Reply::Lost } else { reply }
    }

    fn carry_out(
        &mut self,
        now: u64,
        command: &str,
        pairs: &[(String, String)],
        hardware: &mut dyn Hardware,
    ) -> Result<Value, Refusal> {
        let row = table::find(command).ok_or_else(|| Refusal::unknown_command(command))?;
        let params = Params::new(row, pairs, self.settings.strict)?;
        let answer = match row.dispatch {
            table::Dispatch::Sync => self.answer_now(now, &params, hardware)?,
            _ => self.submit(now, &params)?,
        };
        Ok(json!({ row.wrapper: answer }))
    }

    /// Lets everything happen that is due at `now`.
    pub(crate) fn tick(&mut self, now: u64, hardware: &mut dyn Hardware) {
        loop {
            let moved = self.run_errands(now, hardware) | self.run_jobs(now, hardware);
            if !moved {
                break;
            }
        }
        self.jobs.expire(now, self.settings.job_expire_ms);
        self.remember(now);
    }

    fn run_errands(&mut self, now: u64, hardware: &mut dyn Hardware) -> bool {
        let (due, later) = std::mem::take(&mut self.errands)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.errands = later;
        let moved = !Vec::is_empty(&due);
        for (_, errand) in due {
            match errand {
                // Its job has failed long ago: there is nobody left to tell.
                Errand::Work(work) => {
                    if let Err(finish::Undone::Busy) = self.finish(now, &work, true, hardware) {
                        self.errands.push((now + 100, Errand::Work(work)));
                    }
                }
                Errand::Plug(volume) => drop(self.plug(&volume, hardware)),
            }
        }
        moved
    }

    /// When something happens next, if nobody calls before.
    pub(crate) fn next_due(&self) -> Option<u64> {
        let errands = self.errands.iter().map(|(at, _)| *at);
        errands.chain(self.jobs.next_due()).min()
    }

    fn remember(&mut self, now: u64) {
        let stale = self.settings.stale_lists_ms;
        if stale == 0 {
            self.history.clear();
            return;
        }
        let known = self.history.back().map(|(_, tables)| tables.revision);
        if known != Some(self.tables.revision) {
            self.history.push_back((now, self.tables.clone()));
        }
        while self.history.get(1).is_some_and(|(at, _)| at + stale <= now) {
            self.history.pop_front();
        }
    }

    /// The tables as lists show them.
    fn listed(&self) -> &Tables {
        self.history
            .front()
            .map_or(&self.tables, |(_, tables)| tables)
    }

    /// Makes the disk of a volume unless there is one (contract 11: it is made at first attach).
    fn place(
        &mut self,
        id: &str,
        hardware: &mut dyn Hardware,
    ) -> Result<(), crate::hardware::Fault> {
        let Some(volume) = self.tables.volumes.get_mut(id) else {
            return Ok(());
        };
        if !volume.placed {
            let content = volume
                .snapshot
                .as_deref()
                .map_or(Content::Fresh, Content::Snapshot);
            hardware.make(id, volume.size, content)?;
            volume.placed = true;
        }
        Ok(())
    }

    /// Shows a volume's device in the appliance, if that is where it is and the appliance runs.
    fn plug(
        &mut self,
        id: &str,
        hardware: &mut dyn Hardware,
    ) -> Result<(), crate::hardware::Fault> {
        let here = self.tables.volumes.get(id).is_some_and(|volume| {
            volume.vm.as_ref() == Some(&self.appliance) && volume.slot != Some(0)
        });
        let runs = self
            .tables
            .machines
            .get(&self.appliance)
            .is_some_and(|machine| machine.state == "Running");
        if here && runs {
            hardware.plug(id)?;
            if let Some(volume) = self.tables.volumes.get_mut(id) {
                volume.plugged = true;
            }
        }
        Ok(())
    }

    fn disks_of(&self, machine: &str) -> BTreeMap<u32, String> {
        self.tables
            .of_machine(machine)
            .filter_map(|volume| Some((volume.slot?, volume.id.clone())))
            .collect()
    }
}

/// The answer to a call that was struck by a fault before it was carried out.
fn struck(command: &str, code: u16) -> Reply {
    let refusal = match code {
        401 => Refusal::unauthorized(),
        429 => Refusal::rate_limited(),
        503 => Refusal::draining(),
        530..=537 => Refusal::with_code(
            code,
            "Internal error executing command, please contact your system administrator",
        ),
        _ => return Reply::Proxy { status: code },
    };
    refused(command, &refusal)
}

/// Contract 4: the error envelope.
pub(crate) fn refused(command: &str, refusal: &Refusal) -> Reply {
    let wrapper = match (refusal.bare || refusal.code == 432, command) {
        (true, _) => "errorresponse".to_owned(),
        (false, "") => "null".to_owned(),
        (false, name) => format!("{}response", name.to_lowercase()),
    };
    let mut error = json!({"uuidList": [], "errorcode": refusal.code, "errortext": refusal.text});
    if let Some(detail) = refusal.detail {
        error["cserrorcode"] = json!(detail);
    }
    Reply::Json {
        status: refusal.code,
        body: json!({ wrapper: error }),
    }
}

#[cfg(test)]
mod tests;
