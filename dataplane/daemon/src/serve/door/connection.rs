//! The life of a connection at the door, for each kind of listener.

use std::future::Future;
use std::sync::Arc;

use control::ListenerKind;
use sys::net::{TcpOptions, configure_tcp};
use tls::{ClientHello, Established, TlsError};
use tokio::time::{Instant, timeout_at};
use wire::TlsPolicy;

use super::channel::Channel;
use super::fault::{DoorFault, Phase};
use super::handshake::{Route, handshake, read_hello, refuse_hello};
use super::negotiate::{Negotiation, Pause};
use super::places::{NegotiatingPlace, PreauthPlace};
use super::socket::Socket;
use crate::serve::context::Context;
use crate::serve::data;
use crate::serve::exports::Caller;

/// A connection from its acceptance to the shards, or to its end.
pub(super) struct Connection {
    pub(super) context: Arc<Context>,
    pub(super) socket: Socket,
    pub(super) peer: String,
}

impl Connection {
    /// Runs the protocol of its listener; tells in the log how it ended.
    pub(super) async fn run(self, kind: ListenerKind, place: Option<PreauthPlace>) {
        let (context, peer) = (Arc::clone(&self.context), self.peer.clone());
        let outcome = match (kind, place) {
            (ListenerKind::Tls, Some(place)) => self.tls(place).await,
            (ListenerKind::Nbds, Some(place)) => self.nbds(place).await,
            (ListenerKind::NbdUnix, _) => self.plain().await,
            (ListenerKind::Tls | ListenerKind::Nbds, None) => return,
        };
        match outcome {
            Ok(Ended::Served(export)) => {
                context.door.served.add();
                tracing::info!(peer, export, "client is served");
            }
            Ok(Ended::Left) => tracing::debug!(peer, "client left before it opened an export"),
            Ok(Ended::Data(Ok(()))) => tracing::debug!(peer, "mk-data/1: client left"),
            Ok(Ended::Data(Err(error))) => {
                let causes = crate::serve::log::chain(&error);
                tracing::debug!(peer, "mk-data/1: the connection ended: {causes}");
            }
            Err(fault) => {
                context.door.fault(&fault);
                let causes = crate::serve::log::chain(&fault);
                if fault.is_noise() {
                    tracing::debug!(peer, "connection ended at the door: {causes}");
                } else {
                    tracing::info!(peer, "connection ended at the door: {causes}");
                }
            }
        }
    }

    /// TLS from the first byte.
    async fn tls(self, place: PreauthPlace) -> Result<Ended, DoorFault> {
        let until = deadline(&self.context);
        let hello = before(until, Phase::Hello, read_hello(&self.socket)).await?;
        place.greeted();
        let (route, established) = establish(&self.context, &self.socket, hello).await?;
        let (fingerprint, place) = place.authenticated(&established)?;
        let caller = Caller::Tls(fingerprint);
        let Self {
            context,
            socket,
            peer,
        } = self;
        if route == Route::Data {
            // It has a place of its own kind for as long as it lives.
            drop(place);
            let place = context.data_places.take(fingerprint);
            let place = place.ok_or(DoorFault::TooManyData)?;
            let ended = data::serve(context, socket, established, fingerprint, place).await;
            return Ok(Ended::Data(ended));
        }
        let mut channel = Channel::new(socket);
        channel.start_tls(established);
        let negotiation = Negotiation::new(context, channel, TlsPolicy::NotOffered, Some(caller));
        finish(negotiation, peer).await
    }

    /// NBD in the clear that allows nothing but STARTTLS.
    async fn nbds(self, place: PreauthPlace) -> Result<Ended, DoorFault> {
        let Self {
            context,
            socket,
            peer,
        } = self;
        let until = deadline(&context);
        let channel = Channel::new(socket);
        let mut negotiation =
            Negotiation::new(Arc::clone(&context), channel, TlsPolicy::Forced, None);
        match before(until, Phase::Hello, negotiation.talk(Phase::Hello)).await? {
            Pause::StartTls => {}
            Pause::Over | Pause::Done(_) => return Ok(Ended::Left),
        }
        // Read ahead in the clear, a byte would be ciphertext or an injection; the machine refuses both.
        let hello = before(until, Phase::Hello, read_hello(&negotiation.channel.socket)).await?;
        place.greeted();
        let (route, established) = establish(&context, &negotiation.channel.socket, hello).await?;
        let (fingerprint, _place) = place.authenticated(&established)?;
        if route != Route::Nbd {
            // What follows STARTTLS can only be NBD.
            return Err(DoorFault::Tls(TlsError::NoApplicationProtocol));
        }
        negotiation.tls_established(Caller::Tls(fingerprint))?;
        negotiation.channel.start_tls(established);
        finish(negotiation, peer).await
    }

    /// Plain NBD; the mode of the socket has said who may come.
    async fn plain(self) -> Result<Ended, DoorFault> {
        let Self {
            context,
            socket,
            peer,
        } = self;
        let _place = NegotiatingPlace::take(&context)?;
        let channel = Channel::new(socket);
        let caller = Some(Caller::Local);
        finish(
            Negotiation::new(context, channel, TlsPolicy::NotOffered, caller),
            peer,
        )
        .await
    }
}

/// How a connection left the door.
enum Ended {
    /// The shards have it, with this export.
    Served(String),
    /// The client wanted nothing.
    Left,
    /// It was one of `mk-data/1`, which lives here to its end.
    Data(Result<(), hyper::Error>),
}

/// The end of a phase that begins now.
fn deadline(context: &Context) -> Instant {
    Instant::now() + context.config().handshake_deadline
}

async fn before<T>(
    until: Instant,
    phase: Phase,
    work: impl Future<Output = Result<T, DoorFault>>,
) -> Result<T, DoorFault> {
    timeout_at(until, work)
        .await
        .unwrap_or(Err(DoorFault::Timeout { phase }))
}

/// The handshake behind a complete ClientHello.
async fn establish(
    context: &Context,
    socket: &Socket,
    hello: ClientHello,
) -> Result<(Route, Established), DoorFault> {
    // Before a ClientHello a socket is not worth six system calls.
    if socket.is_tcp() {
        configure_tcp(socket, &TcpOptions::default())?;
    }
    let (route, config) = match (Route::of(&hello), &context.tls) {
        (Ok(Route::Nbd), Some(tls)) => (Route::Nbd, tls.nbd_config()),
        (Ok(Route::Data), Some(tls)) => (Route::Data, tls.data_config()),
        (Ok(_), None) => return Err(refuse_hello(socket, TlsError::NoApplicationProtocol).await),
        (Err(error), _) => return Err(refuse_hello(socket, error).await),
    };
    let limits = context.session_limits();
    let until = deadline(context);
    let established = before(until, Phase::Tls, handshake(socket, config, limits, hello)).await?;
    context.door.handshakes.add();
    Ok((route, established))
}

/// Negotiates and hands over; the name of the export that was opened.
async fn finish(mut negotiation: Negotiation, peer: String) -> Result<Ended, DoorFault> {
    let until = negotiation.deadline();
    let phase = Phase::Negotiation;
    match before(until, phase, negotiation.talk(phase)).await? {
        Pause::Done(params) => {
            let name = params.export_name.clone();
            negotiation.hand_over(params, peer)?;
            Ok(Ended::Served(name))
        }
        // STARTTLS is not offered here, so the machine has refused it.
        Pause::Over | Pause::StartTls => Ok(Ended::Left),
    }
}
