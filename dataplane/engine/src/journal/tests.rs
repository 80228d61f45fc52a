//! Against a naive model, on a disk that fails and tears, and on real files.

mod faults;
mod files;
mod prefix;

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    ExtentSet,
    digest::{CHUNK_BYTES, Digest},
};

/// The model's unit; four of them make a chunk.
const BLOCK: u64 = 1 << 20;
const BLOCKS: u64 = 32;
const CHUNKS: u64 = BLOCKS * BLOCK / CHUNK_BYTES;

fn header() -> Header {
    Header {
        schema: SCHEMA,
        target: Target::Local(Medium::Block {
            serial: Some("vol-17".into()),
            wwid: None,
            size_bytes: BLOCKS * BLOCK,
            logical_block: 512,
        }),
        source: Source::Nbd {
            source_id: "snapshot 5".into(),
            size_bytes: BLOCKS * BLOCK,
        },
        ranges: ranges_digest(&ExtentSet::full(BLOCKS * BLOCK)),
        total_bytes: BLOCKS * BLOCK,
        created_unix_s: 1_764_000_000,
        version: "0.1.0".into(),
    }
}

fn session(pid: u32) -> Record {
    Record::Session(Session {
        boot_id: Some("3f0e".into()),
        diskseq: Some(9),
        pid,
        unix_s: 1_764_000_001,
    })
}

fn durable(ranges: ExtentSet) -> Record {
    Record::Durable {
        ranges,
        digests: DigestMap::new(),
    }
}

/// Blocks and digests one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model {
    sessions: Vec<Session>,
    durable: Vec<u64>,
    verified: Vec<u64>,
    digests: BTreeMap<u64, Digest>,
    done: Option<Done>,
}

fn blocks(ranges: &ExtentSet) -> Vec<u64> {
    (0..BLOCKS)
        .filter(|block| ranges.contains(block * BLOCK))
        .collect()
}

impl Model {
    fn of(replayed: &Replayed) -> Self {
        let digest = |chunk| replayed.digests.get(chunk).map(|digest| (chunk, digest));
        Self {
            sessions: replayed.sessions.clone(),
            durable: blocks(&replayed.durable),
            verified: blocks(&replayed.verified),
            digests: (0..CHUNKS).filter_map(digest).collect(),
            done: replayed.done.clone(),
        }
    }

    fn forget(&mut self, block: u64) {
        self.digests.remove(&(block * BLOCK / CHUNK_BYTES));
        self.verified.retain(|other| *other != block);
        self.durable.retain(|other| *other != block);
    }

    fn apply(&mut self, record: &Record) {
        match record {
            Record::Session(session) => self.sessions.push(session.clone()),
            Record::Durable { ranges, digests } => {
                for block in blocks(ranges) {
                    self.forget(block);
                    self.durable.push(block);
                }
                self.durable.sort_unstable();
                for chunk in 0..CHUNKS {
                    if let Some(digest) = digests.get(chunk) {
                        self.digests.insert(chunk, digest);
                    }
                }
            }
            Record::Verified { ranges } => {
                self.verified.extend(blocks(ranges));
                self.verified.sort_unstable();
                self.verified.dedup();
                self.verified.retain(|block| self.durable.contains(block));
            }
            Record::Void { ranges, .. } => {
                for block in blocks(ranges) {
                    self.forget(block);
                }
                if !ranges.is_empty() {
                    self.done = None;
                }
            }
            Record::Done(done) => self.done = Some(done.clone()),
        }
    }
}

fn ranges() -> impl Strategy<Value = ExtentSet> {
    let range = (0..BLOCKS, 1..8u64)
        .prop_map(|(first, len)| first * BLOCK..(first + len).min(BLOCKS) * BLOCK);
    prop::collection::vec(range, 0..5).prop_map(ExtentSet::from_unsorted)
}

fn digests() -> impl Strategy<Value = DigestMap> {
    prop::collection::vec((0..CHUNKS, 0..4u8), 0..6).prop_map(|digests| {
        let mut map = DigestMap::new();
        for (chunk, seed) in digests {
            if seed == 0 {
                map.insert_zero(chunk..(chunk + 2).min(CHUNKS));
            } else {
                map.insert(chunk, Digest([seed; 32]));
            }
        }
        map
    })
}

fn record() -> impl Strategy<Value = Record> {
    prop_oneof![
        1 => (1..9u32).prop_map(session),
        4 => (ranges(), digests())
            .prop_map(|(ranges, digests)| Record::Durable { ranges, digests }),
        2 => ranges().prop_map(|ranges| Record::Verified { ranges }),
        1 => (ranges(), "\\PC{0,12}")
            .prop_map(|(ranges, reason)| Record::Void { ranges, reason }),
        1 => (0..9u64).prop_map(|unix_s| Record::Done(Done { unix_s })),
    ]
}

fn appends() -> impl Strategy<Value = Vec<Vec<Record>>> {
    prop::collection::vec(prop::collection::vec(record(), 0..4), 1..7)
}

fn somewhere() -> &'static Path {
    Path::new("a.journal")
}

fn replay_bytes(bytes: &[u8]) -> Result<Replayed, EngineError> {
    let unreadable = |error: io::Error| EngineError::bug(error.to_string(), "memory");
    let (replayed, _) = replay::read_all(bytes, bytes.len() as u64, somewhere(), unreadable)?;
    Ok(replayed)
}
