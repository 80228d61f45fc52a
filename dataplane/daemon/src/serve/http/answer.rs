//! Answers: a body beside version and boot id, or an error.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::RETRY_AFTER;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use control::{Answer, ErrorAnswer, ErrorBody, ErrorKind, Retry};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::serve::context::Context;
use crate::serve::problem;

/// What a handler comes to.
pub(in crate::serve) type Outcome<T> = Result<(StatusCode, T), ErrorBody>;

/// The HTTP status of an error.
fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::BadRequest | ErrorKind::Config => StatusCode::BAD_REQUEST,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorKind::Conflict
        | ErrorKind::StaleFence
        | ErrorKind::Busy
        | ErrorKind::IdentityMismatch
        | ErrorKind::Refused => StatusCode::CONFLICT,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorKind::TooMany => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Draining => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Device
        | ErrorKind::Bug
        | ErrorKind::Tls
        | ErrorKind::Source
        | ErrorKind::Target
        | ErrorKind::ConnectionLost
        | ErrorKind::Verify
        | ErrorKind::Cancelled => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The answer to a request.
pub(in crate::serve) fn respond<T: Serialize>(context: &Context, outcome: Outcome<T>) -> Response {
    match outcome {
        Ok((status, body)) => {
            (status, Json(Answer::new(context.boot_id.as_str(), body))).into_response()
        }
        Err(error) => problem_response(context, error),
    }
}

/// The answer to a request that failed.
pub(in crate::serve) fn problem_response(context: &Context, error: ErrorBody) -> Response {
    let status = status(error.kind);
    let retry_after = match (status, error.retry) {
        (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, Retry::AfterMs(ms)) => {
            Some(HeaderValue::from(ms.div_ceil(1_000)))
        }
        _ => None,
    };
    let body = Answer::new(context.boot_id.as_str(), ErrorAnswer { error });
    let mut response = (status, Json(body)).into_response();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds);
    }
    response
}

/// Runs `work` where blocking is allowed, to its end even when the client goes.
pub(in crate::serve) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ErrorBody> + Send + 'static,
) -> Result<T, ErrorBody> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(problem::bug(format!(
            "the request was not finished: {error}"
        ))),
    }
}

fn bad_request(what: impl Into<String>) -> ErrorBody {
    let remedy = "control-socket.md and mk-data.md in docs/interfaces show the requests";
    problem::refuse(ErrorKind::BadRequest, what, remedy)
}

/// A body of JSON, whatever its content type says.
pub(in crate::serve) struct Body<T>(pub(in crate::serve) T);

impl<T: DeserializeOwned> FromRequest<Arc<Context>> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, context: &Arc<Context>) -> Result<Self, Response> {
        let refuse = |error| respond::<()>(context, Err(error));
        let bytes = Bytes::from_request(request, context)
            .await
            .map_err(|rejection| {
                refuse(match rejection {
                    BytesRejection::FailedToBufferBody(rejection)
                        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE =>
                    {
                        let what = "the body is larger than this path takes";
                        problem::refuse(ErrorKind::TooLarge, what, "send less, in several requests")
                    }
                    rejection => bad_request(format!("the body cannot be read: {rejection}")),
                })
            })?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            refuse(bad_request(format!(
                "the body is not as it should be: {error}"
            )))
        })
    }
}

/// The name in the path.
pub(in crate::serve) struct Name(pub(in crate::serve) String);

impl FromRequestParts<Arc<Context>> for Name {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        context: &Arc<Context>,
    ) -> Result<Self, Response> {
        match Path::<String>::from_request_parts(parts, context).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(PathRejection::FailedToDeserializePathParams(rejection)) => {
                let what = format!("the name in the path is not usable: {rejection}");
                Err(respond::<()>(context, Err(bad_request(what))))
            }
            Err(rejection) => {
                let what = format!("the path cannot be read: {rejection}");
                Err(respond::<()>(context, Err(problem::bug(what))))
            }
        }
    }
}

/// The query behind the path.
pub(in crate::serve) struct Params<T>(pub(in crate::serve) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Context>> for Params<T> {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut Parts,
        context: &Arc<Context>,
    ) -> Result<Self, Response> {
        let query: Result<Query<T>, QueryRejection> =
            Query::from_request_parts(parts, context).await;
        query
            .map(|Query(params)| Self(params))
            .map_err(|rejection| {
                let what = format!("the query is not usable: {}", rejection.body_text());
                respond::<()>(context, Err(bad_request(what)))
            })
    }
}
