//! Signals during a copy or a self-test: the first asks it to finish what is in flight, the second ends
//! the process.

use std::sync::mpsc;
use std::thread;

use engine::Cancel;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Exit, Failure};
use crate::helper;
use crate::report;

/// Listens from now on, on a thread of its own that lives as long as the process.
///
/// Handlers are installed when this returns: a signal that comes later is never lost, and children inherit no
/// blocked mask, as they would from `signalfd`.
pub(crate) fn watch(cancel: &Cancel) -> Result<(), Failure> {
    let cancel = cancel.clone();
    let (ready, installed) = mpsc::channel();
    let spawned = thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let runtime = match Builder::new_current_thread().enable_io().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(error))),
            };
            runtime.block_on(async move {
                let mut listeners = match listeners() {
                    Ok(listeners) => listeners,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                drop(ready.send(Ok(())));
                next(&mut listeners).await;
                cancel.cancel();
                report::note("interrupted: finishing what is in flight; again to end at once");
                next(&mut listeners).await;
                helper::end_all();
                std::process::exit(i32::from(Exit::Interrupted.code()));
            });
        });
    let failed = |error: &std::io::Error| {
        Failure::bug("signals cannot be watched", "this process").caused_by(error)
    };
    spawned.map_err(|error| failed(&error))?;
    match installed.recv() {
        Ok(outcome) => outcome.map_err(|error| failed(&error)),
        Err(_) => Err(Failure::bug(
            "the thread that watches signals ended",
            "this process",
        )),
    }
}

type Listeners = [tokio::signal::unix::Signal; 3];

/// Ctrl-C, a service manager, and a terminal that went away.
fn listeners() -> std::io::Result<Listeners> {
    Ok([
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    ])
}

async fn next([interrupt, terminate, hangup]: &mut Listeners) {
    // Safe to cancel: tokio documents `recv` so; a signal not yet taken stays for the next call.
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
}
