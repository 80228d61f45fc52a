//! Writes a long journal anew with what it still says.
//!
//! ```text
//! FILE.compact: write, fsync ── rename over FILE ── fsync the folder
//! ```
//! A crash before the rename leaves the old file and a leftover that the next compaction replaces; one after it leaves
//! the old or the new file, both whole.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use super::{
    BATCH_BYTES, Record, Replayed,
    disk::{create_new, open_existing, sync_folder},
    frame::{Chain, MAGIC, encode_header},
};

/// What the tests let fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    Created,
    Written,
    Synced,
    /// Only the running system sees the new file for certain.
    Renamed,
    FolderSynced,
}

/// The new file, locked and in place.
pub(super) struct Compacted {
    pub(super) file: File,
    pub(super) chain: Chain,
    pub(super) len_bytes: u64,
}

/// Compacts when the file is damaged, or more than twice as long as it needs to be. `None` when it is not, or when there is no room
/// or no right for a second file: the long one serves as well. An error comes only after the rename: which of the two
/// files a crash would leave is not known then, so nothing may be appended to either. `at` may fail at each point.
pub(super) fn compact(
    path: &Path,
    replayed: &Replayed,
    at: &mut dyn FnMut(Point) -> io::Result<()>,
) -> io::Result<Option<Compacted>> {
    let mut needed = 0_u64;
    encode(replayed, &mut |bytes| {
        needed += bytes.len() as u64;
        Ok(())
    })?;
    if replayed.valid_bytes / 2 <= needed && !replayed.damaged {
        return Ok(None);
    }
    let beside = beside(path);
    if !is_leftover(&beside) {
        return Ok(None);
    }
    let made = write_beside(&beside, replayed, needed, at)
        .and_then(|compacted| fs::rename(&beside, path).map(|()| compacted));
    match made {
        Ok(compacted) => {
            at(Point::Renamed)?;
            sync_folder(path)?;
            at(Point::FolderSynced)?;
            Ok(Some(compacted))
        }
        Err(error) => {
            tracing::warn!(journal = %path.display(), %error, "cannot be compacted");
            // A leftover costs room and nothing else; the next compaction replaces it.
            let _ = fs::remove_file(&beside);
            Ok(None)
        }
    }
}

/// True when nothing is there, or the beginning of a journal.
fn is_leftover(beside: &Path) -> bool {
    let mut head = Vec::new();
    match open_existing(beside) {
        Ok(file) => {
            let read = file.take(MAGIC.len() as u64).read_to_end(&mut head);
            read.is_ok() && MAGIC.starts_with(&head)
        }
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".compact");
    PathBuf::from(name)
}

fn write_beside(
    beside: &Path,
    replayed: &Replayed,
    needed: u64,
    at: &mut dyn FnMut(Point) -> io::Result<()>,
) -> io::Result<Compacted> {
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = create_new(beside)?;
    at(Point::Created)?;
    // Locked before it has the name under which others look for it.
    file.try_lock().map_err(io::Error::from)?;
    let chain = encode(replayed, &mut |bytes| file.write_all(bytes))?;
    at(Point::Written)?;
    file.sync_all()?;
    at(Point::Synced)?;
    Ok(Compacted {
        file,
        chain,
        len_bytes: needed,
    })
}

/// Gives the bytes of the new file to `out`, in batches.
fn encode(replayed: &Replayed, out: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<Chain> {
    let mut chain = Chain::new();
    let mut bytes = MAGIC.to_vec();
    encode_header(&mut chain, &replayed.header, &mut bytes)?;
    let sessions = replayed.sessions.iter().cloned().map(Record::Session);
    let ranges = [
        Record::Durable {
            ranges: replayed.durable.clone(),
            digests: replayed.digests.clone(),
        },
        Record::Verified {
            ranges: replayed.verified.clone(),
        },
    ];
    let done = replayed.done.clone().map(Record::Done);
    for record in sessions.chain(ranges).chain(done) {
        for body in record.bodies() {
            chain.encode(&body, &mut bytes)?;
            if bytes.len() >= BATCH_BYTES {
                out(&bytes)?;
                bytes.clear();
            }
        }
    }
    out(&bytes)?;
    Ok(chain)
}
