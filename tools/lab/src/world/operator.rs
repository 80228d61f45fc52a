//! What the control endpoint does to the world: restarts, expiry, power cuts, and a look behind the scenes.

use super::World;
use crate::hardware::{Digests, Fault, Hardware};
use serde::Deserialize;
use serde_json::{Value, json};

/// A restart of the management server.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Restart {
    /// Whether work that had begun on a host is still done, although its job has failed (contract 5).
    pub work_goes_on: bool,
}

impl World {
    /// Answers how many jobs were unfinished.
    pub(crate) fn restart(&mut self, now: u64, restart: Restart) -> usize {
        self.fail_open_jobs(now, restart.work_goes_on)
    }

    /// Forgets the rows of finished jobs; answers how many.
    pub(crate) fn expire_jobs(&mut self, only: Option<&str>) -> usize {
        self.jobs.forget(only)
    }

    pub(crate) fn release_jobs(&mut self, now: u64) -> usize {
        self.jobs.release(now)
    }

    pub(crate) fn digests(
        &self,
        volume: &str,
        hardware: &mut dyn Hardware,
    ) -> Result<Digests, Fault> {
        match self.tables.volume(volume) {
            Some(row) if row.placed => hardware.digests(volume),
            _ => Err(Fault::Failed(format!("volume {volume} has no disk"))),
        }
    }

    /// Puts an image on a volume, whose disk is made if need be.
    pub(crate) fn load(
        &mut self,
        volume: &str,
        image: &std::path::Path,
        hardware: &mut dyn Hardware,
    ) -> Result<(), Fault> {
        if self.tables.volume(volume).is_none() {
            return Err(Fault::Failed(format!("there is no volume {volume}")));
        }
        self.place(volume, hardware)?;
        hardware.load(volume, image)
    }

    /// Everything as it is, and not as lists show it.
    pub(crate) fn state(&self) -> Value {
        let tables = &self.tables;
        let volumes: Vec<Value> = tables
            .volumes
            .values()
            .filter(|row| !row.removed)
            .map(|row| {
                json!({"id": row.id, "name": row.name, "state": row.state, "size": row.size, "deviceid": row.slot,
                    "virtualmachineid": row.vm, "placed": row.placed, "plugged": row.plugged,
                    "writers": row.writers().collect::<Vec<_>>(), "tags": tables.tags_of("Volume", &row.id)})
            })
            .collect();
        let machines: Vec<Value> = tables
            .machines
            .values()
            .filter(|row| !row.removed)
            .map(|row| json!({"id": row.id, "name": row.name, "state": row.state}))
            .collect();
        let snapshots: Vec<Value> = tables
            .snapshots
            .values()
            .filter(|row| !row.removed)
            .map(|row| json!({"id": row.id, "name": row.name, "state": row.state, "volumeid": row.volume}))
            .collect();
        json!({"volumes": volumes, "machines": machines, "snapshots": snapshots, "open_jobs": self.jobs.open().count(),
            "errands": self.errands.len(), "faults": self.faults})
    }
}
