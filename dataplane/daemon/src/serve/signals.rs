//! Signals, watched by a thread of their own from the start to the very end of the process.
//!
//! The thread knows two things by itself: a second order to end is obeyed at once, whatever the rest of
//! the process is waiting for; and everything else is told to whoever runs the server.

use std::thread;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::exit::{Exit, Failure};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// SIGHUP: read certificates and configuration again.
    Reload,
    /// SIGTERM or SIGINT: drain, flush, end.
    End,
}

/// Starts to watch. The queue is unbounded because a person fills it.
pub(super) fn watch() -> Result<UnboundedReceiver<Order>, Failure> {
    let failed = |error: &std::io::Error| {
        let remedy = "check the limits on descriptors and threads";
        Failure::usage("signals cannot be watched", "serve", remedy).caused_by(error)
    };
    let runtime = Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|error| failed(&error))?;
    let signals = {
        let _inside = runtime.enter();
        Signals::new().map_err(|error| failed(&error))?
    };
    let (orders, received) = unbounded_channel();
    thread::Builder::new()
        .name("mk-signals".to_owned())
        .spawn(move || runtime.block_on(signals.tell(&orders)))
        .map_err(|error| failed(&error))?;
    Ok(received)
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn tell(mut self, orders: &UnboundedSender<Order>) {
        let mut is_ending = false;
        loop {
            // `recv` loses nothing when another branch wins.
            let order = tokio::select! {
                _ = self.hangup.recv() => Order::Reload,
                _ = self.terminate.recv() => Order::End,
                _ = self.interrupt.recv() => Order::End,
            };
            if order == Order::End && is_ending {
                end_at_once();
            }
            is_ending |= order == Order::End;
            // Nobody listens any more when the server is on its last steps.
            let _ = orders.send(order);
        }
    }
}

/// The operator asked twice. What was not flushed is void, as after a crash, and the exit code says so.
fn end_at_once() -> ! {
    tracing::warn!("second signal: ending without draining");
    std::process::exit(i32::from(Exit::Interrupted.code()))
}
