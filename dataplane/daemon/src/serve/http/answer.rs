//! Answers: a body beside version and boot id, or an error.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use control::{Answer, ErrorAnswer, ErrorBody, ErrorKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::serve::context::Context;
use crate::serve::problem;

/// What a handler comes to.
pub(super) type Outcome<T> = Result<(StatusCode, T), ErrorBody>;

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
pub(super) fn respond<T: Serialize>(context: &Context, outcome: Outcome<T>) -> Response {
    match outcome {
        Ok((status, body)) => {
            (status, Json(Answer::new(context.boot_id.as_str(), body))).into_response()
        }
        Err(error) => {
            let status = status(error.kind);
            let body = Answer::new(context.boot_id.as_str(), ErrorAnswer { error });
            (status, Json(body)).into_response()
        }
    }
}

/// Runs `work` where blocking is allowed, to its end even when the client goes.
pub(super) async fn blocking<T: Send + 'static>(
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
    let remedy = "docs/interfaces/control-socket.md shows the request";
    problem::refuse(ErrorKind::BadRequest, what, remedy)
}

/// A body of JSON, whatever its content type says.
pub(super) struct Body<T>(pub(super) T);

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
pub(super) struct Name(pub(super) String);

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
pub(super) struct Params<T>(pub(super) T);

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
