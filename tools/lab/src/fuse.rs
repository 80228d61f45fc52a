//! The FUSE server: one flat folder whose files are the disks.

use crate::seeded::Seeded;
use crate::volatile::Disk;
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyWrite, Request, SessionACL, WriteFlags,
};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

/// Sizes change when volumes are resized: the kernel asks every time.
const KEEP: Duration = Duration::ZERO;

/// `fallocate(2)`.
const FALLOC_PUNCH_HOLE: i32 = 0x02;
const FALLOC_ZERO_RANGE: i32 = 0x10;

#[derive(Default)]
struct Rows {
    numbers: BTreeMap<String, u64>,
    disks: BTreeMap<u64, Disk>,
    count: u64,
}

/// The disks, shared by the lab and its FUSE server.
#[derive(Clone, Default)]
pub(crate) struct Disks(Arc<Mutex<Rows>>);

impl Disks {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A disk under this name; one that had it before keeps its inode, so that devices above see the new bytes.
    pub(crate) fn insert(&self, name: &str, disk: Disk) {
        let mut rows = self.rows();
        let fresh = rows.count + 2;
        let number = *rows.numbers.entry(name.to_owned()).or_insert(fresh);
        if number == fresh {
            rows.count += 1;
        }
        rows.disks.insert(number, disk);
    }

    pub(crate) fn remove(&self, name: &str) {
        let mut rows = self.rows();
        if let Some(number) = rows.numbers.remove(name) {
            rows.disks.remove(&number);
        }
    }

    pub(crate) fn with<T>(
        &self,
        name: &str,
        act: impl FnOnce(&mut Disk) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut rows = self.rows();
        let Rows { numbers, disks, .. } = &mut *rows;
        let disk = numbers.get(name).and_then(|number| disks.get_mut(number));
        act(disk.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no disk {name}")))?)
    }

    pub(crate) fn power_cut(&self, rng: &mut Seeded) -> io::Result<u64> {
        self.rows()
            .disks
            .values_mut()
            .map(|disk| disk.power_cut(rng))
            .sum()
    }

    fn by_number<T>(
        &self,
        number: INodeNo,
        act: impl FnOnce(&mut Disk) -> io::Result<T>,
    ) -> Result<T, Errno> {
        let mut rows = self.rows();
        let disk = rows
            .disks
            .get_mut(&u64::from(number))
            .ok_or(Errno::ENOENT)?;
        act(disk).map_err(Errno::from)
    }
}

/// Serves `disks` at `folder` until the session is dropped.
pub(crate) fn mount(disks: Disks, folder: &Path) -> io::Result<fuser::BackgroundSession> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("migratekit-lab".to_owned()),
        MountOption::NoAtime,
    ];
    config.acl = SessionACL::All;
    fuser::spawn_mount(disks, folder, &config)
}

fn attributes(number: INodeNo, size: u64, kind: FileType) -> FileAttr {
    FileAttr {
        ino: number,
        size,
        blocks: size / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm: if kind == FileType::Directory {
            0o755
        } else {
            0o600
        },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Disks {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let rows = self.rows();
        let number = name.to_str().and_then(|name| rows.numbers.get(name));
        match number.and_then(|number| Some((*number, rows.disks.get(number)?.size()))) {
            Some((number, size)) => reply.entry(
                &KEEP,
                &attributes(INodeNo(number), size, FileType::RegularFile),
                Generation(0),
            ),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if number == INodeNo::ROOT {
            return reply.attr(&KEEP, &attributes(number, 0, FileType::Directory));
        }
        match self.by_number(number, |disk| Ok(disk.size())) {
            Ok(size) => reply.attr(&KEEP, &attributes(number, size, FileType::RegularFile)),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // No page cache between us and the device: after a power cut nothing may show what is gone.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.by_number(number, |disk| disk.read(offset, size as usize)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        bytes: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.by_number(number, |disk| disk.write(offset, bytes)) {
            Ok(()) => reply.written(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(error),
        }
    }

    /// Closing is no flush.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    /// Discards and zero-outs of the device above: both leave zeroes, which are as volatile as any write.
    fn fallocate(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode & (FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE) == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        match self.by_number(number, |disk| disk.zero(offset, len)) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    fn fsync(&self, _: &Request, number: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        match self.by_number(number, Disk::flush) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }
}
