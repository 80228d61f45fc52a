//! One request of a client, from its header to its answer.

use std::time::Instant;
use wire::{NbdError, Request};

/// How a WRITE_ZEROES or TRIM goes on; each step is tried when the one before is not supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ZeroStep {
    /// Unmap and read back zeroes.
    Punch,
    /// Zero without unmapping.
    Range,
    /// Write zeroes from memory.
    Fill,
}

/// What a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// READ: pieces are read and sent.
    Reading,
    /// WRITE: payload arrives and is written.
    Writing,
    /// WRITE_ZEROES, TRIM: the device zeroes.
    Zeroing(ZeroStep),
    /// The final flush of a FUA request, or FLUSH itself.
    Flushing,
    /// BLOCK_STATUS: another thread asks the file system.
    Asking,
}

/// A request that is not answered yet.
#[derive(Debug)]
pub(super) struct ServerRequest {
    pub request: Request,
    pub started: Instant,
    pub stage: Stage,
    /// Device operations in flight or held back.
    pub outstanding: u32,
    /// First byte that no device operation covers yet.
    pub next: u64,
    /// The first error; later pieces are not written any more.
    pub error: Option<NbdError>,
    /// All payload is here (WRITE), all pieces are launched (READ, filling).
    pub complete: bool,
    /// The header of a simple reply went out: an error can only close the connection now.
    pub reply_begun: bool,
}

impl ServerRequest {
    pub(super) fn new(request: Request, stage: Stage, now: Instant) -> Self {
        Self {
            request,
            started: now,
            stage,
            outstanding: 0,
            next: request.offset,
            error: None,
            complete: false,
            reply_begun: false,
        }
    }

    /// First byte behind the request; the protocol core checked that it does not overflow.
    pub(super) fn end(&self) -> u64 {
        self.request.offset.saturating_add(self.request.len)
    }

    /// Keeps the first error.
    pub(super) fn fail(&mut self, error: NbdError) {
        self.error.get_or_insert(error);
    }
}
