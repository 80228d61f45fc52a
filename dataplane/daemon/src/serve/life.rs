//! The life of a server: signals, reloading, and the orderly end.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use engine::{Blame, CloseHow, Export};
use tokio::sync::mpsc::UnboundedReceiver;

use super::args::ServeArgs;
use super::config::Config;
use super::context::Context;
use super::exports::DrainTimeout;
use super::limits::CLOSE_TIMEOUT;
use super::notify::Notifier;
use super::signals::Order;
use crate::exit::{Exit, Failure};

/// Serves until a signal ends it; returns when everything is drained and flushed.
pub(super) async fn live(
    context: &Arc<Context>,
    args: &ServeArgs,
    mut orders: UnboundedReceiver<Order>,
) -> Result<(), Failure> {
    let notifier = Notifier::from_environment();
    notifier.ready("serving");
    while orders.recv().await == Some(Order::Reload) {
        notifier.reloading();
        reload(context, args).await;
        notifier.ready("serving");
    }
    tracing::info!("draining; a second signal ends the process at once");
    notifier.stopping();
    let shared = Arc::clone(context);
    let drained = tokio::task::spawn_blocking(move || drain(&shared)).await;
    drained.unwrap_or_else(|error| {
        Err(Failure::bug("draining was not finished", "serve").caused_by(&error))
    })
}

/// Reads certificates and configuration again. What is wrong with the new ones keeps the old in force.
///
/// Closing the exports that went may take as long as their clients do, so that goes on behind our back:
/// a signal to end must not wait for it.
async fn reload(context: &Arc<Context>, args: &ServeArgs) {
    let (shared, args) = (Arc::clone(context), args.clone());
    let read = tokio::task::spawn_blocking(move || take_new(&shared, &args)).await;
    match read {
        Ok(Ok(())) => {
            tracing::info!("certificates and configuration are read again");
            context.note_config_error(None);
            let shared = Arc::clone(context);
            tokio::task::spawn_blocking(move || apply_exports(&shared));
        }
        Ok(Err(failure)) => {
            tracing::error!("the new configuration is refused, the old one stays: {failure}");
            context.note_config_error(Some(failure.to_string()));
        }
        Err(error) => tracing::error!(%error, "reloading was not finished"),
    }
}

/// Everything is read and checked before anything is changed.
fn take_new(context: &Context, args: &ServeArgs) -> Result<(), Failure> {
    let old = context.config();
    let fresh = Config::load(args)?;
    for key in fresh.fixed_keys_changed(&old) {
        tracing::warn!(
            key,
            "this key is read at the start only; restart to change it"
        );
    }
    let fresh = fresh.with_fixed_keys_of(&old);
    let suite = context.tunables.aead();
    if let (Some(tls), Some(dir)) = (&context.tls, &fresh.tls_dir) {
        tls.reload(dir, suite)?;
    }
    for note in fresh.apply_tunables(&context.tunables)? {
        tracing::warn!("{note}");
    }
    let names: Vec<&str> = fresh
        .tunables
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    context.trials.keep(&names);
    context.replace_config(fresh);
    Ok(())
}

fn apply_exports(context: &Context) {
    let config = context.config();
    let drain = DrainTimeout(config.drain_timeout);
    let problems = context
        .registry
        .apply_rules(&context.engine, &config.exports, drain);
    for (name, error) in &problems {
        tracing::error!(
            export = name,
            "the export is not as configured: {}; {}",
            error.what,
            error.remedy
        );
    }
    if let Some((name, error)) = problems.first() {
        context.note_config_error(Some(format!("export {name}: {}", error.what)));
    }
}

/// Lets clients and transfers finish, cuts what is left at the deadline, flushes every device.
fn drain(context: &Context) -> Result<(), Failure> {
    let deadline = Instant::now() + context.config().drain_timeout;
    let left = || deadline.saturating_duration_since(Instant::now());
    context.set_draining();
    context.transfers.cancel_all();
    let exports = context.registry.begin_drain(&context.engine);
    for export in &exports {
        if !export.wait_idle(left()) {
            let (name, count) = (export.name(), export.connections());
            tracing::warn!(
                export = name,
                count,
                "connections did not end in time and are closed"
            );
            context.engine.close_export(export, CloseHow::Now);
        }
    }
    for export in &exports {
        if !export.wait_idle(CLOSE_TIMEOUT) {
            tracing::error!(export = export.name(), "requests hang in the device");
        }
    }
    if !context.transfers.wait_all(left().max(CLOSE_TIMEOUT)) {
        tracing::error!("a transfer did not end in time");
    }
    flush_all(&exports)
}

/// Devices do not wait for each other.
fn flush_all(exports: &[Arc<Export>]) -> Result<(), Failure> {
    let failed: Vec<&str> = thread::scope(|scope| {
        let flushes: Vec<_> = exports
            .iter()
            .map(|export| (export.name(), scope.spawn(|| export.flush_blocking())))
            .collect();
        let outcomes = flushes
            .into_iter()
            .filter_map(|(name, flush)| match flush.join() {
                Ok(Ok(())) => None,
                Ok(Err(error)) => {
                    tracing::error!(export = name, "{}", super::log::chain(&error));
                    Some(name)
                }
                Err(_) => Some(name),
            });
        outcomes.collect()
    });
    if failed.is_empty() {
        tracing::info!(exports = exports.len(), "drained and flushed");
        return Ok(());
    }
    Err(Failure::new(
        Exit::Target,
        Blame::Environment,
        "the last flush failed; what was not durable before is void",
        format!("exports {}", failed.join(", ")),
        "check the devices and the kernel log, then copy again",
    ))
}
