//! Loop devices and file systems in files. They go when dropped, also when a test fails.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{Bed, finish, have, skip};
use crate::server::PATIENCE;

/// True where loop devices and mounts can be made; says why not otherwise.
pub fn can_make_devices() -> bool {
    if !nix::unistd::geteuid().is_root() {
        skip("needs root");
        return false;
    }
    ["losetup", "mount", "umount", "unshare"]
        .iter()
        .all(|tool| have(tool))
}

/// A loop device.
pub struct Loop {
    pub device: String,
}

impl Loop {
    /// `None`, and a skip, where there are none.
    pub fn attach(file: &Path, options: &[&str]) -> Option<Self> {
        let mut command = Command::new("losetup");
        let run = finish(command.args(["--find", "--show"]).args(options).arg(file));
        if run.code != 0 {
            skip(&format!(
                "kernel gives no loop device: {}",
                run.stderr.trim()
            ));
            return None;
        }
        let made = Self {
            device: run.stdout.trim().to_owned(),
        };
        made.flushes(true);
        Some(made)
    }

    fn sysfs(&self, what: &str) -> PathBuf {
        let name = self.device.trim_start_matches("/dev/");
        Path::new("/sys/block").join(name).join(what)
    }

    /// Bytes written to it since it was made; the seventh number of its statistics.
    pub fn written_bytes(&self) -> u64 {
        let text = std::fs::read_to_string(self.sysfs("stat")).unwrap();
        let sectors = text.split_whitespace().nth(6).unwrap();
        sectors.parse::<u64>().unwrap() * 512
    }

    /// Takes it away and waits until it is gone: a device that somebody still has open goes when the last one leaves.
    pub fn detach(self) {
        let backing = self.sysfs("loop/backing_file");
        drop(self);
        let deadline = Instant::now() + PATIENCE;
        while backing.exists() {
            assert!(Instant::now() < deadline, "{} stays", backing.display());
            // sysfs tells nobody when an attribute goes.
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// When not, the kernel believes that it needs no flush: it answers one and does nothing. The device keeps this
    /// for the next who attaches it, so it is put right again when it is made and when it goes.
    pub fn flushes(&self, does: bool) {
        let word = if does { "write back" } else { "write through" };
        // A device for reading only has no cache.
        let _ = std::fs::write(self.sysfs("queue/write_cache"), word);
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.flushes(true);
        finish(Command::new("losetup").args(["--detach", &self.device]));
    }
}

/// A file system in a file of the bed.
pub struct FileSystem {
    image: PathBuf,
    /// Where it is mounted.
    pub dir: PathBuf,
}

impl FileSystem {
    /// `None`, and a skip, where it cannot be made or mounted.
    pub fn make(bed: &Bed, kind: &str, size_bytes: u64) -> Option<Self> {
        let mkfs = format!("mkfs.{kind}");
        if !have(&mkfs) || !have("xfs_io") {
            return None;
        }
        let image = bed.path(&format!("{kind}.image"));
        let file = std::fs::File::create_new(&image).unwrap();
        file.set_len(size_bytes).unwrap();
        finish(Command::new(mkfs).arg("-q").arg(&image)).done();
        let dir = bed.path("mnt");
        std::fs::create_dir(&dir).unwrap();
        let made = Self { image, dir };
        made.mount().then_some(made)
    }

    /// Mounts it; its journal is replayed.
    pub fn mount(&self) -> bool {
        let mut command = Command::new("mount");
        let run = finish(command.args(["-o", "loop"]).arg(&self.image).arg(&self.dir));
        if run.code != 0 {
            skip(&format!("kernel mounts no file: {}", run.stderr.trim()));
        }
        run.code == 0
    }

    /// Waits for those who still hold something there: the kernel ends the work of killed processes behind their
    /// backs, and a server in a namespace of its own has this mount as well. Mounted before it is really gone, the
    /// file system would be the one that was shut down.
    pub fn unmount(&self) {
        self.until("is busy", || {
            finish(Command::new("umount").arg(&self.dir)).code == 0
        });
        self.until("is still mounted somewhere", || {
            let mut command = Command::new("losetup");
            let run = finish(command.arg("--associated").arg(&self.image));
            run.done().stdout.is_empty()
        });
    }

    fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "{:?} {what}", self.image);
            // The kernel tells nobody when the last user goes.
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Nothing gets to its medium any more, not even its log.
    pub fn shut_down(&self) -> bool {
        let mut command = Command::new("xfs_io");
        finish(command.args(["-x", "-c", "shutdown"]).arg(&self.dir)).code == 0
    }
}

impl FileSystem {
    /// Takes it out of the tree, whoever still uses it.
    pub fn leave(&self) {
        finish(Command::new("umount").arg("--lazy").arg(&self.dir));
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A file system with room for one page, in memory.
pub struct TinyDisk {
    dir: PathBuf,
}

impl TinyDisk {
    /// `None`, and a skip, where it cannot be mounted.
    pub fn mount(bed: &Bed, name: &str) -> Option<Self> {
        let dir = bed.path(name);
        std::fs::create_dir(&dir).unwrap();
        let mut command = Command::new("mount");
        let run = finish(
            command
                .args(["-t", "tmpfs", "-o", "size=4k", "tiny"])
                .arg(&dir),
        );
        if run.code != 0 {
            skip(&format!("kernel mounts no tmpfs: {}", run.stderr.trim()));
            return None;
        }
        Some(Self { dir })
    }

    /// Makes room.
    pub fn grow(&self) {
        let mut command = Command::new("mount");
        finish(command.args(["-o", "remount,size=4m"]).arg(&self.dir)).done();
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        finish(Command::new("umount").arg("--lazy").arg(&self.dir));
    }
}
