//! The file table.

use std::sync::Arc;

use super::{Poll, work::Job};
use crate::{DeviceFile, FileId, Op, SetupError, slab::Key, tables};

pub(super) struct FileEntry {
    file: Arc<DeviceFile>,
    /// In flight.
    ops: u32,
    /// Ids are stale from here on; the entry waits for the threads.
    removed: bool,
}

impl Poll {
    pub(super) fn insert_file(&mut self, file: Arc<DeviceFile>) -> Result<FileId, SetupError> {
        let entry = FileEntry {
            file,
            ops: 0,
            removed: false,
        };
        match self.files.insert(entry) {
            Ok(key) => Ok(key.into()),
            Err(_) => Err(tables::full("file", self.files.capacity())),
        }
    }

    pub(super) fn drop_file(&mut self, key: Key) {
        if let Some(entry) = self.files.get_mut(key) {
            entry.removed = true;
        }
        self.release_file(key);
    }

    fn release_file(&mut self, key: Key) {
        if self
            .files
            .get(key)
            .is_some_and(|entry| entry.removed && entry.ops == 0)
        {
            self.files.remove(key);
        }
    }

    pub(super) fn is_live_file(&self, key: Key) -> bool {
        self.files.get(key).is_some_and(|entry| !entry.removed)
    }

    /// `admit` said that the file is there.
    pub(super) fn start_file_op(&mut self, file: Key, key: Key, op: Op) {
        let Some(entry) = self.files.get_mut(file) else {
            unreachable!("admitted")
        };
        entry.ops += 1;
        self.workers.give(Job {
            key,
            file: Arc::clone(&entry.file),
            op,
        });
    }

    pub(super) fn file_op_over(&mut self, file: Key) {
        if let Some(entry) = self.files.get_mut(file) {
            entry.ops -= 1;
        }
        self.release_file(file);
    }
}
