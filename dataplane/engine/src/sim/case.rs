//! What a seed chooses for a run.

use super::{core::Dice, pipe::Fate};
use std::ops::Range;
use wire::{Extent, Mode};

/// What goes wrong in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing but delays, cuts and short sends.
    None,
    ShortIo,
    /// Reads of the source fail now and then.
    ReadEio,
    /// Writes to the target fail now and then.
    WriteEio,
    /// A sector fails each time: one of the target, or one of the source.
    BadSector,
    /// Writes fail, or take nothing, for lack of space.
    Enospc,
    FlushEio,
    /// The source ends before the size it had when it was opened.
    SourceShrinks,
    /// Operations take seconds.
    SlowDisk,
    ZeroUnsupported,
    QueueFull,
    ResetMidPayload,
    /// The end of the stream instead of the rest of a message.
    Hangup,
    /// The network is silent for ever.
    Stall,
    /// The network is silent for a while.
    Pause,
    /// Somebody asks the transfer to end.
    Cancel,
    /// The machine with the target loses power.
    PowerCut,
}

impl Fault {
    pub(super) const ALL: [Self; 17] = [
        Self::None,
        Self::ShortIo,
        Self::ReadEio,
        Self::WriteEio,
        Self::BadSector,
        Self::Enospc,
        Self::FlushEio,
        Self::SourceShrinks,
        Self::SlowDisk,
        Self::ZeroUnsupported,
        Self::QueueFull,
        Self::ResetMidPayload,
        Self::Hangup,
        Self::Stall,
        Self::Pause,
        Self::Cancel,
        Self::PowerCut,
    ];

    /// The transfer must succeed all the same.
    pub(super) fn is_harmless(self) -> bool {
        matches!(
            self,
            Self::None
                | Self::ShortIo
                | Self::SlowDisk
                | Self::ZeroUnsupported
                | Self::QueueFull
                | Self::Pause
        )
    }

    /// Nothing takes long: who is late slept through its turn.
    pub(super) fn is_prompt(self) -> bool {
        matches!(self, Self::None | Self::ShortIo | Self::ZeroUnsupported)
    }

    /// What becomes of the first connection, if anything.
    pub(super) fn fate(self) -> Option<Fate> {
        match self {
            Self::ResetMidPayload => Some(Fate::Reset),
            Self::Hangup => Some(Fate::Fin),
            Self::Stall => Some(Fate::Stall),
            Self::Pause => Some(Fate::Pause),
            _ => None,
        }
    }
}

/// A lie the target disk tells: the checker has to find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    /// FLUSH is answered and not done.
    FlushSkipped,
    /// Half of a write is stored, all of it acknowledged.
    ShortTakenAsFull,
    /// Writes land one block further on.
    OffByOneBlock,
    /// The last byte of a write is not stored.
    TailDropped,
}

/// One run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub seed: u64,
    pub fault: Fault,
    pub flaw: Flaw,
    /// A byte of the client's first stream that is changed on the wire.
    pub forge_at: Option<u64>,
    /// A flush of a disk takes longer than any other request may.
    pub slow_flush: bool,
    /// All connections break in the moment in which the last flush is answered.
    pub cut_when_flushed: bool,
    /// Overrides the seed's choice.
    pub tls: Option<bool>,
    /// Overrides the seed's choice: the server has the target.
    pub push: Option<bool>,
    /// Overrides the seed's choice.
    pub movers: Option<usize>,
    /// Overrides the seed's choice, for both disks.
    pub align: Option<u32>,
}

impl Case {
    pub(super) fn new(seed: u64, fault: Fault) -> Self {
        Self {
            seed,
            fault,
            flaw: Flaw::None,
            forge_at: None,
            slow_flush: false,
            cut_when_flushed: false,
            tls: None,
            push: None,
            movers: None,
            align: None,
        }
    }

    /// Every other seed asks for zero-copy sends, and gets some of them.
    pub(super) fn zero_copy(&self) -> bool {
        self.seed % 2 == 1
    }
}

/// The transfer a seed makes.
pub(super) struct Shape {
    pub mode: Mode,
    pub tls: bool,
    /// The server has the target; else the source.
    pub push: bool,
    pub source: Vec<u8>,
    pub target: Vec<u8>,
    /// What is copied.
    pub ranges: Vec<Range<u64>>,
    /// What the source says of itself.
    pub map: Vec<(u64, Extent)>,
    pub movers: usize,
    /// Shards of the client and of the server.
    pub shards: (usize, usize),
    /// What direct I/O needs at the source and at the target.
    pub aligns: (u32, u32),
    pub request_bytes: usize,
    pub window_bytes: usize,
    pub zero_scan_bytes: usize,
    pub zero_request_bytes: u64,
    pub can_zero: bool,
    pub records_per_key: u64,
    pub fate: Option<(u64, Fate)>,
    /// When somebody cancels, or the power goes.
    pub interrupted_ns: Option<u64>,
}

/// What direct I/O needs; 1: there is none.
const ALIGNS: [u32; 3] = [1, 512, 4096];

/// Flags of an extent that reads as zeroes.
const HOLE_AND_ZERO: u64 = 3;

impl Shape {
    pub(super) fn of(case: &Case) -> Self {
        let mut dice = Dice::new(case.seed);
        let mode = dice.one_of(&[Mode::Simple, Mode::Structured, Mode::Extended]);
        let (tls, push) = (dice.once_in(2), !dice.once_in(3));
        let size = dice.between(256 * 1024, 1024 * 1024);
        let size = if dice.once_in(2) {
            size
        } else {
            size / 4096 * 4096
        };
        let (source, map) = source_of(size, &mut dice);
        let ranges = ranges_of(size, &mut dice);
        let request_bytes = 4096 << dice.between(0, 6);
        let movers = dice.part_of(4);
        let aligns = (dice.one_of(&ALIGNS), dice.one_of(&ALIGNS));
        let interrupted = matches!(case.fault, Fault::Cancel | Fault::PowerCut);
        Self {
            mode,
            tls: case.tls.unwrap_or(tls),
            push: case.push.unwrap_or(push),
            target: vec![0xaa; source.len()],
            source,
            ranges,
            map,
            movers: case.movers.unwrap_or(movers),
            shards: (dice.part_of(2), dice.part_of(2)),
            aligns: (
                case.align.unwrap_or(aligns.0),
                case.align.unwrap_or(aligns.1),
            ),
            request_bytes,
            window_bytes: request_bytes * dice.part_of(16),
            zero_scan_bytes: dice.one_of(&[0, 4096, 65_536]),
            zero_request_bytes: 4096 << dice.between(0, 8),
            can_zero: !dice.once_in(4),
            records_per_key: if dice.once_in(2) { 64 } else { 1 << 20 },
            fate: case.fault.fate().map(|fate| (dice.between(1, size), fate)),
            interrupted_ns: interrupted.then(|| dice.between(0, 30_000_000)),
        }
    }
}

/// Data with zeroes in it; the map tells of some of them.
fn source_of(size: u64, dice: &mut Dice) -> (Vec<u8>, Vec<(u64, Extent)>) {
    let mut bytes = Vec::new();
    let mut map: Vec<(u64, Extent)> = Vec::new();
    while (bytes.len() as u64) < size {
        let at = bytes.len() as u64;
        let len = dice.between(1, 96 * 1024).min(size - at);
        let end = bytes.len() + usize::try_from(len).unwrap_or(0);
        let zero = dice.once_in(3);
        if zero {
            bytes.resize(end, 0);
        } else {
            let start = bytes.len();
            bytes.resize(end, 0);
            dice.fill(&mut bytes[start..]);
        }
        let flags = if zero && dice.once_in(2) {
            HOLE_AND_ZERO
        } else {
            0
        };
        // As real sources answer: neighbours of one kind are one extent, so that zeroes nobody told of stand beside data.
        match map.last_mut() {
            Some((_, last)) if last.flags == flags => last.len += len,
            _ => map.push((at, Extent { len, flags })),
        }
    }
    (bytes, map)
}

/// All of the disk, or some ranges of it in order.
fn ranges_of(size: u64, dice: &mut Dice) -> Vec<Range<u64>> {
    if dice.once_in(2) {
        return std::iter::once(0..size).collect();
    }
    let mut ranges = Vec::new();
    let mut at = 0;
    for _ in 0..dice.between(1, 6) {
        let start = at + dice.between(1, size / 4);
        let end = start + dice.between(1, size / 4);
        if end > size {
            break;
        }
        ranges.push(start..end);
        at = end;
    }
    ranges
}
