//! Exports and holds as they are shown.

use control::{ErrorBody, ExportList, ExportMode, ExportTotals, ExportView, HoldView};
use engine::stats::ExportStats;
use engine::{Export, Store};

use super::change::not_found;
use super::{Asked, Entry, Hold, Inner, Registry};
use crate::serve::config::StoreRule;

impl Registry {
    /// Everything, by name.
    pub(in crate::serve) fn list(&self) -> ExportList {
        let inner = self.lock();
        ExportList {
            exports: inner
                .exports
                .iter()
                .map(|(name, entry)| export(name, entry))
                .collect(),
            holds: inner
                .holds
                .iter()
                .map(|(name, held)| hold(&inner, name, held))
                .collect(),
        }
    }

    /// One export.
    pub(in crate::serve) fn view(&self, name: &str) -> Result<ExportView, ErrorBody> {
        let inner = self.lock();
        let entry = inner
            .exports
            .get(name)
            .ok_or_else(|| not_found("export", name))?;
        Ok(export(name, entry))
    }
}

fn export(name: &str, entry: &Entry) -> ExportView {
    let device = match &entry.asked {
        Asked::Put(put) => put.device.clone(),
        Asked::Rule(rule) => match &rule.store {
            StoreRule::Path(path) => path.display().to_string(),
            StoreRule::Null { size_bytes } => format!("null:{size_bytes}"),
        },
    };
    let file = match entry.export.store() {
        Store::Device(file) => Some(file),
        Store::Null { .. } => None,
    };
    ExportView {
        name: name.to_owned(),
        origin: entry.asked.origin(),
        state: entry.state(),
        device,
        resolved: file.map(|file| file.resolved_path().display().to_string()),
        size_bytes: entry.export.size_bytes(),
        serial: serial(&entry.export),
        mode: if entry.export.is_read_only() {
            ExportMode::Ro
        } else {
            entry.asked.mode()
        },
        client_fingerprints: entry.asked.clients().clone(),
        fence: entry.asked.fence(),
        held: entry.hold.is_some(),
        direct: file.is_some_and(|file| file.is_direct()),
        scratch: entry.export.is_scratch() || file.is_none(),
        connections: entry.export.connections() as u64,
        totals: totals(&entry.export.stats()),
    }
}

pub(super) fn hold(inner: &Inner, name: &str, hold: &Hold) -> HoldView {
    let users = inner
        .exports
        .iter()
        .filter(|(_, entry)| entry.hold.as_deref() == Some(name));
    HoldView {
        name: name.to_owned(),
        device: hold.asked.device.clone(),
        resolved: hold.file.resolved_path().display().to_string(),
        size_bytes: hold.file.size_bytes(),
        serial: hold.file.identity().serial.clone(),
        fence: hold.asked.fence,
        exports: users.map(|(export, _)| export.clone()).collect(),
    }
}

pub(super) fn serial(export: &Export) -> Option<String> {
    match export.store() {
        Store::Device(file) => file.identity().serial.clone(),
        Store::Null { .. } => None,
    }
}

pub(super) fn totals(stats: &ExportStats) -> ExportTotals {
    ExportTotals {
        bytes_read: stats.bytes_read,
        bytes_written: stats.bytes_written,
        bytes_zeroed: stats.bytes_zeroed,
        bytes_trimmed: stats.bytes_trimmed,
        requests: stats.requests,
        requests_failed: stats.requests_failed,
        flushes: stats.flushes,
        flush_failures: stats.flush_failures,
    }
}
