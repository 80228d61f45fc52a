//! Disks as plain files: what the lab uses where it is not root. Everything written is durable at once.

use crate::hardware::{Content, Digests, Fault, Hardware};
use crate::seeded;
use aws_lc_rs::digest;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

/// How much of a fresh file is filled at each end; the middle stays a hole, so that a thousand disks fit a small machine.
const EDGE_BYTES: u64 = 64 << 10;

/// The bus on which the appliance sees its disks, which decides their names (contract 12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Bus {
    /// `virtio-<serial>`.
    #[default]
    Virtio,
    /// `scsi-0QEMU_QEMU_HARDDISK_<serial>`.
    Scsi,
}

impl Bus {
    /// The name under by-id of a volume's device: the first 20 characters of its UUID without hyphens.
    #[must_use]
    pub fn name(self, volume: &str) -> String {
        let serial: String = volume.chars().filter(|c| *c != '-').take(20).collect();
        match self {
            Bus::Virtio => format!("virtio-{serial}"),
            Bus::Scsi => format!("scsi-0QEMU_QEMU_HARDDISK_{serial}"),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Failed(error.to_string())
    }
}

/// Whether any process that we may look at has `path` open.
pub(crate) fn held(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else {
        return false;
    };
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    entries(Path::new("/proc"))
        .filter(|process| {
            process
                .file_name()
                .as_encoded_bytes()
                .iter()
                .all(u8::is_ascii_digit)
        })
        .flat_map(|process| entries(&process.path().join("fd")))
        .any(|open| fs::read_link(open.path()).is_ok_and(|target| target == path))
}

/// Files in a folder, and links to them under by-id.
pub(crate) struct Files {
    volumes: PathBuf,
    snapshots: PathBuf,
    by_id: PathBuf,
    bus: Bus,
    seed: u64,
}

impl Files {
    pub(crate) fn new(folder: &Path, bus: Bus, seed: u64) -> io::Result<Files> {
        let files = Files {
            volumes: folder.join("volumes"),
            snapshots: folder.join("snapshots"),
            by_id: folder.join("by-id"),
            bus,
            seed,
        };
        for folder in [&files.volumes, &files.snapshots, &files.by_id] {
            fs::create_dir_all(folder)?;
        }
        Ok(files)
    }

    fn volume(&self, id: &str) -> PathBuf {
        self.volumes.join(id)
    }

    fn snapshot(&self, id: &str) -> PathBuf {
        self.snapshots.join(id)
    }

    fn link(&self, id: &str) -> PathBuf {
        self.by_id.join(self.bus.name(id))
    }

    fn fill(&self, id: &str, file: &File, size: u64, from: u64) -> io::Result<()> {
        let seed = seeded::seed_of(self.seed, id);
        for (start, end) in [
            (from, from + EDGE_BYTES),
            (size.saturating_sub(EDGE_BYTES), size),
        ] {
            let (start, end) = (start.max(from), end.min(size));
            let mut bytes = vec![0; usize::try_from(end.saturating_sub(start)).unwrap_or(0)];
            seeded::fill(seed, start, &mut bytes);
            file.write_all_at(&bytes, start)?;
        }
        Ok(())
    }
}

/// Copies without turning holes into blocks where the file system can say where they are.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let done = std::process::Command::new("cp")
        .args(["--sparse=always", "--reflink=auto", "--"])
        .args([from, to])
        .status()?;
    if done.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("cp ended with {done}")))
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Hardware for Files {
    fn make(&mut self, volume: &str, size: u64, content: Content<'_>) -> Result<(), Fault> {
        let path = self.volume(volume);
        if let Content::Snapshot(snapshot) = content {
            copy(&self.snapshot(snapshot), &path)?;
            OpenOptions::new().write(true).open(&path)?.set_len(size)?;
            return Ok(());
        }
        let file = File::create(&path)?;
        file.set_len(size)?;
        Ok(self.fill(volume, &file, size, 0)?)
    }

    fn remove(&mut self, volume: &str) -> Result<(), Fault> {
        Ok(absent_is_fine(fs::remove_file(self.volume(volume)))?)
    }

    fn resize(&mut self, volume: &str, size: u64) -> Result<(), Fault> {
        let file = OpenOptions::new().write(true).open(self.volume(volume))?;
        let before = file.metadata()?.len();
        file.set_len(size)?;
        Ok(self.fill(volume, &file, size, before.min(size))?)
    }

    fn plug(&mut self, volume: &str) -> Result<(), Fault> {
        let link = self.link(volume);
        absent_is_fine(fs::remove_file(&link))?;
        Ok(symlink(self.volume(volume), link)?)
    }

    fn unplug(&mut self, volume: &str, force: bool) -> Result<(), Fault> {
        if !force && held(&self.volume(volume)) {
            return Err(Fault::Busy);
        }
        Ok(absent_is_fine(fs::remove_file(self.link(volume)))?)
    }

    fn take(&mut self, snapshot: &str, volume: &str) -> Result<(), Fault> {
        Ok(copy(&self.volume(volume), &self.snapshot(snapshot))?)
    }

    fn revert(&mut self, volume: &str, snapshot: &str) -> Result<(), Fault> {
        Ok(copy(&self.snapshot(snapshot), &self.volume(volume))?)
    }

    fn drop_snapshot(&mut self, snapshot: &str) -> Result<(), Fault> {
        Ok(absent_is_fine(fs::remove_file(self.snapshot(snapshot)))?)
    }

    fn power_on(&mut self, _machine: &str, _disks: &BTreeMap<u32, String>) -> Result<(), Fault> {
        Ok(())
    }

    fn power_off(&mut self, _machine: &str) {}

    fn power_cut(&mut self, _seed: u64) -> Result<u64, Fault> {
        Err(Fault::Failed("disks are plain files here, which have no cache that could be lost; run the lab as root".to_owned()))
    }

    fn load(&mut self, volume: &str, image: &Path) -> Result<(), Fault> {
        let file = OpenOptions::new().write(true).open(self.volume(volume))?;
        Ok(file.write_all_at(&fs::read(image)?, 0)?)
    }

    fn digests(&mut self, volume: &str) -> Result<Digests, Fault> {
        let mut file = File::open(self.volume(volume))?;
        let mut sum = digest::Context::new(&digest::SHA256);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            sum.update(&buffer[..count]);
        }
        let visible = hex(sum.finish().as_ref());
        Ok(Digests {
            durable: visible.clone(),
            visible,
        })
    }
}

/// No disks at all: records only.
pub(crate) struct Nothing;

impl Hardware for Nothing {
    fn make(&mut self, _: &str, _: u64, _: Content<'_>) -> Result<(), Fault> {
        Ok(())
    }
    fn remove(&mut self, _: &str) -> Result<(), Fault> {
        Ok(())
    }
    fn resize(&mut self, _: &str, _: u64) -> Result<(), Fault> {
        Ok(())
    }
    fn plug(&mut self, _: &str) -> Result<(), Fault> {
        Ok(())
    }
    fn unplug(&mut self, _: &str, _: bool) -> Result<(), Fault> {
        Ok(())
    }
    fn take(&mut self, _: &str, _: &str) -> Result<(), Fault> {
        Ok(())
    }
    fn revert(&mut self, _: &str, _: &str) -> Result<(), Fault> {
        Ok(())
    }
    fn drop_snapshot(&mut self, _: &str) -> Result<(), Fault> {
        Ok(())
    }
    fn power_on(&mut self, _: &str, _: &BTreeMap<u32, String>) -> Result<(), Fault> {
        Ok(())
    }
    fn power_off(&mut self, _: &str) {}
    fn power_cut(&mut self, _: u64) -> Result<u64, Fault> {
        Err(Fault::Failed("there are no disks".to_owned()))
    }
    fn load(&mut self, _: &str, _: &Path) -> Result<(), Fault> {
        Err(Fault::Failed("there are no disks".to_owned()))
    }
    fn digests(&mut self, _: &str) -> Result<Digests, Fault> {
        Err(Fault::Failed("there are no disks".to_owned()))
    }
}
