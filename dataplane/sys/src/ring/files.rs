//! The file table.

use std::{os::fd::AsRawFd, sync::Arc};

use io_uring::{squeue, types};

use super::{Inner, sockets::fixed};
use crate::{DeviceFile, FileId, SetupError, Via, slab::Key, tables};

pub(super) struct FileEntry {
    pub(super) file: Arc<DeviceFile>,
    /// In flight.
    pub(super) ops: u32,
    /// Ids are stale from here on; the entry waits for the kernel.
    pub(super) removed: bool,
}

impl Inner {
    pub(super) fn add_file(&mut self, file: Arc<DeviceFile>) -> Result<FileId, SetupError> {
        let Some(key) = self.files.next_key() else {
            return Err(tables::full("file", self.files.capacity()));
        };
        let register =
            |via| self.register_descriptor(self.place(key.index, via), file.file(via).as_raw_fd());
        register(Via::Direct)?;
        register(Via::Buffered)
            .inspect_err(|_| self.unregister_descriptor(self.place(key.index, Via::Direct)))?;
        let Ok(key) = self.files.insert(FileEntry {
            file,
            ops: 0,
            removed: false,
        }) else {
            unreachable!("`next_key` found a free place");
        };
        Ok(key.into())
    }

    pub(super) fn remove_file(&mut self, key: Key) {
        if let Some(entry) = self.files.get_mut(key) {
            entry.removed = true;
        }
        self.release_file(key);
    }

    pub(super) fn release_file(&mut self, key: Key) {
        if !self
            .files
            .get(key)
            .is_some_and(|entry| entry.removed && entry.ops == 0)
        {
            return;
        }
        self.files.remove(key);
        self.unregister_descriptor(self.place(key.index, Via::Direct));
        self.unregister_descriptor(self.place(key.index, Via::Buffered));
    }

    pub(super) fn live_file(&self, key: Key) -> Option<&FileEntry> {
        self.files.get(key).filter(|entry| !entry.removed)
    }

    pub(super) fn file_target(&self, key: Key, via: Via) -> (types::Fd, squeue::Flags) {
        if self.fixed_files {
            return fixed(self.place(key.index, via));
        }
        let fd = self
            .files
            .get(key)
            .map_or(-1, |entry| entry.file.file(via).as_raw_fd());
        (types::Fd(fd), squeue::Flags::empty())
    }

    /// Files stand behind the sockets in the kernel's table, two places each.
    fn place(&self, index: u32, via: Via) -> u32 {
        let sockets = u32::try_from(self.sockets.capacity()).expect("sockets_max is a u16");
        sockets + 2 * index + u32::from(via == Via::Buffered)
    }
}
