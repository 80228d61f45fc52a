//! A connection of a client to one of our exports.
//!
//! Life: running (requests are served), draining (new ones are answered ESHUTDOWN), leaving (the last bytes go out),
//! gone (the socket is shut, operations in flight come back). Requests are answered as they end, in any order.

mod core;
mod device;
mod promise;
mod request;
mod status;
mod zero;

use self::core::ServerCore;
use crate::{
    ctx::{Ctx, Kind, Tag},
    error::LaneFault,
    export::Export,
    limits::{LINGER_MS_MAX, MESSAGE_STALL_MS_MAX},
    link::{Rx, RxState, Tx},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use sys::{Backend, Completion, FileId, Lease, LeaseClass, Op, Outcome, SocketId};
use wire::{Extent, NbdError, ServerConn};

/// Where a connection stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    /// The last bytes go out until this moment at most.
    Leaving(Instant),
    Gone,
}

/// What the shard should do with the lane after it moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Wait for completions.
    Wait,
    /// It could go on but for memory or the gate: advance it when something ended, or soon.
    Again,
    /// It reached the turn's limit: advance it in the next turn, which shall not wait.
    AtOnce,
    /// Nothing is left of it: free it.
    Free,
}

/// One client.
pub(crate) struct ServerLane {
    core: ServerCore,
    rx: Rx,
    life: Life,
    tls: bool,
    stopped: bool,
    /// The turn's limit was reached.
    limited: bool,
    fault: Option<LaneFault>,
    peer: String,
}

/// What a server lane is made of.
pub(crate) struct ServerParts {
    pub conn: ServerConn,
    pub export: Arc<Export>,
    pub file: Option<FileId>,
    pub socket: SocketId,
    pub session: Option<Box<tls::Session>>,
    /// The client is on another machine.
    pub remote: bool,
    pub peer: String,
}

impl ServerLane {
    /// `None` when the arena has no scratch lease for one more connection.
    pub(crate) fn new<B: Backend>(
        ctx: &mut Ctx<'_, B>,
        tag: Tag,
        parts: ServerParts,
    ) -> Option<Self> {
        let tls = parts.session.is_some();
        let tx = Tx::new(parts.socket, parts.session, parts.remote);
        let mut core = ServerCore::new(tag, parts.conn, parts.export, parts.file, tx);
        let scratch: Lease = core.hold.take(ctx, LeaseClass::Small)?;
        Some(Self {
            core,
            rx: Rx::new(parts.socket, tag, scratch, ctx.now),
            life: Life::Running,
            tls,
            stopped: false,
            limited: false,
            fault: None,
            peer: parts.peer,
        })
    }

    pub(crate) fn export(&self) -> &Arc<Export> {
        &self.core.export
    }

    pub(crate) fn file(&self) -> Option<FileId> {
        self.core.file
    }

    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// Why it ended, if not politely.
    pub(crate) fn take_fault(&mut self) -> Option<LaneFault> {
        self.fault.take()
    }

    /// Answers new requests with ESHUTDOWN from now on.
    pub(crate) fn drain(&mut self) {
        self.core.draining = true;
    }

    /// Ends the connection now; what is with the device is finished, not answered.
    pub(crate) fn close<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) {
        if self.life != Life::Gone {
            self.fault.get_or_insert(LaneFault::Ordered);
            self.go(ctx);
        }
    }

    /// A draining connection without requests has nothing more to expect.
    pub(crate) fn is_drained(&self) -> bool {
        self.core.draining && self.core.is_quiet() && self.core.tx.is_drained()
    }

    /// One completion of this lane.
    pub(crate) fn handle<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        tag: Tag,
        outcome: Outcome,
        op: Op,
    ) {
        let result = match (tag.kind, op) {
            (_, Op::Send { parts, .. }) => {
                self.core
                    .tx
                    .handle_sent(ctx, &mut self.core.hold, outcome, parts)
            }
            (kind, Op::Recv { lease, .. }) => {
                let header = kind == Kind::RecvHeader;
                self.rx
                    .handle_received(ctx, &mut self.core, header, outcome, lease)
            }
            (_, op) => self.core.handle_device(ctx, tag, outcome, op),
        };
        self.check(ctx, result);
    }

    /// One of the two completions of a zero-copy send.
    pub(crate) fn handle_zero_copy<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        completion: Completion,
    ) {
        let hold = &mut self.core.hold;
        let result = self.core.tx.handle_zero_copy(ctx, hold, completion);
        self.check(ctx, result);
    }

    /// The stream of a TLS socket moved.
    pub(crate) fn handle_stream<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, outcome: Outcome) {
        let result = self.rx.handle_stream(ctx, outcome);
        self.check(ctx, result);
    }

    /// A block status question was answered.
    pub(crate) fn handle_status<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        slot: u32,
        answer: Result<&[Extent], NbdError>,
    ) {
        if self.life == Life::Running {
            let result = self.core.handle_status(ctx, slot, answer);
            self.check(ctx, result);
        }
    }

    fn check<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, result: Result<(), LaneFault>) {
        let Err(fault) = result else { return };
        if self.life == Life::Gone {
            return;
        }
        let speakable = matches!(fault, LaneFault::Tls(_)) && self.life == Life::Running;
        if let (LaneFault::Tls(error), Some(session)) = (&fault, &mut self.core.tx.session) {
            session.queue_alert(error);
        }
        self.fault.get_or_insert(fault);
        if speakable {
            // The peer learns the reason by an alert; nothing else is said any more.
            self.core.abandon();
            self.life = Life::Leaving(ctx.now + Duration::from_millis(LINGER_MS_MAX));
        } else {
            self.go(ctx);
        }
    }

    /// Shuts the socket; what the kernel still holds comes back by completions.
    fn go<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) {
        self.life = Life::Gone;
        self.core.abandon();
        self.core.device_use.set(ctx.stats, false);
        self.rx.abandon(&mut self.core.hold);
        ctx.backend.remove_socket(self.core.tx.socket);
    }

    /// Moves everything that can move.
    pub(crate) fn advance<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) -> Next {
        if self.life == Life::Running {
            let result = self.run(ctx);
            self.check(ctx, result);
        }
        if let Life::Leaving(deadline) = self.life {
            self.leave(ctx, deadline);
        }
        if self.life == Life::Gone {
            let kernel = self.core.ops > 0 || self.core.tx.is_sending() || self.rx.is_receiving();
            return if kernel { Next::Wait } else { Next::Free };
        }
        match (self.limited, self.stopped) {
            (true, _) => Next::AtOnce,
            (false, true) => Next::Again,
            (false, false) => Next::Wait,
        }
    }

    fn run<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) -> Result<(), LaneFault> {
        self.core.retry_held(ctx);
        self.core.keep_promises(ctx)?;
        let state = if self.tls {
            self.rx.advance_tls(ctx, &mut self.core)?
        } else {
            self.rx.advance_plain(ctx, &mut self.core)?
        };
        let wants_device = self.core.wants_device();
        self.core.device_use.set(ctx.stats, wants_device);
        self.core.launch(ctx)?;
        self.core.tx.pump(ctx, &mut self.core.hold, self.core.tag)?;
        self.limited = state == RxState::Again;
        self.stopped = state == RxState::Stopped
            || !self.core.held.is_empty()
            || !self.core.parked.is_empty()
            || !self.core.promising.is_empty()
            || self.core.tx.is_refused()
            || (!self.core.launching.is_empty() && self.core.ops == 0);
        self.end_of_stream(ctx, state)
    }

    /// Decides what the end of the peer's stream means.
    fn end_of_stream<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        state: RxState,
    ) -> Result<(), LaneFault> {
        let said_good_bye = self.core.disconnected;
        let over = said_good_bye || (self.rx.ended() && state != RxState::Stopped);
        if !over {
            return Ok(());
        }
        let polite = said_good_bye || self.rx.closed_politely();
        if !polite || self.core.incoming.is_some() {
            return Err(LaneFault::Hangup);
        }
        if self.core.is_quiet() {
            self.core.tx.say_good_bye();
            self.life = Life::Leaving(ctx.now + Duration::from_millis(LINGER_MS_MAX));
        }
        Ok(())
    }

    fn leave<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, deadline: Instant) {
        let pumped = self.core.tx.pump(ctx, &mut self.core.hold, self.core.tag);
        (self.limited, self.stopped) = (false, self.core.tx.is_refused());
        if pumped.is_err() || self.core.tx.is_drained() || ctx.now >= deadline {
            self.go(ctx);
        }
    }

    /// Deadlines: a peer that stopped in the middle of a message, a good-bye that takes too long.
    pub(crate) fn housekeep<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) {
        if self.life == Life::Running {
            let mid_message = self.core.incoming.is_some() || self.rx.is_mid_message(ctx);
            let silent = ctx.now.saturating_duration_since(self.rx.last_byte);
            let waiting_for_us =
                self.stopped || !self.core.is_quiet() && self.core.incoming.is_none();
            if mid_message
                && !waiting_for_us
                && silent > Duration::from_millis(MESSAGE_STALL_MS_MAX)
            {
                self.check(ctx, Err(LaneFault::Stalled));
            }
        }
    }
}
