//! The file of `copy --journal FILE --resume`: what of a transfer is durable, for the time after a crash.
//!
//! Append-only. Each record carries a checksum over itself and everything before it, so the valid part of the file is a
//! prefix of what was appended, whatever a crash left behind. Format: `docs/interfaces/journal.md`.
//!
//! Order of use: `create` (or `open`, then [`binding::bind`] to decide what the replayed ranges are worth), one
//! `Session`, then `Durable`, `Verified` and `Void` as the ledger tells, `Done` at the end. A record must be appended
//! *after* what it claims has happened (`Durable` after the flush), and `Void` before anything builds on it.

pub mod binding;
mod compact;
mod digests;
mod disk;
mod frame;
mod record;
mod replay;
#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
};

pub use digests::DigestMap;
pub use record::{
    BlockSource, Done, ExportTarget, Header, Medium, Record, SCHEMA, Session, Source, Target,
    ranges_digest,
};
pub use replay::Replayed;

use crate::{Blame, EngineError, ErrorKind};
use disk::Disk;
use frame::{Chain, MAGIC};

/// Longest line of the file, bytes. Ranges and digests are split to stay below it.
pub const RECORD_BYTES_MAX: usize = 128 * 1024;
/// Ranges of one record on disk; each takes at most 43 bytes.
pub const RANGES_PER_RECORD_MAX: usize = 1_024;
/// Chunk digests of one record on disk; each takes at most 90 bytes.
pub const DIGESTS_PER_RECORD_MAX: usize = 512;
/// Longest reason of a `Void`, bytes; the rest is cut off.
pub const REASON_BYTES_MAX: usize = 1_024;
/// Largest file that is read. 64 TiB of data have 16 million chunks and take 1.5 GiB.
pub const JOURNAL_BYTES_MAX: u64 = 4 << 30;
/// Sessions that are remembered, the last ones.
pub const SESSIONS_MAX: usize = 64;
/// A file up to this size is never compacted.
pub const COMPACT_ABOVE_BYTES: u64 = 1 << 20;
/// Bytes gathered before they are written.
const BATCH_BYTES: usize = 1 << 20;

const _: () = assert!(RANGES_PER_RECORD_MAX * 43 + REASON_BYTES_MAX * 6 + 64 < RECORD_BYTES_MAX);
const _: () = assert!(DIGESTS_PER_RECORD_MAX * 90 + 64 < RECORD_BYTES_MAX);
const _: () = assert!(BATCH_BYTES >= RECORD_BYTES_MAX);

/// An open journal, locked against every other process until it is dropped.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    disk: Box<dyn Disk>,
    chain: Chain,
    /// Size of the disk that is copied.
    total_bytes: u64,
    /// A write or a sync failed once; what the file holds behind the last good append is not known.
    poisoned: bool,
}

impl Journal {
    /// Whether a file is there that is more than what a crash inside `create` leaves: then it is for `open`.
    #[must_use]
    pub fn is_begun(path: &Path) -> bool {
        path.exists() && !disk::open_existing(path).is_ok_and(|file| is_unbegun(&file))
    }

    /// Makes the file (mode 0600) with its header; both it and its folder are on the medium when this returns. One that
    /// is there must not be begun. A file that could not be finished is removed again.
    pub fn create(path: &Path, header: &Header) -> Result<Self, EngineError> {
        let file = match disk::create_new(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => take_unbegun(path)?,
            made => made.map_err(|error| {
                config("the journal cannot be created", path)
                    .remedy("check the folder and its permissions")
                    .cause(error)
            })?,
        };
        let made = lock(&file, path)
            .and_then(|()| Self::begin(path, Box::new(file), header))
            .and_then(|journal| {
                disk::sync_folder(path).map_err(|error| failed(path, error))?;
                Ok(journal)
            });
        if made.is_err() {
            // An unfinished file would only stand in the way; if it stays, `open` says that it has no header.
            let _ = std::fs::remove_file(path);
        }
        made
    }

    /// Writes magic and header to an empty file and syncs it.
    fn begin(path: &Path, mut disk: Box<dyn Disk>, header: &Header) -> Result<Self, EngineError> {
        let mut chain = Chain::new();
        let mut bytes = MAGIC.to_vec();
        frame::encode_header(&mut chain, header, &mut bytes)
            .map_err(|error| too_long(path).cause(error))?;
        write_all(disk.as_mut(), &bytes)
            .and_then(|()| disk.sync())
            .map_err(|error| failed(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            disk,
            chain,
            total_bytes: header.total_bytes,
            poisoned: false,
        })
    }

    /// Opens and locks a journal, replays it, cuts off what a crash left half written, and compacts the file when it is
    /// much longer than what it says. Nothing is changed in a file that is refused.
    pub fn open(path: &Path) -> Result<(Self, Replayed), EngineError> {
        let mut file = disk::open_existing(path).map_err(|error| {
            config("the journal cannot be opened", path)
                .remedy("check the path, or start without --resume")
                .cause(error)
        })?;
        lock(&file, path)?;
        let (mut replayed, mut chain) = replay::replay(&file, path)?;
        let io = |error| failed(path, error);
        let unknown = replayed.damaged.then(Session::unknown);
        replayed.begin_sessions(unknown.clone());
        let compacted = match replayed.damaged || replayed.valid_bytes > COMPACT_ABOVE_BYTES {
            true => compact::compact(path, &replayed, &mut |_| Ok(())).map_err(io)?,
            false => None,
        };
        let mut unwritten = unknown.map(Record::Session);
        if let Some(compacted) = compacted {
            replayed.valid_bytes = compacted.len_bytes;
            (file, chain) = (compacted.file, compacted.chain);
            unwritten = None;
        } else if replayed.torn_bytes > 0 {
            file.set_len(replayed.valid_bytes).map_err(io)?;
            file.sync_all().map_err(io)?;
        }
        let mut journal = Self {
            path: path.to_owned(),
            disk: Box::new(file),
            chain,
            total_bytes: replayed.header.total_bytes,
            poisoned: false,
        };
        if let Some(record) = unwritten {
            journal.append(&[record])?;
        }
        Ok((journal, replayed))
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends the records in order and waits until they are on the medium. After an error the journal is poisoned: no
    /// later append succeeds, because a second fsync may say yes to what the first one lost. What was appended before
    /// stays valid, and the next `open` cuts off what was written in part.
    pub fn append(&mut self, records: &[Record]) -> Result<(), EngineError> {
        if self.poisoned {
            return Err(failed(
                &self.path,
                io::Error::other("an earlier write to it failed"),
            ));
        }
        if !records.iter().all(|r| r.is_within(self.total_bytes)) {
            let on = self.path.display().to_string();
            return Err(EngineError::bug(
                "a record names a place behind the end of the disk",
                on,
            ));
        }
        let done = self.try_append(records);
        self.poisoned = done.is_err();
        done.map_err(|error| failed(&self.path, error))
    }

    fn try_append(&mut self, records: &[Record]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for record in records {
            for body in record.bodies() {
                self.chain.encode(&body, &mut bytes)?;
                if bytes.len() >= BATCH_BYTES {
                    write_all(self.disk.as_mut(), &bytes)?;
                    bytes.clear();
                }
            }
        }
        write_all(self.disk.as_mut(), &bytes)?;
        self.disk.sync()
    }
}

/// `write_all` of the standard library, on our seam.
fn write_all(disk: &mut dyn Disk, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match disk.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(len) => bytes = &bytes[len..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// True for the beginning of magic and header, up to nothing at all: no record was ever in it.
fn is_unbegun(file: &File) -> bool {
    let mut head = Vec::new();
    let most = (MAGIC.len() + RECORD_BYTES_MAX) as u64;
    let read = (&mut &*file).take(most).read_to_end(&mut head);
    let is_header = |rest: &[u8]| rest.len() < RECORD_BYTES_MAX && !rest.contains(&b'\n');
    read.is_ok() && (MAGIC.starts_with(&head) || head.strip_prefix(MAGIC).is_some_and(is_header))
}

/// Locks and empties what a crash inside `create` left.
fn take_unbegun(path: &Path) -> Result<File, EngineError> {
    let there = || {
        refused("a journal is there already", path)
            .remedy("pass --resume to go on with its transfer, or name another file")
    };
    let mut file = disk::open_existing(path).map_err(|_| there())?;
    if !is_unbegun(&file) {
        return Err(there());
    }
    lock(&file, path)?;
    // Whoever had it until now may have begun it.
    file.rewind().map_err(|error| failed(path, error))?;
    if !is_unbegun(&file) {
        return Err(there());
    }
    file.set_len(0).map_err(|error| failed(path, error))?;
    Ok(file)
}

/// Locks the file, or says who has it.
fn lock(file: &File, path: &Path) -> Result<(), EngineError> {
    if let Err(error) = file.try_lock() {
        let std::fs::TryLockError::Error(error) = error else {
            let pid = replay::last_pid(path);
            let by = pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"));
            return Err(refused(format!("the journal is in use by {by}"), path)
                .remedy("wait until that copy has ended, or stop it"));
        };
        return Err(config("the journal cannot be locked", path)
            .remedy("keep it on a local file system")
            .cause(error));
    }
    // Whoever compacted it put another file in its place while we waited for nothing.
    if !disk::is_at(file, path) {
        return Err(
            refused("the journal was replaced while it was opened", path)
                .remedy("check that no other copy uses it and start again"),
        );
    }
    Ok(())
}

fn refused(what: impl Into<String>, path: &Path) -> EngineError {
    let on = path.display().to_string();
    EngineError::new(ErrorKind::Refused, Blame::Operator, what, on)
}

fn config(what: &str, path: &Path) -> EngineError {
    let on = path.display().to_string();
    EngineError::new(ErrorKind::Config, Blame::Operator, what, on)
}

fn too_long(path: &Path) -> EngineError {
    config("the names in the header of the journal are too long", path)
        .remedy("use shorter names of exports and sources")
}

/// The journal's own disk failed; the transfer can be taken up from what is recorded.
fn failed(path: &Path, error: io::Error) -> EngineError {
    let full = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    );
    let (what, remedy) = if full {
        (
            "the disk of the journal is full",
            "what it records so far is valid: make room there and start again with --resume",
        )
    } else {
        (
            "the journal cannot be written",
            "what it records so far is valid: mend its disk and start again with --resume",
        )
    };
    let on = path.display().to_string();
    EngineError::new(ErrorKind::Journal, Blame::Environment, what, on)
        .remedy(remedy)
        .cause(error)
}
