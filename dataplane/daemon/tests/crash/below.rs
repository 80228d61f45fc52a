//! A target whose medium can be taken away below it.

use super::disks::FileSystem;
use super::plan::Plan;
use super::{Rig, SIZE_BYTES};
use crate::common::Bed;

/// XFS makes none that is smaller.
const IMAGE_BYTES: u64 = 320 << 20;

/// A target behind a device whose file lies in a file system of its own.
pub struct Below {
    pub rig: Rig,
    pub disk: FileSystem,
}

impl Below {
    pub fn new(kind: &str, plan: Plan) -> Option<Self> {
        let bed = Bed::new();
        let disk = FileSystem::make(&bed, kind, IMAGE_BYTES)?;
        bed.disk("source", SIZE_BYTES);
        let backing = disk.dir.join("backing");
        // Its blocks are there, and read as zeroes until a write to them is in the log.
        let size = SIZE_BYTES.to_string();
        let file = backing.display().to_string();
        bed.tool("fallocate", &["--length", &size, &file]);
        bed.tool("sync", &["--file-system", &file]);
        let rig = Rig::over(bed, backing, plan)?;
        Some(Self { rig, disk })
    }

    /// Nothing gets to the medium from now on; the machine goes down, comes up, and replays its log.
    pub fn lose_power(&mut self) -> bool {
        let rig = &mut self.rig;
        // A crash has no order: the disk may go first, and errors may be told.
        let disk_first = rig.plan.both;
        if disk_first && !self.disk.shut_down() {
            return false;
        }
        rig.kill_server();
        if !disk_first && !self.disk.shut_down() {
            return false;
        }
        rig.detach();
        self.disk.unmount();
        assert!(self.disk.mount());
        true
    }
}

impl Below {
    /// After the medium went away: it comes back with what reached it, and is served again in the same boot.
    pub fn repair(&mut self) -> bool {
        self.rig.kill_server();
        self.rig.detach();
        self.disk.unmount();
        let mounted = self.disk.mount();
        self.rig.attach();
        self.rig.serve();
        mounted
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        // What is above the file system goes first.
        self.rig.server = None;
        self.rig.device = None;
        // And it goes before the bed that it lies in.
        self.disk.leave();
    }
}
