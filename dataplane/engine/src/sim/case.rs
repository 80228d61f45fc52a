//! What a seed chooses for a run.

use super::core::Dice;
use std::ops::Range;
use wire::{Extent, Mode};

/// What goes wrong in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing but delays, cuts and short sends.
    None,
    ShortIo,
    ReadEio,
    WriteEio,
    Enospc,
    FlushEio,
    ResetMidPayload,
    QueueFull,
    ZeroUnsupported,
}

impl Fault {
    pub(super) const ALL: [Self; 9] = [
        Self::None,
        Self::ShortIo,
        Self::ReadEio,
        Self::WriteEio,
        Self::Enospc,
        Self::FlushEio,
        Self::ResetMidPayload,
        Self::QueueFull,
        Self::ZeroUnsupported,
    ];

    /// The transfer must succeed all the same.
    pub(super) fn is_harmless(self) -> bool {
        matches!(
            self,
            Self::None | Self::ShortIo | Self::QueueFull | Self::ZeroUnsupported
        )
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
    /// Overrides the seed's choice.
    pub tls: Option<bool>,
    /// Overrides the seed's choice: the server has the target.
    pub push: Option<bool>,
}

impl Case {
    pub(super) fn new(seed: u64, fault: Fault) -> Self {
        Self {
            seed,
            fault,
            flaw: Flaw::None,
            forge_at: None,
            tls: None,
            push: None,
        }
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
    pub request_bytes: usize,
    pub window_bytes: usize,
    pub zero_scan_bytes: usize,
    pub zero_request_bytes: u64,
    pub can_zero: bool,
    pub records_per_key: u64,
    pub reset_after: Option<u64>,
}

/// Flags of an extent that reads as zeroes.
const HOLE_AND_ZERO: u64 = 3;

impl Shape {
    pub(super) fn of(case: &Case) -> Self {
        let mut dice = Dice::new(case.seed);
        let mode = [Mode::Simple, Mode::Structured, Mode::Extended][dice.part_of(3) - 1];
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
        let reset = case.fault == Fault::ResetMidPayload;
        Self {
            mode,
            tls: case.tls.unwrap_or(tls),
            push: case.push.unwrap_or(push),
            target: vec![0xaa; source.len()],
            source,
            ranges,
            map,
            movers: dice.part_of(3),
            request_bytes,
            window_bytes: request_bytes * dice.part_of(16),
            zero_scan_bytes: [0, 4096, 65_536][dice.part_of(3) - 1],
            zero_request_bytes: 4096 << dice.between(0, 8),
            can_zero: !dice.once_in(4),
            records_per_key: if dice.once_in(2) { 64 } else { 1 << 20 },
            reset_after: reset.then(|| dice.between(1, size)),
        }
    }
}

/// Data with zeroes in it; the map tells of some of them.
fn source_of(size: u64, dice: &mut Dice) -> (Vec<u8>, Vec<(u64, Extent)>) {
    let mut bytes = Vec::new();
    let mut map = Vec::new();
    while (bytes.len() as u64) < size {
        let at = bytes.len() as u64;
        let len = dice.between(1, 96 * 1024).min(size - at);
        let end = bytes.len() + usize::try_from(len).unwrap_or(0);
        let zero = dice.once_in(3);
        if zero {
            bytes.resize(end, 0);
        } else {
            while bytes.len() < end {
                bytes.extend_from_slice(&dice.roll().to_le_bytes());
            }
            bytes.truncate(end);
        }
        let flags = if zero && dice.once_in(2) {
            HOLE_AND_ZERO
        } else {
            0
        };
        map.push((at, Extent { len, flags }));
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
