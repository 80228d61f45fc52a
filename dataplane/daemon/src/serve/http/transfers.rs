//! Paths of transfers.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use control::{API_VERSION, Answer, ErrorBody, ErrorKind, TransferId, TransferRequest};
use futures_util::stream;

use super::answer::{Body, Name, Outcome, blocking, respond};
use crate::serve::context::Context;
use crate::serve::limits::{CANCEL_WAIT, EVENTS_KEEPALIVE};
use crate::serve::problem;
use crate::serve::transfers::{Rights, Transfer};

pub(super) async fn start(
    State(context): State<Arc<Context>>,
    Extension(rights): Extension<Rights>,
    Body(request): Body<TransferRequest>,
) -> Response {
    let shared = Arc::clone(&context);
    let started = blocking(move || shared.transfers.start(&shared, request, rights)).await;
    let code = |is_new| {
        if is_new {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        }
    };
    respond(&context, started.map(|(is_new, view)| (code(is_new), view)))
}

pub(super) async fn list(State(context): State<Arc<Context>>) -> Response {
    respond(&context, Ok((StatusCode::OK, context.transfers.list())))
}

pub(super) async fn show(State(context): State<Arc<Context>>, Name(id): Name) -> Response {
    let found = find(&context, id);
    respond(
        &context,
        found.map(|transfer| (StatusCode::OK, transfer.view())),
    )
}

/// Cancels, and waits for the end as long as a client will; 202 when it takes longer.
pub(super) async fn cancel(State(context): State<Arc<Context>>, Name(id): Name) -> Response {
    let outcome: Outcome<_> = match find(&context, id) {
        Err(error) => Err(error),
        Ok(transfer) => {
            blocking(move || {
                transfer.cancel();
                let code = match transfer.wait(CANCEL_WAIT) {
                    true => StatusCode::OK,
                    false => StatusCode::ACCEPTED,
                };
                Ok((code, transfer.view()))
            })
            .await
        }
    };
    respond(&context, outcome)
}

/// Server-sent events: those that are kept, from `Last-Event-ID` on, then those that come.
///
/// A slow client holds no queue: each event is looked up when it has room for one.
pub(super) async fn events(
    State(context): State<Arc<Context>>,
    Name(id): Name,
    headers: HeaderMap,
) -> Response {
    let (transfer, seen) = match find(&context, id)
        .and_then(|transfer| last_event_id(&headers).map(|seen| (transfer, seen)))
    {
        Ok(found) => found,
        Err(error) => return respond::<()>(&context, Err(error)),
    };
    let boot_id = context.boot_id.clone();
    let events = stream::unfold(
        (transfer, seen, boot_id),
        |(transfer, seen, boot_id)| async move {
            let (id, event) = transfer.next_event(seen).await?;
            let name = event.name();
            let data = Answer {
                api: API_VERSION,
                boot_id,
                body: event,
            };
            let text = serde_json::to_string(&data).unwrap_or_default();
            let event = Event::default().id(id.to_string()).event(name).data(text);
            Some((Ok::<_, Infallible>(event), (transfer, id, data.boot_id)))
        },
    );
    let keep_alive = KeepAlive::new().interval(EVENTS_KEEPALIVE);
    Sse::new(events).keep_alive(keep_alive).into_response()
}

fn last_event_id(headers: &HeaderMap) -> Result<u64, ErrorBody> {
    let Some(value) = headers.get("last-event-id") else {
        return Ok(0);
    };
    value
        .to_str()
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| {
            let what = "Last-Event-ID is not the id of an event";
            problem::refuse(
                ErrorKind::BadRequest,
                what,
                "send the id of the last event, or none",
            )
        })
}

fn find(context: &Context, id: String) -> Result<Arc<Transfer>, ErrorBody> {
    let id = TransferId::try_from(id).map_err(|error| problem::invalid(&error))?;
    context.transfers.find(&id).ok_or_else(|| {
        let what = format!("there is no transfer {id}");
        problem::refuse(
            ErrorKind::NotFound,
            what,
            "POST it first; only the last that ended are kept",
        )
    })
}
