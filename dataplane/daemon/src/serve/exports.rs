//! The exports and holds of this process: who may open what, and since which fence.
//!
//! Everything here is synchronous. Short questions (may this client open that?) are answered under one
//! lock on the door's thread; changes, which open devices and wait for connections, run on a blocking
//! thread, hold the lock only to look and to note, and claim their name so that nobody else changes it
//! meanwhile.
//!
//! An export that is closing is never found by the door again: a connection reaches the shards under the
//! same lock that marks an export as closing, so none can slip in behind `close_export`.

mod change;
mod configured;
mod fence;
mod holds;
mod open;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::{
    ClientRule, ErrorBody, ErrorKind, ExportMode, ExportOrigin, ExportPut, ExportState, Fence,
    Fingerprint, HoldPut,
};
use engine::{CloseHow, Engine, EngineError, Export, ServerSeed};
use sys::DeviceFile;
use wire::ExportRefusal;

use super::config::ExportRule;
use super::problem;
pub(super) use change::PutOutcome;
use fence::FenceMemory;

/// Who asks for an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// A client with this certificate.
    Tls(Fingerprint),
    /// Somebody who may open our Unix socket for plain NBD.
    Local,
}

/// All exports and holds.
#[derive(Default)]
pub(super) struct Registry {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    exports: BTreeMap<String, Entry>,
    holds: BTreeMap<String, Hold>,
    export_fences: FenceMemory,
    hold_fences: FenceMemory,
    /// Names that somebody is changing right now.
    claimed: BTreeSet<String>,
    is_draining: bool,
}

/// An export and what it was made from.
struct Entry {
    export: Arc<Export>,
    asked: Asked,
    state: ExportState,
    /// The hold whose device it uses.
    hold: Option<String>,
}

/// Where an export comes from.
#[derive(Clone)]
enum Asked {
    Put(ExportPut),
    Rule(ExportRule),
}

/// A device kept open.
struct Hold {
    file: Arc<DeviceFile>,
    asked: HoldPut,
}

impl Asked {
    fn origin(&self) -> ExportOrigin {
        match self {
            Self::Put(_) => ExportOrigin::Control,
            Self::Rule(_) => ExportOrigin::Config,
        }
    }

    /// Exports of the configuration are older than every operation.
    fn fence(&self) -> Fence {
        match self {
            Self::Put(put) => put.fence,
            Self::Rule(_) => Fence(0),
        }
    }

    fn mode(&self) -> ExportMode {
        match self {
            Self::Put(put) => put.mode,
            Self::Rule(rule) => rule.mode,
        }
    }

    fn clients(&self) -> &ClientRule {
        match self {
            Self::Put(put) => &put.client_fingerprints,
            Self::Rule(rule) => &rule.clients,
        }
    }
}

impl Entry {
    fn admits(&self, caller: Caller) -> bool {
        match caller {
            Caller::Tls(fingerprint) => self.asked.clients().admits(&fingerprint),
            Caller::Local => true,
        }
    }

    /// As it is shown and acted upon: a flush of a client that failed counts as one of ours.
    fn state(&self) -> ExportState {
        match self.state {
            ExportState::Open if self.export.has_failed() => ExportState::Failed,
            state => state,
        }
    }
}

/// The right to change a name; given back when dropped.
struct Claim<'a> {
    registry: &'a Registry,
    key: String,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.registry.lock().claimed.remove(&self.key);
    }
}

/// What `Registry::admit` came to when it did not hand the connection over.
#[derive(Debug)]
pub(super) enum NotAdmitted {
    /// The export was closed or replaced while the client negotiated.
    Gone,
    /// The shards did not take it.
    Engine(Box<EngineError>),
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims `name` of `kind` ("export" or "hold"). Nobody waits: the second asker is told to come again.
    fn claim(&self, kind: &str, name: &str) -> Result<Claim<'_>, ErrorBody> {
        let key = format!("{kind} {name}");
        if !self.lock().claimed.insert(key.clone()) {
            let what = format!("{key} is being changed by another request");
            return Err(problem::later(
                ErrorKind::Busy,
                what,
                "ask again in a moment",
            ));
        }
        Ok(Claim {
            registry: self,
            key,
        })
    }

    /// The export called `name`, for a client that may open it.
    ///
    /// A name that does not exist and one that this client may not open are the same answer, so that
    /// nobody learns names by trying.
    pub(super) fn find(&self, name: &str, caller: Caller) -> Result<Arc<Export>, ExportRefusal> {
        let inner = self.lock();
        let entry = inner.exports.get(name).filter(|entry| entry.admits(caller));
        let Some(entry) = entry else {
            return Err(ExportRefusal::Unknown);
        };
        match entry.state() {
            _ if inner.is_draining => Err(ExportRefusal::Shutdown),
            ExportState::Open => Ok(Arc::clone(&entry.export)),
            ExportState::Draining => Err(ExportRefusal::Shutdown),
            ExportState::Failed => Err(ExportRefusal::Platform),
        }
    }

    /// Names that `caller` may open, for LIST.
    pub(super) fn names_for(&self, caller: Caller) -> Vec<(String, String)> {
        let inner = self.lock();
        let visible = inner
            .exports
            .iter()
            .filter(|(_, entry)| entry.admits(caller));
        visible
            .map(|(name, _)| (name.clone(), String::new()))
            .collect()
    }

    /// Hands a negotiated connection to the shards, unless its export was closed meanwhile.
    pub(super) fn admit(
        &self,
        engine: &Engine,
        export: &Arc<Export>,
        seed: ServerSeed,
    ) -> Result<(), NotAdmitted> {
        let inner = self.lock();
        let is_current = inner.exports.get(export.name()).is_some_and(|entry| {
            entry.state == ExportState::Open && Arc::ptr_eq(&entry.export, export)
        });
        if !is_current || inner.is_draining {
            return Err(NotAdmitted::Gone);
        }
        engine
            .serve(seed)
            .map_err(|error| NotAdmitted::Engine(Box::new(error)))
    }

    /// From now on nobody gets in and nothing changes; every export drains.
    pub(super) fn begin_drain(&self, engine: &Engine) -> Vec<Arc<Export>> {
        let mut inner = self.lock();
        inner.is_draining = true;
        let exports: Vec<_> = inner
            .exports
            .values()
            .map(|entry| Arc::clone(&entry.export))
            .collect();
        drop(inner);
        for export in &exports {
            engine.close_export(export, CloseHow::Drain);
        }
        exports
    }

    /// How many exports and holds there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.exports.len(), inner.holds.len())
    }

    /// Every export, for counters.
    pub(super) fn exports(&self) -> Vec<Arc<Export>> {
        self.lock()
            .exports
            .values()
            .map(|entry| Arc::clone(&entry.export))
            .collect()
    }
}

/// How long clients of a closing export may go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct DrainTimeout(pub(super) Duration);
