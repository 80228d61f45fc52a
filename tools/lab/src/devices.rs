//! Disks as block devices: files of a small FUSE server that forgets what was not flushed, under loop devices that are
//! linked under by-id. Needs root. Whatever a killed lab leaves is found and removed by [`clean`](crate::clean).

use crate::files::{Bus, held};
use crate::fuse;
use crate::hardware::{Content, Digests, Fault, Hardware};
use crate::machines::Machines;
use crate::seeded::{self, Seeded};
use crate::volatile::Disk;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Folders of a lab with devices, below its own.
pub(crate) const MOUNT: &str = "disks";

pub(crate) struct Devices {
    disks: fuse::Disks,
    snapshots: BTreeMap<String, Disk>,
    /// Loop devices by volume.
    loops: BTreeMap<String, PathBuf>,
    session: Option<fuser::BackgroundSession>,
    machines: Machines,
    folder: PathBuf,
    bus: Bus,
    seed: u64,
}

/// Runs a tool of the machine; answers what it printed.
pub(crate) fn run(tool: &str, arguments: &[&str]) -> io::Result<String> {
    let done = Command::new(tool).args(arguments).output()?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    Err(io::Error::other(format!(
        "{tool} {}: {said}",
        arguments.join(" ")
    )))
}

impl Devices {
    pub(crate) fn new(folder: &Path, bus: Bus, seed: u64) -> io::Result<Devices> {
        for part in [MOUNT, "store", "by-id", "snapshots"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let folder = folder.canonicalize()?;
        let disks = fuse::Disks::default();
        let session = fuse::mount(disks.clone(), &folder.join(MOUNT))?;
        Ok(Devices {
            disks,
            snapshots: BTreeMap::new(),
            loops: BTreeMap::new(),
            session: Some(session),
            machines: Machines::new(&folder),
            folder,
            bus,
            seed,
        })
    }

    fn store(&self, id: &str) -> PathBuf {
        self.folder.join("store").join(id)
    }

    fn shown(&self, id: &str) -> PathBuf {
        self.folder.join(MOUNT).join(id)
    }

    fn link(&self, id: &str) -> PathBuf {
        self.folder.join("by-id").join(self.bus.name(id))
    }

    fn fresh(path: &Path) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
    }

    fn release(&mut self, id: &str) -> io::Result<()> {
        let _ = fs::remove_file(self.link(id));
        if let Some(device) = self.loops.get(id) {
            run("losetup", &["-d", &device.to_string_lossy()])?;
            self.loops.remove(id);
        }
        Ok(())
    }
}

fn copied(from: &Path, to: &Path) -> io::Result<File> {
    run(
        "cp",
        &[
            "--sparse=always",
            "--reflink=auto",
            "--",
            &from.to_string_lossy(),
            &to.to_string_lossy(),
        ],
    )?;
    OpenOptions::new().read(true).write(true).open(to)
}

impl Hardware for Devices {
    fn make(&mut self, volume: &str, size: u64, content: Content<'_>) -> Result<(), Fault> {
        let path = self.store(volume);
        let disk = match content {
            Content::Fresh => Disk::new(
                Self::fresh(&path)?,
                size,
                seeded::seed_of(self.seed, volume),
            )?,
            Content::Snapshot(id) => {
                let from = self
                    .snapshots
                    .get(id)
                    .ok_or_else(|| Fault::Failed(format!("snapshot {id} has no bytes")))?;
                from.copy(
                    copied(&self.folder.join("snapshots").join(id), &path)?,
                    size,
                )?
            }
        };
        self.disks.insert(volume, disk);
        Ok(())
    }

    fn remove(&mut self, volume: &str) -> Result<(), Fault> {
        self.release(volume)?;
        self.disks.remove(volume);
        let _ = fs::remove_file(self.store(volume));
        Ok(())
    }

    fn resize(&mut self, volume: &str, size: u64) -> Result<(), Fault> {
        self.disks.with(volume, |disk| disk.resize(size))?;
        if let Some(device) = self.loops.get(volume) {
            run("losetup", &["-c", &device.to_string_lossy()])?;
        }
        Ok(())
    }

    fn plug(&mut self, volume: &str) -> Result<(), Fault> {
        let device = match self.loops.get(volume) {
            Some(device) => device.clone(),
            None => PathBuf::from(run(
                "losetup",
                &[
                    "--find",
                    "--show",
                    "--",
                    &self.shown(volume).to_string_lossy(),
                ],
            )?),
        };
        self.loops.insert(volume.to_owned(), device.clone());
        let link = self.link(volume);
        let _ = fs::remove_file(&link);
        Ok(symlink(device, link)?)
    }

    fn unplug(&mut self, volume: &str, force: bool) -> Result<(), Fault> {
        if !force && self.loops.get(volume).is_some_and(|device| held(device)) {
            return Err(Fault::Busy);
        }
        // What the kernel still has in its cache reaches the disk, as when a guest lets go.
        if let Some(device) = self.loops.get(volume).filter(|_| !force) {
            run("blockdev", &["--flushbufs", &device.to_string_lossy()])?;
        }
        Ok(self.release(volume)?)
    }

    fn take(&mut self, snapshot: &str, volume: &str) -> Result<(), Fault> {
        self.disks.with(volume, Disk::flush)?;
        let file = copied(
            &self.store(volume),
            &self.folder.join("snapshots").join(snapshot),
        )?;
        let copy = self
            .disks
            .with(volume, |disk| disk.copy(file, disk.size()))?;
        self.snapshots.insert(snapshot.to_owned(), copy);
        Ok(())
    }

    fn revert(&mut self, volume: &str, snapshot: &str) -> Result<(), Fault> {
        let from = self
            .snapshots
            .get(snapshot)
            .ok_or_else(|| Fault::Failed(format!("snapshot {snapshot} has no bytes")))?;
        let file = copied(
            &self.folder.join("snapshots").join(snapshot),
            &self.store(volume),
        )?;
        let disk = from.copy(file, from.size())?;
        self.disks.insert(volume, disk);
        Ok(())
    }

    fn drop_snapshot(&mut self, snapshot: &str) -> Result<(), Fault> {
        self.snapshots.remove(snapshot);
        let _ = fs::remove_file(self.folder.join("snapshots").join(snapshot));
        Ok(())
    }

    fn power_on(&mut self, machine: &str, disks: &BTreeMap<u32, String>) -> Result<(), Fault> {
        let paths: Vec<(String, PathBuf)> = disks
            .values()
            .map(|id| (id.clone(), self.shown(id)))
            .collect();
        Ok(self.machines.start(machine, &paths)?)
    }

    fn power_off(&mut self, machine: &str) {
        self.machines.stop(machine);
    }

    fn power_cut(&mut self, seed: u64) -> Result<u64, Fault> {
        let lost = self.disks.power_cut(&mut Seeded::new(seed))?;
        // Clean pages above the loop devices still show what is gone.
        for device in self.loops.values() {
            run("blockdev", &["--flushbufs", &device.to_string_lossy()])?;
        }
        Ok(lost)
    }

    fn load(&mut self, volume: &str, image: &Path) -> Result<(), Fault> {
        let bytes = fs::read(image)?;
        Ok(self.disks.with(volume, |disk| {
            disk.write(0, &bytes)?;
            disk.flush()
        })?)
    }

    fn digests(&mut self, volume: &str) -> Result<Digests, Fault> {
        let digests = |disk: &mut Disk| {
            Ok(Digests {
                visible: disk.digest(false)?,
                durable: disk.digest(true)?,
            })
        };
        Ok(self.disks.with(volume, digests)?)
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        self.machines.stop_all();
        for id in self.loops.keys().cloned().collect::<Vec<_>>() {
            let _ = self.release(&id);
        }
        if let Some(session) = self.session.take() {
            let mount = self.folder.join(MOUNT);
            // Lazily first: a device that somebody still holds must not keep the owner of the lab from ending.
            let _ = run("umount", &["-l", &mount.to_string_lossy()]);
            drop(session);
        }
    }
}
