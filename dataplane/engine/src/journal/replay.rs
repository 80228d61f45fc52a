//! Reads a journal from its first byte to the last that belongs to it.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use serde::Deserialize;

use super::{
    DigestMap, Header, JOURNAL_BYTES_MAX, SCHEMA, SESSIONS_MAX, Session, config,
    frame::{Chain, MAGIC, is_whole, read_line},
    record::{Body, Done, Piece},
    refused,
};
use crate::{
    EngineError, ExtentSet,
    digest::{CHUNK_BYTES, chunk_count},
};

/// What a journal says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// What is copied where.
    pub header: Header,
    /// The starts so far, at most the last [`SESSIONS_MAX`].
    pub sessions: Vec<Session>,
    /// What was made durable and not voided.
    pub durable: ExtentSet,
    /// What was compared after that.
    pub verified: ExtentSet,
    /// Digests of chunks of which nothing was written or voided since.
    pub digests: DigestMap,
    /// The transfer had ended, and nothing was voided since.
    pub done: Option<Done>,
    /// Bytes behind the last record that belongs to the file: a crash left them, or the file was damaged there.
    pub torn_bytes: u64,
    /// Whole lines are among them: no crash in an append leaves that, and what they took back is not known any more.
    pub damaged: bool,
    /// Bytes up to there.
    pub(super) valid_bytes: u64,
}

/// Reads `file` from its beginning. Only a file that is not ours, is too new, or cannot be read at all is an error.
pub(super) fn replay(file: &File, path: &Path) -> Result<(Replayed, Chain), EngineError> {
    let unreadable = |error: io::Error| {
        config("the journal cannot be read", path)
            .remedy("mend its disk, or start without --resume")
            .cause(error)
    };
    let len = file.metadata().map_err(unreadable)?.len();
    if len > JOURNAL_BYTES_MAX {
        return Err(
            refused("the journal is larger than any that we write", path)
                .remedy("check the path, or start without --resume"),
        );
    }
    // What is appended while we read is no business of ours; nobody should, as we hold the lock.
    read_all(BufReader::new(file.take(len)), len, path, unreadable)
}

/// The same on any bytes.
pub(super) fn read_all(
    mut reader: impl BufRead,
    len: u64,
    path: &Path,
    unreadable: impl Fn(io::Error) -> EngineError,
) -> Result<(Replayed, Chain), EngineError> {
    let mut line = Vec::new();
    read_line(&mut reader, &mut line).map_err(&unreadable)?;
    if line != MAGIC {
        return Err(match MAGIC.starts_with(&line) {
            true => headless(path),
            false => refused("this is no journal of a copy", path)
                .remedy("check the path; the file was not touched"),
        });
    }
    let mut chain = Chain::new();
    read_line(&mut reader, &mut line).map_err(&unreadable)?;
    let (next, json) = chain.decode(&line).ok_or_else(|| headless(path))?;
    let header = header_of(json, path)?;
    chain = next;
    let mut replayed = Replayed {
        header,
        sessions: Vec::new(),
        durable: ExtentSet::new(),
        verified: ExtentSet::new(),
        digests: DigestMap::new(),
        done: None,
        torn_bytes: 0,
        damaged: false,
        valid_bytes: (MAGIC.len() + line.len()) as u64,
    };
    let mut number = 1_u64;
    while read_line(&mut reader, &mut line).map_err(&unreadable)? {
        let Some((next, json)) = chain.decode(&line) else {
            break;
        };
        number += 1;
        let body = serde_json::from_slice(json).ok();
        if body.and_then(|body| replayed.apply(body)).is_none() {
            return Err(not_understood(number, path));
        }
        chain = next;
        replayed.valid_bytes += line.len() as u64;
    }
    while !replayed.damaged && read_line(&mut reader, &mut line).map_err(&unreadable)? {
        replayed.damaged = is_whole(&line);
    }
    replayed.torn_bytes = len.saturating_sub(replayed.valid_bytes);
    Ok((replayed, chain))
}

/// The process of the last session of a journal that somebody else has open.
pub(super) fn last_pid(path: &Path) -> Option<u32> {
    let file = super::disk::open_existing(path).ok()?;
    let (replayed, _) = replay(&file, path).ok()?;
    replayed.sessions.last().map(|session| session.pid)
}

fn header_of(json: &[u8], path: &Path) -> Result<Header, EngineError> {
    // A newer header may have fields that we do not know; its version is read first and alone.
    #[derive(Deserialize)]
    struct Versioned {
        header: Version,
    }
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let newer = serde_json::from_slice::<Versioned>(json)
        .ok()
        .map(|versioned| versioned.header.schema)
        .filter(|schema| *schema > SCHEMA);
    if let Some(schema) = newer {
        let what = format!("the journal has schema {schema}, this version reads up to {SCHEMA}");
        return Err(refused(what, path)
            .remedy("go on with the version that wrote it, or start without --resume"));
    }
    match serde_json::from_slice(json) {
        Ok(Body::Header(header)) if header.schema == SCHEMA => Ok(*header),
        _ => Err(not_understood(1, path)),
    }
}

fn headless(path: &Path) -> EngineError {
    refused(
        "the journal has no whole header, nothing was recorded",
        path,
    )
    .remedy("remove the file and start without --resume")
}

/// The checksum is right, so no crash made it: another program or another version did.
fn not_understood(number: u64, path: &Path) -> EngineError {
    let what = format!("record {number} of the journal cannot be understood");
    refused(what, path).remedy("go on with the version that wrote it, or start without --resume")
}

impl Replayed {
    /// Takes one start, if any.
    pub(super) fn begin_sessions(&mut self, session: Option<Session>) {
        if session.is_some() && self.sessions.len() == SESSIONS_MAX {
            self.sessions.remove(0);
        }
        self.sessions.extend(session);
    }

    /// Takes one record; `None` when it cannot be one of this disk.
    pub(super) fn apply(&mut self, body: Body) -> Option<()> {
        let size = self.header.total_bytes;
        match body {
            Body::Header(_) => return None,
            Body::Session(session) => self.begin_sessions(Some(session)),
            Body::Durable {
                ranges,
                digests,
                zero_chunks,
            } => {
                for range in set_of(&ranges, size)?.iter() {
                    // Other bytes than those that were compared and hashed.
                    self.verified.remove(range.clone());
                    self.digests.remove(chunks_of(&range));
                    self.durable.insert(range);
                }
                for range in set_of(&zero_chunks, size / CHUNK_BYTES)?.iter() {
                    self.digests.insert_zero(range);
                }
                for (chunk, digest) in digests {
                    (chunk < chunk_count(size)).then(|| self.digests.insert(chunk, digest))?;
                }
            }
            Body::Verified { ranges } => {
                for range in set_of(&ranges, size)?.iter() {
                    for part in self.durable.within(range) {
                        self.verified.insert(part);
                    }
                }
            }
            Body::Void { ranges, .. } => {
                for range in set_of(&ranges, size)?.iter() {
                    self.digests.remove(chunks_of(&range));
                    self.verified.remove(range.clone());
                    self.durable.remove(range);
                }
                self.done = None;
            }
            Body::Done(done) => self.done = Some(done),
        }
        Some(())
    }
}

fn set_of(pieces: &[Piece], limit: u64) -> Option<ExtentSet> {
    pieces.iter().map(|piece| piece.within(limit)).collect()
}

/// Every chunk of which a byte of `range` is part.
fn chunks_of(range: &std::ops::Range<u64>) -> std::ops::Range<u64> {
    range.start / CHUNK_BYTES..range.end.div_ceil(CHUNK_BYTES)
}
