//! Transfers asked for over the control socket: each on a thread of its own, known by its client's id.

mod events;
mod plan;
mod transfer;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use control::limits::{TRANSFERS_ENDED_KEPT_MAX, TRANSFERS_RUNNING_MAX};
use control::{ErrorBody, ErrorKind, TransferId, TransferList, TransferRequest, TransferView};

use super::context::Context;
use super::problem;
pub(super) use plan::Rights;
pub(super) use transfer::Transfer;

/// All transfers: those that run, and the last that ended.
#[derive(Default)]
pub(super) struct Transfers {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_id: BTreeMap<TransferId, Arc<Transfer>>,
    /// In the order in which they came.
    order: Vec<TransferId>,
}

impl Inner {
    fn running(&self) -> usize {
        self.by_id
            .values()
            .filter(|transfer| !transfer.is_over())
            .count()
    }

    /// Forgets the oldest of those that ended when there are too many of them.
    fn trim(&mut self) {
        let ended = self.by_id.len() - self.running();
        let mut surplus = ended.saturating_sub(TRANSFERS_ENDED_KEPT_MAX);
        let by_id = &mut self.by_id;
        self.order.retain(|id| {
            let is_over = by_id.get(id).is_none_or(|transfer| transfer.is_over());
            if surplus == 0 || !is_over {
                return true;
            }
            surplus -= 1;
            by_id.remove(id);
            false
        });
    }
}

impl Transfers {
    /// Starts a transfer, or finds the one with this id and body. True when it is new. Blocks: reads
    /// certificates.
    pub(super) fn start(
        &self,
        context: &Arc<Context>,
        request: TransferRequest,
        rights: Rights,
    ) -> Result<(bool, TransferView), ErrorBody> {
        request
            .validate()
            .map_err(|error| problem::invalid(&error))?;
        if let Some(known) = self.find(&request.id) {
            return known.view_if_same(&request).map(|view| (false, view));
        }
        let config = context.config();
        let spec = plan::spec(
            &request,
            &context.tunables,
            config.journal_dir.as_deref(),
            rights,
        )?;
        let transfer = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            // Looked at again under the lock: two clients may have come with one id.
            if let Some(known) = inner.by_id.get(&request.id) {
                return known.view_if_same(&request).map(|view| (false, view));
            }
            if context.is_draining() {
                return Err(problem::draining());
            }
            if inner.running() >= TRANSFERS_RUNNING_MAX {
                let what = format!("{TRANSFERS_RUNNING_MAX} transfers are running");
                return Err(problem::later(
                    ErrorKind::TooMany,
                    what,
                    "wait until one has ended",
                ));
            }
            let transfer = Arc::new(Transfer::new(request));
            inner.order.push(transfer.id().clone());
            inner
                .by_id
                .insert(transfer.id().clone(), Arc::clone(&transfer));
            inner.trim();
            transfer
        };
        let (worker, shared) = (Arc::clone(&transfer), Arc::clone(context));
        let spawned = thread::Builder::new()
            .name("mk-transfer".into())
            .spawn(move || worker.run(&shared.engine, &spec));
        if let Err(error) = spawned {
            let what = format!("no thread for the transfer: {error}");
            let body = problem::later(ErrorKind::TooMany, what, "raise the limit on threads");
            transfer.fail(body.clone());
            return Err(body);
        }
        Ok((true, transfer.view()))
    }

    /// The transfer with this id.
    pub(super) fn find(&self, id: &TransferId) -> Option<Arc<Transfer>> {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .by_id
            .get(id)
            .map(Arc::clone)
    }

    /// All of them, oldest first.
    pub(super) fn list(&self) -> TransferList {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let transfers = inner.order.iter().filter_map(|id| inner.by_id.get(id));
        TransferList {
            transfers: transfers.map(|transfer| transfer.view()).collect(),
        }
    }

    /// How many run.
    pub(super) fn running(&self) -> usize {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .running()
    }

    /// Asks all of them to end; what is in flight is finished and flushed.
    pub(super) fn cancel_all(&self) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.by_id.values().for_each(|transfer| transfer.cancel());
    }

    /// Blocks until none runs; false when some still do after `timeout`.
    pub(super) fn wait_all(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let all: Vec<_> = {
            let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.by_id.values().map(Arc::clone).collect()
        };
        all.iter()
            .all(|transfer| transfer.wait(deadline.saturating_duration_since(Instant::now())))
    }
}
