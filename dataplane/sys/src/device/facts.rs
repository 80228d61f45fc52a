//! Sizes and flags of an opened file or device: ioctl, statx, sysfs.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::PathBuf,
};

use nix::{
    fcntl::{PosixFadviseAdvice, posix_fadvise},
    sys::stat::{major, minor},
};

use super::DeviceKind;

/// Block sizes and the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) logical_block: u32,
    pub(super) physical_block: u32,
    pub(super) preferred_io: u32,
    /// Of offset, length and memory; 0 when the file cannot do direct I/O at all.
    pub(super) direct_align: u32,
    pub(super) rotational: bool,
}

/// Block-layer requests of `linux/fs.h`.
mod request {
    pub(super) const BLKROGET: libc::Ioctl = 0x125e;
    pub(super) const BLKFLSBUF: libc::Ioctl = 0x1261;
    pub(super) const BLKSSZGET: libc::Ioctl = 0x1268;
    pub(super) const BLKIOMIN: libc::Ioctl = 0x1278;
    pub(super) const BLKIOOPT: libc::Ioctl = 0x1279;
    pub(super) const BLKPBSZGET: libc::Ioctl = 0x127b;
    pub(super) const BLKGETSIZE64: libc::Ioctl =
        nix::request_code_read!(0x12, 114, size_of::<u64>());
    pub(super) const BLKGETDISKSEQ: libc::Ioctl =
        nix::request_code_read!(0x12, 128, size_of::<u64>());
}

/// All values are read into a u64: the kernel writes an int or a u64, and the upper half stays zero on
/// little-endian machines, the only ones we build for.
fn read_value(file: &File, request: libc::Ioctl) -> io::Result<u64> {
    const { assert!(cfg!(target_endian = "little")) };
    let mut value = 0u64;
    // SAFETY: the descriptor is open (`file` borrows it); all requests in `request` that come here write
    // at most 8 bytes to the address, which is `value` on our stack.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut value) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}

fn read_u32(file: &File, request: libc::Ioctl) -> io::Result<u32> {
    let value = read_value(file, request)?;
    u32::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

/// Device size, or file length.
pub(super) fn size_bytes(file: &File, kind: DeviceKind) -> io::Result<u64> {
    match kind {
        DeviceKind::Block => read_value(file, request::BLKGETSIZE64),
        DeviceKind::Regular => Ok(file.metadata()?.len()),
    }
}

/// Which attachment of a device number this is (5.15 and later).
pub(super) fn diskseq(file: &File) -> Option<u64> {
    read_value(file, request::BLKGETDISKSEQ).ok()
}

/// True when the block device refuses writes.
pub(super) fn is_read_only(file: &File) -> io::Result<bool> {
    Ok(read_u32(file, request::BLKROGET)? != 0)
}

/// Drops the page cache of the whole device or file, so that nothing stale hides what is on the medium.
pub(super) fn drop_page_cache(file: &File, kind: DeviceKind) -> io::Result<()> {
    if kind == DeviceKind::Regular {
        posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        return Ok(());
    }
    // SAFETY: the descriptor is open (`file` borrows it); BLKFLSBUF takes no argument.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request::BLKFLSBUF, 0) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

pub(super) fn logical_block(file: &File, kind: DeviceKind) -> io::Result<u32> {
    match kind {
        DeviceKind::Block => read_u32(file, request::BLKSSZGET),
        DeviceKind::Regular => Ok(512),
    }
}

/// `direct`: the descriptor opened with O_DIRECT, if that worked.
pub(super) fn geometry(
    buffered: &File,
    direct: Option<&File>,
    kind: DeviceKind,
) -> io::Result<Geometry> {
    let logical_block = logical_block(buffered, kind)?;
    let direct_align = match direct {
        Some(file) => direct_align(file, kind, logical_block),
        None => 0,
    };
    let metadata = buffered.metadata()?;
    let (physical_block, preferred_io, rotational) = match kind {
        DeviceKind::Block => {
            let optimal = read_u32(buffered, request::BLKIOOPT).unwrap_or(0);
            let minimal = read_u32(buffered, request::BLKIOMIN).unwrap_or(0);
            let physical = read_u32(buffered, request::BLKPBSZGET).unwrap_or(logical_block);
            let preferred = if optimal > 0 { optimal } else { minimal };
            (physical, preferred, rotational(metadata.rdev()))
        }
        DeviceKind::Regular => {
            let block = u32::try_from(metadata.blksize()).unwrap_or(4096);
            (block, block, false)
        }
    };
    let logical_block = match kind {
        DeviceKind::Block => logical_block,
        // The unit in which a file can be written without copying.
        DeviceKind::Regular => direct_align.max(512),
    };
    Ok(Geometry {
        logical_block,
        physical_block: physical_block.max(logical_block),
        preferred_io: preferred_io.max(logical_block),
        direct_align,
        rotational,
    })
}

/// What direct I/O asks of offsets and lengths; 0 when the file cannot do it.
fn direct_align(file: &File, kind: DeviceKind, logical_block: u32) -> u32 {
    if let Some((offset_align, memory_align)) = statx_direct_align(file) {
        // Leases begin at page boundaries, so what remains for the caller is the larger of both.
        return if offset_align == 0 {
            0
        } else {
            offset_align.max(memory_align)
        };
    }
    match kind {
        DeviceKind::Block => logical_block,
        DeviceKind::Regular => direct_align_by_trial(file),
    }
}

/// (offset, memory) alignment from the kernel (6.1 and later, file systems that know).
fn statx_direct_align(file: &File) -> Option<(u32, u32)> {
    let mut answer = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the descriptor is open (`file` borrows it), the path is an empty C string (AT_EMPTY_PATH),
    // and `answer` is a whole statx for the kernel to fill.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            answer.as_mut_ptr(),
        )
    };
    if result != 0 {
        return None;
    }
    // SAFETY: zeroed above, and all-zero is a valid statx (integers only).
    let answer = unsafe { answer.assume_init() };
    (answer.stx_mask & libc::STATX_DIOALIGN != 0)
        .then_some((answer.stx_dio_offset_align, answer.stx_dio_mem_align))
}

/// Reads one sector at an odd sector. A file system that wants more says EINVAL.
fn direct_align_by_trial(file: &File) -> u32 {
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let mut page = Page([0; 4096]);
    match file.read_at(&mut page.0[..512], 512) {
        Ok(512) => 512,
        // Too short to tell, or refused: a whole page is right everywhere.
        _ => 4096,
    }
}

/// The sysfs folder of a block device.
pub(super) fn sysfs_of(rdev: u64) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{}:{}", major(rdev), minor(rdev)))
}

/// The sysfs folder of the whole disk that `rdev` is, or is a partition of.
pub(super) fn sysfs_of_disk(rdev: u64) -> PathBuf {
    let folder = sysfs_of(rdev);
    match folder.canonicalize() {
        Ok(real) if real.join("partition").exists() => {
            real.parent().map_or(folder, |parent| parent.to_path_buf())
        }
        _ => folder,
    }
}

fn rotational(rdev: u64) -> bool {
    fs::read_to_string(sysfs_of_disk(rdev).join("queue/rotational"))
        .is_ok_and(|text| text.trim() == "1")
}
