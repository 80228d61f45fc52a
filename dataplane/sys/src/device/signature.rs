//! What a device already holds: partition tables, file systems, volume managers.
//!
//! Not a full prober: it only has to notice that somebody's data is there. Formats and offsets are those of
//! the on-disk specifications; most are a magic number at a fixed place, the rest has a function.

use std::{fs::File, io, os::unix::fs::FileExt};

/// What was found and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signature {
    pub(super) name: &'static str,
    pub(super) offset: u64,
}

/// A magic number at a fixed place.
struct Magic {
    name: &'static str,
    offset: u64,
    bytes: &'static [u8],
}

const fn magic(name: &'static str, offset: u64, bytes: &'static [u8]) -> Magic {
    Magic {
        name,
        offset,
        bytes,
    }
}

/// The more specific first: a FAT boot sector also looks like a partition table.
const MAGICS: &[Magic] = &[
    magic("a GPT partition table", 512, b"EFI PART"),
    magic("a GPT partition table", 4096, b"EFI PART"),
    magic("an ext2/3/4 file system", 1024 + 56, &[0x53, 0xef]),
    magic("an XFS file system", 0, b"XFSB"),
    magic("a btrfs file system", 0x1_0040, b"_BHRfS_M"),
    magic("an F2FS file system", 1024, &[0x10, 0x20, 0xf5, 0xf2]),
    magic("an NTFS file system", 3, b"NTFS    "),
    magic("an exFAT file system", 3, b"EXFAT   "),
    magic("a FAT file system", 54, b"FAT12   "),
    magic("a FAT file system", 54, b"FAT16   "),
    magic("a FAT file system", 82, b"FAT32   "),
    magic("an ISO 9660 file system", 0x8001, b"CD001"),
    magic("a UDF file system", 0x8001, b"BEA01"),
    magic("a LUKS header", 0, b"LUKS\xba\xbe"),
    magic("a LUKS header", 16_384, b"SKUL\xba\xbe"),
    magic("a RAID member (md 1.1)", 0, &MD_MAGIC),
    magic("a RAID member (md 1.2)", 4096, &MD_MAGIC),
    magic("swap space", 4096 - 10, b"SWAPSPACE2"),
    magic("swap space", 16_384 - 10, b"SWAPSPACE2"),
    magic("swap space", 65_536 - 10, b"SWAPSPACE2"),
    magic("a BlueStore label", 0, b"bluestore block device"),
    magic(
        "a bcache superblock",
        4096 + 24,
        &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca],
    ),
    magic("a VMFS volume", 0x10_0000, &[0x0d, 0xd0, 0x01, 0xc0]),
];

/// md's superblock magic 0xa92b4efc, little-endian.
const MD_MAGIC: [u8; 4] = [0xfc, 0x4e, 0x2b, 0xa9];
/// LVM2 looks for its label in the first four sectors.
const LVM_SECTORS: u64 = 4;
/// ZFS: label 0 holds 128 uberblocks of at least 1 KiB from 128 KiB on, each beginning with this number.
const ZFS_MAGIC: u64 = 0x00ba_b10c;
const ZFS_UBERBLOCKS_AT: u64 = 128 * 1024;

/// The first signature found. A read beyond the end finds nothing; other failures are errors.
pub(super) fn find(file: &File, size_bytes: u64) -> io::Result<Option<Signature>> {
    find_in(size_bytes, |offset, buf| file.read_exact_at(buf, offset))
}

fn find_in(
    size_bytes: u64,
    mut read: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<Option<Signature>> {
    let mut read = |offset: u64, buf: &mut [u8]| -> io::Result<bool> {
        let fits = offset
            .checked_add(buf.len() as u64)
            .is_some_and(|end| end <= size_bytes);
        if fits {
            read(offset, buf)?;
        }
        Ok(fits)
    };
    for magic in MAGICS {
        if holds(&mut read, magic.offset, magic.bytes)? {
            return Ok(Some(Signature {
                name: magic.name,
                offset: magic.offset,
            }));
        }
    }
    for sector in 0..LVM_SECTORS {
        let offset = sector * 512;
        if holds(&mut read, offset, b"LABELONE")? && holds(&mut read, offset + 24, b"LVM2 001")? {
            return Ok(Some(Signature {
                name: "an LVM2 physical volume",
                offset,
            }));
        }
    }
    for (name, offset, bytes) in at_the_end(size_bytes) {
        if holds(&mut read, offset, bytes)? {
            return Ok(Some(Signature { name, offset }));
        }
    }
    let mut label = vec![0; 128 * 1024];
    if read(ZFS_UBERBLOCKS_AT, &mut label)?
        && let Some(index) = label.chunks(1024).position(is_uberblock)
    {
        let offset = ZFS_UBERBLOCKS_AT + index as u64 * 1024;
        return Ok(Some(Signature {
            name: "a ZFS pool member",
            offset,
        }));
    }
    let mut sector = [0; 512];
    if read(0, &mut sector)? && is_mbr(&sector) {
        return Ok(Some(Signature {
            name: "an MBR partition table",
            offset: 0,
        }));
    }
    Ok(None)
}

fn holds(
    read: &mut impl FnMut(u64, &mut [u8]) -> io::Result<bool>,
    offset: u64,
    bytes: &[u8],
) -> io::Result<bool> {
    let mut found = [0; 32];
    let found = &mut found[..bytes.len()];
    Ok(read(offset, found)? && found == bytes)
}

/// Signatures whose place depends on the size: backup GPT in the last sector, md 0.90 in the last whole
/// 64 KiB block but one, md 1.0 at least 8 KiB before the end on a 4 KiB boundary.
fn at_the_end(size_bytes: u64) -> impl Iterator<Item = (&'static str, u64, &'static [u8])> {
    let md_090 = (size_bytes & !0xffff).checked_sub(0x1_0000);
    let md_10 = (size_bytes / 512)
        .checked_sub(16)
        .map(|sector| (sector & !7) * 512);
    let raid = |at: Option<u64>, name| at.map(|at| (name, at, &MD_MAGIC as &[u8]));
    let gpt = |sector: u64| {
        let at = size_bytes.checked_sub(sector);
        at.map(|at| ("a backup GPT partition table", at, b"EFI PART" as &[u8]))
    };
    [
        gpt(512),
        gpt(4096),
        raid(md_090, "a RAID member (md 0.90)"),
        raid(md_10, "a RAID member (md 1.0)"),
    ]
    .into_iter()
    .flatten()
}

fn is_uberblock(block: &[u8]) -> bool {
    block.first_chunk().is_some_and(|bytes| {
        u64::from_le_bytes(*bytes) == ZFS_MAGIC || u64::from_be_bytes(*bytes) == ZFS_MAGIC
    })
}

/// 55AA and at least one entry that could be a partition: a sane boot flag, a type and a length.
fn is_mbr(sector: &[u8; 512]) -> bool {
    let plausible = |entry: &[u8]| {
        let len = u32::from_le_bytes([entry[12], entry[13], entry[14], entry[15]]);
        matches!(entry[0], 0x00 | 0x80) && entry[4] != 0 && len != 0
    };
    sector[510..] == [0x55, 0xaa] && sector[446..510].chunks(16).any(plausible)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 4 << 20;

    fn find_with(writes: &[(usize, &[u8])]) -> Option<Signature> {
        let mut disk = vec![0u8; SIZE];
        for (at, bytes) in writes {
            disk[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        let read = |offset: u64, buf: &mut [u8]| {
            let at = usize::try_from(offset).unwrap();
            buf.copy_from_slice(&disk[at..at + buf.len()]);
            Ok(())
        };
        find_in(SIZE as u64, read).unwrap()
    }

    #[track_caller]
    fn check(name: &str, offset: usize, writes: &[(usize, &[u8])]) {
        let expected = Signature {
            name: find_with(writes).expect(name).name,
            offset: offset as u64,
        };
        assert_eq!(find_with(writes), Some(expected.clone()));
        assert!(
            expected.name.contains(name),
            "{} is not {name}",
            expected.name
        );
    }

    #[test]
    fn an_empty_disk_has_none() {
        assert_eq!(find_with(&[]), None);
    }

    #[test]
    fn every_fixed_magic_is_found_at_its_offset() {
        for magic in MAGICS {
            let at = usize::try_from(magic.offset).unwrap();
            check(magic.name, at, &[(at, magic.bytes)]);
        }
    }

    #[test]
    fn signatures_at_the_end_are_found() {
        check("backup GPT", SIZE - 512, &[(SIZE - 512, b"EFI PART")]);
        check("backup GPT", SIZE - 4096, &[(SIZE - 4096, b"EFI PART")]);
        check("md 0.90", SIZE - 65_536, &[(SIZE - 65_536, &MD_MAGIC)]);
        check("md 1.0", SIZE - 8192, &[(SIZE - 8192, &MD_MAGIC)]);
    }

    #[test]
    fn lvm_is_found_in_any_of_four_sectors_with_both_marks() {
        check("LVM2", 512, &[(512, b"LABELONE"), (536, b"LVM2 001")]);
        check("LVM2", 1536, &[(1536, b"LABELONE"), (1560, b"LVM2 001")]);
        assert_eq!(find_with(&[(512, b"LABELONE")]), None);
    }

    #[test]
    fn zfs_is_found_by_an_uberblock_of_either_byte_order() {
        let at = 128 * 1024 + 5 * 1024;
        check("ZFS", at, &[(at, &ZFS_MAGIC.to_le_bytes())]);
        check("ZFS", at, &[(at, &ZFS_MAGIC.to_be_bytes())]);
    }

    #[test]
    fn an_mbr_needs_a_plausible_entry() {
        let entry = [0x80, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0];
        check("MBR", 0, &[(446, &entry), (510, &[0x55, 0xaa])]);
        assert_eq!(
            find_with(&[(510, &[0x55, 0xaa])]),
            None,
            "a bare boot sector"
        );
        let odd_flag = [0x13, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0, 1, 0];
        assert_eq!(find_with(&[(446, &odd_flag), (510, &[0x55, 0xaa])]), None);
    }

    #[test]
    fn a_tiny_disk_is_not_read_beyond_its_end() {
        for size in [0u64, 1, 511, 512, 4096, 8192] {
            let read = |offset: u64, buf: &mut [u8]| {
                assert!(offset + buf.len() as u64 <= size);
                buf.fill(0);
                Ok(())
            };
            assert_eq!(find_in(size, read).unwrap(), None);
        }
    }
}
