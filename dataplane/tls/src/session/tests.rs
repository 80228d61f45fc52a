//! Sessions against each other, with records no honest peer makes.

use std::time::Duration;

use super::*;
use crate::limits::{
    KEY_UPDATES_WITHOUT_DATA_MAX, RECORD_INNER_MAX, RECORDS_PER_KEY_HARD_MAX,
    RECORDS_WITHOUT_DATA_MAX, WARNINGS_MAX,
};
use crate::testing::{seal_inner, session_pair};

const UNPACED: SessionLimits = SessionLimits {
    records_per_key: 64,
    key_updates_per_second: u32::MAX,
};

/// Two ends and the buffers between them.
struct Wire {
    client: Session,
    server: Session,
    now: Instant,
    record: Vec<u8>,
    out: Vec<u8>,
}

impl Wire {
    fn new(suite: usize, limits: SessionLimits) -> Self {
        let (client, server) = session_pair(suite, limits);
        Self {
            client,
            server,
            now: Instant::now(),
            record: vec![0; RECORD_WIRE_MAX + 1],
            out: vec![0; RECORD_INNER_MAX],
        }
    }

    /// The client says arbitrary inner plaintext; what the server makes of it.
    fn say(&mut self, content: &[u8], trailer: &[u8]) -> Result<Opened, TlsError> {
        let len = seal_inner(&mut self.client, content, trailer, &mut self.record).unwrap();
        self.server
            .open(self.now, &self.record[..len], &mut self.out)
    }

    /// The client sends data; the server must get the same.
    fn send(&mut self, data: &[u8]) {
        let len = self.client.seal(data, &mut self.record).unwrap();
        assert_eq!(len, data.len() + RECORD_OVERHEAD);
        let opened = self
            .server
            .open(self.now, &self.record[..len], &mut self.out)
            .unwrap();
        assert_eq!(opened, Opened::Data { len: data.len() });
        assert_eq!(&self.out[..data.len()], data);
    }

    /// Moves the client's control records to the server; returns how many there were.
    fn carry_control(&mut self) -> usize {
        let mut count = 0;
        loop {
            let len = self
                .client
                .poll_control(self.now, &mut self.record)
                .unwrap();
            if len == 0 {
                return count;
            }
            self.server
                .open(self.now, &self.record[..len], &mut self.out)
                .unwrap();
            count += 1;
        }
    }

    fn swap(&mut self) {
        std::mem::swap(&mut self.client, &mut self.server);
    }
}

fn data(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

#[test]
fn data_of_every_interesting_size_arrives_under_every_suite() {
    for suite in 0..3 {
        let mut wire = Wire::new(suite, SessionLimits::default());
        for len in [1, 2, 15, 16, 17, 28, 255, 4_096, 16_383, 16_384] {
            wire.send(&data(len));
            wire.swap();
        }
    }
}

#[test]
fn sealing_checks_both_buffers_before_it_spends_a_number() {
    let mut wire = Wire::new(0, SessionLimits::default());
    let long = data(RECORD_PLAINTEXT_MAX + 1);
    let refused = wire.client.seal(&long, &mut wire.record);
    assert!(matches!(
        refused,
        Err(TlsError::PlaintextTooLong { len_bytes: 16_385 })
    ));
    let refused = wire.client.seal(b"abc", &mut [0; 24]);
    assert!(matches!(
        refused,
        Err(TlsError::BufferTooSmall {
            len_bytes: 24,
            needed_bytes: 25
        })
    ));
    assert_eq!(wire.client.tx.seq(), 0);
    wire.send(b"abc");
}

#[test]
fn opening_needs_exactly_one_record_and_enough_room() {
    let mut wire = Wire::new(0, SessionLimits::default());
    let len = wire.client.seal(b"abc", &mut wire.record).unwrap();
    for given in [0, 4, 5, len - 1, len + 1] {
        let refused = wire
            .server
            .open(wire.now, &wire.record[..given], &mut wire.out);
        assert!(
            matches!(refused, Err(TlsError::NotOneRecord { .. })),
            "{given}"
        );
    }
    let refused = wire.server.open(wire.now, &wire.record[..len], &mut [0; 3]);
    assert!(matches!(
        refused,
        Err(TlsError::BufferTooSmall {
            needed_bytes: 4,
            ..
        })
    ));
    let opened = wire
        .server
        .open(wire.now, &wire.record[..len], &mut wire.out)
        .unwrap();
    assert_eq!(opened, Opened::Data { len: 3 });
}

#[test]
fn sealed_len_counts_the_overhead_of_every_record() {
    assert_eq!(Session::sealed_len(0), 0);
    assert_eq!(Session::sealed_len(1), 23);
    assert_eq!(Session::sealed_len(16_384), 16_406);
    assert_eq!(Session::sealed_len(16_385), 16_385 + 44);
    assert_eq!(Session::sealed_len(262_144), 262_144 + 16 * 22);
}

#[test]
fn padding_is_taken_off_whatever_its_length() {
    let mut wire = Wire::new(0, SessionLimits::default());
    for padding in [0, 1, 2, 100, 16_000] {
        let mut trailer = vec![0; 1 + padding];
        trailer[0] = CONTENT_DATA;
        // The content ends in a zero of its own, which must survive.
        let opened = wire.say(&[7, 8, 0], &trailer).unwrap();
        assert_eq!(opened, Opened::Data { len: 3 });
        assert_eq!(wire.out[..3], [7, 8, 0]);
    }
    let mut trailer = vec![0; RECORD_INNER_MAX];
    trailer[0] = CONTENT_DATA;
    assert_eq!(wire.say(&[], &trailer).unwrap(), Opened::Data { len: 0 });
}

#[test]
fn a_record_of_nothing_but_padding_is_an_unexpected_message() {
    for len in [1, 17, RECORD_INNER_MAX] {
        let mut wire = Wire::new(0, SessionLimits::default());
        let error = wire.say(&[], &vec![0; len]).unwrap_err();
        assert!(matches!(error, TlsError::MissingContentType));
        assert_eq!(error.alert(), Some(Alert::UNEXPECTED_MESSAGE));
    }
}

#[test]
fn more_than_a_full_record_is_a_record_overflow_even_if_it_is_padding() {
    for (content, trailer) in [(16_385, 1), (16_384, 2), (0, 16_386)] {
        let mut wire = Wire::new(0, SessionLimits::default());
        let mut tail = vec![0; trailer];
        tail[0] = CONTENT_DATA;
        let error = wire.say(&data(content), &tail).unwrap_err();
        assert!(matches!(error, TlsError::RecordOverflow { .. }));
        assert_eq!(error.alert(), Some(Alert::RECORD_OVERFLOW));
    }
}

#[test]
fn every_single_bit_flip_is_refused() {
    let mut wire = Wire::new(0, SessionLimits::default());
    let len = wire
        .client
        .seal(
            b"forty-two bytes of data, give or take some",
            &mut wire.record,
        )
        .unwrap();
    for bit in 0..len * 8 {
        let (_, mut server) = session_pair(0, SessionLimits::default());
        let mut forged = wire.record[..len].to_vec();
        forged[bit / 8] ^= 1 << (bit % 8);
        let error = server.open(wire.now, &forged, &mut wire.out).unwrap_err();
        // Type, version and length are checked before the tag is.
        match bit / 8 {
            0 => assert!(matches!(error, TlsError::UnexpectedRecord { .. })),
            1 | 2 => assert!(matches!(error, TlsError::BadRecordVersion { .. })),
            3 | 4 => assert!(matches!(
                error,
                TlsError::NotOneRecord { .. } | TlsError::RecordOverflow { .. }
            )),
            _ => assert!(matches!(error, TlsError::BadRecordMac), "bit {bit}"),
        }
    }
}

#[test]
fn a_changed_length_field_does_not_authenticate() {
    let mut wire = Wire::new(0, SessionLimits::default());
    let len = wire.client.seal(b"some data", &mut wire.record).unwrap();
    for shorter in 1..9_u8 {
        let (_, mut server) = session_pair(0, SessionLimits::default());
        let mut forged = wire.record[..len - usize::from(shorter)].to_vec();
        forged[4] -= shorter;
        let error = server.open(wire.now, &forged, &mut wire.out).unwrap_err();
        assert!(matches!(error, TlsError::BadRecordMac));
    }
}

#[test]
fn records_out_of_order_repeated_or_left_out_are_refused() {
    let mut wire = Wire::new(0, SessionLimits::default());
    let first_len = wire.client.seal(b"first", &mut wire.record).unwrap();
    let first = wire.record[..first_len].to_vec();
    let second_len = wire.client.seal(b"second", &mut wire.record).unwrap();
    let second = wire.record[..second_len].to_vec();
    let (_, mut server) = session_pair(0, SessionLimits::default());
    assert!(matches!(
        server.open(wire.now, &second, &mut wire.out),
        Err(TlsError::BadRecordMac)
    ));
    let (_, mut server) = session_pair(0, SessionLimits::default());
    server.open(wire.now, &first, &mut wire.out).unwrap();
    assert!(matches!(
        server.open(wire.now, &first, &mut wire.out),
        Err(TlsError::BadRecordMac)
    ));
}

#[test]
fn a_broken_connection_never_looks_closed_and_says_one_alert() {
    let mut wire = Wire::new(0, SessionLimits::default());
    let len = wire.client.seal(b"data", &mut wire.record).unwrap();
    wire.record[len - 1] ^= 1;
    let error = wire
        .server
        .open(wire.now, &wire.record[..len], &mut wire.out)
        .unwrap_err();
    assert_eq!(error.alert(), Some(Alert::BAD_RECORD_MAC));
    wire.server.queue_alert(&error);
    wire.server.queue_close();
    let again = wire
        .server
        .open(wire.now, &wire.record[..len], &mut wire.out);
    assert!(matches!(again, Err(TlsError::UsedAfterEnd)));
    assert!(!wire.server.is_closed_by_peer());
    assert!(matches!(
        wire.server.seal(b"x", &mut wire.out),
        Err(TlsError::WriteClosed)
    ));
    assert!(wire.server.control_pending(wire.now));
    let len = wire
        .server
        .poll_control(wire.now, &mut wire.record)
        .unwrap();
    let told = wire
        .client
        .open(wire.now, &wire.record[..len], &mut wire.out)
        .unwrap_err();
    assert!(matches!(
        told,
        TlsError::AlertReceived {
            alert: Alert::BAD_RECORD_MAC
        }
    ));
    assert_eq!(
        wire.server
            .poll_control(wire.now, &mut wire.record)
            .unwrap(),
        0
    );
}

#[test]
fn close_notify_ends_one_direction_only() {
    let mut wire = Wire::new(0, SessionLimits::default());
    wire.client.queue_close();
    assert!(matches!(
        wire.client.seal(b"x", &mut wire.record),
        Err(TlsError::WriteClosed)
    ));
    assert_eq!(wire.carry_control(), 1);
    assert!(wire.server.is_closed_by_peer());
    // What follows is not even opened.
    wire.client.sending = Sending::Open;
    let len = wire.client.seal(b"late", &mut wire.record).unwrap();
    wire.record[len - 1] ^= 1;
    let late = wire
        .server
        .open(wire.now, &wire.record[..len], &mut wire.out)
        .unwrap();
    assert_eq!(late, Opened::Closed);
    // The other direction goes on.
    wire.swap();
    wire.send(b"still here");
}

#[test]
fn user_canceled_is_a_warning_that_may_not_be_repeated_without_end() {
    let mut wire = Wire::new(0, SessionLimits::default());
    for _ in 0..WARNINGS_MAX {
        assert_eq!(
            wire.say(&[1, 90], &[CONTENT_ALERT]).unwrap(),
            Opened::Control
        );
    }
    assert_eq!(wire.say(&[1, 0], &[CONTENT_ALERT]).unwrap(), Opened::Closed);
    let mut wire = Wire::new(0, SessionLimits::default());
    for _ in 0..WARNINGS_MAX {
        wire.say(&[1, 90], &[CONTENT_ALERT]).unwrap();
        wire.send(b"data");
    }
    assert!(wire.say(&[1, 90], &[CONTENT_ALERT]).is_err());
}

#[test]
fn every_other_alert_is_fatal_whatever_its_level() {
    for description in (1..=u8::MAX).filter(|description| *description != 90) {
        let mut wire = Wire::new(0, SessionLimits::default());
        let error = wire.say(&[1, description], &[CONTENT_ALERT]).unwrap_err();
        assert!(matches!(error, TlsError::AlertReceived { alert } if alert.0 == description));
        wire.server.queue_alert(&error);
        assert!(
            !wire.server.control_pending(wire.now),
            "an alert is not answered"
        );
    }
}

#[test]
fn an_alert_has_two_bytes() {
    for content in [&[][..], &[2], &[2, 40, 0], &[1, 0, 1, 0]] {
        let mut wire = Wire::new(0, SessionLimits::default());
        // A trailing zero of the content is padding once the type byte is behind it, so pad none.
        let error = wire.say(content, &[CONTENT_ALERT]).unwrap_err();
        assert!(matches!(
            error,
            TlsError::MalformedMessage { what: "alert" }
        ));
    }
}

#[test]
fn change_cipher_spec_and_unknown_contents_have_no_place_after_the_handshake() {
    for content_type in (1..=u8::MAX).filter(|kind| !(21..=23).contains(kind)) {
        let mut wire = Wire::new(0, SessionLimits::default());
        let error = wire.say(&[1], &[content_type]).unwrap_err();
        assert!(matches!(error, TlsError::UnexpectedContent { .. }));
        assert_eq!(error.alert(), Some(Alert::UNEXPECTED_MESSAGE));
    }
    let plain = Session::frame(&[20, 3, 3, 0, 1, 1]).unwrap_err();
    assert_eq!(plain.alert(), Some(Alert::UNEXPECTED_MESSAGE));
}

#[test]
fn empty_records_are_data_of_no_length_but_not_without_end() {
    let mut wire = Wire::new(0, SessionLimits::default());
    for _ in 0..RECORDS_WITHOUT_DATA_MAX {
        assert_eq!(
            wire.say(&[], &[CONTENT_DATA]).unwrap(),
            Opened::Data { len: 0 }
        );
    }
    wire.send(b"data");
    for _ in 0..RECORDS_WITHOUT_DATA_MAX {
        wire.say(&[], &[CONTENT_DATA]).unwrap();
    }
    let error = wire.say(&[], &[CONTENT_DATA]).unwrap_err();
    assert!(matches!(error, TlsError::TooManyRecordsWithoutData));
}

#[test]
fn a_client_skips_tickets_and_a_server_refuses_them() {
    let mut ticket = vec![4, 0, 0, 200];
    ticket.extend(data(200));
    let mut wire = Wire::new(0, SessionLimits::default());
    assert!(matches!(
        wire.say(&ticket, &[CONTENT_HANDSHAKE]),
        Err(TlsError::UnexpectedMessage { message_type: 4 })
    ));
    let mut wire = Wire::new(0, SessionLimits::default());
    wire.swap();
    assert_eq!(
        wire.say(&ticket, &[CONTENT_HANDSHAKE]).unwrap(),
        Opened::Control
    );
    for piece in ticket.chunks(7) {
        assert_eq!(
            wire.say(piece, &[CONTENT_HANDSHAKE]).unwrap(),
            Opened::Control
        );
    }
    wire.send(b"data");
}

#[test]
fn nothing_may_come_inside_a_fragmented_message() {
    let fragment = [4, 0, 0, 200, 1, 2, 3];
    for (content, kind) in [
        (&b"data"[..], CONTENT_DATA),
        (&[], CONTENT_DATA),
        (&[1, 0], CONTENT_ALERT),
    ] {
        let mut wire = Wire::new(0, SessionLimits::default());
        wire.swap();
        wire.say(&fragment, &[CONTENT_HANDSHAKE]).unwrap();
        let error = wire.say(content, &[kind]).unwrap_err();
        assert!(matches!(error, TlsError::InterleavedHandshake { .. }));
    }
    let mut wire = Wire::new(0, SessionLimits::default());
    wire.swap();
    wire.say(&fragment, &[CONTENT_HANDSHAKE]).unwrap();
    let error = wire.say(&[2, 40], &[CONTENT_ALERT]).unwrap_err();
    assert!(matches!(
        error,
        TlsError::AlertReceived {
            alert: Alert::HANDSHAKE_FAILURE
        }
    ));
}

#[test]
fn a_fragmented_message_cannot_grow_without_end() {
    let mut wire = Wire::new(0, SessionLimits::default());
    wire.swap();
    // The longest message allowed, in fragments as small as they may be.
    let mut message = vec![4, 1, 0, 0];
    message.extend(data(65_536));
    for piece in message.chunks(512) {
        wire.say(piece, &[CONTENT_HANDSHAKE]).unwrap();
    }
    wire.send(b"data");
    let outcome = message
        .chunks(16)
        .map(|piece| wire.say(piece, &[CONTENT_HANDSHAKE]))
        .find_map(Result::err)
        .unwrap();
    assert!(matches!(outcome, TlsError::TooManyRecordsWithoutData));
}

#[test]
fn an_empty_handshake_record_is_an_unexpected_message() {
    let mut wire = Wire::new(0, SessionLimits::default());
    let error = wire.say(&[], &[CONTENT_HANDSHAKE]).unwrap_err();
    assert_eq!(error.alert(), Some(Alert::UNEXPECTED_MESSAGE));
}

#[test]
fn keys_change_after_the_record_limit_and_data_flows_on() {
    for suite in 0..3 {
        let mut wire = Wire::new(suite, UNPACED);
        let mut updates = 0;
        for index in 0..1_000 {
            updates += wire.carry_control();
            wire.send(&data(1 + index % 40));
            wire.swap();
            updates += wire.carry_control();
            wire.send(&data(1 + index % 50));
            wire.swap();
        }
        assert_eq!(
            updates,
            2 * (999 / 64),
            "one for every 64 records and direction"
        );
    }
}

/// The seeded defect: a sequence number that goes on, or a key that stays, after a KeyUpdate.
#[test]
fn no_nonce_is_used_twice_under_one_key_across_key_updates() {
    let mut wire = Wire::new(0, UNPACED);
    let mut seen = std::collections::HashSet::new();
    let same = data(32);
    for _ in 0..300 {
        while wire.client.control_pending(wire.now) {
            let before = wire.client.tx.seq();
            assert_eq!(wire.carry_control(), 1);
            assert!(before >= 64);
            assert_eq!(wire.client.tx.seq(), 0, "a new key starts at record 0");
        }
        let len = wire.client.seal(&same, &mut wire.record).unwrap();
        // Equal plaintext under an equal key and nonce would give an equal record.
        assert!(
            seen.insert(wire.record[..len].to_vec()),
            "a key and nonce pair came twice"
        );
        wire.server
            .open(wire.now, &wire.record[..len], &mut wire.out)
            .unwrap();
        assert_eq!(wire.server.rx.seq(), wire.client.tx.seq());
    }
    assert_eq!(seen.len(), 300);
}

#[test]
fn a_record_under_the_old_key_after_a_key_update_is_refused() {
    let mut wire = Wire::new(0, SessionLimits::default());
    wire.say(&key_update_message(false), &[CONTENT_HANDSHAKE])
        .unwrap();
    let len = wire
        .client
        .seal(b"under the old key", &mut wire.record)
        .unwrap();
    let error = wire
        .server
        .open(wire.now, &wire.record[..len], &mut wire.out)
        .unwrap_err();
    assert!(matches!(error, TlsError::BadRecordMac));
}

#[test]
fn an_asked_for_key_update_goes_out_before_more_data_and_once_for_many() {
    let mut wire = Wire::new(0, SessionLimits::default());
    for _ in 0..5 {
        wire.client.queue_key_update(true);
        wire.client.pace = UpdatePace::new(u32::MAX);
        assert_eq!(wire.carry_control(), 1);
        wire.send(b"data between");
    }
    let refused = wire.server.seal(b"too early", &mut wire.record);
    assert!(matches!(refused, Err(TlsError::ControlPending)));
    assert!(wire.server.control_pending(wire.now));
    wire.swap();
    assert_eq!(wire.carry_control(), 1, "one answer for five requests");
    wire.send(b"now");
    // The answer asks for nothing.
    assert!(!wire.server.control_pending(wire.now));
}

#[test]
fn an_answer_is_not_held_back_by_the_rate_and_counts_in_it() {
    let mut wire = Wire::new(
        0,
        SessionLimits {
            records_per_key: 4,
            key_updates_per_second: 8,
        },
    );
    for _ in 0..4 {
        wire.send(b"data");
    }
    assert_eq!(wire.carry_control(), 1);
    wire.swap();
    wire.client.queue_key_update(true);
    assert_eq!(wire.carry_control(), 1);
    wire.swap();
    // The server wants an update in the same instant as our own went out.
    assert_eq!(wire.carry_control(), 1);
    for _ in 0..8 {
        wire.send(b"data");
    }
    assert!(!wire.client.control_pending(wire.now));
    wire.now += Duration::from_millis(125);
    assert_eq!(wire.carry_control(), 1);
}

#[test]
fn a_queued_key_update_can_ask_for_one_in_return() {
    let mut wire = Wire::new(0, SessionLimits::default());
    wire.client.queue_key_update(false);
    wire.client.queue_key_update(true);
    wire.client.queue_key_update(false);
    assert_eq!(wire.carry_control(), 1);
    wire.swap();
    assert_eq!(wire.carry_control(), 1);
    wire.send(b"data");
}

#[test]
fn no_second_holds_more_than_eight_key_updates() {
    let limits = SessionLimits {
        records_per_key: 1,
        key_updates_per_second: 8,
    };
    let mut wire = Wire::new(0, limits);
    let start = wire.now;
    let mut sent_at = Vec::new();
    for step in 0..3_000_u64 {
        wire.now = start + Duration::from_millis(step);
        wire.send(b"data");
        for _ in 0..wire.carry_control() {
            sent_at.push(step);
        }
    }
    assert_eq!(sent_at.len(), 24);
    for window in sent_at.windows(9) {
        assert!(
            window[8] - window[0] >= 1_000,
            "nine updates within a second: {window:?}"
        );
    }
}

#[test]
fn sealing_goes_on_under_a_used_key_until_the_cipher_ends_it() {
    let mut wire = Wire::new(
        0,
        SessionLimits {
            records_per_key: 2,
            key_updates_per_second: 1,
        },
    );
    wire.send(b"one");
    wire.send(b"two");
    assert_eq!(wire.carry_control(), 1);
    for _ in 0..100 {
        assert_eq!(wire.carry_control(), 0, "the rate is used up");
        wire.send(b"more");
    }
    wire.client.tx.set_seq(RECORDS_PER_KEY_HARD_MAX - 1);
    wire.server.rx.set_seq(RECORDS_PER_KEY_HARD_MAX - 1);
    wire.send(b"the last one");
    let refused = wire.client.seal(b"one too many", &mut wire.record);
    assert!(matches!(refused, Err(TlsError::KeyExhausted)));
    // The update itself still fits, and then all is well again.
    wire.now += Duration::from_secs(1);
    assert_eq!(wire.carry_control(), 1);
    wire.send(b"under a new key");
}

#[test]
fn thirty_two_key_updates_without_data_pass_and_the_next_ends_the_connection() {
    let mut wire = Wire::new(0, UNPACED);
    for _ in 0..KEY_UPDATES_WITHOUT_DATA_MAX {
        wire.client.queue_key_update(true);
        assert_eq!(wire.carry_control(), 1);
    }
    wire.client.queue_key_update(false);
    let len = wire
        .client
        .poll_control(wire.now, &mut wire.record)
        .unwrap();
    let error = wire
        .server
        .open(wire.now, &wire.record[..len], &mut wire.out)
        .unwrap_err();
    assert!(matches!(error, TlsError::TooManyKeyUpdates));
}

#[test]
fn a_flood_of_key_updates_with_one_record_between_ends_within_a_second() {
    let mut wire = Wire::new(0, UNPACED);
    let outcome = (0..1_000).find_map(|_| {
        wire.send(b"x");
        wire.client.queue_key_update(false);
        let len = wire
            .client
            .poll_control(wire.now, &mut wire.record)
            .unwrap();
        wire.server
            .open(wire.now, &wire.record[..len], &mut wire.out)
            .err()
    });
    assert!(matches!(outcome, Some(TlsError::TooManyKeyUpdates)));
}

#[test]
fn poll_control_wants_room_for_any_control_record() {
    let mut wire = Wire::new(0, SessionLimits::default());
    wire.client.queue_key_update(false);
    let refused = wire
        .client
        .poll_control(wire.now, &mut [0; CONTROL_RECORD_MAX - 1]);
    assert!(matches!(refused, Err(TlsError::BufferTooSmall { .. })));
    assert!(wire.client.control_pending(wire.now));
}

#[test]
fn limits_outside_the_ciphers_range_are_moved_inside() {
    let (session, _) = session_pair(
        0,
        SessionLimits {
            records_per_key: u64::MAX,
            key_updates_per_second: 8,
        },
    );
    assert_eq!(session.records_per_key, RECORDS_PER_KEY_HARD_MAX);
    let (session, _) = session_pair(
        0,
        SessionLimits {
            records_per_key: 0,
            key_updates_per_second: 8,
        },
    );
    assert_eq!(session.records_per_key, 1);
}

#[test]
fn a_session_can_move_between_threads() {
    fn assert_send<T: Send>() {}
    assert_send::<Session>();
}
