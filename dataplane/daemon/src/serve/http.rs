//! The control sockets: HTTP/1.1 and JSON over Unix sockets.

mod answer;
mod exports;
mod metrics;
mod peer;
#[cfg(test)]
mod tests;
mod transfers;
mod tunables;

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post, put};
use control::ErrorKind;
use control::limits::{BODY_BYTES_MAX, TRANSFER_BODY_BYTES_MAX};
use nix::sys::stat::Mode;

use super::context::Context;
use super::data::show_hashes;
use super::door::bind_unix;
use super::problem;
use crate::exit::Failure;
pub(super) use answer::{Body, Name, Params, blocking, problem_response, respond};
use peer::{Access, Caller, ControlListener, groups_of, rights};
pub(super) use tunables::view as tunables_view;

/// Socket of the owner of exports.
const EXPORTS_SOCKET: &str = "exports.sock";
/// Socket of everybody in the group.
const TRANSFERS_SOCKET: &str = "transfers.sock";

/// A bound control socket with what it serves.
pub(super) struct ControlSocket {
    listener: ControlListener,
    router: Router,
}

/// Binds both sockets in `dir`, which is made if it is missing.
pub(super) fn bind(context: &Arc<Context>, dir: &Path) -> Result<[ControlSocket; 2], Failure> {
    std::fs::create_dir_all(dir).map_err(|error| {
        let remedy = "make it, owned by the user of this process";
        let on = dir.display().to_string();
        Failure::usage("the control folder cannot be made", on, remedy).caused_by(&error)
    })?;
    let (listener, file) = bind_unix(&dir.join(EXPORTS_SOCKET), Mode::from_bits_truncate(0o600))?;
    let exports = ControlSocket {
        listener: ControlListener::new(listener, file),
        router: with_access(context, exports_router(), Access::Owner),
    };
    let path = dir.join(TRANSFERS_SOCKET);
    let (listener, file) = bind_unix(&path, Mode::from_bits_truncate(0o660))?;
    let gid = std::fs::metadata(&path)
        .map_or_else(|_| nix::unistd::getegid().as_raw(), |found| found.gid());
    let transfers = ControlSocket {
        listener: ControlListener::new(listener, file),
        router: with_access(context, transfers_router(), Access::Group(gid)),
    };
    Ok([exports, transfers])
}

impl ControlSocket {
    /// Serves for ever.
    pub(super) async fn serve(self) {
        let service = self.router.into_make_service_with_connect_info::<Caller>();
        if let Err(error) = axum::serve(self.listener, service).await {
            tracing::error!(%error, "a control socket ended");
        }
    }
}

/// What both sockets show.
fn common_router() -> Router<Arc<Context>> {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/exports/{name}/flush", post(exports::flush))
}

/// `exports.sock`.
fn exports_router() -> Router<Arc<Context>> {
    common_router()
        .route("/v1/exports", get(exports::list))
        .route(
            "/v1/exports/{name}",
            put(exports::put).delete(exports::delete),
        )
        .route(
            "/v1/holds/{name}",
            put(exports::hold).delete(exports::release),
        )
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// `transfers.sock`.
fn transfers_router() -> Router<Arc<Context>> {
    common_router()
        .route("/v1/exports", get(exports::list))
        .route("/v1/exports/{name}/hashes", get(show_hashes))
        .route("/v1/tunables", get(tunables::list).patch(tunables::patch))
        .route("/metrics", get(metrics::show))
        .route(
            "/v1/transfers/{id}",
            get(transfers::show).delete(transfers::cancel),
        )
        .route("/v1/transfers/{id}/events", get(transfers::events))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .merge(
            Router::new()
                .route("/v1/transfers", post(transfers::start).get(transfers::list))
                .layer(DefaultBodyLimit::max(TRANSFER_BODY_BYTES_MAX)),
        )
}

fn with_access(context: &Arc<Context>, router: Router<Arc<Context>>, access: Access) -> Router {
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(from_fn_with_state(
            (Arc::clone(context), access),
            check_caller,
        ))
        .with_state(Arc::clone(context))
}

/// Who is calling, and may they?
async fn check_caller(
    State((context, access)): State<(Arc<Context>, Access)>,
    ConnectInfo(caller): ConnectInfo<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    let own_uid = nix::unistd::geteuid().as_raw();
    match caller
        .0
        .and_then(|peer| rights(peer, own_uid, access, groups_of))
    {
        Some(rights) => {
            request.extensions_mut().insert(rights);
            next.run(request).await
        }
        None => {
            let what = "this socket is not for the user that is calling";
            let remedy = "call as the user of the data plane, or as a member of its group";
            respond::<()>(
                &context,
                Err(problem::refuse(ErrorKind::Forbidden, what, remedy)),
            )
        }
    }
}

async fn status(State(context): State<Arc<Context>>) -> Response {
    respond(&context, Ok((StatusCode::OK, context.status())))
}

async fn unknown_path(State(context): State<Arc<Context>>, request: Request) -> Response {
    let what = format!("there is no path {} on this socket", request.uri().path());
    let remedy = "exports.sock has exports and holds, transfers.sock has the rest; see \
                  docs/interfaces/control-socket.md";
    respond::<()>(
        &context,
        Err(problem::refuse(ErrorKind::NotFound, what, remedy)),
    )
}

async fn unknown_method(State(context): State<Arc<Context>>, request: Request) -> Response {
    let what = format!(
        "{} is not possible on {}",
        request.method(),
        request.uri().path()
    );
    let remedy = "the Allow header names the methods";
    respond::<()>(
        &context,
        Err(problem::refuse(ErrorKind::MethodNotAllowed, what, remedy)),
    )
}
