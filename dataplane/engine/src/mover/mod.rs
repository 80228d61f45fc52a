//! One stream of a transfer on one shard: reads pieces at the source, writes them at the target.
//!
//! ```text
//! work ─► piece: leases ─► read ─► zero scan ─► write / zero ─► acknowledged
//! ```
//! Each end is a file (through the shard's ring), an NBD connection, or nothing. Bytes in flight are bounded by a
//! window that follows rate and round trip; a piece that cannot go on (no lease, full table, closed gate) waits for a later turn.

mod answers;
mod deadlines;
mod life;
mod read;
mod write;

pub(crate) use deadlines::Deadlines;

use crate::{
    client::ClientLane,
    ctx::{Ctx, DeviceUse, Hold, Side, Tag},
    dial::Dialled,
    error::LaneFault,
    limits::CLIENT_REQUESTS_PER_LANE_MAX,
    parked::Parked,
    payload::Payload,
    slots::Slots,
    syncs::Mark,
    transfer::shared::{TransferShared, Work, WorkKind},
    window::Window,
};
use std::{collections::VecDeque, sync::Arc, time::Instant};
use sys::{Backend, Completion, DeviceFile, FileId, Op, Outcome};

/// One end before it has a place on a shard.
pub(crate) enum SeedEnd {
    File(Arc<DeviceFile>),
    Nbd(Box<Dialled>),
    /// A source of zeroes, a target that keeps nothing.
    Null,
}

/// A mover before it has a place on a shard.
pub(crate) struct MoverSeed {
    pub shared: Arc<TransferShared>,
    /// The first one flushes.
    pub index: usize,
    pub source: SeedEnd,
    pub target: SeedEnd,
}

/// One end on its shard.
pub(crate) enum End {
    File {
        file: FileId,
        device: Arc<DeviceFile>,
    },
    Nbd(Box<ClientLane>),
    Null,
}

/// A range on its way.
struct Piece {
    offset: u64,
    len: usize,
    kind: WorkKind,
    started: Instant,
    /// Reads that are not launched yet begin at this lease.
    next_lease: usize,
    reads: u32,
    writes: u32,
    payload: Option<Payload>,
}

/// Something to be done at the target that could not be done yet.
struct Emit {
    piece: u32,
    offset: u64,
    len: u64,
    /// `None`: zeroes.
    payload: Option<Payload>,
    /// Local files: the first lease that is not written yet.
    next_byte: usize,
}

/// What errors of a mover name when an end is a connection. Whoever made it knows its address.
pub(crate) const SOURCE_CONNECTION: &str = "source connection";
/// The other end.
pub(crate) const TARGET_CONNECTION: &str = "target connection";

/// Pieces of one mover; each may need up to three requests at the target.
const PIECES_MAX: usize = CLIENT_REQUESTS_PER_LANE_MAX;

/// Where a mover stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Moving,
    Leaving(Instant),
    Gone,
}

/// One stream of a transfer.
pub(crate) struct Mover {
    tag: Tag,
    shared: Arc<TransferShared>,
    index: usize,
    source: End,
    target: End,
    hold: Hold,
    pieces: Slots<Piece>,
    in_flight_bytes: usize,
    window: Window,
    /// The unit being cut into pieces.
    unit: Option<Work>,
    /// Zeroes that must be written as data after all; up to two ends of each emit.
    redo: VecDeque<Work>,
    /// Pieces with reads left to launch.
    reading: VecDeque<u32>,
    emits: VecDeque<Emit>,
    /// File operations the queue had no room for.
    parked: Parked,
    /// File operations with the kernel.
    ops: u32,
    device_use: DeviceUse,
    idle: bool,
    /// Number of the newest flush this mover sent; 0: none.
    flush_sent: u64,
    /// A local target's answer to it, which other syncs that were under way then keep from being believed.
    flush_since: Option<Mark>,
    /// When housekeeping last saw that a flush of the target is out, of this mover or another.
    flush_seen: Option<Instant>,
    /// The pacer said: not before.
    paused_until: Option<Instant>,
    wished_alone: bool,
    life: Life,
}

impl Mover {
    pub(crate) fn new(
        tag: Tag,
        shared: Arc<TransferShared>,
        index: usize,
        source: End,
        target: End,
        hold: Hold,
    ) -> Self {
        let window = Window::new(shared.settings.window_bytes);
        Self {
            tag,
            shared,
            index,
            source,
            target,
            hold,
            pieces: Slots::new(PIECES_MAX),
            in_flight_bytes: 0,
            window,
            unit: None,
            redo: VecDeque::with_capacity(2 * 3 * PIECES_MAX),
            reading: VecDeque::with_capacity(PIECES_MAX),
            emits: VecDeque::with_capacity(3 * PIECES_MAX),
            parked: Parked::with_capacity(PIECES_MAX),
            ops: 0,
            device_use: DeviceUse::default(),
            idle: false,
            flush_sent: 0,
            flush_since: None,
            flush_seen: None,
            paused_until: None,
            wished_alone: false,
            life: Life::Moving,
        }
    }

    pub(crate) fn shared(&self) -> &Arc<TransferShared> {
        &self.shared
    }

    /// Files it registered with the shard's backend.
    pub(crate) fn files(&self) -> impl Iterator<Item = FileId> {
        [&self.source, &self.target]
            .into_iter()
            .filter_map(|end| match end {
                End::File { file, .. } => Some(*file),
                End::Nbd(_) | End::Null => None,
            })
    }

    /// When it wants to be advanced although nothing happened.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.paused_until
    }

    /// One completion of this mover.
    pub(crate) fn handle<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        tag: Tag,
        outcome: Outcome,
        op: Op,
    ) {
        match op {
            Op::Send { .. } | Op::Recv { .. } => {
                let end = match tag.side {
                    Side::Source => &mut self.source,
                    Side::Target => &mut self.target,
                };
                let End::Nbd(lane) = end else { return };
                let result = lane.handle(ctx, &mut self.hold, tag, outcome, op);
                self.check(ctx, tag.side, result.map(|()| false));
            }
            op if tag.side == Side::Source => self.handle_source(ctx, tag, outcome, op),
            op => self.handle_target(ctx, tag, outcome, op),
        }
    }

    /// One of the two completions of a zero-copy send.
    pub(crate) fn handle_zero_copy<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        side: Side,
        completion: Completion,
    ) {
        let end = match side {
            Side::Source => &mut self.source,
            Side::Target => &mut self.target,
        };
        let End::Nbd(lane) = end else { return };
        let result = lane.handle_zero_copy(ctx, &mut self.hold, completion);
        self.check(ctx, side, result.map(|()| false));
    }

    /// The stream of one of its TLS sockets moved.
    pub(crate) fn handle_stream<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        side: Side,
        outcome: Outcome,
    ) {
        let end = match side {
            Side::Source => &mut self.source,
            Side::Target => &mut self.target,
        };
        let End::Nbd(lane) = end else { return };
        let result = lane.handle_stream(ctx, outcome).map(|()| false);
        self.check(ctx, side, result);
    }

    /// Ends the transfer when one of its connections broke.
    fn check<B: Backend>(
        &mut self,
        ctx: &mut Ctx<'_, B>,
        side: Side,
        result: Result<bool, LaneFault>,
    ) -> bool {
        match result {
            Ok(again) => again,
            Err(fault) => {
                if self.life == Life::Moving {
                    self.fail(ctx, side, fault);
                } else {
                    self.life = Life::Gone;
                    self.abandon(ctx);
                }
                false
            }
        }
    }

    /// Bytes of work in hand or in flight, for tests of fairness and ends.
    fn is_quiet(&self) -> bool {
        self.pieces.is_empty() && self.unit.is_none() && self.redo.is_empty()
    }

    /// Takes the next range to cut from.
    fn take_unit(&mut self) -> Option<Work> {
        if self.unit.is_none() {
            self.unit = self.redo.pop_front().or_else(|| self.shared.work.pop());
        }
        self.unit
    }

    /// Removes `len` bytes from the front of the unit.
    fn cut_unit(&mut self, len: u64) {
        if let Some(unit) = &mut self.unit {
            unit.offset += len;
            unit.len -= len;
            if unit.len == 0 {
                self.unit = None;
            }
        }
    }
}
