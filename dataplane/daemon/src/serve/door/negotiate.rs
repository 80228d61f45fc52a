//! NBD negotiation: the machine of `wire` between a channel and the registry.

use std::sync::Arc;

use engine::{Export, ServerSeed, Store};
use wire::{
    ExportInfo, ExportRefusal, Query, ServerHandshake, ServerHandshakeConfig, ServerHandshakeEvent,
    ServerParams, TlsPolicy, WireError,
};

use super::channel::Channel;
use super::fault::{DoorFault, Phase};
use crate::serve::context::Context;
use crate::serve::exports::{Caller, NotAdmitted};

/// Where a negotiation stops.
pub(super) enum Pause {
    /// The client asked for TLS and was told to go on.
    StartTls,
    /// An export is open.
    Done(ServerParams),
    /// The client left politely.
    Over,
}

/// A negotiation on its way.
pub(super) struct Negotiation {
    context: Arc<Context>,
    pub(super) channel: Channel,
    machine: ServerHandshake,
    /// Nobody, until TLS says who it is.
    caller: Option<Caller>,
    /// What GO opened.
    export: Option<Arc<Export>>,
}

impl Negotiation {
    pub(super) fn new(
        context: Arc<Context>,
        channel: Channel,
        tls: TlsPolicy,
        caller: Option<Caller>,
    ) -> Self {
        // Names are listed only to those who may open them.
        let config = ServerHandshakeConfig {
            tls,
            list: true,
            extended_headers: true,
        };
        Self {
            context,
            channel,
            machine: ServerHandshake::new(config),
            caller,
            export: None,
        }
    }

    /// The end of a phase that begins now.
    pub(super) fn deadline(&self) -> tokio::time::Instant {
        tokio::time::Instant::now() + self.context.config().handshake_deadline
    }

    /// TLS is up: everything said before is void, and now we know who speaks.
    pub(super) fn tls_established(&mut self, caller: Caller) -> Result<(), WireError> {
        self.caller = Some(caller);
        self.export = None;
        self.machine.tls_established(self.channel.plain().len())
    }

    /// Talks until something else has to happen.
    pub(super) async fn talk(&mut self, phase: Phase) -> Result<Pause, DoorFault> {
        loop {
            let output = self.machine.take_output();
            if !output.is_empty() {
                self.channel.send(&output).await?;
            }
            if let Some(event) = self.machine.poll_event() {
                if let Some(pause) = self.handle_event(event).await? {
                    return Ok(pause);
                }
                continue;
            }
            let used = self.machine.handle_input(self.channel.plain())?;
            self.channel.consume(used);
            if used == 0 {
                self.channel.fill(phase).await?;
            }
        }
    }

    async fn handle_event(
        &mut self,
        event: ServerHandshakeEvent,
    ) -> Result<Option<Pause>, DoorFault> {
        match event {
            ServerHandshakeEvent::ExportQuery { name, query } => {
                let answer = self.answer(&name, query).await;
                self.machine.answer_export(answer);
                Ok(None)
            }
            ServerHandshakeEvent::ListQuery => {
                let names = self
                    .caller
                    .map(|caller| self.context.registry.names_for(caller));
                self.machine.answer_list(Ok(&names.unwrap_or_default()));
                Ok(None)
            }
            ServerHandshakeEvent::StartTls => Ok(Some(Pause::StartTls)),
            ServerHandshakeEvent::Done(params) => Ok(Some(Pause::Done(params))),
            ServerHandshakeEvent::Aborted => {
                self.channel.close().await;
                Ok(Some(Pause::Over))
            }
            ServerHandshakeEvent::Terminate(error) => {
                self.channel.close().await;
                Err(DoorFault::Wire(error))
            }
        }
    }

    /// Only a client that may open the export makes us look at its device, and only when it opens it.
    async fn answer(&mut self, name: &str, query: Query) -> Result<ExportInfo, ExportRefusal> {
        let caller = self.caller.ok_or(ExportRefusal::Unknown)?;
        let export = self.context.registry.find(name, caller)?;
        if !matches!(query, Query::Go | Query::ExportName) {
            return Ok(export.info());
        }
        if let Store::Device(file) = export.store() {
            let file = Arc::clone(file);
            // Asking a device takes as long as the device likes.
            let checked = tokio::task::spawn_blocking(move || file.revalidate()).await;
            if let Ok(Err(error)) = checked {
                tracing::error!(export = name, %error, "the device of an export is not what it was");
                return Err(ExportRefusal::Platform);
            }
        }
        let info = export.info();
        self.export = Some(export);
        Ok(info)
    }

    /// Hands the connection to the shards.
    pub(super) fn hand_over(self, params: ServerParams, peer: String) -> Result<(), DoorFault> {
        let export = self.export.ok_or(DoorFault::ExportGone)?;
        let fingerprint = match self.caller {
            Some(Caller::Tls(fingerprint)) => Some(fingerprint.0),
            _ => None,
        };
        let (socket, session, leftover) = self.channel.into_parts()?;
        let broke = |source| DoorFault::Io {
            phase: Phase::Negotiation,
            source,
        };
        let seed = ServerSeed {
            socket: socket.into_fd().map_err(broke)?,
            session,
            leftover,
            params,
            export: Arc::clone(&export),
            peer,
            fingerprint,
        };
        self.context
            .registry
            .admit(&self.context.engine, &export, seed)
            .map_err(|refusal| match refusal {
                NotAdmitted::Gone => DoorFault::ExportGone,
                NotAdmitted::Engine(error) => DoorFault::Engine(error),
            })
    }
}
