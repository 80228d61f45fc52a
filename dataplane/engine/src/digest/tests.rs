//! Against `blake3::hash` of a naive model: bytes, and for each grain whether it is known.

use std::{collections::BTreeSet, ops::Range};

use proptest::prelude::*;
use sys::alloc_count::count;

use super::*;
use crate::ExtentSet;

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("devices of tests are small")
}

/// Bytes that differ from place to place and from write to write.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = len.div_ceil(8);
    let mut bytes = Vec::with_capacity(words * 8);
    for _ in 0..words {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Cuts `bytes` into pieces of `piece` bytes as a payload does, each in a place of its own.
fn hash_in_pieces(bytes: &[u8], piece: usize, offset: u64, end: u64, sink: impl FnMut(Hashed)) {
    let bytes_at = |at: usize| {
        let piece_end = (at / piece + 1) * piece;
        &bytes[at..piece_end.min(bytes.len())]
    };
    hash_payload(offset, bytes.len(), end, bytes_at, sink);
}

/// Everything that `bytes` at `offset` tell.
fn told(bytes: &[u8], piece: usize, offset: u64, end: u64) -> Vec<Hashed> {
    let mut told = Vec::new();
    hash_in_pieces(bytes, piece, offset, end, |hashed| told.push(hashed));
    told
}

#[derive(Debug, Clone)]
enum Op {
    Write {
        at: u64,
        len: usize,
        piece: usize,
        seed: u64,
    },
    Zero(Range<u64>),
    Unknown(Range<u64>),
    Forget(Range<u64>),
    Take(u64),
}

#[derive(Debug)]
struct Model {
    bytes: Vec<u8>,
    known: Vec<bool>,
    /// Chunks that are a single grain and were last noted as zeroes.
    zero: BTreeSet<u64>,
}

impl Model {
    fn new(device: usize) -> Self {
        Self {
            bytes: vec![0; device],
            known: vec![false; device.div_ceil(GRAIN)],
            zero: BTreeSet::new(),
        }
    }

    /// Grains in `range` are known if it holds them whole and `known` is true, else they are not.
    fn mark(&mut self, range: &Range<u64>, known: bool, zero: bool) {
        if range.is_empty() {
            return;
        }
        for (index, grain) in self.known.iter_mut().enumerate() {
            let start = index as u64 * GRAIN_BYTES;
            let end = (start + GRAIN_BYTES).min(self.bytes.len() as u64);
            if range.start < end && start < range.end {
                // A chunk of zeroes is not lost by writing zeroes into a part of it.
                let chunk = start / CHUNK_BYTES;
                let was_zero = self.zero.contains(&chunk);
                let whole = range.start <= start && end <= range.end;
                *grain = known && (whole || (zero && was_zero));
            }
        }
        for chunk in 0..chunk_count(self.bytes.len() as u64) {
            let start = chunk * CHUNK_BYTES;
            let end = start + chunk_len(self.bytes.len() as u64, chunk);
            if zero && range.start <= start && end <= range.end {
                self.zero.insert(chunk);
            } else if !zero && range.start < end && start < range.end {
                self.zero.remove(&chunk);
            }
        }
    }

    fn check(&self, table: &ChunkTable) {
        let device = self.bytes.len() as u64;
        for chunk in 0..chunk_count(device) {
            let start = size(chunk * CHUNK_BYTES);
            let bytes = &self.bytes[start..start + size(chunk_len(device, chunk))];
            let first = start / GRAIN;
            let known = &self.known[first..first + bytes.len().div_ceil(GRAIN)];
            let readable = known.len() > 1 || self.zero.contains(&chunk);
            let view = table.view(chunk);
            if known.iter().all(|known| *known) && readable {
                assert_eq!(view, ChunkView::Complete(Digest::of(bytes)));
            } else if known.iter().any(|known| *known) {
                let ChunkView::Grains { have, cvs } = view else {
                    panic!("chunk {chunk}: {view:?}, some grains are known");
                };
                for (position, known) in known.iter().enumerate() {
                    assert_eq!(have & (1 << position) != 0, *known, "grain {position}");
                    if *known {
                        let end = bytes.len().min((position + 1) * GRAIN);
                        let grain = &bytes[position * GRAIN..end];
                        assert_eq!(cvs[position], grain_cv(position, [grain].into_iter()));
                    }
                }
            } else {
                assert_eq!(view, ChunkView::Unknown, "chunk {chunk}");
            }
        }
    }

    fn apply(&mut self, op: &Op, table: &mut ChunkTable) {
        let device = self.bytes.len() as u64;
        match op.clone() {
            Op::Write {
                at,
                len,
                piece,
                seed,
            } => {
                let bytes = noise(seed, len);
                hash_in_pieces(&bytes, piece, at, device, |hashed| table.absorb(hashed));
                let range = at..at + len as u64;
                self.bytes[size(at)..size(at) + len].copy_from_slice(&bytes);
                self.mark(&range, true, false);
            }
            Op::Zero(range) => {
                let (offset, len) = (range.start, range.end - range.start);
                table.absorb(Hashed::Zero { offset, len });
                self.bytes[size(range.start)..size(range.end)].fill(0);
                self.mark(&range, true, true);
            }
            Op::Unknown(range) => {
                let (offset, len) = (range.start, range.end - range.start);
                table.absorb(Hashed::Unknown { offset, len });
                self.mark(&range, false, false);
            }
            Op::Forget(range) => {
                self.mark(&range, false, false);
                table.forget(range);
            }
            Op::Take(chunk) => {
                let range = chunk * CHUNK_BYTES..(chunk + 1) * CHUNK_BYTES;
                if table.take(chunk).is_some() {
                    self.mark(&range, false, false);
                }
            }
        }
    }
}

/// Offsets that are often a grain's or a chunk's border or near one.
fn place(device: u64) -> impl Strategy<Value = u64> {
    let near = |unit: u64| {
        (0..=device / unit, -1..=1i64).prop_map(move |(n, by)| {
            let at = (n * unit).saturating_add_signed(by * 512);
            at.min(device)
        })
    };
    prop_oneof![
        near(GRAIN_BYTES),
        near(CHUNK_BYTES),
        0..=device,
        Just(device)
    ]
}

fn range(device: u64) -> impl Strategy<Value = Range<u64>> {
    (place(device), place(device)).prop_map(|(a, b)| a.min(b)..a.max(b))
}

fn op(device: u64) -> impl Strategy<Value = Op> {
    let piece = prop_oneof![
        Just(256 * 1024usize),
        Just(4_096),
        100..300usize,
        60_000..70_000usize
    ];
    let write = (range(device), piece, any::<u64>()).prop_map(|(range, piece, seed)| Op::Write {
        at: range.start,
        len: size(range.end - range.start),
        piece,
        seed,
    });
    prop_oneof![
        4 => write,
        2 => range(device).prop_map(Op::Zero),
        1 => range(device).prop_map(Op::Unknown),
        1 => range(device).prop_map(Op::Forget),
        1 => (0..=device / CHUNK_BYTES).prop_map(Op::Take),
    ]
}

/// Sizes with every kind of tail: none, a part of a grain, one grain, several.
fn device() -> impl Strategy<Value = u64> {
    let tail = prop_oneof![
        Just(0),
        (1..128u64).prop_map(|n| n * 512),
        Just(GRAIN_BYTES),
        (1..8_191u64).prop_map(|n| n * 512)
    ];
    (0..3u64, tail)
        .prop_map(|(chunks, tail)| chunks * CHUNK_BYTES + tail)
        .prop_filter("a device has bytes", |device| *device > 0)
}

fn case() -> impl Strategy<Value = (u64, Vec<Op>)> {
    device().prop_flat_map(|device| {
        let ops = prop::collection::vec(op(device), 1..12);
        (Just(device), ops)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_table_knows_what_a_naive_model_knows((device, ops) in case()) {
        let mut table = ChunkTable::new(device);
        let mut model = Model::new(size(device));
        for op in &ops {
            model.apply(op, &mut table);
            model.check(&table);
        }
    }

    #[test]
    fn grains_in_any_order_make_the_digest_of_the_bytes(
        len in prop_oneof![(1..=CHUNK_BYTES / 512).prop_map(|n| n * 512), 1..=CHUNK_BYTES],
        seed: u64,
        turn in 0..64usize,
        step in (0..32usize).prop_map(|n| 2 * n + 1),
    ) {
        let bytes = noise(seed, size(len));
        let grains: Vec<&[u8]> = bytes.chunks(GRAIN).collect();
        let mut tree = ChunkTree::new(len);
        for n in 0..GRAINS_PER_CHUNK {
            prop_assert!(!tree.is_complete());
            prop_assert_eq!(tree.root(), None);
            // An odd step visits all 64 positions.
            let position = (turn + n * step) % GRAINS_PER_CHUNK;
            if let Some(grain) = grains.get(position) {
                tree.insert(position, grain_cv(position, grain.chunks(1_000)));
            }
            if tree.is_complete() {
                break;
            }
        }
        prop_assert!(tree.is_complete());
        let expected = (!tree.must_be_read()).then(|| Digest::of(&bytes));
        prop_assert_eq!(tree.root(), expected);
        prop_assert_eq!(tree.must_be_read(), len <= GRAIN_BYTES);
    }

    #[test]
    fn a_digest_is_read_back_from_its_text(bytes: [u8; 32]) {
        let digest = Digest(bytes);
        prop_assert_eq!(digest.to_string().parse(), Ok(digest));
    }
}

#[test]
fn digests_print_as_b3sum_prints_them() {
    // `printf '' | b3sum` and `printf abc | b3sum`; the official test vectors agree.
    let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    let abc = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
    assert_eq!(Digest::of(b"").to_string(), empty);
    assert_eq!(Digest::of(b"abc").to_string(), abc);
    for wrong in ["", "00", &abc.to_uppercase(), &format!("{abc}0"), "zz"] {
        assert_eq!(wrong.parse::<Digest>(), Err(NoDigest), "{wrong}");
    }
}

#[test]
fn zero_tables_agree_with_hashing_zeroes() {
    let zeroes = vec![0; size(CHUNK_BYTES)];
    assert_eq!(zero_chunk_digest(), Digest::of(&zeroes));
    for position in [0, 1, 31, 63] {
        let hashed = grain_cv(position, zeroes[..GRAIN].chunks(4_096));
        assert_eq!(zero_cv(position), hashed);
    }
    for len in [1, 512, 65_536, 65_537, 3 << 20, 4 << 20] {
        assert_eq!(zero_digest(len), Digest::of(&zeroes[..size(len)]));
    }
}

#[test]
fn a_payload_tells_whole_grains_and_names_its_ragged_ends() {
    let device = 10 * GRAIN_BYTES + 512;
    let bytes = noise(1, 3 * GRAIN + GRAIN / 2);
    let told_at = |offset| told(&bytes, 5_000, offset, device);
    let [Hashed::Unknown { offset, len }, Hashed::Grains(batch)] = told_at(GRAIN_BYTES / 2)[..]
    else {
        panic!("{:?}", told_at(GRAIN_BYTES / 2));
    };
    assert_eq!((offset, len), (GRAIN_BYTES / 2, GRAIN_BYTES / 2));
    assert_eq!((batch.first_grain, batch.count), (1, 3));

    // One that ends with the device has no ragged end, however short the last grain.
    let at_end = told(&bytes[..GRAIN + 512], 7, 9 * GRAIN_BYTES, device);
    let [Hashed::Grains(batch)] = at_end[..] else {
        panic!("{at_end:?}");
    };
    assert_eq!((batch.first_grain, batch.count), (9, 2));

    // Inside one grain nothing is whole.
    assert_eq!(
        told(&bytes[..1_000], 7, 100, device),
        [Hashed::Unknown {
            offset: 100,
            len: 1_000
        }]
    );
    assert_eq!(told(&[], 7, 100, device), []);
}

#[test]
fn hashing_allocates_nothing() {
    let bytes = noise(3, 1 << 20);
    let (messages, allocations) = count(|| {
        let mut messages = 0;
        hash_in_pieces(&bytes, 10_000, 512, 1 << 30, |_| messages += 1);
        let _ = zero_cv(1);
        messages
    });
    assert_eq!((messages, allocations), (6, 0));
}

#[test]
fn a_long_run_of_zeroes_is_one_range() {
    let device = 1 << 44;
    let mut table = ChunkTable::new(device);
    table.absorb(Hashed::Zero {
        offset: 0,
        len: device,
    });
    assert_eq!(table.zero_chunks().count(), 1);
    assert_eq!(table.kept(), 0);
    assert_eq!(
        table.view(1_000_000),
        ChunkView::Complete(zero_chunk_digest())
    );
    // One grain in the middle costs one chunk.
    let bytes = noise(5, GRAIN);
    hash_in_pieces(&bytes, GRAIN, 5 * GRAIN_BYTES, device, |hashed| {
        table.absorb(hashed);
    });
    let mut chunk = vec![0; size(CHUNK_BYTES)];
    chunk[5 * GRAIN..6 * GRAIN].copy_from_slice(&bytes);
    assert_eq!(table.view(0), ChunkView::Complete(Digest::of(&chunk)));
    assert_eq!(table.take(0), Some(Digest::of(&chunk)));
    assert_eq!(table.view(0), ChunkView::Unknown);
    assert_eq!(
        table.take_zero_chunks(),
        std::iter::once(1..device / CHUNK_BYTES).collect::<ExtentSet>()
    );
    assert_eq!(table.evicted(), 0);
}

#[test]
fn the_chunk_touched_longest_ago_makes_room() {
    let mut table = ChunkTable::bounded(1 << 40, 3, 2);
    let touch = |table: &mut ChunkTable, chunk: u64| {
        let bytes = noise(chunk, GRAIN);
        hash_in_pieces(&bytes, GRAIN, chunk * CHUNK_BYTES, 1 << 40, |hashed| {
            table.absorb(hashed);
        });
    };
    for chunk in [1, 2, 3, 1, 4] {
        touch(&mut table, chunk);
    }
    assert_eq!(table.view(2), ChunkView::Unknown);
    assert_eq!(table.evicted(), 1);
    for chunk in [1, 3, 4] {
        assert!(matches!(
            table.view(chunk),
            ChunkView::Grains { have: 1, .. }
        ));
    }
    for chunk in [20, 22, 24] {
        let (offset, len) = (chunk * CHUNK_BYTES, CHUNK_BYTES);
        table.absorb(Hashed::Zero { offset, len });
    }
    assert_eq!(table.view(20), ChunkView::Unknown);
    assert_eq!(table.zero_chunks().collect::<Vec<_>>(), [22..23, 24..25]);
    assert_eq!(table.evicted(), 2);
    table.clear();
    assert_eq!(table.view(24), ChunkView::Unknown);
}

#[test]
fn messages_about_places_behind_the_end_do_nothing() {
    let mut table = ChunkTable::new(CHUNK_BYTES);
    let (offset, len) = (u64::MAX - 5, u64::MAX);
    table.absorb(Hashed::Zero { offset, len });
    table.absorb(Hashed::Unknown { offset, len });
    table.absorb(Hashed::Grains(GrainBatch {
        first_grain: u64::MAX - 1,
        count: 255,
        cvs: [zero_cv(0); GRAINS_PER_BATCH],
    }));
    table.absorb(Hashed::Grains(GrainBatch {
        first_grain: GRAINS_PER_CHUNK as u64,
        count: 1,
        cvs: [zero_cv(0); GRAINS_PER_BATCH],
    }));
    table.forget(offset..u64::MAX);
    assert_eq!(table.kept() + table.zero_chunks().count(), 0);
    assert_eq!(table.view(1), ChunkView::Unknown);
}

#[test]
fn a_short_last_chunk_of_zeroes_is_no_part_of_the_zero_runs() {
    let device = 2 * CHUNK_BYTES + 512;
    let mut table = ChunkTable::new(device);
    table.absorb(Hashed::Zero {
        offset: 0,
        len: device,
    });
    let whole: ExtentSet = std::iter::once(0..2).collect();
    assert_eq!(table.zero_chunks().collect::<ExtentSet>(), whole);
    assert_eq!(table.take_zero_chunks(), whole);
    assert_eq!(table.view(1), ChunkView::Unknown);
    assert_eq!(table.take(2), Some(Digest::of(&[0; 512])));
}
