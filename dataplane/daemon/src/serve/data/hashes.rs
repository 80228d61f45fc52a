//! `GET /v1/exports/{name}/hashes`: digests of what is on the medium, for `mk-data/1` and for `transfers.sock`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use control::{ErrorBody, ErrorKind, Retry};
use engine::Export;
use engine::export::MediumError;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::facts::find;
use super::{Client, binary};
use crate::serve::context::Context;
use crate::serve::exports::Caller;
use crate::serve::http::{Name, Params, blocking, problem_response};
use crate::serve::limits::{MEDIUM_READERS_MAX, MEDIUM_WAIT};
use crate::serve::problem;

/// The query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::serve) struct HashQuery {
    offset: u64,
    len: u64,
    chunk: u64,
}

/// Media that are being read right now, and their limit.
#[derive(Debug)]
pub(in crate::serve) struct HashJobs(Arc<Semaphore>);

impl Default for HashJobs {
    fn default() -> Self {
        // One for each CPU: more would not hash faster, and the shards need theirs.
        let count = sys::cpu::available().clamp(1, MEDIUM_READERS_MAX);
        Self(Arc::new(Semaphore::new(count)))
    }
}

impl HashJobs {
    /// Runs `work` on a blocking thread when there is a place within a short time.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ErrorBody> + Send + 'static,
    ) -> Result<T, ErrorBody> {
        let place = Arc::clone(&self.0).acquire_owned();
        let Ok(Ok(place)) = tokio::time::timeout(MEDIUM_WAIT, place).await else {
            return Err(problem::later(
                ErrorKind::TooMany,
                "as many media are being read as may be at once",
                "ask again in a moment",
            ));
        };
        // The place goes with the work: a client that leaves does not make room for the next one.
        blocking(move || {
            let _place = place;
            work()
        })
        .await
    }
}

/// For the client of an export.
pub(super) async fn data(
    State(context): State<Arc<Context>>,
    Extension(client): Extension<Arc<Client>>,
    Name(name): Name,
    Params(query): Params<HashQuery>,
) -> Response {
    answer(context, &name, client.caller(), query).await
}

/// For the control socket.
pub(in crate::serve) async fn show(
    State(context): State<Arc<Context>>,
    Name(name): Name,
    Params(query): Params<HashQuery>,
) -> Response {
    answer(context, &name, Caller::Local, query).await
}

async fn answer(context: Arc<Context>, name: &str, caller: Caller, query: HashQuery) -> Response {
    let digests = match find(&context, name, caller) {
        Err(error) => Err(error),
        Ok(export) => {
            let shared = Arc::clone(&context);
            let work = move || hash(&shared, &export, query);
            context.hash_jobs.run(work).await
        }
    };
    match digests {
        Ok(bytes) => binary(bytes),
        Err(error) => problem_response(&context, error),
    }
}

fn hash(context: &Context, export: &Export, query: HashQuery) -> Result<Vec<u8>, ErrorBody> {
    let range = range(query.offset, query.len)?;
    let digests = export
        .hash_medium(range, query.chunk)
        .map_err(|error| problem_of(export.name(), &error))?;
    context.door.medium_hashed.add_count(query.len);
    Ok(digests.iter().flat_map(|digest| digest.0).collect())
}

/// A range that does not wrap; the export knows the rest.
pub(super) fn range(offset: u64, len: u64) -> Result<std::ops::Range<u64>, ErrorBody> {
    let end = offset.checked_add(len).ok_or_else(|| {
        let what = format!("offset {offset} and len {len} lead beyond 2^64 - 1");
        problem::refuse(ErrorKind::BadRequest, what, "ask for a range of the export")
    })?;
    Ok(offset..end)
}

/// An error of the medium as a client sees it.
pub(super) fn problem_of(name: &str, error: &MediumError) -> ErrorBody {
    let on = |text: String| format!("export {name}: {text}");
    match error {
        MediumError::Bounds { .. } => {
            let remedy = "docs/interfaces/mk-data.md has the limits";
            problem::refuse(ErrorKind::BadRequest, on(error.to_string()), remedy)
        }
        MediumError::Busy => {
            let remedy = "ask again when the writes are answered";
            problem::later(ErrorKind::Busy, on(error.to_string()), remedy)
        }
        MediumError::Closing => ErrorBody {
            what: on(error.to_string()),
            ..problem::draining()
        },
        MediumError::Read(_) | MediumError::Short { .. } | MediumError::Flush(_) => {
            let remedy = "check the device and the kernel log of the target";
            ErrorBody {
                retry: Retry::Never,
                ..problem::later(
                    ErrorKind::Device,
                    on(crate::serve::log::chain(error)),
                    remedy,
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::extract::Query;
    use axum::http::Uri;
    use proptest::prelude::*;

    fn parse(query: &str) -> Option<HashQuery> {
        let uri = Uri::builder()
            .path_and_query(format!("/?{query}"))
            .build()
            .ok()?;
        Query::try_from_uri(&uri).ok().map(|Query(query)| query)
    }

    #[test]
    fn a_query_has_exactly_its_three_numbers() {
        let good = HashQuery {
            offset: 1,
            len: 2,
            chunk: 3,
        };
        assert_eq!(parse("offset=1&len=2&chunk=3"), Some(good));
        assert_eq!(parse("chunk=3&offset=1&len=2"), Some(good));
        for bad in [
            "",
            "offset=1&len=2",
            "offset=1&len=2&chunk=3&x=4",
            "offset=1&len=2&chunk=3&chunk=3",
            "offset=-1&len=2&chunk=3",
            "offset=1&len=2&chunk=",
            "offset=1&len=18446744073709551616&chunk=3",
            "offset=1&len=2K&chunk=3",
            "offset=0x1&len=2&chunk=3",
            "offset=1;len=2;chunk=3",
            "offset=%ff&len=2&chunk=3",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_range_that_wraps_is_refused() {
        assert_eq!(range(5, 6).unwrap(), 5..11);
        assert_eq!(range(u64::MAX, 0).unwrap(), u64::MAX..u64::MAX);
        assert_eq!(range(u64::MAX, 1).unwrap_err().kind, ErrorKind::BadRequest);
    }

    proptest! {
        #[test]
        fn no_query_is_taken_for_what_it_is_not(text in "[a-z0-9=&%+;-]{0,60}") {
            if let Some(query) = parse(&text) {
                let count = text.split('&').filter(|pair| pair.contains('=')).count();
                prop_assert_eq!(count, 3);
                prop_assert!(text.contains("offset=") && text.contains("len=") && text.contains("chunk="));
                // Numbers are read as they are written, or as form encoding writes them.
                prop_assert!(text.contains(&query.offset.to_string()) || text.contains(['%', '+', '0']));
            }
        }

        #[test]
        fn numbers_survive(offset: u64, len: u64, chunk: u64) {
            let query = parse(&format!("offset={offset}&len={len}&chunk={chunk}"));
            prop_assert_eq!(query, Some(HashQuery { offset, len, chunk }));
        }
    }
}
