//! Who uses a block device: mounts, swap, device-mapper and RAID, on it or on its partitions.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use nix::sys::stat::makedev;

use super::facts;

/// Sentences like "is mounted on /mnt"; empty when nothing is known to use it.
pub(super) fn users_of_device(rdev: u64) -> Vec<String> {
    let mut devices = vec![(rdev, "is".to_owned())];
    devices.extend(partitions(&facts::sysfs_of(rdev)));
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let mut users = Vec::new();
    for (rdev, who) in &devices {
        for place in mounts_of(&mountinfo, *rdev, device_number) {
            users.push(format!("{who} mounted on {place}"));
        }
        if swap_paths(&swaps).any(|path| device_number(&path) == Some(*rdev)) {
            users.push(format!("{who} in use as swap"));
        }
        for holder in holders(&facts::sysfs_of(*rdev)) {
            users.push(format!("{who} held by {holder}"));
        }
    }
    users
}

/// (device number, "partition sdb1 is") of each partition.
fn partitions(sysfs: &Path) -> Vec<(u64, String)> {
    let Ok(entries) = fs::read_dir(sysfs) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| entry.path().join("partition").exists())
        .filter_map(|entry| {
            let number = fs::read_to_string(entry.path().join("dev")).ok()?;
            let name = entry.file_name().to_string_lossy().into_owned();
            Some((parse_number(number.trim())?, format!("partition {name} is")))
        })
        .collect()
}

fn parse_number(text: &str) -> Option<u64> {
    let (major, minor) = text.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

/// The number of the block device that `path` leads to.
fn device_number(path: &str) -> Option<u64> {
    let metadata = fs::metadata(path).ok()?;
    metadata
        .file_type()
        .is_block_device()
        .then(|| metadata.rdev())
}

/// Mount points of `rdev`. File systems with a device number of their own (btrfs) are found by their source.
///
/// Format, proc_pid_mountinfo(5): `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`.
fn mounts_of(mountinfo: &str, rdev: u64, number_of: impl Fn(&str) -> Option<u64>) -> Vec<String> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (fixed, rest) = line.split_once(" - ")?;
            let mut fields = fixed.split(' ').skip(2);
            let number = parse_number(fields.next()?);
            let place = fields.nth(1)?;
            let source = rest.split(' ').nth(1)?;
            let by_source =
                || source.starts_with('/') && number_of(&unescape(source)) == Some(rdev);
            (number == Some(rdev) || by_source()).then(|| unescape(place))
        })
        .collect()
}

/// The kernel writes blank, tab, newline and backslash as `\040` and so on.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\')
            .then(|| tail.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn swap_paths(swaps: &str) -> impl Iterator<Item = String> {
    swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .map(unescape)
}

/// Devices built on top: device-mapper by name, others (RAID, bcache) by device.
fn holders(sysfs: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(sysfs.join("holders")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| {
            let device = entry.file_name().to_string_lossy().into_owned();
            match fs::read_to_string(entry.path().join("dm/name")) {
                Ok(name) => format!("device-mapper {} ({device})", name.trim()),
                Err(_) => device,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 8:17 / /mnt/with\\040blank rw,relatime - xfs /dev/sdb1 rw
41 22 0:45 /sub /mnt/btrfs rw,relatime shared:9 master:2 - btrfs /dev/sdc rw
42 22 0:46 / /proc rw - proc proc rw
broken line
";

    #[test]
    fn mounts_are_found_by_number_and_by_source() {
        let sdc = makedev(8, 32);
        let number_of = |path: &str| (path == "/dev/sdc").then_some(sdc);
        let mounts = |rdev| mounts_of(MOUNTINFO, rdev, number_of);
        assert_eq!(mounts(makedev(8, 1)), ["/"]);
        assert_eq!(mounts(makedev(8, 17)), ["/mnt/with blank"]);
        assert_eq!(mounts(sdc), ["/mnt/btrfs"]);
        assert!(mounts(makedev(8, 48)).is_empty());
    }

    #[test]
    fn swap_paths_skip_the_header() {
        let swaps = "Filename\tType\tSize\tUsed\tPriority\n/dev/sda2  partition 1 0 -2\n/swap\\040file file 1 0 -3\n";
        assert_eq!(
            swap_paths(swaps).collect::<Vec<_>>(),
            ["/dev/sda2", "/swap file"]
        );
    }

    #[test]
    fn escapes_are_undone_and_stray_backslashes_kept() {
        assert_eq!(unescape(r"a\040b\134c\9"), r"a b\c\9");
    }

    #[cfg(not(miri))]
    #[test]
    fn holders_and_partitions_are_read_from_sysfs() {
        let sysfs = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = sysfs.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("holders/dm-3/dm/name", "vg-root\n");
        write("holders/md127/dev", "9:127\n");
        write("sdb1/partition", "1\n");
        write("sdb1/dev", "8:17\n");
        write("queue/rotational", "0\n");
        let mut found = holders(sysfs.path());
        found.sort();
        assert_eq!(found, ["device-mapper vg-root (dm-3)", "md127"]);
        assert_eq!(
            partitions(sysfs.path()),
            [(makedev(8, 17), "partition sdb1 is".to_owned())]
        );
    }
}
