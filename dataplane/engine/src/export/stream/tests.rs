use super::*;
use crate::digest::{CHUNK_BYTES, chunk_count};
use proptest::prelude::*;

const DISK: u64 = 3 * CHUNK_BYTES + 5_000;
const GRAIN: u64 = GRAIN_BYTES;

fn id(connection: u64, slot: u32) -> WriteId {
    WriteId { connection, slot }
}

/// A stream with one user.
fn stream() -> Stream {
    let stream = Stream::new(DISK);
    stream.add_user();
    stream
}

/// A disk, and what is hashed of it.
struct Disk {
    bytes: Vec<u8>,
    stream: Stream,
}

impl Disk {
    fn new() -> Self {
        Self {
            bytes: vec![1; usize::try_from(DISK).unwrap()],
            stream: stream(),
        }
    }

    fn slice(&mut self, offset: u64, len: u64) -> &mut [u8] {
        let at = usize::try_from(offset).unwrap();
        &mut self.bytes[at..at + usize::try_from(len).unwrap()]
    }

    fn write(&mut self, offset: u64, len: u64, seed: u8) {
        let ticket = self
            .stream
            .begin(id(1, 0), &(offset..offset + len), Leaves::Payload);
        let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8 ^ seed).collect();
        for (at, piece) in (0..).step_by(1 << 18).zip(bytes.chunks(1 << 18)) {
            self.stream.piece(ticket, offset + at, piece);
        }
        self.slice(offset, len).copy_from_slice(&bytes);
        self.stream.end(ticket, true);
    }

    fn zero(&mut self, offset: u64, len: u64) {
        let ticket = self
            .stream
            .begin(id(1, 0), &(offset..offset + len), Leaves::Zeroes);
        self.slice(offset, len).fill(0);
        self.stream.end(ticket, true);
    }

    fn trim(&mut self, offset: u64, len: u64) {
        let ticket = self
            .stream
            .begin(id(1, 0), &(offset..offset + len), Leaves::Anything);
        self.slice(offset, len).fill(0xee);
        self.stream.end(ticket, true);
    }

    /// Whatever is believed is so. How many chunks are complete.
    fn check(&self) -> usize {
        let views = self.stream.chunks(0..chunk_count(DISK));
        let chunks = self.bytes.chunks(4 << 20);
        let mut complete = 0;
        for (index, (view, chunk)) in views.into_iter().zip(chunks).enumerate() {
            match view {
                StreamChunk::Unknown => {}
                StreamChunk::Complete(digest) => {
                    assert_eq!(digest, Digest::of(chunk), "chunk {index}");
                    complete += 1;
                }
                StreamChunk::Grains { have, cvs } => {
                    for (position, grain) in chunk.chunks(1 << 16).enumerate() {
                        let cv = crate::digest::grain_cv(position, std::iter::once(grain));
                        let known = have >> position & 1 == 1;
                        assert!(
                            !known || cvs[position] == cv,
                            "grain {position} of chunk {index}"
                        );
                    }
                }
            }
        }
        complete
    }
}

#[test]
fn chunks_written_in_any_order_are_complete() {
    let mut disk = Disk::new();
    for grain in (0..128).rev() {
        disk.write(grain * GRAIN, GRAIN, 7);
    }
    assert_eq!(disk.check(), 2);
    disk.zero(0, DISK);
    assert_eq!(disk.check(), 4, "zeroes cost nothing");
    disk.write(100, 9, 3);
    disk.trim(CHUNK_BYTES, 4096);
    assert_eq!(disk.check(), 2, "a byte makes a grain unknown");
}

#[test]
fn a_write_in_flight_makes_its_chunk_unknown_and_a_failed_one_leaves_it_so() {
    let mut disk = Disk::new();
    disk.zero(0, DISK);
    let ticket = disk.stream.begin(id(2, 0), &(0..512), Leaves::Payload);
    assert_eq!(disk.stream.chunks(0..2)[0], StreamChunk::Unknown);
    assert!(matches!(
        disk.stream.chunks(1..2)[0],
        StreamChunk::Complete(_)
    ));
    disk.stream.end(ticket, false);
    assert!(
        matches!(disk.stream.chunks(0..1)[0], StreamChunk::Grains { have, .. } if have == u64::MAX - 1)
    );
}

#[test]
fn writes_of_one_grain_at_the_same_time_leave_it_unknown() {
    let stream = stream();
    let range = 0..CHUNK_BYTES;
    let bytes = vec![5; 4 << 20];
    let one = stream.begin(id(1, 0), &range, Leaves::Payload);
    stream.piece(one, 0, &bytes);
    let other = stream.begin(id(2, 0), &(GRAIN..GRAIN + 1), Leaves::Payload);
    stream.end(one, true);
    stream.end(other, true);
    assert_eq!(stream.chunks(0..1)[0], StreamChunk::Unknown);
    let alone = stream.begin(id(1, 0), &range, Leaves::Payload);
    stream.piece(alone, 0, &bytes);
    stream.end(alone, true);
    assert_eq!(
        stream.chunks(0..1)[0],
        StreamChunk::Complete(Digest::of(&bytes))
    );
}

#[test]
fn what_was_in_flight_when_the_first_user_came_is_waited_for() {
    let stream = Stream::new(DISK);
    let old = stream.begin(id(1, 0), &(0..CHUNK_BYTES), Leaves::Payload);
    stream.add_user();
    let early = stream.begin(id(2, 0), &(0..CHUNK_BYTES), Leaves::Zeroes);
    stream.end(early, true);
    assert_eq!(
        stream.chunks(0..1)[0],
        StreamChunk::Unknown,
        "the old one may come later"
    );
    stream.end(old, true);
    stream.collect();
    let late = stream.begin(id(2, 0), &(0..CHUNK_BYTES), Leaves::Zeroes);
    stream.end(late, true);
    assert!(matches!(stream.chunks(0..1)[0], StreamChunk::Complete(_)));
}

#[test]
fn a_full_queue_voids_everything_and_nothing_is_believed_before_its_writes_have_ended() {
    let stream = stream();
    let zero = |slot, range: Range<u64>| {
        let ticket = stream.begin(id(1, slot), &range, Leaves::Zeroes);
        stream.end(ticket, true);
    };
    zero(0, 0..2 * CHUNK_BYTES);
    assert!(matches!(stream.chunks(0..1)[0], StreamChunk::Complete(_)));
    let hanging = stream.begin(id(9, 0), &(0..512), Leaves::Payload);
    for _ in 0..NOTES_MAX {
        zero(0, CHUNK_BYTES..CHUNK_BYTES + GRAIN);
    }
    let all = stream.chunks(0..4);
    assert_eq!(all, vec![StreamChunk::Unknown; 4]);
    assert_eq!(stream.voided(), 1);
    // The hanging write is not known any more, and may still come.
    zero(0, 0..2 * CHUNK_BYTES);
    assert_eq!(stream.chunks(0..1)[0], StreamChunk::Unknown);
    stream.end(hanging, true);
    stream.collect();
    zero(0, 0..2 * CHUNK_BYTES);
    assert!(matches!(stream.chunks(0..1)[0], StreamChunk::Complete(_)));
    // A second time, with the first of the new generation hanging.
    let hanging = stream.begin(id(9, 0), &(0..512), Leaves::Payload);
    for _ in 0..2 * NOTES_MAX {
        zero(0, CHUNK_BYTES..CHUNK_BYTES + GRAIN);
    }
    stream.collect();
    for _ in 0..2 * NOTES_MAX {
        zero(0, CHUNK_BYTES..CHUNK_BYTES + GRAIN);
    }
    stream.collect();
    assert_eq!(stream.voided(), 3);
    zero(0, 0..CHUNK_BYTES);
    assert_eq!(stream.chunks(0..1)[0], StreamChunk::Unknown);
    stream.end(hanging, true);
    stream.collect();
    stream.collect();
    zero(0, 0..CHUNK_BYTES);
    assert!(matches!(stream.chunks(0..1)[0], StreamChunk::Complete(_)));
}

#[test]
fn without_users_nothing_is_hashed_and_nothing_is_known() {
    let stream = Stream::new(DISK);
    let ticket = stream.begin(id(1, 0), &(0..CHUNK_BYTES), Leaves::Zeroes);
    assert!(!ticket.is_told());
    stream.end(ticket, true);
    assert_eq!(stream.chunks(0..1)[0], StreamChunk::Unknown);
    stream.add_user();
    let ticket = stream.begin(id(1, 0), &(0..CHUNK_BYTES), Leaves::Zeroes);
    stream.end(ticket, true);
    assert!(matches!(stream.chunks(0..1)[0], StreamChunk::Complete(_)));
    stream.remove_user();
    assert!(!stream.has_users());
    stream.add_user();
    assert_eq!(stream.chunks(0..1)[0], StreamChunk::Unknown);
}

/// A write whose bytes reach the disk at a moment of its own between its begin and its end.
#[derive(Debug, Clone)]
struct Step {
    slot: u32,
    grain: u64,
    grains: u64,
    shift: u64,
    zero: bool,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Up to four writes in flight at once, their bytes landing in any order: nothing wrong is ever believed.
    #[test]
    fn no_interleaving_makes_a_wrong_digest(
        steps in prop::collection::vec(
            (0u32..4, 0u64..130, 1u64..70, prop_oneof![3 => Just(0u64), 1 => 1u64..65_536], any::<bool>())
                .prop_map(|(slot, grain, grains, shift, zero)| Step { slot, grain, grains, shift, zero }),
            1..40,
        ),
        lands_early: bool,
    ) {
        let mut disk = Disk::new();
        let mut open: HashMap<u32, (Ticket, Range<u64>, u8)> = HashMap::new();
        for (number, step) in steps.iter().enumerate() {
            let fill = u8::try_from(number).unwrap() | 1;
            if let Some((ticket, range, fill)) = open.remove(&step.slot) {
                if !lands_early {
                    disk.slice(range.start, range.end - range.start).fill(fill);
                }
                disk.stream.end(ticket, true);
                disk.check();
                continue;
            }
            let start = (step.grain * GRAIN + step.shift).min(DISK - 1);
            let range = start..(start + step.grains * GRAIN).min(DISK);
            let leaves = if step.zero { Leaves::Zeroes } else { Leaves::Payload };
            let fill = if step.zero { 0 } else { fill };
            let ticket = disk.stream.begin(id(1, step.slot), &range, leaves);
            if !step.zero {
                let bytes = vec![fill; usize::try_from(range.end - range.start).unwrap()];
                disk.stream.piece(ticket, range.start, &bytes);
            }
            if lands_early {
                disk.slice(range.start, range.end - range.start).fill(fill);
            }
            open.insert(step.slot, (ticket, range, fill));
        }
    }
}
