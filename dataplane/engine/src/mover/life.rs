//! A mover's turn, its deadlines and its end.

use super::{Deadlines, End, Life, Mover};
use crate::{
    client::ClientLane,
    ctx::{Ctx, Kind, Side, Tag},
    error::{Blame, EngineError, ErrorKind, LaneFault},
    limits::LINGER_MS_MAX,
    server::Next,
    transfer::shared::Phase,
};
use std::{sync::atomic::Ordering, time::Duration};
use sys::{Backend, Op};
use wire::Command;

impl Mover {
    /// Moves everything that can move.
    pub(crate) fn advance<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) -> Next {
        let mut next = Next::Wait;
        if self.life == Life::Moving {
            next = self.run(ctx);
        }
        if let Life::Leaving(_) = self.life {
            self.leave(ctx);
            if self.is_refused() {
                next = Next::Again;
            }
        }
        if self.life == Life::Gone {
            return if self.kernel_holds() {
                Next::Wait
            } else {
                self.end()
            };
        }
        next
    }

    fn run<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) -> Next {
        let limited = self.advance_end(ctx, Side::Source) | self.advance_end(ctx, Side::Target);
        if self.life != Life::Moving {
            return Next::Wait;
        }
        self.ops += self.parked.retry(ctx);
        self.take_answers(ctx);
        self.retry_emits(ctx);
        let starved = self.start_pieces(ctx);
        // What was queued just now goes out in this turn.
        self.pump_end(ctx, Side::Source);
        self.pump_end(ctx, Side::Target);
        if self.life != Life::Moving {
            return Next::Wait;
        }
        self.believe_flush();
        self.follow_phase(ctx);
        // What waits for room at the devices may wait for another lane's completions, which do not
        // come here.
        let held_back = self.is_refused() || !self.emits.is_empty() || !self.parked.is_empty();
        let in_doubt = self.flush_since.is_some();
        let waiting = starved || held_back || in_doubt || !self.reading.is_empty();
        let wants_device = self.ops > 0 || !self.emits.is_empty() || !self.reading.is_empty();
        self.device_use
            .set(ctx.stats, wants_device && self.files().next().is_some());
        match (limited, waiting) {
            (true, _) => Next::AtOnce,
            (false, true) => Next::Again,
            (false, false) => Next::Wait,
        }
    }

    /// A connection found the queue full: no completion leads to another try.
    fn is_refused(&mut self) -> bool {
        [Side::Source, Side::Target]
            .into_iter()
            .any(|side| self.lane(side).is_some_and(|(lane, _)| lane.is_refused()))
    }

    fn lane(&mut self, side: Side) -> Option<(&mut ClientLane, &mut crate::ctx::Hold)> {
        let end = match side {
            Side::Source => &mut self.source,
            Side::Target => &mut self.target,
        };
        match end {
            End::Nbd(lane) => Some((lane, &mut self.hold)),
            End::File { .. } | End::Null => None,
        }
    }

    fn advance_end<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, side: Side) -> bool {
        let Some((lane, hold)) = self.lane(side) else {
            return false;
        };
        let result = lane.advance(ctx, hold);
        self.check(ctx, side, result)
    }

    fn pump_end<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, side: Side) {
        let Some((lane, hold)) = self.lane(side) else {
            return;
        };
        let result = lane.pump(ctx, hold).map(|()| false);
        self.check(ctx, side, result);
    }

    /// Reports idleness, flushes when told, ends when told.
    fn follow_phase<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) {
        let shared = std::sync::Arc::clone(&self.shared);
        if shared.failed.load(Ordering::Acquire) {
            self.life = Life::Gone;
            return self.abandon(ctx);
        }
        // One at a time: a flush that is asked for meanwhile has more to cover.
        let wanted = shared.flush_wanted();
        if self.index == 0 && wanted > self.flush_sent && shared.flush_done() >= self.flush_sent {
            self.flush(ctx, wanted);
        }
        match shared.phase() {
            Phase::Moving => self.report_idle(),
            Phase::Flushing => {}
            Phase::Finishing => {
                for side in [Side::Source, Side::Target] {
                    if let Some((lane, _)) = self.lane(side) {
                        lane.say_good_bye();
                    }
                }
                self.life = Life::Leaving(ctx.now + Duration::from_millis(LINGER_MS_MAX));
            }
        }
    }

    /// Idle: nothing in hand, nothing in flight, nothing to come. Said once; units that come later (there are
    /// none after `planned`) would not be taken by an idle mover.
    fn report_idle(&mut self) {
        if self.idle || !self.is_quiet() {
            return;
        }
        let planned = self.shared.planned.load(Ordering::Acquire);
        let no_work = self.shared.work.is_empty() || self.shared.is_stopping();
        if planned && no_work {
            self.idle = true;
            self.shared.idle_movers.fetch_add(1, Ordering::AcqRel);
            self.shared.notify();
        } else if no_work && !self.shared.hungry.swap(true, Ordering::AcqRel) {
            self.shared.notify();
        }
    }

    fn flush<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, number: u64) {
        let sent = match &mut self.target {
            End::Null => {
                self.shared.flushed(number);
                true
            }
            End::Nbd(lane) => lane
                .start(ctx.now, u32::MAX, Command::Flush, 0, 0, None)
                .is_ok(),
            End::File { file, .. } => {
                let tag = Tag {
                    side: Side::Target,
                    ..self.tag
                };
                let op = Op::Flush { file: *file };
                let half = self.shared.syncs.begin();
                let token = tag.with(Kind::Flush, 0, half.index()).token();
                self.ops += u32::from(self.parked.start(ctx, op, token));
                true
            }
        };
        if sent {
            self.flush_sent = number;
        }
        self.pump_end(ctx, Side::Target);
    }

    /// Reports a flush of a local target that ended well, once no other mover's write can have been told otherwise in its
    /// place. Whoever was told so ends the transfer.
    fn believe_flush(&mut self) {
        let syncs = &self.shared.syncs;
        if self.flush_since.is_some_and(|since| syncs.is_past(since)) {
            self.flush_since = None;
            if syncs.failures() == 0 {
                self.shared.flushed(self.flush_sent);
            }
        }
    }

    fn leave<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) {
        let Life::Leaving(deadline) = self.life else {
            return;
        };
        let mut drained = true;
        for side in [Side::Source, Side::Target] {
            if let Some((lane, hold)) = self.lane(side) {
                drained &= lane.pump(ctx, hold).is_err() || lane.is_drained();
            }
        }
        if drained || ctx.now >= deadline {
            self.life = Life::Gone;
            self.abandon(ctx);
        }
    }

    /// Drops everything that is not with the kernel.
    pub(super) fn abandon<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) {
        for side in [Side::Source, Side::Target] {
            if let Some((lane, hold)) = self.lane(side) {
                lane.go(ctx, hold);
            }
        }
        self.parked.abandon(&mut self.hold, |_, _| ());
        for emit in self.emits.drain(..) {
            if let Some(mut payload) = emit.payload {
                payload.drain().for_each(|lease| self.hold.give(lease));
            }
        }
        if std::mem::take(&mut self.wished_alone) {
            self.shared.gate.forget_wish();
        }
        self.reading.clear();
        self.device_use.set(ctx.stats, false);
        let slots: Vec<u32> = self.pieces.iter().map(|(slot, _)| slot).collect();
        slots.into_iter().for_each(|slot| self.drop_piece(slot));
    }

    fn kernel_holds(&mut self) -> bool {
        let lanes_busy = [Side::Source, Side::Target]
            .into_iter()
            .any(|side| self.lane(side).is_some_and(|(lane, _)| !lane.is_free()));
        self.ops > 0 || lanes_busy
    }

    fn end(&mut self) -> Next {
        self.shared.ended_movers.fetch_add(1, Ordering::AcqRel);
        self.shared.notify();
        Next::Free
    }

    /// A connection broke: the whole transfer ends with this error. In the last phase everything is acknowledged and
    /// flushed; a mover that has not heard of it yet loses nothing but its good-bye.
    pub(super) fn fail<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>, side: Side, fault: LaneFault) {
        if self.shared.phase() == Phase::Finishing {
            self.life = Life::Gone;
            return self.abandon(ctx);
        }
        if let Some((lane, hold)) = self.lane(side) {
            lane.alert(ctx, hold, &fault);
        }
        let name = match side {
            Side::Source => self.source_name(),
            Side::Target => self.target_name(),
        };
        let (kind, blame, remedy) = match &fault {
            LaneFault::Wire(_) => (
                ErrorKind::Protocol,
                Blame::Peer,
                "report it to the maker of the peer",
            ),
            LaneFault::Tls(error) if error.is_damage() => (
                ErrorKind::ConnectionLost,
                Blame::Environment,
                "bytes were changed on their way: look for a faulty network card, switch or cable",
            ),
            LaneFault::Tls(_) => (
                ErrorKind::Tls,
                Blame::Peer,
                "see the cause; check certificates",
            ),
            LaneFault::Ordered => (ErrorKind::Bug, Blame::Bug, "please report this"),
            _ => (
                ErrorKind::ConnectionLost,
                Blame::Environment,
                "check the network and the peer, then start the copy again",
            ),
        };
        let error = EngineError::new(kind, blame, "connection ended", name);
        self.shared.fail(error.remedy(remedy).cause(fault));
        self.life = Life::Gone;
        self.abandon(ctx);
    }

    /// Ends the mover at once (the engine stops).
    pub(crate) fn close<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) {
        if self.life != Life::Gone {
            let what = "the engine stopped";
            let name = self.target_name();
            self.shared.fail(EngineError::new(
                ErrorKind::Cancelled,
                Blame::Operator,
                what,
                name,
            ));
            self.life = Life::Gone;
            self.abandon(ctx);
        }
    }

    /// Deadlines of requests in flight.
    pub(crate) fn housekeep<B: Backend>(&mut self, ctx: &mut Ctx<'_, B>) {
        if self.life != Life::Moving {
            return;
        }
        let now = ctx.now;
        if !self.shared.is_flushed() {
            self.flush_seen = Some(now);
        }
        let source = Deadlines::new(self.shared.settings.in_flight_deadline);
        let target = source.with_flush(self.flush_seen);
        for (side, deadlines) in [(Side::Source, source), (Side::Target, target)] {
            let overdue = self
                .lane(side)
                .is_some_and(|(lane, _)| lane.is_overdue(now, &deadlines));
            if overdue && self.life == Life::Moving {
                self.fail(ctx, side, LaneFault::Deadline);
            }
        }
    }
}
