//! From a request to what the engine runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use control::{ErrorBody, ErrorKind, TransferIntegrity, TransferRequest};
use engine::transfer::{Integrity, JournalSpec};
use engine::{Endpoint, ExtentSet, TransferSpec, Tunable, Tunables};

use crate::endpoint::{ConnectOptions, endpoint};
use crate::mkdata;
use crate::serve::limits::{
    TRANSFER_CONNECT_TIMEOUT, TRANSFER_IN_FLIGHT_DEADLINE, TRANSFER_RECONNECT_FOR,
};
use crate::serve::problem;
use crate::uri::Uri;

/// What the caller may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::serve) enum Rights {
    /// Our own user or root: everything we can do ourselves.
    Owner,
    /// A member of the group: servers and their exports, but no local paths. We may open devices that the
    /// caller may not, and must not do it on their word.
    Group,
}

/// The transfer that `request` describes; reads certificates, connects nowhere.
pub(super) fn spec(
    request: &TransferRequest,
    tunables: &Tunables,
    journal_dir: Option<&Path>,
    rights: Rights,
) -> Result<TransferSpec, ErrorBody> {
    let connect = ConnectOptions {
        tls_dir: request.tls_dir.as_ref().map(PathBuf::from),
        suite: tunables.aead(),
        connect_timeout: TRANSFER_CONNECT_TIMEOUT,
    };
    let connections = within("connections", request.connections.map(u64::from))?;
    let request_bytes = within("request_bytes", request.request_bytes.map(u64::from))?;
    let deadline = request.in_flight_deadline_s.map(Duration::from_secs);
    let source = end("source", &request.source, &connect, rights)?;
    let target = end("target", &request.target, &connect, rights)?;
    Ok(TransferSpec {
        connections: connections
            .and_then(|value| usize::try_from(value).ok())
            .unwrap_or_else(|| tunables.connections()),
        request_bytes: request_bytes
            .and_then(|value| u32::try_from(value).ok())
            .unwrap_or_else(|| tunables.request_bytes()),
        window_bytes: tunables.window_bytes_max(),
        extents: request.extents.as_ref().map(|list| {
            let ranges = list.iter().map(|extent| {
                extent.offset_bytes..extent.offset_bytes.saturating_add(extent.len_bytes)
            });
            ExtentSet::from_unsorted(ranges.collect())
        }),
        // The tunable bounds all transfers together while they run; it must not become this one's own.
        rate_bytes_per_s: request.rate_bytes_per_s,
        target_is_zero: request.target_is_zero,
        overwrite: request.overwrite,
        allow_no_flush: request.allow_no_flush,
        in_flight_deadline: deadline.unwrap_or(TRANSFER_IN_FLIGHT_DEADLINE),
        zero_scan_bytes: tunables.zero_scan_bytes(),
        reconnect_for: TRANSFER_RECONNECT_FOR,
        checkpoint: tunables.checkpoint(),
        integrity: request
            .integrity
            .map(integrity)
            .or_else(|| tunables.integrity()),
        checksum_diff: request.checksum_diff,
        journal: journal(request, journal_dir)?,
        service: mkdata::service_of(&target),
        ..TransferSpec::new(source, target)
    })
}

const fn integrity(name: TransferIntegrity) -> Integrity {
    match name {
        TransferIntegrity::None => Integrity::None,
        TransferIntegrity::Stream => Integrity::Stream,
        TransferIntegrity::Media => Integrity::Media,
    }
}

/// A file named after the transfer. It always goes on behind what an earlier transfer with this id left there.
fn journal(
    request: &TransferRequest,
    journal_dir: Option<&Path>,
) -> Result<Option<JournalSpec>, ErrorBody> {
    if !request.journal {
        return Ok(None);
    }
    let Some(dir) = journal_dir else {
        return Err(problem::refuse(
            ErrorKind::BadRequest,
            "this server keeps no journals".to_owned(),
            "start it with --journal-dir, or ask without journal",
        ));
    };
    Ok(Some(JournalSpec {
        path: dir.join(format!("{}.journal", request.id)),
        resume: true,
        source: None,
        source_id: request.source_id.clone(),
        version: env!("CARGO_PKG_VERSION"),
    }))
}

/// A number that stands for a tunable must be one that the tunable could have: a program that asks for the
/// impossible is told, not corrected.
fn within(name: &'static str, value: Option<u64>) -> Result<Option<u64>, ErrorBody> {
    let reason = value
        .zip(Tunable::by_name(name))
        .and_then(|(value, row)| row.clamp(value).1);
    match reason {
        None => Ok(value),
        Some(reason) => Err(problem::refuse(
            ErrorKind::BadRequest,
            format!("{name} is not possible: {reason}"),
            "GET /v1/tunables shows the range",
        )),
    }
}

fn end(
    field: &str,
    text: &str,
    connect: &ConnectOptions,
    rights: Rights,
) -> Result<Endpoint, ErrorBody> {
    let uri: Uri = text.parse().map_err(|error: crate::uri::UriError| {
        problem::refuse(
            ErrorKind::BadRequest,
            format!("{field} is not usable: {error}"),
            "docs/interfaces/command-line.md lists the forms of a disk",
        )
    })?;
    if let Uri::Path(path) = &uri {
        if rights == Rights::Group {
            return Err(problem::refuse(
                ErrorKind::Forbidden,
                format!("{field} is a local path, and only our own user may ask for those"),
                "name an nbd server, or ask as the user of the data plane",
            ));
        }
        if path.is_relative() {
            let what = format!("{field} is a relative path");
            return Err(problem::refuse(
                ErrorKind::BadRequest,
                what,
                "write the absolute path",
            ));
        }
    }
    endpoint(&uri, connect).map_err(|failure| problem::failure(&failure))
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::Extent;

    fn request(source: &str, target: &str) -> TransferRequest {
        let body = serde_json::json!({"id": "t", "source": source, "target": target});
        serde_json::from_value(body).unwrap()
    }

    fn kind(request: &TransferRequest, rights: Rights) -> Option<ErrorKind> {
        spec(request, &Tunables::new(), None, rights)
            .err()
            .map(|error| error.kind)
    }

    #[test]
    fn members_of_the_group_name_servers_and_never_paths() {
        let socket = "nbd+unix:///e?socket=/s";
        for (source, target) in [("/dev/vda", socket), (socket, "/dev/vdb")] {
            let request = request(source, target);
            assert_eq!(kind(&request, Rights::Group), Some(ErrorKind::Forbidden));
            assert_eq!(kind(&request, Rights::Owner), None);
        }
        assert_eq!(kind(&request(socket, socket), Rights::Group), None);
    }

    #[test]
    fn ends_that_make_no_sense_are_named() {
        for target in ["nbd://192.0.2.1/e", "mk://h/e", "disk.img", "ftp://h/e"] {
            let error = spec(
                &request("/a", target),
                &Tunables::new(),
                None,
                Rights::Owner,
            );
            assert!(error.is_err(), "{target}");
        }
    }

    #[test]
    fn numbers_outside_a_tunables_range_are_refused_and_others_kept() {
        let mut asked = request("/a", "/b");
        asked.request_bytes = Some(1);
        assert_eq!(kind(&asked, Rights::Owner), Some(ErrorKind::BadRequest));
        asked.request_bytes = Some(1 << 19);
        asked.extents = Some(vec![Extent {
            offset_bytes: 4096,
            len_bytes: 512,
        }]);
        let spec =
            spec(&asked, &Tunables::new(), None, Rights::Owner).unwrap_or_else(|_| unreachable!());
        assert_eq!(spec.request_bytes, 1 << 19);
        assert_eq!(spec.extents.map(|set| set.total_bytes()), Some(512));
    }

    #[test]
    fn a_journal_is_named_after_its_transfer_and_needs_a_folder() {
        let mut asked = request("/a", "mk://h/e?tls-certificates=/nowhere");
        asked.journal = true;
        let without = journal(&asked, None).map(drop).unwrap_err();
        assert!(without.remedy.contains("--journal-dir"), "{without:?}");
        let spec = journal(&asked, Some(Path::new("/var/lib/mk"))).unwrap_or_default();
        let path = spec.map(|spec| spec.path).unwrap_or_default();
        let name = format!("/var/lib/mk/{}.journal", asked.id);
        assert_eq!(path, Path::new(&name));
    }
}
