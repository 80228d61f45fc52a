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
use std::sync::{Arc, PoisonError};

use control::ListenerKind;
use nix::errno::Errno;
use tokio::task::AbortHandle;

pub(super) use counters::DoorCounters;
pub(super) use listen::{Listening, SocketFile, bind_unix};

use super::context::Context;
use super::limits::{REOPEN_INTERVAL, SHED_REPORT_INTERVAL};
use connection::Connection;
use places::PreauthPlace;
use preauth::Evicted;
use socket::Socket;

/// Connections held before authentication; the handle ends one.
pub(super) type Preauth = preauth::Preauth<AbortHandle>;

/// Accepts from one listener for ever.
pub(super) async fn run(context: Arc<Context>, listener: Listening, kind: ListenerKind) {
    let mut door = Door {
        context,
        kind,
        reserve: None,
    };
    door.refill_reserve();
    loop {
        match listener.accept().await {
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
    /// A descriptor kept for the moment when there are none.
    reserve: Option<File>,
}

impl Door {
    fn admit(&self, socket: Socket, peer: String) {
        self.context.door.accepted.add();
        let connection = Connection {
            context: Arc::clone(&self.context),
            socket,
            peer,
        };
        if self.kind == ListenerKind::NbdUnix {
            tokio::spawn(connection.run(self.kind, None));
            return;
        }
        let mut preauth = self
            .context
            .preauth
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let id = preauth.next_id();
        let place = PreauthPlace::new(Arc::clone(&self.context), id);
        let task = tokio::spawn(connection.run(self.kind, Some(place)));
        let evicted = preauth.insert(id, task.abort_handle());
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

    /// Out of descriptors: make room, and take one waiting connection off the queue to close it, so that
    /// the queue moves.
    async fn shed(&mut self, listener: &Listening) {
        let oldest = self
            .context
            .preauth
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .evict_oldest();
        let made_room = oldest.is_some();
        if let Some(oldest) = oldest {
            self.evict(&oldest);
        }
        drop(self.reserve.take());
        let taken = listener.accept_waiting().await;
        let took_one = taken.is_some();
        drop(taken);
        if took_one {
            self.context.door.shed.add();
        }
        self.refill_reserve();
        if !made_room && !took_one {
            // Descriptors went elsewhere; asking at once would only burn the processor.
            tokio::time::sleep(REOPEN_INTERVAL).await;
        }
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
