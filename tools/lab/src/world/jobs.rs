//! Async jobs (contract 5): submitted, begun when their machine's queue lets them, ended when their time has come.

use super::{Errand, World};
use crate::faults::Fault;
use crate::hardware::Hardware;
use crate::refusal::Refusal;
use crate::time;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a job is to do.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    CreateVolume {
        volume: String,
    },
    RecordVolume {
        volume: String,
    },
    Attach {
        volume: String,
        machine: String,
        slot: Option<u32>,
        double: bool,
    },
    Detach {
        volume: String,
        machine: String,
    },
    DestroyVolume {
        volume: String,
        expunge: bool,
    },
    Resize {
        volume: String,
        size: u64,
        shrink: bool,
    },
    TakeSnapshot {
        snapshot: String,
    },
    DeleteSnapshot {
        snapshot: String,
    },
    Revert {
        snapshot: String,
    },
    Deploy {
        machine: String,
        start: bool,
    },
    Start {
        machine: String,
    },
    Stop {
        machine: String,
    },
    Reboot {
        machine: String,
    },
    DestroyMachine {
        machine: String,
        expunge: bool,
        volumes: Vec<String>,
    },
    Expunge {
        machine: String,
    },
    TakeVmSnapshot {
        snapshot: String,
        machine: String,
    },
    DropVmSnapshot {
        snapshot: String,
        machine: String,
    },
    AddNic {
        machine: String,
        network: String,
        ip: Option<String>,
        mac: Option<String>,
    },
    RemoveNic {
        machine: String,
        nic: String,
    },
    DefaultNic {
        machine: String,
        nic: String,
    },
    Tag {
        kind: String,
        ids: Vec<String>,
        tags: Vec<(String, String)>,
    },
    Untag {
        kind: String,
        ids: Vec<String>,
        tags: Vec<(String, String)>,
    },
}

/// How a job ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Done(Value),
    /// Code and text; the result is absent without a text.
    Failed(u16, Option<String>),
}

#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) id: Value,
    pub(super) command: &'static str,
    pub(super) instance: Option<(&'static str, String)>,
    work: Work,
    /// The machine in whose queue it waits.
    queue: Option<String>,
    submitted: u64,
    /// When it ends, once it has begun.
    due: Option<u64>,
    /// Until when a busy device is waited for.
    patience: u64,
    fault: Option<Fault>,
    outcome: Option<(u64, Outcome)>,
}

/// All jobs that have not expired.
#[derive(Default)]
pub(super) struct Jobs {
    rows: BTreeMap<String, Job>,
    /// Unfinished ones in the order of their submission.
    open: Vec<String>,
    count: u64,
    /// Until when no row can have expired, and for which retention.
    fresh: (u64, u64),
}

impl Jobs {
    pub(super) fn get(&self, id: &str) -> Option<&Job> {
        self.rows.get(id)
    }

    pub(super) fn open(&self) -> impl Iterator<Item = &Job> {
        self.open.iter().filter_map(|id| self.rows.get(id))
    }

    pub(super) fn of_object(&self, kind: &str, id: &str) -> Option<&Job> {
        self.rows.values().rev().find(|job| {
            job.instance
                .as_ref()
                .is_some_and(|(k, i)| k.eq_ignore_ascii_case(kind) && i == id)
        })
    }

    pub(super) fn next_due(&self) -> Option<u64> {
        self.open()
            .filter_map(|job| job.due)
            .filter(|due| *due < u64::MAX)
            .min()
    }

    /// Contract 5: rows expire, finished or not. A job that still runs loses only its row, not its work; the lab keeps
    /// such a row until the work is done.
    pub(super) fn expire(&mut self, now: u64, after: u64) {
        let (until, held) = self.fresh;
        if now < until && after == held {
            return;
        }
        let ends = |job: &Job| job.submitted.saturating_add(after);
        self.rows
            .retain(|_, job| job.outcome.is_none() || ends(job) > now);
        let finished = self.rows.values().filter(|job| job.outcome.is_some());
        let next = finished.map(ends).min().unwrap_or(now);
        self.fresh = (next.max(now + 1), after);
    }

    /// Forgets finished rows at once; answers how many.
    pub(super) fn forget(&mut self, only: Option<&str>) -> usize {
        let before = self.rows.len();
        self.rows
            .retain(|id, job| job.outcome.is_none() || only.is_some_and(|wanted| wanted != id));
        before - self.rows.len()
    }

    /// Lets go of jobs that are stuck; answers how many.
    pub(super) fn release(&mut self, now: u64) -> usize {
        let stuck = self
            .rows
            .values_mut()
            .filter(|job| job.due == Some(u64::MAX));
        stuck.map(|job| job.due = Some(now)).count()
    }
}

impl World {
    /// Writes the row of a job. `custom` is the caller's own id for it (contract 8).
    pub(super) fn add_job(
        &mut self,
        now: u64,
        command: &'static str,
        custom: Option<&str>,
        instance: Option<(&'static str, String)>,
        mut work: Work,
    ) -> Result<Value, Refusal> {
        let id = self.job_id(custom)?;
        let key = crate::site::id_text(&id);
        let fault = crate::faults::take(&mut self.faults, crate::faults::Place::Job, command);
        if let (Work::Attach { double, .. }, Some(Fault::DoubleAttach)) = (&mut work, &fault) {
            *double = true;
        }
        let job = Job {
            id: id.clone(),
            command,
            instance,
            queue: queue_of(&work),
            work,
            submitted: now,
            due: None,
            patience: 0,
            fault,
            outcome: None,
        };
        self.jobs.rows.insert(key.clone(), job);
        self.jobs.open.push(key);
        Ok(id)
    }

    fn job_id(&mut self, custom: Option<&str>) -> Result<Value, Refusal> {
        let Some(custom) = custom else {
            self.jobs.count += 1;
            return Ok(match self.identifiers {
                crate::settings::Identifiers::Text => Value::String(self.rng.uuid()),
                crate::settings::Identifiers::Number => Value::from(100_000 + self.jobs.count),
            });
        };
        if !super::calls::is_uuid(custom) {
            return Err(Refusal::parameter(format!(
                "The custom job id {custom} is not a UUID"
            )));
        }
        match self.jobs.get(custom) {
            // Contract 8: 431 while the first is unfinished, 530 later.
            Some(job) if job.outcome.is_none() => Err(Refusal::parameter(format!(
                "The job {custom} already exists so can't create another"
            ))),
            Some(_) => Err(Refusal::internal(
                "Unable to persist the job: duplicate entry",
            )),
            None => Ok(Value::String(custom.to_owned())),
        }
    }

    /// Begins and ends what can begin and end; answers whether anything moved.
    pub(super) fn run_jobs(&mut self, now: u64, hardware: &mut dyn Hardware) -> bool {
        let mut moved = false;
        let mut busy: Vec<String> = Vec::new();
        for id in self.jobs.open.clone() {
            let Some(job) = self.jobs.rows.get(&id) else {
                continue;
            };
            let queue = job.queue.clone();
            let blocked = queue.as_ref().is_some_and(|machine| busy.contains(machine));
            if !blocked {
                moved |= match job.due {
                    None => self.begin_job(now, &id),
                    Some(due) if due <= now => self.end_job(now, &id, hardware),
                    Some(_) => false,
                };
            }
            if self
                .jobs
                .rows
                .get(&id)
                .is_some_and(|job| job.outcome.is_none())
            {
                busy.extend(queue);
            }
        }
        let rows = &self.jobs.rows;
        self.jobs
            .open
            .retain(|id| rows.get(id).is_some_and(|job| job.outcome.is_none()));
        moved
    }

    fn begin_job(&mut self, now: u64, id: &str) -> bool {
        let Some(job) = self.jobs.rows.get(id).cloned() else {
            return false;
        };
        if let Err(refusal) = self.begin(&job.work) {
            self.settle(now, id, Outcome::Failed(refusal.code, Some(refusal.text)));
            return true;
        }
        let (min, max) = (self.settings.job_ms_min, self.settings.job_ms_max);
        let took = min + self.rng.below(max.saturating_sub(min) + 1);
        let due = match job.fault {
            Some(Fault::StuckJob) => u64::MAX,
            Some(Fault::SlowJob { ms }) => now + took + ms,
            _ => now + took,
        };
        let patience = due.saturating_add(self.settings.detach_wait_ms);
        if let Some(job) = self.jobs.rows.get_mut(id) {
            job.due = Some(due);
            job.patience = patience;
        }
        self.tables.revision += 1;
        true
    }

    fn end_job(&mut self, now: u64, id: &str, hardware: &mut dyn Hardware) -> bool {
        let Some(job) = self.jobs.rows.get(id).cloned() else {
            return false;
        };
        let outcome = match job.fault {
            Some(Fault::FailJob { code, text }) => {
                self.take_back(&job.work);
                Outcome::Failed(code, text)
            }
            Some(Fault::LateDetach { ms }) if matches!(job.work, Work::Detach { .. }) => {
                self.errands.push((now + ms, Errand::Work(job.work)));
                Outcome::Failed(
                    530,
                    Some("Failed to detach volume: operation timed out".to_owned()),
                )
            }
            ref fault => {
                if let (Some(Fault::LateDevice { ms }), Work::Attach { volume, .. }) =
                    (fault, &job.work)
                {
                    self.errands.push((now + ms, Errand::Plug(volume.clone())));
                }
                let late = matches!(fault, Some(Fault::LateDevice { .. }));
                match self.finish(now, &job.work, !late, hardware) {
                    Ok(_) if matches!(fault, Some(Fault::FailedButDone)) => {
                        Outcome::Failed(530, Some("Operation timed out".to_owned()))
                    }
                    Ok(value) => Outcome::Done(value),
                    Err(super::finish::Undone::Busy) if now < job.patience => {
                        let again = (now + 100).min(job.patience);
                        if let Some(job) = self.jobs.rows.get_mut(id) {
                            job.due = Some(again);
                        }
                        return false;
                    }
                    Err(undone) => {
                        self.take_back(&job.work);
                        let refusal = undone.refusal();
                        Outcome::Failed(refusal.code, Some(refusal.text))
                    }
                }
            }
        };
        self.settle(now, id, outcome);
        true
    }

    fn settle(&mut self, now: u64, id: &str, outcome: Outcome) {
        self.tables.revision += 1;
        if let Some(job) = self.jobs.rows.get_mut(id) {
            job.outcome = Some((now, outcome));
        }
    }

    /// A restart of the management server (contract 5): unfinished jobs have failed without a result, and what had begun
    /// on a host may still be done.
    pub(super) fn fail_open_jobs(&mut self, now: u64, goes_on: bool) -> usize {
        let open = std::mem::take(&mut self.jobs.open);
        for id in &open {
            let Some(job) = self.jobs.rows.get(id).cloned() else {
                continue;
            };
            match job.due {
                Some(due) if goes_on && due < u64::MAX => {
                    self.errands.push((due, Errand::Work(job.work)));
                }
                Some(_) | None => self.take_back(&job.work),
            }
            self.settle(now, id, Outcome::Failed(530, None));
        }
        open.len()
    }
}

/// Contract 5: jobs of one machine run one after another.
fn queue_of(work: &Work) -> Option<String> {
    match work {
        Work::Attach { machine, .. }
        | Work::Deploy { machine, .. }
        | Work::Start { machine }
        | Work::Stop { machine }
        | Work::Reboot { machine }
        | Work::DestroyMachine { machine, .. }
        | Work::Expunge { machine }
        | Work::TakeVmSnapshot { machine, .. }
        | Work::DropVmSnapshot { machine, .. }
        | Work::AddNic { machine, .. }
        | Work::RemoveNic { machine, .. }
        | Work::DefaultNic { machine, .. } => Some(machine.clone()),
        Work::Detach { machine, .. } if !machine.is_empty() => Some(machine.clone()),
        _ => None,
    }
}

impl Job {
    /// The flat answer of queryAsyncJobResult.
    pub(super) fn answer(&self, account: &Value) -> Value {
        let mut answer = json!({
            "jobid": self.id, "accountid": account, "userid": account, "cmd": format!("org.apache.cloudstack.api.command.{}", self.command),
            "jobprocstatus": 0, "created": time::text(self.submitted), "jobstatus": 0, "jobresultcode": 0,
        });
        if let Some((kind, id)) = &self.instance {
            answer["jobinstancetype"] = json!(kind);
            answer["jobinstanceid"] = json!(id);
        }
        match &self.outcome {
            None => {}
            Some((at, Outcome::Done(value))) => {
                answer["jobstatus"] = json!(1);
                answer["jobresulttype"] = json!("object");
                answer["jobresult"] = value.clone();
                answer["completed"] = json!(time::text(*at));
            }
            Some((at, Outcome::Failed(code, text))) => {
                answer["jobstatus"] = json!(2);
                answer["jobresultcode"] = json!(code);
                answer["completed"] = json!(time::text(*at));
                if let Some(text) = text {
                    answer["jobresulttype"] = json!("object");
                    answer["jobresult"] = json!({"errorcode": code, "errortext": text});
                }
            }
        }
        answer
    }
}
