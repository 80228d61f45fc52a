//! Which device this is: size, serial, world-wide id, disk sequence number.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    time::UNIX_EPOCH,
};

use super::{DeviceIdentity, DeviceKind, facts};
use crate::SetupError;

/// The present identity of what `file` holds. `name` is for errors.
pub(super) fn identify(
    name: &Path,
    file: &File,
    kind: DeviceKind,
) -> Result<DeviceIdentity, SetupError> {
    let failed = |problem: &str, error: io::Error| {
        SetupError::from_io(name.display().to_string(), problem, error)
    };
    let metadata = file
        .metadata()
        .map_err(|error| failed("cannot be examined", error))?;
    let size_bytes =
        facts::size_bytes(file, kind).map_err(|error| failed("does not tell its size", error))?;
    let logical_block = facts::logical_block(file, kind)
        .map_err(|error| failed("does not tell its block size", error))?;
    Ok(match kind {
        DeviceKind::Regular => DeviceIdentity {
            kind,
            size_bytes,
            logical_block,
            serial: None,
            wwid: None,
            diskseq: None,
            dev: metadata.dev(),
            inode: metadata.ino(),
            born_ns: born_ns(&metadata),
        },
        DeviceKind::Block => {
            let rdev = metadata.rdev();
            let suffix = partition_suffix(rdev);
            let with_suffix = |id: String| id + &suffix;
            let disk = facts::sysfs_of_disk(rdev);
            DeviceIdentity {
                kind,
                size_bytes,
                logical_block,
                serial: serial(&disk).map(with_suffix),
                wwid: wwid(&disk).map(with_suffix),
                diskseq: facts::diskseq(file),
                dev: rdev,
                inode: 0,
                born_ns: None,
            }
        }
    })
}

/// `stx_btime` of statx(2): ext4, xfs, btrfs and tmpfs have it, NFS before 4.2 has not.
fn born_ns(metadata: &fs::Metadata) -> Option<i64> {
    let since = metadata.created().ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since.as_nanos()).ok()
}

/// "-part3" for a partition: its disk's serial alone would not tell it from its siblings.
fn partition_suffix(rdev: u64) -> String {
    fs::read_to_string(facts::sysfs_of(rdev).join("partition"))
        .map(|number| format!("-part{}", number.trim()))
        .unwrap_or_default()
}

/// virtio-blk, then NVMe and others, then SCSI.
fn serial(disk: &Path) -> Option<String> {
    text(&disk.join("serial"))
        .or_else(|| text(&disk.join("device/serial")))
        .or_else(|| {
            fs::read(disk.join("device/vpd_pg80"))
                .ok()
                .as_deref()
                .and_then(page_80)
        })
}

fn wwid(disk: &Path) -> Option<String> {
    ["wwid", "device/wwid", "dm/uuid", "md/uuid"]
        .iter()
        .find_map(|name| text(&disk.join(name)))
}

fn text(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

/// SCSI vital product data page 0x80 (SPC-4, 7.8.14): peripheral byte, page code, two length bytes, text.
fn page_80(page: &[u8]) -> Option<String> {
    let [_, 0x80, high, low, rest @ ..] = page else {
        return None;
    };
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    let text = String::from_utf8_lossy(rest.get(..len).unwrap_or(rest));
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scsi_serial_is_cut_by_its_length_and_trimmed() {
        assert_eq!(
            page_80(b"\x00\x80\x00\x06  AB1 trailing"),
            Some("AB1".into())
        );
        assert_eq!(
            page_80(b"\x00\x80\x00\xffshort"),
            Some("short".into()),
            "a lying length"
        );
        assert_eq!(page_80(b"\x00\x80\x00\x04    "), None, "blank");
        assert_eq!(page_80(b"\x00\x83\x00\x01x"), None, "another page");
        assert_eq!(page_80(b""), None);
    }
}
