//! Properties over arbitrary conversations: whatever is said, in whatever order, cut anywhere, both
//! ends read what the other wrote.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::limits::{CONTROL_RECORD_MAX, RECORD_INNER_MAX};
use crate::testing::{seal_inner, session_pair};
use crate::{Opened, RECORD_PLAINTEXT_MAX, RECORD_WIRE_MAX, Session, SessionLimits};

/// What one end does.
#[derive(Debug, Clone)]
enum Act {
    Data(Vec<u8>),
    Padded(Vec<u8>, usize),
    Empty,
    KeyUpdate(bool),
    Wait(u64),
}

/// One direction's bytes on the way, and the data that went in and came out.
#[derive(Default)]
struct Direction {
    wire: Vec<u8>,
    sent: Vec<u8>,
    received: Vec<u8>,
}

fn act() -> impl Strategy<Value = Act> {
    let data = || {
        prop_oneof![
            4 => prop::collection::vec(any::<u8>(), 1..100),
            1 => (1..=RECORD_PLAINTEXT_MAX).prop_map(|len| vec![0xa5; len]),
        ]
    };
    prop_oneof![
        8 => data().prop_map(Act::Data),
        2 => (prop::collection::vec(any::<u8>(), 0..100), 0..5_000_usize)
            .prop_map(|(data, padding)| Act::Padded(data, padding)),
        1 => Just(Act::Empty),
        2 => any::<bool>().prop_map(Act::KeyUpdate),
        1 => (0..2_000_u64).prop_map(Act::Wait),
    ]
}

fn put(wire: &mut Vec<u8>, seal: impl FnOnce(&mut [u8]) -> usize) -> usize {
    let start = wire.len();
    wire.resize(start + RECORD_WIRE_MAX, 0);
    let len = seal(&mut wire[start..]);
    wire.truncate(start + len);
    len
}

fn flush_control(session: &mut Session, now: Instant, wire: &mut Vec<u8>) {
    while put(wire, |out| session.poll_control(now, out).unwrap()) > 0 {
        assert!(wire.len() >= CONTROL_RECORD_MAX / 4);
    }
    assert!(!session.control_pending(now));
}

fn perform(session: &mut Session, now: &mut Instant, act: &Act, to: &mut Direction) {
    match act {
        Act::KeyUpdate(request) => session.queue_key_update(*request),
        Act::Wait(ms) => *now += Duration::from_millis(*ms),
        _ => {}
    }
    flush_control(session, *now, &mut to.wire);
    match act {
        Act::Data(data) => {
            to.sent.extend(data);
            put(&mut to.wire, |out| session.seal(data, out).unwrap());
        }
        Act::Padded(data, padding) => {
            to.sent.extend(data);
            let mut trailer = vec![0; 1 + padding];
            trailer[0] = 23;
            put(&mut to.wire, |out| {
                seal_inner(session, data, &trailer, out).unwrap()
            });
        }
        Act::Empty => {
            put(&mut to.wire, |out| session.seal(&[], out).unwrap());
        }
        Act::KeyUpdate(_) | Act::Wait(_) => {}
    }
}

/// Takes all whole records at the front.
fn take(session: &mut Session, now: Instant, from: &mut Direction, arrived: &mut Vec<u8>) {
    let mut out = [0; RECORD_INNER_MAX];
    while let Some(frame) = Session::frame(arrived).unwrap() {
        if arrived.len() < frame.wire_len {
            return;
        }
        let record: Vec<u8> = arrived.drain(..frame.wire_len).collect();
        if let Opened::Data { len } = session.open(now, &record, &mut out).unwrap() {
            from.received.extend(&out[..len]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn both_ends_read_what_the_other_wrote(
        acts in prop::collection::vec((any::<bool>(), act()), 1..80),
        cuts in prop::collection::vec(1..20_000_usize, 1..40),
        suite in 0..3_usize,
        records_per_key in 1..10_u64,
        key_updates_per_second in prop_oneof![Just(u32::MAX), Just(6), Just(8)],
    ) {
        let limits = SessionLimits { records_per_key, key_updates_per_second };
        let (mut left, mut right) = session_pair(suite, limits);
        let (mut to_right, mut to_left) = (Direction::default(), Direction::default());
        let (mut at_right, mut at_left) = (Vec::new(), Vec::new());
        let mut now = Instant::now();
        let mut cuts = cuts.iter().cycle();
        for (is_left, act) in &acts {
            // A flood is what the bounds are for; here at most a few KeyUpdates share an instant.
            now += Duration::from_millis(20);
            if *is_left {
                perform(&mut left, &mut now, act, &mut to_right);
            } else {
                perform(&mut right, &mut now, act, &mut to_left);
            }
            for (session, direction, arrived) in
                [(&mut right, &mut to_right, &mut at_right), (&mut left, &mut to_left, &mut at_left)]
            {
                let len = (*cuts.next().expect("a cycle")).min(direction.wire.len());
                arrived.extend(direction.wire.drain(..len));
                take(session, now, direction, arrived);
            }
        }
        at_right.append(&mut to_right.wire);
        take(&mut right, now, &mut to_right, &mut at_right);
        at_left.append(&mut to_left.wire);
        take(&mut left, now, &mut to_left, &mut at_left);
        prop_assert!(at_right.is_empty() && at_left.is_empty());
        prop_assert!(to_right.received == to_right.sent && to_left.received == to_left.sent);
    }

    #[test]
    fn a_change_anywhere_is_refused(
        data in prop::collection::vec(any::<u8>(), 1..600),
        at in any::<prop::sample::Index>(),
        change in 1..=u8::MAX,
    ) {
        let (mut left, mut right) = session_pair(0, SessionLimits::default());
        let mut wire = Vec::new();
        put(&mut wire, |out| left.seal(&data, out).unwrap());
        let at = at.index(wire.len());
        wire[at] ^= change;
        let mut out = [0; RECORD_INNER_MAX];
        prop_assert!(right.open(Instant::now(), &wire, &mut out).is_err());
    }
}
