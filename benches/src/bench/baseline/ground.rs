//! Where a scenario takes place: source, certificates, and what is behind each server.

use super::{
    Plan,
    scenario::{Place, Scenario},
};
use anyhow::{Context, Result};
use benches::{
    disk::{Loop, make_source},
    ours::make_certificates,
};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

/// Folders and loop devices; all gone with the value.
pub(super) struct Ground {
    pub binary: PathBuf,
    pub bytes: u64,
    pub reads: bool,
    place: Place,
    // They lie in the folders below.
    loops: Vec<Loop>,
    /// Source, certificates, sockets, settings: in memory.
    memory: TempDir,
    disk: Option<TempDir>,
}

impl Ground {
    pub(super) fn new(plan: &Plan, scenario: Scenario) -> Result<Self> {
        let folder = |parent: &Path| {
            let made = tempfile::Builder::new()
                .prefix("mk-bench-")
                .tempdir_in(parent);
            made.with_context(|| parent.display().to_string())
        };
        let disk = plan
            .disk
            .as_deref()
            .filter(|_| scenario.place() == Place::Disk);
        let ground = Self {
            binary: plan.binary.clone(),
            bytes: plan.bytes,
            reads: scenario.is_read(),
            place: scenario.place(),
            loops: Vec::new(),
            memory: folder(Path::new("/dev/shm"))?,
            disk: disk.map(folder).transpose()?,
        };
        make_source(&ground.source(), plan.bytes)?;
        make_certificates(&plan.binary, &ground.pki())?;
        Ok(ground)
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.memory.path().join(name)
    }

    pub(super) fn source(&self) -> PathBuf {
        self.at("source")
    }

    pub(super) fn pki(&self) -> PathBuf {
        self.at("pki")
    }

    /// What is behind the server of that name: a path, or nothing. The inner error: this machine has no such thing.
    pub(super) fn backing(&mut self, name: &str) -> Result<Result<Option<PathBuf>, String>> {
        let name = format!("{name}.img");
        let file = match (self.place, &self.disk) {
            (Place::Null, _) => return Ok(Ok(None)),
            (Place::Disk, Some(disk)) => disk.path().join(name),
            (Place::Loop | Place::Disk, _) => self.at(&name),
        };
        if self.reads {
            fs::copy(self.source(), &file)?;
        } else {
            fs::File::create(&file)?.set_len(self.bytes)?;
        }
        if self.place == Place::Disk {
            return Ok(Ok(Some(file)));
        }
        Ok(match Loop::attach(&file) {
            Err(error) => Err(format!("{error:#}")),
            Ok(device) => {
                let path = PathBuf::from(device.path());
                self.loops.push(device);
                Ok(Some(path))
            }
        })
    }
}
