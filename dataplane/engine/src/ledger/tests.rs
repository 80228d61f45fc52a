//! Against a model that keeps four flags for each byte.

use std::time::Instant;

use proptest::prelude::*;

use super::*;

const BYTES: u64 = 48;

#[derive(Debug, Clone)]
enum Op {
    Written(Range<u64>),
    BeginFlush,
    FlushSucceeded,
    FlushFailed,
    ConnectionLost,
    Verified(Range<u64>),
    Mismatch(Range<u64>),
    Distrust(Range<u64>),
    Restore(Vec<Range<u64>>, Vec<Range<u64>>),
}

/// One byte of the transfer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Byte {
    wanted: bool,
    /// Number of the last write; 0 for none that counts.
    written: u32,
    durable: bool,
    verified: bool,
}

#[derive(Debug)]
struct Model {
    bytes: Vec<Byte>,
    writes: u32,
    /// The last write before the flush under way began.
    flush: Option<u32>,
}

fn set_of(flags: impl Iterator<Item = bool>) -> ExtentSet {
    let ones = (0u64..).zip(flags).filter(|(_, flag)| *flag);
    ones.map(|(at, _)| at..at + 1).collect()
}

fn flag_of(at: usize, ranges: &[Range<u64>]) -> bool {
    ranges.iter().any(|range| range.contains(&(at as u64)))
}

impl Model {
    fn new(wanted: &ExtentSet) -> Self {
        let byte = |at| Byte {
            wanted: wanted.contains(at),
            ..Byte::default()
        };
        Self {
            bytes: (0..BYTES).map(byte).collect(),
            writes: 0,
            flush: None,
        }
    }

    fn set(&self, flag: impl Fn(&Byte) -> bool) -> ExtentSet {
        set_of(self.bytes.iter().map(flag))
    }

    fn wanted_in(&mut self, range: &Range<u64>) -> impl Iterator<Item = &mut Byte> {
        let range = range.clone();
        let bytes = (0u64..).zip(&mut self.bytes);
        bytes.filter_map(move |(at, byte)| (byte.wanted && range.contains(&at)).then_some(byte))
    }

    fn void(&mut self) -> ExtentSet {
        self.flush = None;
        let void = self.set(|byte| byte.written != 0);
        for byte in &mut self.bytes {
            byte.written = 0;
        }
        void
    }

    fn distrust(&mut self, range: &Range<u64>) -> ExtentSet {
        let lost = (0u64..).zip(&self.bytes);
        let lost = set_of(lost.map(|(at, byte)| byte.durable && range.contains(&at)));
        for byte in self.wanted_in(range) {
            *byte = Byte {
                wanted: true,
                ..Byte::default()
            };
        }
        lost
    }

    /// Does `op` in both; what they return must be equal.
    fn apply(&mut self, op: &Op, ledger: &mut Ledger) {
        match op {
            Op::Written(range) => {
                self.writes += 1;
                let writes = self.writes;
                for byte in self.wanted_in(range) {
                    byte.written = writes;
                    (byte.durable, byte.verified) = (false, false);
                }
                ledger.written(range.clone());
            }
            Op::BeginFlush => {
                assert_eq!(ledger.begin_flush(), self.flush.is_none());
                self.flush = self.flush.or(Some(self.writes));
            }
            Op::FlushSucceeded => {
                let flushed = self.flush.take().unwrap_or(0);
                let newly = self.set(|byte| (1..=flushed).contains(&byte.written));
                for byte in &mut self.bytes {
                    if (1..=flushed).contains(&byte.written) {
                        (byte.durable, byte.written) = (true, 0);
                    }
                }
                assert_eq!(ledger.flush_succeeded(), newly);
            }
            Op::FlushFailed => assert_eq!(ledger.flush_failed(), self.void()),
            Op::ConnectionLost => assert_eq!(ledger.connection_lost(), self.void()),
            Op::Verified(range) => {
                for byte in self.wanted_in(range) {
                    byte.verified = byte.durable;
                }
                ledger.verified(range.clone());
            }
            Op::Mismatch(range) => {
                assert_eq!(ledger.mismatch(range.clone()), self.distrust(range));
            }
            Op::Distrust(range) => {
                assert_eq!(ledger.distrust(range.clone()), self.distrust(range));
            }
            Op::Restore(durable, verified) => {
                self.flush = None;
                for (at, byte) in self.bytes.iter_mut().enumerate() {
                    byte.written = 0;
                    byte.durable = byte.wanted && flag_of(at, durable);
                    byte.verified = byte.durable && flag_of(at, verified);
                }
                let set = |ranges: &Vec<Range<u64>>| ExtentSet::from_unsorted(ranges.clone());
                ledger.restore(&set(durable), &set(verified));
            }
        }
    }

    fn check(&self, ledger: &Ledger) {
        assert_eq!(*ledger.wanted(), self.set(|byte| byte.wanted));
        assert_eq!(*ledger.durable(), self.set(|byte| byte.durable));
        assert_eq!(*ledger.verified_ranges(), self.set(|byte| byte.verified));
        let open = |byte: &Byte| byte.wanted && byte.written == 0 && !byte.durable;
        assert_eq!(ledger.remaining(), self.set(open));
        let unverified = self.set(|byte| byte.durable && !byte.verified);
        assert_eq!(ledger.unverified(), unverified);
        let since = self.flush.unwrap_or(0);
        let unflushed = self.set(|byte| byte.written > since);
        assert_eq!(*ledger.unflushed(), unflushed);
        let bytes = ledger.bytes();
        assert_eq!(bytes.wanted, ledger.wanted().total_bytes());
        assert_eq!(bytes.written, unflushed.total_bytes());
        assert_eq!(bytes.durable, ledger.durable().total_bytes());
        assert_eq!(bytes.verified, ledger.verified_ranges().total_bytes());
        assert_eq!(ledger.is_flushing(), self.flush.is_some());
        assert_eq!(
            ledger.is_durable(),
            self.bytes.iter().all(|byte| byte.durable == byte.wanted)
        );
        assert_eq!(
            ledger.is_verified(),
            self.bytes.iter().all(|byte| byte.verified == byte.wanted)
        );
    }
}

fn range() -> impl Strategy<Value = Range<u64>> {
    (0..BYTES, 0..12u64).prop_map(|(start, len)| start..(start + len).min(BYTES))
}

fn ranges() -> impl Strategy<Value = Vec<Range<u64>>> {
    prop::collection::vec(range(), 0..6)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => range().prop_map(Op::Written),
        4 => Just(Op::BeginFlush),
        4 => Just(Op::FlushSucceeded),
        1 => Just(Op::FlushFailed),
        1 => Just(Op::ConnectionLost),
        3 => range().prop_map(Op::Verified),
        1 => range().prop_map(Op::Mismatch),
        1 => range().prop_map(Op::Distrust),
        1 => (ranges(), ranges()).prop_map(|(durable, verified)| Op::Restore(durable, verified)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_ledger_knows_what_a_naive_model_knows(
        wanted in ranges(),
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let wanted = ExtentSet::from_unsorted(wanted);
        let mut model = Model::new(&wanted);
        let mut ledger = Ledger::new(wanted);
        for op in &ops {
            model.apply(op, &mut ledger);
            model.check(&ledger);
        }
    }
}

fn ledger() -> Ledger {
    Ledger::new(ExtentSet::full(100))
}

#[test]
fn a_write_that_comes_after_the_flush_began_waits_for_the_next() {
    let mut ledger = ledger();
    ledger.written(0..40);
    assert!(ledger.begin_flush());
    ledger.written(30..60);
    assert_eq!(ledger.flush_succeeded(), ExtentSet::full(30));
    assert_eq!(ledger.bytes().durable, 30);
    assert!(ledger.begin_flush());
    assert_eq!(ledger.flush_succeeded().total_bytes(), 30);
    assert_eq!(*ledger.durable(), ExtentSet::full(60));
}

#[test]
fn a_failed_flush_voids_what_was_written_since_the_last_good_one() {
    let mut ledger = ledger();
    ledger.written(0..10);
    assert!(ledger.begin_flush());
    ledger.flush_succeeded();
    ledger.written(10..20);
    assert!(ledger.begin_flush());
    assert!(!ledger.begin_flush(), "one at a time");
    ledger.written(20..30);
    assert_eq!(ledger.flush_failed().total_bytes(), 20);
    // Asking again proves nothing: there is nothing left that a second flush could make durable.
    assert!(ledger.begin_flush());
    assert!(ledger.flush_succeeded().is_empty());
    assert_eq!(*ledger.durable(), ExtentSet::full(10));
    assert_eq!(ledger.remaining().total_bytes(), 90);
}

#[test]
fn success_without_a_flush_makes_nothing_durable() {
    let mut ledger = ledger();
    ledger.written(0..100);
    assert!(ledger.flush_succeeded().is_empty());
    assert!(!ledger.is_durable());
}

#[test]
fn a_mismatch_must_be_copied_again() {
    let mut ledger = ledger();
    ledger.written(0..100);
    assert!(ledger.begin_flush());
    ledger.flush_succeeded();
    ledger.verified(0..100);
    assert!(ledger.is_verified());
    assert_eq!(ledger.mismatch(90..200).total_bytes(), 10);
    assert_eq!(ledger.remaining().total_bytes(), 10);
    assert!(!ledger.is_durable() && !ledger.is_verified());
}

#[test]
fn a_million_ranges_in_order_take_no_time_to_speak_of() {
    let ranges = 1_000_000;
    let wanted = (0..ranges).map(|n| n * 8_192..n * 8_192 + 4_096).collect();
    let mut ledger = Ledger::new(wanted);
    let begun = Instant::now();
    for n in 0..ranges {
        ledger.written(n * 8_192..n * 8_192 + 4_096);
        if n % 100_000 == 0 {
            assert!(ledger.begin_flush());
            ledger.flush_succeeded();
        }
    }
    assert!(ledger.begin_flush());
    ledger.flush_succeeded();
    assert!(ledger.is_durable() && ledger.remaining().is_empty());
    // A quadratic ledger takes hours, a busy machine a second.
    let taken = begun.elapsed();
    assert!(taken.as_secs() < 60, "{taken:?}");
}
