//! Paths of exports and holds.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use control::{ExportPut, Fence, HoldName, HoldPut};
use serde::Deserialize;

use super::answer::{Body, Name, Params, blocking, respond};
use crate::serve::context::Context;
use crate::serve::exports::{DrainTimeout, PutOutcome};
use crate::serve::limits::DRAIN_TIMEOUT_S_RANGE;
use crate::serve::problem;

/// The query of a DELETE.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Removal {
    /// Number of the operation that asks.
    fence: Option<u64>,
    /// Time that clients have to finish; the drain timeout when left out.
    drain_timeout_s: Option<u64>,
    /// Let go even though the last flush failed.
    #[serde(default)]
    abandon: bool,
}

/// The query of a DELETE of a hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Release {
    fence: Option<u64>,
}

pub(super) async fn list(State(context): State<Arc<Context>>) -> Response {
    respond(&context, Ok((StatusCode::OK, context.registry.list())))
}

pub(super) async fn put(
    State(context): State<Arc<Context>>,
    Name(name): Name,
    Body(put): Body<ExportPut>,
) -> Response {
    let shared = Arc::clone(&context);
    let made = blocking(move || shared.registry.put(&shared.engine, &name, &put)).await;
    respond(&context, made.map(|(outcome, view)| (code(outcome), view)))
}

pub(super) async fn delete(
    State(context): State<Arc<Context>>,
    Name(name): Name,
    Params(removal): Params<Removal>,
) -> Response {
    let drain = match removal.drain_timeout_s {
        None => context.config().drain_timeout,
        Some(seconds) => Duration::from_secs(seconds.min(*DRAIN_TIMEOUT_S_RANGE.end())),
    };
    let shared = Arc::clone(&context);
    let removed = blocking(move || {
        let fence = removal.fence.map(Fence);
        let drain = DrainTimeout(drain);
        shared
            .registry
            .delete(&shared.engine, &name, fence, drain, removal.abandon)
    });
    let removed = removed.await;
    respond(&context, removed.map(|removed| (StatusCode::OK, removed)))
}

pub(super) async fn flush(State(context): State<Arc<Context>>, Name(name): Name) -> Response {
    let shared = Arc::clone(&context);
    let flushed = blocking(move || shared.registry.flush(&name)).await;
    respond(&context, flushed.map(|flushed| (StatusCode::OK, flushed)))
}

pub(super) async fn hold(
    State(context): State<Arc<Context>>,
    Name(name): Name,
    Body(put): Body<HoldPut>,
) -> Response {
    let shared = Arc::clone(&context);
    let made = blocking(move || {
        let name = HoldName::try_from(name).map_err(|error| problem::invalid(&error))?;
        shared.registry.hold(&name, &put)
    });
    let made = made.await;
    respond(&context, made.map(|(outcome, view)| (code(outcome), view)))
}

pub(super) async fn release(
    State(context): State<Arc<Context>>,
    Name(name): Name,
    Params(release): Params<Release>,
) -> Response {
    let shared = Arc::clone(&context);
    let released = blocking(move || {
        let name = HoldName::try_from(name).map_err(|error| problem::invalid(&error))?;
        shared.registry.release(&name, release.fence.map(Fence))
    });
    let released = released.await;
    respond(
        &context,
        released.map(|released| (StatusCode::OK, released)),
    )
}

const fn code(outcome: PutOutcome) -> StatusCode {
    match outcome {
        PutOutcome::Made => StatusCode::CREATED,
        PutOutcome::Unchanged => StatusCode::OK,
    }
}
