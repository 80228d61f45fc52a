//! `mk-data/1`: HTTP/1.1 inside TLS for the clients of an export. Who it is, digests of what it has, tunables.
//!
//! A client sees the exports that admit its certificate and no others; a name that it may not open looks like one
//! that does not exist. What may take long (reading a medium) runs on blocking threads, a few at a time, so that
//! neither the door nor anybody else's negotiation waits for it. Everything is bounded: connections, heads, bodies,
//! answers, silence.

mod facts;
mod hashes;
mod patience;
mod places;
mod stream;
mod tunables;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use control::limits::BODY_BYTES_MAX;
use control::{ErrorKind, Fingerprint};
use http_body_util::LengthLimitError;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tls::Established;
use tokio::io::{AsyncRead, AsyncWrite};

use super::context::Context;
use super::http::{problem_response, respond};
use super::limits::{DATA_BODY_TIMEOUT, DATA_BUFFER_BYTES, DATA_HEADERS_MAX, DATA_IDLE_TIMEOUT};
use super::problem;
use crate::tls_stream::TlsStream;
pub(super) use hashes::{HashJobs, show as show_hashes};
use patience::{Activity, Patient};
pub(super) use places::{DataPlace, DataPlaces};

/// Who is at the other end of a connection, and what belongs to it.
pub(super) struct Client {
    id: u64,
    fingerprint: Fingerprint,
    activity: Activity,
    streams: stream::Streams,
}

impl Client {
    fn caller(&self) -> super::exports::Caller {
        super::exports::Caller::Tls(self.fingerprint)
    }
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Serves one connection to its end.
pub(super) async fn serve<S>(
    context: Arc<Context>,
    socket: S,
    established: Established,
    fingerprint: Fingerprint,
    _place: DataPlace,
) -> Result<(), hyper::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let client = Arc::new(Client {
        id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
        fingerprint,
        activity: Activity::default(),
        streams: stream::Streams::default(),
    });
    let stream = Patient::new(TlsStream::new(socket, established), Arc::clone(&client));
    let service = TowerToHyperService::new(router(&context, &client));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(DATA_IDLE_TIMEOUT)
        .max_headers(DATA_HEADERS_MAX)
        .max_buf_size(DATA_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut drain = context.drain_begun();
    let drain_begins = async move {
        // The sender lives as long as the context.
        let _ = drain.wait_for(|begun| *begun).await;
    };
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = drain_begins => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    client.streams.end();
    context.trials.release(&context.tunables, client.id);
    outcome
}

fn router(context: &Arc<Context>, client: &Arc<Client>) -> Router {
    Router::new()
        .route("/v1/exports/{name}", get(facts::show))
        .route("/v1/exports/{name}/hashes", get(hashes::data))
        .route("/v1/exports/{name}/grains", get(stream::grains))
        .route(
            "/v1/exports/{name}/stream",
            get(stream::show).put(stream::begin).delete(stream::end),
        )
        .route("/v1/tunables", get(tunables::list).patch(tunables::patch))
        .route("/v1/status", get(tunables::status))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(from_fn_with_state(Arc::clone(context), take_body))
        .layer(Extension(Arc::clone(client)))
        .with_state(Arc::clone(context))
}

/// Reads the body, which is short, before anything is done. Its length is what the client says; what it sends is
/// another matter, so there is a limit and a deadline.
async fn take_body(
    State(context): State<Arc<Context>>,
    Extension(client): Extension<Arc<Client>>,
    request: Request,
    next: Next,
) -> Response {
    let _busy = client.activity.begin();
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX);
    let error = match tokio::time::timeout(DATA_BODY_TIMEOUT, body).await {
        Ok(Ok(bytes)) => {
            return next
                .run(Request::from_parts(parts, Body::from(bytes)))
                .await;
        }
        Ok(Err(error)) if is_too_long(&error) => {
            let what = format!("the body is longer than {BODY_BYTES_MAX} bytes");
            problem::refuse(ErrorKind::TooLarge, what, "send less")
        }
        Ok(Err(error)) => {
            let what = format!("the body cannot be read: {error}");
            problem::refuse(ErrorKind::BadRequest, what, "send what Content-Length says")
        }
        Err(_) => {
            let seconds = DATA_BODY_TIMEOUT.as_secs();
            let what = format!("the body did not come within {seconds} s");
            problem::refuse(ErrorKind::BadRequest, what, "send what Content-Length says")
        }
    };
    let mut response = problem_response(&context, error);
    // What may still come of the body must not be taken for a request.
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}

fn is_too_long(error: &axum::Error) -> bool {
    let cause = std::error::Error::source(error);
    cause.is_some_and(|cause| cause.is::<LengthLimitError>())
}

async fn unknown_path(State(context): State<Arc<Context>>, request: Request) -> Response {
    let what = format!("mk-data/1 has no path {}", request.uri().path());
    let remedy = "docs/interfaces/mk-data.md lists the paths";
    let error = problem::refuse(ErrorKind::NotFound, what, remedy);
    respond::<()>(&context, Err(error))
}

async fn unknown_method(State(context): State<Arc<Context>>, request: Request) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    let what = format!("{method} is not possible on {path}");
    let error = problem::refuse(
        ErrorKind::MethodNotAllowed,
        what,
        "the Allow header names the methods",
    );
    respond::<()>(&context, Err(error))
}

/// An answer of bytes.
fn binary(bytes: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = StatusCode::OK;
    let kind = HeaderValue::from_static("application/octet-stream");
    response
        .headers_mut()
        .insert(axum::http::header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests;
