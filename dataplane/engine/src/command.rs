//! What other threads tell a shard, and what a shard asks of them.

use crate::{ctx::Tag, engine::ServerSeed, export::Export, mover::MoverSeed};
use crossbeam::channel::Sender;
use std::sync::Arc;
use wire::{Extent, NbdError};

/// A message to a shard.
pub(crate) enum Command {
    /// Serve this connection.
    Serve(Box<ServerSeed>),
    /// Move data for a transfer.
    Move(Box<MoverSeed>),
    /// Close an export's connections.
    CloseExport { export_id: u64, drain: bool },
    /// An answer to a `StatusJob`.
    Status {
        tag: Tag,
        answer: Result<Vec<Extent>, NbdError>,
    },
    /// End everything: drain until no lane is left or told again with `now`.
    Stop { now: bool },
}

/// A question about the allocation of a file, asked where blocking is allowed.
pub(crate) struct StatusJob {
    pub export: Arc<Export>,
    pub offset: u64,
    pub len: u64,
    pub tag: Tag,
}

/// Work a shard hands out, and facts it reports. One bounded queue; a full one refuses.
pub(crate) enum Job {
    /// Ask the file system and answer to this shard.
    Status { shard: usize, job: StatusJob },
    /// A connection ended; `fault` is its reason when it was not polite.
    Ended {
        shard: usize,
        peer: String,
        export: String,
        fault: Option<crate::error::LaneFault>,
    },
    /// The process is ending.
    Stop,
}

/// A shard's way to the outside.
pub(crate) struct Outside {
    pub shard: usize,
    pub jobs: Sender<Job>,
}

impl Outside {
    /// False when the queue is full.
    pub(crate) fn ask(&self, job: StatusJob) -> bool {
        self.jobs
            .try_send(Job::Status {
                shard: self.shard,
                job,
            })
            .is_ok()
    }

    /// Reports the end of a connection. A full queue loses the line, not the connection.
    pub(crate) fn ended(&self, peer: &str, export: &str, fault: Option<crate::error::LaneFault>) {
        let _lost = self.jobs.try_send(Job::Ended {
            shard: self.shard,
            peer: peer.to_owned(),
            export: export.to_owned(),
            fault,
        });
    }
}
