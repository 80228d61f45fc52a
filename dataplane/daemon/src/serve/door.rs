//! The front door: accepts, authenticates, negotiates, and hands connections to the shards.
//!
//! Everything here runs on one thread with the async runtime, and no payload ever passes it. Accepting
//! never stops: when there is no room, those go who have said least; when there are no descriptors, the
//! reserve is spent on taking a connection off the queue to close it.

mod channel;
mod connection;
mod counters;
mod fault;
mod handshake;
mod listen;
mod negotiate;
mod places;
mod preauth;
mod socket;

use std::fs::File;
use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use control::ListenerKind;
use nix::errno::Errno;
use tokio::task::AbortHandle;

pub(super) use counters::DoorCounters;
pub(super) use listen::{Listening, SocketFile, bind_unix};

use super::context::Context;
use super::limits::{REOPEN_INTERVAL, SHED_REPORT_INTERVAL};
use connection::Connection;
use places::PreauthPlace;
use preauth::{Evicted, Pressure};
use socket::Socket;

/// Connections held before authentication; the handle ends one.
pub(super) type Preauth = preauth::Preauth<AbortHandle>;

/// Accepts from one listener for ever.
pub(super) async fn run(context: Arc<Context>, listener: Listening, kind: ListenerKind) {
    let mut door = Door {
        context,
        kind,
        pressure: Pressure::new(Instant::now()),
        reserve: None,
    };
    door.refill_reserve();
    loop {
        door.wait_for_place(false).await;
        let accepted = match listener.accept_waiting().await {
            Some(accepted) => accepted,
            None => {
                door.pressure.relieved(Instant::now());
                listener.accept().await
            }
        };
        match accepted {
            Ok((socket, peer)) => door.admit(socket, peer),
            Err(error) if is_out_of_descriptors(&error) => door.shed(&listener).await,
            // The client gave up in the queue, or the network says so: the next one may be fine.
            Err(error) => tracing::debug!(%error, "accept failed"),
        }
        // The connection just accepted gets its first turn, and the kernel is asked for news of the
        // others, before one more is taken in.
        tokio::task::yield_now().await;
    }
}

/// What one listener needs.
struct Door {
    context: Arc<Context>,
    kind: ListenerKind,
    pressure: Pressure,
    /// A descriptor kept for the moment when there are none.
    reserve: Option<File>,
}

impl Door {
    fn preauth(&self) -> MutexGuard<'_, Preauth> {
        self.context
            .preauth
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the next connection may have a place. True when one became free meanwhile.
    async fn wait_for_place(&self, are_full: bool) -> bool {
        // Who may open a Unix socket of mode 0600 is no stranger.
        if self.kind == ListenerKind::NbdUnix {
            return false;
        }
        loop {
            let wait = self.preauth().wait(Instant::now(), self.pressure, are_full);
            if wait.is_zero() {
                return false;
            }
            // A place may become free before the oldest must go, and a descriptor with it.
            let freed = self.context.preauth_freed.notified();
            let was_freed = tokio::time::timeout(wait, freed).await.is_ok();
            if are_full && was_freed {
                return true;
            }
        }
    }

    fn admit(&self, socket: Socket, peer: String) {
        self.context.door.accepted.add();
        let context = Arc::clone(&self.context);
        let connection = Connection {
            context,
            socket,
            peer,
        };
        if self.kind == ListenerKind::NbdUnix {
            tokio::spawn(connection.run(self.kind, None));
            return;
        }
        let mut preauth = self.preauth();
        let id = preauth.next_id();
        let place = PreauthPlace::new(Arc::clone(&self.context), id);
        let task = tokio::spawn(connection.run(self.kind, Some(place)));
        let evicted = preauth.insert(id, Instant::now(), task.abort_handle());
        drop(preauth);
        evicted.into_iter().for_each(|one| self.evict(&one));
    }

    fn evict(&self, evicted: &Evicted<AbortHandle>) {
        evicted.handle.abort();
        let door = &self.context.door;
        if evicted.had_hello {
            door.evicted_greeted.add();
        } else {
            door.evicted_silent.add();
        }
    }

    /// Out of descriptors: the oldest connection makes room for the next one. When there is none, one is
    /// taken off the queue on the reserve and closed, so that the queue moves.
    async fn shed(&mut self, listener: &Listening) {
        if self.wait_for_place(true).await {
            return;
        }
        let oldest = self.preauth().evict_oldest();
        if let Some(oldest) = oldest {
            return self.evict(&oldest);
        }
        drop(self.reserve.take());
        if let Some(Ok(_closed_at_once)) = listener.accept_waiting().await {
            self.context.door.shed.add();
        }
        self.refill_reserve();
        // Descriptors went elsewhere; asking at once would only burn the processor.
        tokio::time::sleep(REOPEN_INTERVAL).await;
    }

    fn refill_reserve(&mut self) {
        if self.reserve.is_none() {
            self.reserve = File::open("/dev/null").ok();
        }
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let codes = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS];
    codes
        .iter()
        .any(|code| error.raw_os_error() == Some(*code as i32))
}

/// Tells now and then how many were turned away: one line for a flood, not one for each of its drops.
pub(super) async fn report_turned_away(context: Arc<Context>) {
    let mut told = 0;
    let mut interval = tokio::time::interval(SHED_REPORT_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let turned_away = context.door.turned_away();
        if turned_away > told {
            let count = turned_away - told;
            tracing::warn!(
                count,
                "connections were closed before authentication to make room"
            );
        }
        told = turned_away;
    }
}
