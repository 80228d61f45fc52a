//! What all shards share: clock, dice, disks, wires, and the log of what happened.

use super::{case::Case, disk::Disk, pipe::Pipe};
use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    os::fd::RawFd,
    sync::Arc,
    time::{Duration, Instant},
};
use sys::{DeviceFile, OpKind};

/// Events a failure prints.
const EVENTS_KEPT: usize = 50;

/// Numbers from a seed (a splitmix generator: every state is good, also zero).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `from..=to`.
    pub(super) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.roll() % (to - from + 1)
    }

    /// True once in `count` times.
    pub(super) fn once_in(&mut self, count: u64) -> bool {
        self.roll().is_multiple_of(count)
    }

    /// A length in `1..=max`.
    pub(super) fn part_of(&mut self, max: usize) -> usize {
        usize::try_from(self.between(1, max.max(1) as u64)).unwrap_or(1)
    }

    /// One of these.
    pub(super) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.part_of(choices.len()) - 1]
    }

    /// Noise.
    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.roll().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, Copy)]
struct Event {
    at_ns: u64,
    who: &'static str,
    kind: OpKind,
    offset: u64,
    len: u64,
    /// Bytes, or minus the errno.
    result: i64,
}

/// The world between the shards.
pub(super) struct Sim {
    pub case: Case,
    pub dice: Dice,
    pub now_ns: u64,
    base: Instant,
    events: VecDeque<Event>,
    /// Over all events: two runs of one seed must agree on it.
    pub trace: u64,
    pub pipes: Vec<Pipe>,
    /// Which pipes a descriptor stands for: (incoming, outgoing).
    pub ends: BTreeMap<RawFd, (usize, usize)>,
    pub disks: Vec<Disk>,
    /// The shard that is not told how its flushes and synchronous writes ended, for now.
    pub withheld_from: Option<&'static str>,
}

impl Sim {
    pub(super) fn new(case: Case) -> Self {
        Self {
            case,
            dice: Dice::new(case.seed ^ 0x5151_5151),
            now_ns: 0,
            base: Instant::now(),
            events: VecDeque::with_capacity(EVENTS_KEPT),
            trace: 0xcbf2_9ce4_8422_2325,
            pipes: Vec::new(),
            ends: BTreeMap::new(),
            disks: Vec::new(),
            withheld_from: None,
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.base + Duration::from_nanos(self.now_ns)
    }

    /// A moment on the clock of this world.
    pub(super) fn ns_of(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.base);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn disk_of(&self, device: &Arc<DeviceFile>) -> Option<usize> {
        self.disks.iter().position(|disk| disk.is(device))
    }

    /// Two pipes, one each way; the number of the first.
    pub(super) fn lay_pipes(&mut self) -> usize {
        let first = self.pipes.len();
        self.pipes.extend([Pipe::default(), Pipe::default()]);
        first
    }

    /// What happened to one direction happens to the other.
    pub(super) fn share_fate(&mut self, one: usize, other: usize) {
        if self.pipes[one].reset {
            self.pipes[other].break_off();
        }
        let stalled = self.pipes[one].stalled_until;
        self.pipes[other].stalled_until = self.pipes[other].stalled_until.max(stalled);
    }

    pub(super) fn note(
        &mut self,
        who: &'static str,
        kind: OpKind,
        (offset, len): (u64, u64),
        result: i64,
    ) {
        let at_ns = self.now_ns;
        for part in [at_ns, kind as u64, offset, len, result.cast_unsigned()] {
            self.trace = (self.trace ^ part).wrapping_mul(0x0100_0000_01b3);
        }
        if self.events.len() == EVENTS_KEPT {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            at_ns,
            who,
            kind,
            offset,
            len,
            result,
        });
    }

    /// The last events, one a line.
    pub(super) fn story(&self) -> String {
        let mut story = String::new();
        for event in &self.events {
            let Event {
                at_ns,
                who,
                kind,
                offset,
                len,
                result,
            } = event;
            let _infallible = writeln!(
                story,
                "{:>12} ns {who:<6} {:<7} offset {offset} len {len} -> {result}",
                at_ns,
                kind.name()
            );
        }
        story
    }
}
