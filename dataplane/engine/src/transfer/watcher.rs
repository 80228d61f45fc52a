//! Who looks at a transfer while both sides are compared before anything moves: a comparison of terabytes takes hours,
//! and whoever waits for it wants to see it move and to be able to end it.

use std::time::{Duration, Instant};

use super::{Cancel, Progress};
use crate::{
    EngineError,
    error::{Blame, ErrorKind},
};

/// The wish to end, and who hears of progress.
pub(super) struct Watcher<'a> {
    pub(super) cancel: &'a Cancel,
    pub(super) observe: &'a mut dyn FnMut(&Progress),
}

/// One comparison, from its beginning on.
pub(super) struct Comparing {
    base: Progress,
    begun: Instant,
}

impl Comparing {
    /// `before`: the numbers of the transfer, which stand still meanwhile.
    pub(super) fn new(before: Progress, total_bytes: u64) -> Self {
        let base = Progress {
            comparing_bytes: total_bytes,
            compared_bytes: 0,
            // Nothing is sent, so nothing waits for an answer.
            stalled_for: Duration::ZERO,
            ..before
        };
        let begun = Instant::now();
        Self { base, begun }
    }

    /// Tells how far it is.
    ///
    /// # Errors
    /// `Cancelled` when it shall end.
    pub(super) fn step(&self, compared: u64, watcher: &mut Watcher<'_>) -> Result<(), EngineError> {
        if watcher.cancel.is_cancelled() {
            let what = "interrupted while both sides were compared";
            let (kind, blame) = (ErrorKind::Cancelled, Blame::Operator);
            return Err(EngineError::new(kind, blame, what, "transfer"));
        }
        (watcher.observe)(&Progress {
            compared_bytes: compared,
            elapsed: self.base.elapsed + self.begun.elapsed(),
            ..self.base
        });
        Ok(())
    }
}
