//! Finding the disk of a volume by its serial, under by-id and in sysfs.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::identity::Serial;

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// Links of udev.
    pub by_id: PathBuf,
    /// Block devices of the kernel, for machines without udev.
    pub sys_block: PathBuf,
    /// Device nodes.
    pub dev: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            by_id: "/dev/disk/by-id".into(),
            sys_block: "/sys/block".into(),
            dev: "/dev".into(),
        }
    }
}

/// A disk with the wanted serial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The link under by-id, where udev made one.
    pub link: Option<PathBuf>,
    /// The device itself, all links resolved.
    pub device: PathBuf,
    /// Its size now.
    pub size_bytes: u64,
}

/// A search that gave no answer to rely on.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Two devices claim one serial.
    #[error(
        "serial {serial} belongs to {first} and to {second}; one is a clone or left over: detach it, nothing is written until then"
    )]
    Twice {
        /// The serial.
        serial: Serial,
        /// One of them.
        first: PathBuf,
        /// Another.
        second: PathBuf,
    },
    /// The machine did not let us look.
    #[error(
        "cannot look for serial {serial} at {path}: {cause}; check the folder and the daemon's rights"
    )]
    Look {
        /// The serial.
        serial: Serial,
        /// Where.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
}

/// The disk with this serial, if there is one now.
///
/// Both sources are asked, and they must agree: a link to one device and a serial in sysfs on another are two hits.
///
/// # Errors
/// When two devices have the serial, or a folder or device cannot be read.
pub fn find(roots: &Roots, serial: &Serial) -> Result<Option<Disk>, Failed> {
    let failed = |path: &Path, cause| Failed::Look {
        serial: serial.clone(),
        path: path.to_owned(),
        cause,
    };
    let mut hits: BTreeMap<PathBuf, Option<PathBuf>> = BTreeMap::new();
    for link in names(&roots.by_id).map_err(|e| failed(&roots.by_id, e))? {
        if !serial.names_link(&link) {
            continue;
        }
        let link = roots.by_id.join(link);
        if let Some(device) = unless_gone(fs::canonicalize(&link)).map_err(|e| failed(&link, e))? {
            hits.entry(device).or_insert(Some(link));
        }
    }
    for name in names(&roots.sys_block).map_err(|e| failed(&roots.sys_block, e))? {
        let block = roots.sys_block.join(&name);
        if !has_serial(&block, serial).map_err(|e| failed(&block, e))? {
            continue;
        }
        let node = roots.dev.join(&name);
        if let Some(device) = unless_gone(fs::canonicalize(&node)).map_err(|e| failed(&node, e))? {
            hits.entry(device).or_insert(None);
        }
    }
    let mut hits = hits.into_iter();
    let Some((device, link)) = hits.next() else {
        return Ok(None);
    };
    if let Some((second, _)) = hits.next() {
        return Err(Failed::Twice {
            serial: serial.clone(),
            first: device,
            second,
        });
    }
    let size = unless_gone(size_of(&device)).map_err(|e| failed(&device, e))?;
    Ok(size.map(|size_bytes| Disk {
        link,
        device,
        size_bytes,
    }))
}

/// The entries of a folder in order; none when there is no such folder.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let Some(entries) = unless_gone(fs::read_dir(folder))? else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries {
        // A name that is no UTF-8 is no link of a serial.
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Disks come and go while we look: what went away was not found.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
            // What sysfs and device nodes answer while their device is being removed.
            _ if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
            _ if error.raw_os_error() == Some(nix::libc::ENXIO) => Ok(None),
            _ => Err(error),
        },
    }
}

fn has_serial(block: &Path, serial: &Serial) -> io::Result<bool> {
    let wanted = serial.as_str().as_bytes();
    if let Some(text) = unless_gone(fs::read(block.join("serial")))?
        && text.trim_ascii() == wanted
    {
        return Ok(true);
    }
    if let Some(page) = unless_gone(fs::read(block.join("device/vpd_pg80")))?
        && page_body(&page, 0x80).is_some_and(|body| body.trim_ascii() == wanted)
    {
        return Ok(true);
    }
    let page = unless_gone(fs::read(block.join("device/vpd_pg83")))?;
    Ok(page.is_some_and(|page| designates(&page, wanted)))
}

/// What follows the four bytes of head of a page of vital product data, as long as it says it is.
fn page_body(page: &[u8], code: u8) -> Option<&[u8]> {
    let (head, body) = page.split_first_chunk::<4>()?;
    let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
    (head[1] == code).then(|| body.get(..len)).flatten()
}

/// Whether a designator of page 0x83 in ASCII, of the disk itself, is the wanted one.
fn designates(page: &[u8], wanted: &[u8]) -> bool {
    const ASCII: u8 = 2;
    let Some(mut rest) = page_body(page, 0x83) else {
        return false;
    };
    while let Some((head, tail)) = rest.split_first_chunk::<4>() {
        let Some((designator, next)) = tail.split_at_checked(usize::from(head[3])) else {
            return false;
        };
        let is_of_disk = (head[1] >> 4) & 3 == 0;
        if head[0] & 0xf == ASCII && is_of_disk && designator.trim_ascii() == wanted {
            return true;
        }
        rest = next;
    }
    false
}

/// Bytes of a block device or of a file, whichever it is.
fn size_of(device: &Path) -> io::Result<u64> {
    File::open(device)?.seek(SeekFrom::End(0))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    pub(crate) fn serial() -> Serial {
        Serial::of("60338035-92fb-4d27-98d4-b60ad4b38b87".parse().unwrap())
    }

    pub(crate) struct Machine {
        pub(crate) _folder: TempDir,
        pub(crate) roots: Roots,
    }

    impl Machine {
        pub(crate) fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            let roots = Roots {
                by_id: at("by-id"),
                sys_block: at("block"),
                dev: at("dev"),
            };
            for folder in [&roots.by_id, &roots.sys_block, &roots.dev] {
                fs::create_dir(folder).unwrap();
            }
            Self {
                _folder: folder,
                roots,
            }
        }

        pub(crate) fn node(&self, name: &str, len: usize) {
            fs::write(self.roots.dev.join(name), vec![0; len]).unwrap();
        }

        pub(crate) fn link(&self, link: &str, node: &str) {
            symlink(self.roots.dev.join(node), self.roots.by_id.join(link)).unwrap();
        }

        fn sys(&self, node: &str, file: &str, content: &[u8]) {
            let path = self.roots.sys_block.join(node).join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn found(&self) -> Option<String> {
            find(&self.roots, &serial()).unwrap().map(|disk| {
                let name = disk.device.file_name().unwrap();
                name.to_str().unwrap().to_owned()
            })
        }
    }

    fn page(code: u8, body: &[u8]) -> Vec<u8> {
        let len = u8::try_from(body.len()).unwrap();
        [&[0, code, 0, len], body].concat()
    }

    #[test]
    fn a_link_names_the_disk_and_its_size() {
        let machine = Machine::new();
        machine.node("vda", 10);
        machine.node("vdb", 4096);
        machine.node("vdb1", 20);
        machine.link("virtio-ffffffffffffffffffff", "vda");
        machine.link("virtio-6033803592fb4d2798d4", "vdb");
        machine.link("virtio-6033803592fb4d2798d4-part1", "vdb1");
        let disk = find(&machine.roots, &serial()).unwrap().unwrap();
        assert_eq!(disk.size_bytes, 4096);
        assert_eq!(disk.device, machine.roots.dev.join("vdb"));
        let link = machine.roots.by_id.join("virtio-6033803592fb4d2798d4");
        assert_eq!(disk.link, Some(link));
    }

    #[test]
    fn a_partition_or_a_dangling_link_is_no_disk() {
        let machine = Machine::new();
        machine.node("vdb1", 20);
        machine.link("virtio-6033803592fb4d2798d4-part1", "vdb1");
        machine.link("virtio-6033803592fb4d2798d4", "gone");
        assert_eq!(machine.found(), None);
    }

    #[test]
    fn sysfs_answers_where_udev_is_absent() {
        let text = serial().to_string();
        let other = b"\x02\x00\x00\x02no\x02\x10\x00\x14".as_slice();
        let of_port = [other, text.as_bytes()].concat();
        let of_disk = [&of_port, b"\x02\x00\x00\x14".as_slice(), text.as_bytes()].concat();
        for (file, content, hit) in [
            ("serial", format!("{text}\n").into_bytes(), true),
            ("serial", text.as_bytes()[..19].to_vec(), false),
            ("device/vpd_pg80", page(0x80, text.as_bytes()), true),
            ("device/vpd_pg80", page(0x83, text.as_bytes()), false),
            ("device/vpd_pg80", text.as_bytes().to_vec(), false),
            ("device/vpd_pg83", page(0x83, &of_disk), true),
            ("device/vpd_pg83", page(0x83, &of_port), false),
            (
                "device/vpd_pg83",
                page(0x83, &of_disk)[..40].to_vec(),
                false,
            ),
        ] {
            let machine = Machine::new();
            fs::remove_dir(&machine.roots.by_id).unwrap();
            machine.node("sdb", 1);
            machine.sys("sdb", file, &content);
            assert_eq!(machine.found().is_some(), hit, "{file} {content:?}");
        }
    }

    #[test]
    fn two_hits_are_an_error_and_two_names_of_one_disk_are_not() {
        let machine = Machine::new();
        machine.node("vdb", 1);
        machine.node("vdc", 1);
        machine.link("virtio-6033803592fb4d2798d4", "vdb");
        machine.link("scsi-0QEMU_QEMU_HARDDISK_6033803592fb4d2798d4", "vdb");
        machine.sys("vdb", "serial", serial().as_str().as_bytes());
        assert_eq!(machine.found().as_deref(), Some("vdb"));
        machine.sys("vdc", "serial", serial().as_str().as_bytes());
        let error = find(&machine.roots, &serial()).unwrap_err();
        assert!(matches!(error, Failed::Twice { .. }), "{error}");
    }
}
