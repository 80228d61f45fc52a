//! What happens to ranges once they are durable: they are compared, and written down.
//!
//! The keeper works on a thread of its own, so that the copy goes on meanwhile. It has one task at a time; what
//! becomes durable while it is busy waits and becomes the next task.

use super::{
    compare::{Compared, Comparison, HotClaims},
    ends::Opened,
    reader::SourceReader,
    service::{TargetSession, VerifiedBy},
};
use crate::{
    Endpoint, EngineError, ExtentSet,
    digest::{CHUNK_BYTES, ChunkTable, Digest, zero_chunk_digest},
    journal::{DigestMap, Journal, Record},
};
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, SyncSender},
    },
    thread,
};

/// Compares and records.
pub(super) struct Keeper {
    /// How the target is asked; `None`: nothing is compared.
    pub(super) session: Option<Box<dyn TargetSession>>,
    /// Ask for stream digests first.
    pub(super) stream: bool,
    /// Digests of what passed through this process.
    pub(super) table: Arc<Mutex<ChunkTable>>,
    pub(super) source_bytes: u64,
    /// Compare what becomes durable.
    pub(super) compares: bool,
    /// Digests of chunks that are durable, as the source had them. Kept where a journal is.
    pub(super) digests: DigestMap,
    /// Where what is durable is written down.
    pub(super) journal: Option<Journal>,
}

/// Ranges that became durable.
pub(super) struct Task {
    /// Found equal before the copy began.
    pub(super) same: ExtentSet,
    /// To be compared.
    pub(super) others: ExtentSet,
}

/// What became of a task.
pub(super) struct Settled {
    /// The ranges of the task.
    pub(super) ranges: ExtentSet,
    /// `None` when nothing was compared.
    pub(super) compared: Result<Option<Compared>, EngineError>,
}

impl Keeper {
    /// Nobody to ask, nothing to write to.
    pub(super) fn new(table: Arc<Mutex<ChunkTable>>, source_bytes: u64) -> Self {
        Self {
            session: None,
            stream: false,
            table,
            source_bytes,
            compares: false,
            digests: DigestMap::new(),
            journal: None,
        }
    }

    pub(super) fn verified_by(&self) -> Option<VerifiedBy> {
        let session = self.session.as_ref().filter(|_| self.compares);
        session.map(|session| session.name())
    }

    /// Works until nobody has a task any more.
    pub(super) fn work(
        &mut self,
        tasks: &Receiver<Task>,
        done: &Sender<Settled>,
        source: (&Endpoint, &Opened),
        notify: &dyn Fn(),
    ) {
        let mut reader = None;
        while let Ok(task) = tasks.recv() {
            let compared = self.settle(&task, source, &mut reader);
            let ranges = task.same.union(&task.others);
            // The coordinator waits for the answer before it leaves.
            let told = done.send(Settled { ranges, compared });
            notify();
            if told.is_err() {
                break;
            }
        }
        if let Some(reader) = reader {
            SourceReader::end(reader);
        }
    }

    fn settle(
        &mut self,
        task: &Task,
        (endpoint, end): (&Endpoint, &Opened),
        reader: &mut Option<SourceReader>,
    ) -> Result<Option<Compared>, EngineError> {
        let Some(session) = self.session.as_mut().filter(|_| self.compares) else {
            self.write_down(task.same.union(&task.others), &[], false)?;
            return Ok(None);
        };
        let mut read = |offset: u64, buf: &mut [u8]| {
            if reader.is_none() {
                *reader = Some(SourceReader::open(endpoint, end)?);
            }
            match reader {
                Some(reader) => reader.read(offset, buf),
                None => Err(EngineError::bug("the source was not opened", "source")),
            }
        };
        let mut claims = HotClaims {
            table: &self.table,
            digests: &self.digests,
            read: &mut read,
        };
        let mut comparison = Comparison {
            session: session.as_mut(),
            stream: self.stream,
            source_bytes: self.source_bytes,
            on_step: None,
        };
        let mut compared = comparison.compare(&task.others, &mut claims)?;
        compared.equal.extend(task.same.iter());
        self.write_down(compared.equal(), &compared.digests, true)?;
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        task.others.iter().for_each(|range| table.forget(range));
        Ok(Some(compared))
    }

    /// Only what is durable, and found equal where anything was compared, gets into the journal.
    fn write_down(
        &mut self,
        ranges: ExtentSet,
        digests: &[(u64, Digest)],
        verified: bool,
    ) -> Result<(), EngineError> {
        let Some(journal) = self.journal.as_mut().filter(|_| !ranges.is_empty()) else {
            return Ok(());
        };
        let mut map = DigestMap::new();
        for (chunk, digest) in digests {
            let is_whole = (chunk + 1).saturating_mul(CHUNK_BYTES) <= self.source_bytes;
            if is_whole && *digest == zero_chunk_digest() {
                map.insert_zero(*chunk..chunk + 1);
                self.digests.insert_zero(*chunk..chunk + 1);
            } else {
                map.insert(*chunk, *digest);
                self.digests.insert(*chunk, *digest);
            }
        }
        let durable = Record::Durable {
            ranges: ranges.clone(),
            digests: map,
        };
        if verified {
            journal.append(&[durable, Record::Verified { ranges }])
        } else {
            journal.append(&[durable])
        }
    }
}

/// The coordinator's end of the line to the keeper.
pub(super) struct Line {
    tasks: SyncSender<Task>,
    done: Receiver<Settled>,
    busy: bool,
}

impl Line {
    /// Both ends: for the coordinator, and for the keeper.
    pub(super) fn new() -> (Self, Receiver<Task>, Sender<Settled>) {
        let (tasks, for_keeper) = std::sync::mpsc::sync_channel(1);
        let (from_keeper, done) = std::sync::mpsc::channel();
        let line = Self {
            tasks,
            done,
            busy: false,
        };
        (line, for_keeper, from_keeper)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// Hands over a task; the keeper must be free.
    pub(super) fn give(&mut self, task: Task) {
        // A keeper that is gone has panicked, and the scope of its thread passes that on.
        self.busy = self.tasks.send(task).is_ok();
    }

    /// What the keeper has done since.
    pub(super) fn take(&mut self) -> Option<Settled> {
        let settled = self.done.try_recv().ok()?;
        self.busy = false;
        Some(settled)
    }

    /// Waits for the task under way.
    pub(super) fn wait(&mut self) -> Option<Settled> {
        if !self.busy {
            return None;
        }
        self.busy = false;
        self.done.recv().ok()
    }
}

/// Runs the keeper beside the attempt.
pub(super) fn spawn<'scope, 'env: 'scope>(
    scope: &'scope thread::Scope<'scope, 'env>,
    keeper: &'env mut Keeper,
    source: (&'env Endpoint, &'env Opened),
    notify: impl Fn() + Send + 'scope,
) -> Line {
    let (line, tasks, done) = Line::new();
    scope.spawn(move || keeper.work(&tasks, &done, source, &notify));
    line
}
