//! `GET` and `PATCH /v1/tunables`: looking is free, changing is for tuners; and `GET /v1/status`, for tuners.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use control::limits::TRIAL_LEASE_S_MAX;
use control::{ErrorBody, ErrorKind, TunableTrial};

use super::Client;
use crate::serve::context::Context;
use crate::serve::http::{Body, respond, tunables_view};
use crate::serve::problem;

pub(super) async fn list(State(context): State<Arc<Context>>) -> Response {
    let view = tunables_view(&context.tunables);
    respond(&context, Ok((StatusCode::OK, view)))
}

pub(super) async fn patch(
    State(context): State<Arc<Context>>,
    Extension(client): Extension<Arc<Client>>,
    Body(trial): Body<TunableTrial>,
) -> Response {
    let outcome = apply(&context, &client, &trial);
    let view = outcome.map(|()| (StatusCode::OK, tunables_view(&context.tunables)));
    respond(&context, view)
}

/// How the process is: who measures must know who else is at work.
pub(super) async fn status(
    State(context): State<Arc<Context>>,
    Extension(client): Extension<Arc<Client>>,
) -> Response {
    let allowed = check_tuner(&context, &client, "this certificate may not see the status");
    respond(
        &context,
        allowed.map(|()| (StatusCode::OK, context.status())),
    )
}

fn check_tuner(context: &Context, client: &Client, what: &str) -> Result<(), ErrorBody> {
    if context.config().tuners.admits(&client.fingerprint) {
        return Ok(());
    }
    let remedy = "name its fingerprint under `tuners` in the configuration of the server";
    Err(problem::refuse(ErrorKind::Forbidden, what, remedy))
}

fn apply(context: &Context, client: &Client, trial: &TunableTrial) -> Result<(), ErrorBody> {
    check_tuner(context, client, "this certificate may not change tunables")?;
    let Some(lease_s) = trial.lease_s else {
        return context.trials.set(&context.tunables, &trial.values);
    };
    if !(1..=TRIAL_LEASE_S_MAX).contains(&lease_s) {
        let what = format!("lease_s is {lease_s}; 1 to {TRIAL_LEASE_S_MAX} are possible");
        let remedy = "renew the lease while the trial goes on";
        return Err(problem::refuse(ErrorKind::BadRequest, what, remedy));
    }
    let lease = Duration::from_secs(lease_s);
    context
        .trials
        .begin(&context.tunables, client.id, &trial.values, lease)
}
