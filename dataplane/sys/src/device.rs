//! Files and block devices: opened once, identified, safe to write.
//!
//! A path is resolved once; the descriptors pin what it led to. A target block device is opened exclusively
//! and refused when something uses it or when it carries a signature; see `open` for the order of checks.

mod facts;
mod identity;
mod open;
mod signature;
mod usage;

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    unistd::{Whence, lseek},
};

use crate::{SetupError, SetupErrorKind, Via};
use facts::Geometry;

/// What the path led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceKind {
    /// A block device.
    Block,
    /// A regular file.
    Regular,
}

/// What we want with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpenIntent {
    /// Read only.
    Source,
    /// Read and write, exclusively.
    Target,
}

/// How to open.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// Create a missing regular file with this size.
    pub create_size_bytes: Option<u64>,
    /// Without it, a device with a signature (partition table, file system, LVM, RAID) and an existing
    /// regular file are refused as targets.
    pub overwrite: bool,
    /// Never use O_DIRECT (tests).
    pub buffered_only: bool,
    /// Do not refuse signatures or existing files (server exports decide elsewhere).
    pub skip_signature_check: bool,
}

/// Which device this is, as far as it can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceIdentity {
    /// Device or file.
    pub kind: DeviceKind,
    /// Size.
    pub size_bytes: u64,
    /// Smallest unit the device reads and writes.
    pub logical_block: u32,
    /// The serial number the device reports; a partition's ends in "-part" and its number.
    pub serial: Option<String>,
    /// World-wide id, device-mapper or RAID uuid; a partition's ends in "-part" and its number.
    pub wwid: Option<String>,
    /// Which attachment of a device this is; changes when the number is reused within one boot.
    pub diskseq: Option<u64>,
    /// `st_dev` for files, `st_rdev` for devices.
    pub dev: u64,
    /// `st_ino` for files, 0 for devices.
    pub inode: u64,
    /// When a file was made, nanoseconds since 1970 UTC, where its file system knows it. An inode number is given to the
    /// next file as soon as one is deleted; the two of them never name two files.
    pub born_ns: Option<i64>,
}

/// An opened file or device: a direct descriptor (when O_DIRECT works) and a buffered one.
#[derive(Debug)]
pub struct DeviceFile {
    identity: DeviceIdentity,
    geometry: Geometry,
    path: PathBuf,
    resolved: PathBuf,
    intent: OpenIntent,
    direct: Option<File>,
    /// Opened after, and so closed after, the direct one: both hold the exclusive claim's inode.
    buffered: File,
    notes: Vec<String>,
}

impl DeviceFile {
    /// Opens `path`. Errors name the thing, the reason and the remedy.
    pub fn open(
        path: &Path,
        intent: OpenIntent,
        options: &OpenOptions,
    ) -> Result<Self, SetupError> {
        open::open(path, intent, options)
    }

    /// A file in memory without a name, for trials: everything but `revalidate` works.
    pub fn in_memory(size_bytes: u64) -> Result<Self, SetupError> {
        open::in_memory(size_bytes)
    }

    /// Like `in_memory`, and claims that direct I/O works there in units of `direct_align` bytes. Simulated disks stand
    /// behind such a name; real I/O through it is not direct.
    pub fn in_memory_aligned(size_bytes: u64, direct_align: u32) -> Result<Self, SetupError> {
        open::in_memory_aligned(size_bytes, direct_align)
    }

    /// Which device this is.
    pub fn identity(&self) -> &DeviceIdentity {
        &self.identity
    }

    /// The path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path after resolving links, as opened.
    pub fn resolved_path(&self) -> &Path {
        &self.resolved
    }

    /// Device or file.
    pub fn kind(&self) -> DeviceKind {
        self.identity.kind
    }

    /// Size when opened.
    pub fn size_bytes(&self) -> u64 {
        self.identity.size_bytes
    }

    /// Alignment that direct I/O needs of offset, length and memory, bytes; 1 when buffered.
    pub fn direct_align(&self) -> u32 {
        if self.is_direct() {
            self.geometry.direct_align
        } else {
            1
        }
    }

    /// Smallest unit the device reads and writes.
    pub fn logical_block(&self) -> u32 {
        self.geometry.logical_block
    }

    /// Smallest unit it writes without reading first.
    pub fn physical_block(&self) -> u32 {
        self.geometry.physical_block
    }

    /// The request size it likes (BLKIOOPT, else BLKIOMIN; st_blksize for files).
    pub fn preferred_io(&self) -> u32 {
        self.geometry.preferred_io
    }

    /// True when O_DIRECT is in use.
    pub fn is_direct(&self) -> bool {
        self.direct.is_some()
    }

    /// True when opened as a source.
    pub fn is_read_only(&self) -> bool {
        self.intent == OpenIntent::Source
    }

    /// True for spinning disks; false when unknown.
    pub fn rotational(&self) -> bool {
        self.geometry.rotational
    }

    /// What did not work but does no harm, for the log.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The descriptor for `via`; the buffered one when there is no direct one.
    pub(crate) fn file(&self, via: Via) -> &File {
        match (via, &self.direct) {
            (Via::Direct, Some(direct)) => direct,
            _ => &self.buffered,
        }
    }

    /// The next data range at or after `offset` as (start, end), from SEEK_DATA and SEEK_HOLE. A device or
    /// a file system without them: everything is data. None: nothing but holes up to the end.
    pub fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, SetupError> {
        let size = self.size_bytes();
        if offset >= size {
            return Ok(None);
        }
        let seek = |from: u64, whence| -> nix::Result<u64> {
            let from = i64::try_from(from).map_err(|_| Errno::EOVERFLOW)?;
            lseek(&self.buffered, from, whence).map(|at| u64::try_from(at).unwrap_or(0))
        };
        let start = match seek(offset, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => return Ok(None),
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(Some((offset, size))),
            Err(errno) => return Err(self.io_error("data cannot be sought", errno)),
        };
        if start >= size {
            return Ok(None);
        }
        let end = seek(start, Whence::SeekHole)
            .map_err(|errno| self.io_error("holes cannot be sought", errno))?;
        Ok(Some((start, end.clamp(start, size))))
    }

    /// Blocking read through the page cache, for slow paths off the shard. Short at the end only.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, SetupError> {
        let mut done = 0;
        while done < buf.len() {
            match self
                .buffered
                .read_at(&mut buf[done..], offset + done as u64)
            {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(self.io_error(&format!("cannot be read at {offset}"), error));
                }
            }
        }
        Ok(done)
    }

    /// Blocking read that does not use the page cache when the file is open for direct I/O; then offset, length and
    /// memory are multiples of `direct_align`. Short at the end only.
    pub fn read_medium_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, SetupError> {
        let file = self.file(Via::Direct);
        let align = self.direct_align() as usize;
        let mut done = 0;
        while done < buf.len() {
            match file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(self.io_error(&format!("cannot be read at {offset}"), error));
                }
            }
            // A piece of a block is the end of a file; asking for more from there would not be aligned.
            if !done.is_multiple_of(align) {
                break;
            }
        }
        Ok(done)
    }

    /// Blocking write through the page cache, for slow paths off the shard. All or an error.
    pub fn write_all_at(&self, buf: &[u8], offset: u64) -> Result<(), SetupError> {
        self.buffered
            .write_all_at(buf, offset)
            .map_err(|error| self.io_error(&format!("cannot be written at {offset}"), error))
    }

    /// Drops what the page cache holds, so that the next buffered read comes from the medium. Flush first:
    /// what is dirty stays.
    pub fn drop_page_cache(&self) -> Result<(), SetupError> {
        facts::drop_page_cache(&self.buffered, self.kind())
            .map_err(|error| self.io_error("the page cache cannot be dropped", error))
    }

    /// Blocking flush, for slow paths off the shard. Never believe a second one after a first failed.
    pub fn flush_blocking(&self) -> Result<(), SetupError> {
        self.file(Via::Direct)
            .sync_data()
            .map_err(|error| self.io_error("cannot be flushed", error))
    }

    /// Compares with the device's present identity (before the first write and after reconnects): both what
    /// the descriptor holds and what the path leads to now.
    pub fn revalidate(&self) -> Result<(), SetupError> {
        let metadata = std::fs::metadata(&self.path)
            .map_err(|error| self.io_error("the path no longer leads to a device", error))?;
        let (dev, inode) = if metadata.file_type().is_block_device() {
            (metadata.rdev(), 0)
        } else {
            (metadata.dev(), metadata.ino())
        };
        if (dev, inode) != (self.identity.dev, self.identity.inode) {
            return Err(self.changed("the path leads to another device than when it was opened"));
        }
        let present = identity::identify(&self.resolved, &self.buffered, self.identity.kind)?;
        let present = DeviceIdentity {
            logical_block: self.identity.logical_block,
            ..present
        };
        if present != self.identity {
            let problem = format!(
                "the device changed: it was {:?}, it is {present:?}",
                self.identity
            );
            return Err(self.changed(&problem));
        }
        Ok(())
    }

    fn changed(&self, problem: &str) -> SetupError {
        SetupError::new(
            SetupErrorKind::Refused,
            self.path.display().to_string(),
            problem,
        )
        .with_remedy("check what is attached and start again")
    }

    fn io_error(&self, problem: &str, source: impl Into<io::Error>) -> SetupError {
        SetupError::from_io(self.path.display().to_string(), problem, source)
    }
}
