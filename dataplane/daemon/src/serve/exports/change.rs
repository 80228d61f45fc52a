//! PUT, DELETE and flush of exports. Blocking: run these where blocking is allowed.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use control::limits::EXPORTS_MAX;
use control::{
    ErrorBody, ErrorKind, ExportMode, ExportPut, ExportRemoved, ExportState, ExportView, Fence,
    Flushed, Retry, check_export_name,
};
use engine::{CloseHow, Engine, Export, ExportSpec, Store};

use super::fence::{Present, PutDecision, decide_delete, decide_put};
use super::open::{self, Expected, Opened};
use super::{Asked, DrainTimeout, Entry, Inner, Registry};
use crate::serve::limits::{CLOSE_TIMEOUT, REOPEN_INTERVAL, REOPEN_TIMEOUT};
use crate::serve::problem;

/// What a PUT did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::serve) enum PutOutcome {
    /// The export is new, or replaces an older one.
    Made,
    /// It was there already, exactly so.
    Unchanged,
}

impl Registry {
    /// Makes an export, or finds that it exists.
    pub(in crate::serve) fn put(
        &self,
        engine: &Engine,
        name: &str,
        put: &ExportPut,
    ) -> Result<(PutOutcome, ExportView), ErrorBody> {
        check_export_name(name).map_err(|error| problem::invalid(&error))?;
        put.validate().map_err(|error| problem::invalid(&error))?;
        let _claim = self.claim("export", name)?;
        let (decision, old) = self.decide(name, put)?;
        match decision {
            PutDecision::Same => return Ok((PutOutcome::Unchanged, self.view(name)?)),
            PutDecision::Stale(last) => return Err(stale("export", name, put.fence, last)),
            PutDecision::Conflict => return Err(conflict("export", name, put.fence)),
            PutDecision::Create | PutDecision::Replace => {}
        }
        if let Some(old) = old {
            self.close_replaced(engine, name, &old)?;
        }
        let expected = Expected {
            size_bytes: put.size_bytes,
            serial: put.serial.as_ref(),
        };
        let opened = self.open_or_share(Path::new(&put.device), put.mode, expected)?;
        let export = Export::new(ExportSpec {
            name: name.to_owned(),
            store: Store::Device(opened.file),
            read_only: put.mode == ExportMode::Ro,
            scratch: false,
        });
        let asked = Asked::Put(put.clone());
        self.insert(
            name,
            Entry {
                export,
                asked,
                state: ExportState::Open,
                hold: opened.hold,
            },
        )?;
        tracing::info!(
            export = name,
            device = put.device,
            fence = put.fence.0,
            "export is open"
        );
        Ok((PutOutcome::Made, self.view(name)?))
    }

    /// Looks at what is there, notes the fence, and closes the entry of an export that is to be replaced.
    fn decide(
        &self,
        name: &str,
        put: &ExportPut,
    ) -> Result<(PutDecision, Option<Arc<Export>>), ErrorBody> {
        let mut inner = self.lock();
        if inner.is_draining {
            return Err(problem::draining());
        }
        let last = inner.export_fences.last(name);
        let present = match inner.exports.get(name) {
            Some(Entry {
                asked: Asked::Rule(_),
                ..
            }) => return Err(belongs_to_configuration(name)),
            Some(Entry {
                asked: Asked::Put(old),
                state,
                ..
            }) => Some(Present {
                fence: old.fence,
                is_same_body: old == put,
                is_sound: *state == ExportState::Open,
            }),
            None => None,
        };
        let decision = decide_put(present, last, put.fence);
        match decision {
            PutDecision::Create if inner.exports.len() >= EXPORTS_MAX => {
                let what = format!("there are {EXPORTS_MAX} exports, and no room for one more");
                return Err(problem::refuse(
                    ErrorKind::TooMany,
                    what,
                    "delete exports that are done",
                ));
            }
            PutDecision::Create | PutDecision::Replace => {
                inner.export_fences.remember(name, put.fence);
            }
            _ => return Ok((decision, None)),
        }
        let old = inner.exports.get_mut(name).map(|entry| {
            entry.state = ExportState::Draining;
            Arc::clone(&entry.export)
        });
        Ok((decision, old))
    }

    /// A newer operation owns the name: the connections of the old one are cut, not drained, because
    /// whoever is behind them may no longer write.
    fn close_replaced(
        &self,
        engine: &Engine,
        name: &str,
        old: &Arc<Export>,
    ) -> Result<(), ErrorBody> {
        engine.close_export(old, CloseHow::Now);
        if !old.wait_idle(CLOSE_TIMEOUT) {
            return Err(hangs(name, old.connections()));
        }
        // What they had not flushed themselves was never promised to them, so this is only tidy.
        if let Err(error) = old.flush_blocking() {
            tracing::warn!(export = name, %error, "the old export could not be flushed");
        }
        self.forget(name, old);
        Ok(())
    }

    /// Takes an export out, and waits until the shards have let go of its device too.
    pub(super) fn forget(&self, name: &str, export: &Arc<Export>) {
        drop(self.lock().exports.remove(name));
        let deadline = Instant::now() + REOPEN_TIMEOUT;
        // One reference is the caller's.
        while Arc::strong_count(export) > 1 && Instant::now() < deadline {
            std::thread::sleep(REOPEN_INTERVAL);
        }
    }

    pub(super) fn insert(&self, name: &str, entry: Entry) -> Result<(), ErrorBody> {
        let mut inner = self.lock();
        if inner.is_draining {
            return Err(problem::draining());
        }
        inner.exports.insert(name.to_owned(), entry);
        Ok(())
    }

    /// The file of a held device, or a fresh one.
    pub(super) fn open_or_share(
        &self,
        path: &Path,
        mode: ExportMode,
        expected: Expected<'_>,
    ) -> Result<Opened, ErrorBody> {
        let held = {
            let inner = self.lock();
            let held = inner
                .holds
                .iter()
                .find(|(_, hold)| open::is_same_device(path, &hold.file));
            held.map(|(name, hold)| Opened {
                file: Arc::clone(&hold.file),
                hold: Some(name.clone()),
            })
        };
        let opened = match held {
            Some(opened) => {
                opened
                    .file
                    .revalidate()
                    .map_err(|error| problem::setup(&error))?;
                opened
            }
            None => {
                let file = open::device(path, mode).map_err(|error| problem::setup(&error))?;
                Opened {
                    file: Arc::new(file),
                    hold: None,
                }
            }
        };
        open::check(&opened.file, expected)?;
        Ok(opened)
    }

    /// Ends an export: drains, cuts what is left, flushes, closes.
    ///
    /// When the flush fails the export stays, in state `failed`: a second DELETE must not look as if all
    /// were well. `abandon` lets go of it.
    pub(in crate::serve) fn delete(
        &self,
        engine: &Engine,
        name: &str,
        fence: Option<Fence>,
        drain: DrainTimeout,
        abandon: bool,
    ) -> Result<ExportRemoved, ErrorBody> {
        let _claim = self.claim("export", name)?;
        let Some((export, was_failed)) = self.begin_delete(name, fence)? else {
            return Ok(ExportRemoved {
                name: name.to_owned(),
                was_present: false,
                flushed: false,
                connections_cut: 0,
                totals: None,
            });
        };
        let connections_cut = close(engine, &export, drain)?;
        let flushed = match self.flush_last(name, &export, was_failed) {
            Ok(()) => true,
            Err(_) if abandon => false,
            Err(error) => return Err(error),
        };
        let totals = Some(super::view::totals(&export.stats()));
        self.forget(name, &export);
        tracing::info!(export = name, connections_cut, flushed, "export is closed");
        Ok(ExportRemoved {
            name: name.to_owned(),
            was_present: true,
            flushed,
            connections_cut,
            totals,
        })
    }

    fn begin_delete(
        &self,
        name: &str,
        fence: Option<Fence>,
    ) -> Result<Option<(Arc<Export>, bool)>, ErrorBody> {
        let mut inner = self.lock();
        let present = match inner.exports.get(name) {
            Some(Entry {
                asked: Asked::Rule(_),
                ..
            }) => return Err(belongs_to_configuration(name)),
            Some(entry) => Some(entry.asked.fence()),
            None => None,
        };
        let last = inner.export_fences.last(name);
        if let Some(known) = decide_delete(present, last, fence) {
            return Err(stale("export", name, fence.unwrap_or_default(), known));
        }
        if let Some(fence) = fence {
            inner.export_fences.remember(name, fence);
        }
        Ok(begin_close(&mut inner, name))
    }

    /// The last flush. An export whose flush failed before is not asked again: the kernel would answer
    /// that all is well, having dropped what it could not write.
    pub(super) fn flush_last(
        &self,
        name: &str,
        export: &Arc<Export>,
        was_failed: bool,
    ) -> Result<(), ErrorBody> {
        let outcome = if was_failed {
            Err(flush_failed_before(name))
        } else {
            flush(export)
        };
        if outcome.is_err()
            && let Some(entry) = self.lock().exports.get_mut(name)
        {
            entry.state = ExportState::Failed;
        }
        outcome
    }

    /// Makes durable what was answered before.
    pub(in crate::serve) fn flush(&self, name: &str) -> Result<Flushed, ErrorBody> {
        let (export, serial, fence) = {
            let inner = self.lock();
            let entry = inner
                .exports
                .get(name)
                .ok_or_else(|| not_found("export", name))?;
            if entry.state() == ExportState::Failed {
                return Err(flush_failed_before(name));
            }
            (
                Arc::clone(&entry.export),
                super::view::serial(&entry.export),
                entry.asked.fence(),
            )
        };
        let totals = super::view::totals(&export.stats());
        flush(&export)?;
        Ok(Flushed {
            name: name.to_owned(),
            size_bytes: export.size_bytes(),
            serial,
            fence,
            totals,
        })
    }
}

/// Marks an export as closing; whether its last flush had failed.
pub(super) fn begin_close(inner: &mut Inner, name: &str) -> Option<(Arc<Export>, bool)> {
    inner.exports.get_mut(name).map(|entry| {
        let was_failed = entry.state() == ExportState::Failed;
        entry.state = ExportState::Draining;
        (Arc::clone(&entry.export), was_failed)
    })
}

/// Drains an export, then cuts the connections that are left; how many.
pub(super) fn close(
    engine: &Engine,
    export: &Arc<Export>,
    drain: DrainTimeout,
) -> Result<u64, ErrorBody> {
    engine.close_export(export, CloseHow::Drain);
    if export.wait_idle(drain.0) {
        return Ok(0);
    }
    let cut = export.connections();
    engine.close_export(export, CloseHow::Now);
    if export.wait_idle(CLOSE_TIMEOUT) {
        return Ok(cut as u64);
    }
    Err(hangs(export.name(), export.connections()))
}

fn flush(export: &Export) -> Result<(), ErrorBody> {
    export.flush_blocking().map_err(|error| {
        let mut body = problem::engine(&error);
        body.kind = ErrorKind::Device;
        // A flush that failed once is never asked again.
        body.retry = Retry::Never;
        body
    })
}

fn flush_failed_before(name: &str) -> ErrorBody {
    problem::refuse(
        ErrorKind::Device,
        format!("the last flush of export {name} failed, and what it should have saved is lost"),
        "copy again what was not durable; DELETE with abandon=true, or PUT with a higher fence, lets go of it",
    )
}

fn hangs(name: &str, connections: usize) -> ErrorBody {
    problem::later(
        ErrorKind::Busy,
        format!(
            "{connections} connections of export {name} do not end: their requests hang in the device"
        ),
        "check the device and the kernel log, then ask again",
    )
}

pub(super) fn stale(kind: &str, name: &str, asked: Fence, known: Fence) -> ErrorBody {
    problem::refuse(
        ErrorKind::StaleFence,
        format!("{kind} {name} has seen fence {known}, the request has {asked}"),
        "a newer operation owns it; leave it alone",
    )
}

pub(super) fn conflict(kind: &str, name: &str, fence: Fence) -> ErrorBody {
    problem::refuse(
        ErrorKind::Conflict,
        format!("{kind} {name} exists with fence {fence} and is not what was asked for"),
        "look at it with GET; a change needs a higher fence",
    )
}

pub(super) fn not_found(kind: &str, name: &str) -> ErrorBody {
    problem::refuse(
        ErrorKind::NotFound,
        format!("there is no {kind} {name}"),
        "PUT it first",
    )
}

fn belongs_to_configuration(name: &str) -> ErrorBody {
    problem::refuse(
        ErrorKind::Conflict,
        format!("export {name} belongs to the configuration"),
        "choose another name, or take it out of the configuration file and reload",
    )
}
