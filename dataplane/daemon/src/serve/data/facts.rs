//! `GET /v1/exports/{name}`: which device is behind an export, and whether what was written still counts.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use control::{DeviceFacts, ErrorBody, ErrorKind, ExportFacts, FlushFacts, Retry, StoreKind};
use engine::{Export, Store};
use sys::DeviceKind;
use time::OffsetDateTime;
use wire::ExportRefusal;

use super::Client;
use crate::serve::context::Context;
use crate::serve::exports::Caller;
use crate::serve::http::{Name, respond};
use crate::serve::problem;

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    Extension(client): Extension<Arc<Client>>,
    Name(name): Name,
) -> Response {
    let found = find(&context, &name, client.caller());
    let facts = found.map(|export| (StatusCode::OK, facts(&context, &export)));
    respond(&context, facts)
}

/// The export, when this caller may open it. Otherwise the answer does not tell whether it exists.
pub(super) fn find(
    context: &Context,
    name: &str,
    caller: Caller,
) -> Result<Arc<Export>, ErrorBody> {
    context
        .registry
        .find(name, caller)
        .map_err(|refusal| match refusal {
            ExportRefusal::Shutdown => ErrorBody {
                what: format!("export {name} is closing"),
                ..problem::draining()
            },
            ExportRefusal::Platform => ErrorBody {
                retry: Retry::Never,
                ..problem::later(
                    ErrorKind::Device,
                    format!("the last flush of export {name} failed; it is not served any more"),
                    "look into the log of the target; what was not durable before is void",
                )
            },
            _ => {
                let what = format!("there is no export {name} for this client");
                let remedy = "check the name, and that the export admits this certificate";
                problem::refuse(ErrorKind::NotFound, what, remedy)
            }
        })
}

fn facts(context: &Context, export: &Export) -> ExportFacts {
    let stats = export.stats();
    let file = match export.store() {
        Store::Device(file) => Some(file),
        Store::Null { .. } => None,
    };
    ExportFacts {
        name: export.name().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine_boot_id: context.machine_boot_id.clone(),
        time: rfc_3339(SystemTime::now()),
        size_bytes: export.size_bytes(),
        logical_block_bytes: file.map_or(1, |file| file.identity().logical_block),
        identity: identity(export.store()),
        read_only: export.is_read_only(),
        scratch: export.is_scratch(),
        discarded: file.is_none(),
        direct: file.is_some_and(|file| file.is_direct()),
        flush: FlushFacts {
            epoch: export.flush_epoch(),
            succeeded: stats.flushes,
            failed: stats.flush_failures,
        },
    }
}

fn identity(store: &Store) -> DeviceFacts {
    let Store::Device(file) = store else {
        return DeviceFacts {
            kind: StoreKind::Null,
            serial: None,
            wwid: None,
            diskseq: None,
            dev: None,
            inode: None,
            born_ns: None,
        };
    };
    let found = file.identity();
    DeviceFacts {
        kind: match found.kind {
            DeviceKind::Block => StoreKind::Block,
            DeviceKind::Regular => StoreKind::File,
        },
        serial: found.serial.clone(),
        wwid: found.wwid.clone(),
        diskseq: found.diskseq,
        dev: Some(found.dev),
        inode: (found.kind == DeviceKind::Regular).then_some(found.inode),
        born_ns: found.born_ns,
    }
}

/// `2026-11-24T12:13:14.015Z`.
fn rfc_3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second(),
        time.millisecond()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_written_in_utc_with_milliseconds() {
        let at = |ms| rfc_3339(SystemTime::UNIX_EPOCH + Duration::from_millis(ms));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400_007), "2000-02-29T00:00:00.007Z");
        assert_eq!(at(1_795_522_394_015), "2026-11-24T12:13:14.015Z");
    }
}
