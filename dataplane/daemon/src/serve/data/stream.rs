//! What was hashed while it was written, and grains: `…/stream` and `…/grains`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use control::{ErrorBody, ErrorKind, StreamState};
use engine::Export;
use engine::digest::{CHUNK_BYTES, GRAIN_BYTES, GRAINS_PER_CHUNK};
use engine::export::{StreamChunk, StreamUser};
use serde::Deserialize;

use super::facts::find;
use super::hashes::{problem_of, range};
use super::{Client, binary};
use crate::serve::context::Context;
use crate::serve::http::{Name, Params, problem_response, respond};
use crate::serve::limits::{DATA_STREAM_ENTRIES_MAX, DATA_STREAMS_MAX};
use crate::serve::problem;

/// A place of which nothing is known.
const UNKNOWN: u8 = 0;
/// A digest or a chaining value follows.
const KNOWN: u8 = 1;
/// Some grains of the chunk are known.
const GRAINS: u8 = 2;

/// Streams that a connection has asked for, by export.
#[derive(Default)]
pub(super) struct Streams(Mutex<BTreeMap<String, StreamUser>>);

impl Streams {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, StreamUser>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection has ended.
    pub(super) fn end(&self) {
        self.lock().clear();
    }

    fn begin(&self, export: &Export) -> Result<(), ErrorBody> {
        let mut streams = self.lock();
        if streams
            .get(export.name())
            .is_some_and(|user| user.is_of(export))
        {
            return Ok(());
        }
        if streams.len() >= DATA_STREAMS_MAX {
            let what = format!("this connection has {DATA_STREAMS_MAX} streams");
            return Err(problem::refuse(
                ErrorKind::TooMany,
                what,
                "end some of them",
            ));
        }
        streams.insert(export.name().to_owned(), export.use_stream());
        Ok(())
    }

    fn chunks(&self, export: &Export, chunks: Range<u64>) -> Result<Vec<StreamChunk>, ErrorBody> {
        let streams = self.lock();
        let user = streams.get(export.name()).filter(|user| user.is_of(export));
        user.map(|user| user.chunks(chunks)).ok_or_else(|| {
            let what = format!("this connection has no stream of export {}", export.name());
            let remedy = "PUT it first; when the export was replaced, again";
            problem::refuse(ErrorKind::Conflict, what, remedy)
        })
    }
}

pub(super) async fn begin(
    State(context): State<Arc<Context>>,
    Extension(client): Extension<Arc<Client>>,
    Name(name): Name,
) -> Response {
    let begun =
        find(&context, &name, client.caller()).and_then(|export| client.streams.begin(&export));
    let state = StreamState {
        name,
        streaming: true,
    };
    respond(&context, begun.map(|()| (StatusCode::OK, state)))
}

pub(super) async fn end(
    State(context): State<Arc<Context>>,
    Extension(client): Extension<Arc<Client>>,
    Name(name): Name,
) -> Response {
    client.streams.lock().remove(&name);
    let state = StreamState {
        name,
        streaming: false,
    };
    respond(&context, Ok((StatusCode::OK, state)))
}

/// The query of `…/stream`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StreamQuery {
    offset: u64,
    len: u64,
}

pub(super) async fn show(
    State(context): State<Arc<Context>>,
    Extension(client): Extension<Arc<Client>>,
    Name(name): Name,
    Params(query): Params<StreamQuery>,
) -> Response {
    let chunks = find(&context, &name, client.caller()).and_then(|export| {
        let chunks = units(query.offset, query.len, CHUNK_BYTES)?;
        client.streams.chunks(&export, chunks)
    });
    answer(
        &context,
        chunks.map(|chunks| chunks.iter().flat_map(entry).collect()),
    )
}

fn entry(chunk: &StreamChunk) -> [u8; 33] {
    match chunk {
        StreamChunk::Unknown => state(UNKNOWN, &[0; 32]),
        StreamChunk::Complete(digest) => state(KNOWN, &digest.0),
        StreamChunk::Grains { .. } => state(GRAINS, &[0; 32]),
    }
}

fn state(state: u8, value: &[u8; 32]) -> [u8; 33] {
    let mut entry = [state; 33];
    entry[1..].copy_from_slice(value);
    entry
}

/// Where chaining values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum From {
    Medium,
    Stream,
}

/// The query of `…/grains`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GrainQuery {
    offset: u64,
    len: u64,
    from: From,
}

pub(super) async fn grains(
    State(context): State<Arc<Context>>,
    Extension(client): Extension<Arc<Client>>,
    Name(name): Name,
    Params(query): Params<GrainQuery>,
) -> Response {
    let grains = match find(&context, &name, client.caller()) {
        Err(error) => Err(error),
        Ok(export) if query.from == From::Stream => stream_grains(&client, &export, &query),
        Ok(export) => {
            let shared = Arc::clone(&context);
            let work = move || medium_grains(&shared, &export, &query);
            context.hash_jobs.run(work).await
        }
    };
    answer(&context, grains)
}

fn medium_grains(
    context: &Context,
    export: &Export,
    query: &GrainQuery,
) -> Result<Vec<u8>, ErrorBody> {
    let cvs = export
        .grains_medium(range(query.offset, query.len)?)
        .map_err(|error| problem_of(export.name(), &error))?;
    context.door.medium_hashed.add_count(query.len);
    Ok(cvs.iter().flat_map(|cv| state(KNOWN, &cv.0)).collect())
}

fn stream_grains(
    client: &Client,
    export: &Export,
    query: &GrainQuery,
) -> Result<Vec<u8>, ErrorBody> {
    let grains = units(query.offset, query.len, GRAIN_BYTES)?;
    let per_chunk = GRAINS_PER_CHUNK as u64;
    let first = grains.start / per_chunk;
    let chunks = client
        .streams
        .chunks(export, first..grains.end.div_ceil(per_chunk))?;
    let known = |grain: u64| {
        let chunk = usize::try_from(grain / per_chunk - first).ok()?;
        let position = usize::try_from(grain % per_chunk).ok()?;
        match chunks.get(chunk)? {
            StreamChunk::Grains { have, cvs } if have >> position & 1 == 1 => Some(cvs[position].0),
            _ => None,
        }
    };
    let entries = grains.map(|grain| match known(grain) {
        Some(cv) => state(KNOWN, &cv),
        None => state(UNKNOWN, &[0; 32]),
    });
    Ok(entries.flatten().collect())
}

/// The units that a range of whole ones has.
fn units(offset: u64, len: u64, unit: u64) -> Result<Range<u64>, ErrorBody> {
    let range = range(offset, len)?;
    let count = len / unit;
    let is_whole = range.start.is_multiple_of(unit) && len.is_multiple_of(unit);
    if is_whole && (1..=DATA_STREAM_ENTRIES_MAX).contains(&count) {
        return Ok(range.start / unit..range.end / unit);
    }
    let what = format!(
        "offset {offset} and len {len} are not 1 to {DATA_STREAM_ENTRIES_MAX} units of {unit}"
    );
    let remedy = "docs/interfaces/mk-data.md has the limits";
    Err(problem::refuse(ErrorKind::BadRequest, what, remedy))
}

fn answer(context: &Context, bytes: Result<Vec<u8>, ErrorBody>) -> Response {
    match bytes {
        Ok(bytes) => binary(bytes),
        Err(error) => problem_response(context, error),
    }
}
