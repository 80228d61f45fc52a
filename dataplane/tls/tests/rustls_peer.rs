//! Our sessions against rustls' own buffered connections, in both roles, in memory.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a panic is the report"
)]

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Instant;

use common::{REKEY_OFTEN, SUITES, Site, nbd_policy, policy_with_suite};
use rustls::server::ServerSessionMemoryCache;
use rustls::{ClientConnection, Connection, ServerConnection};
use tls::{
    Alert, ClientHandshake, HandshakeStep, Opened, RECORD_PLAINTEXT_MAX, RECORD_WIRE_MAX,
    ServerHandshake, Session, SessionLimits, TlsError, TlsPolicy,
};

const LIMITS: SessionLimits = SessionLimits {
    records_per_key: 1 << 23,
    key_updates_per_second: 8,
};

/// Our session, a rustls connection, and the bytes between them.
struct Pair {
    ours: Session,
    theirs: Connection,
    to_us: Vec<u8>,
    /// Data that rustls has received.
    inbox: Vec<u8>,
    now: Instant,
    /// KeyUpdates and other control records we sent.
    control_sent: usize,
    /// Records without data that came.
    control_received: usize,
}

impl Pair {
    fn our_server(policy: &TlsPolicy, limits: SessionLimits) -> Self {
        let site = Site::new();
        let config = site.client(policy);
        let name = "localhost".try_into().unwrap();
        let theirs = Connection::Client(ClientConnection::new(config, name).unwrap());
        let mut server = ServerHandshake::new(site.server(policy), limits).unwrap();
        Self::meet(theirs, |bytes| {
            let step = server.handle_input(bytes).unwrap();
            (step, server.take_output())
        })
    }

    fn our_client(policy: &TlsPolicy, limits: SessionLimits) -> Self {
        let site = Site::new();
        let mut config = Arc::unwrap_or_clone(site.server(policy));
        // A foreign server sends tickets, which our client has to skip.
        config.send_tls13_tickets = 2;
        config.session_storage = ServerSessionMemoryCache::new(8);
        let theirs = Connection::Server(ServerConnection::new(Arc::new(config)).unwrap());
        let mut client = ClientHandshake::new(site.client(policy), "localhost", limits).unwrap();
        Self::meet(theirs, |bytes| {
            let step = client.handle_input(bytes).unwrap();
            (step, client.take_output())
        })
    }

    fn meet(
        mut theirs: Connection,
        mut ours: impl FnMut(&[u8]) -> (HandshakeStep, Vec<u8>),
    ) -> Self {
        let mut to_us = Vec::new();
        loop {
            let (step, to_them) = ours(&to_us);
            feed(&mut theirs, &to_them, &mut Vec::new());
            if let HandshakeStep::Done(established) = step {
                assert!(!theirs.is_handshaking());
                return Self {
                    ours: established.session,
                    theirs,
                    to_us: established.leftover,
                    inbox: Vec::new(),
                    now: Instant::now(),
                    control_sent: 0,
                    control_received: 0,
                };
            }
            to_us.clear();
            while theirs.wants_write() {
                theirs.write_tls(&mut to_us).unwrap();
            }
        }
    }

    /// Moves what is pending on our side, KeyUpdates first, and `data` in full records.
    fn send(&mut self, data: &[u8]) {
        let mut record = [0; RECORD_WIRE_MAX];
        for chunk in data.chunks(RECORD_PLAINTEXT_MAX) {
            self.flush_control();
            let len = self.ours.seal(chunk, &mut record).unwrap();
            feed(&mut self.theirs, &record[..len], &mut self.inbox);
        }
    }

    fn flush_control(&mut self) {
        let mut record = [0; 64];
        loop {
            match self.ours.poll_control(self.now, &mut record).unwrap() {
                0 => return,
                len => feed(&mut self.theirs, &record[..len], &mut self.inbox),
            }
            self.control_sent += 1;
        }
    }

    /// What rustls has received since the last call.
    fn received_by_them(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.inbox)
    }

    /// rustls sends `data`.
    fn they_send(&mut self, data: &[u8]) {
        self.theirs.writer().write_all(data).unwrap();
        while self.theirs.wants_write() {
            self.theirs.write_tls(&mut self.to_us).unwrap();
        }
    }

    /// Opens all that came; data is joined.
    fn receive(&mut self) -> Result<Vec<u8>, TlsError> {
        let mut received = Vec::new();
        let mut out = [0; RECORD_PLAINTEXT_MAX + 1];
        while let Some(frame) = Session::frame(&self.to_us)? {
            let record: Vec<u8> = self.to_us.drain(..frame.wire_len).collect();
            match self.ours.open(self.now, &record, &mut out)? {
                Opened::Data { len } => received.extend(&out[..len]),
                Opened::Control => self.control_received += 1,
                Opened::Closed => break,
            }
        }
        Ok(received)
    }
}

/// Gives rustls everything in `bytes` and takes what it opens.
fn feed(connection: &mut Connection, mut bytes: &[u8], inbox: &mut Vec<u8>) {
    while !bytes.is_empty() {
        connection.read_tls(&mut bytes).unwrap();
        connection.process_new_packets().unwrap();
        if let Err(error) = connection.reader().read_to_end(inbox) {
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        }
    }
}

fn data(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

const ODD_SIZES: [usize; 10] = [
    1, 28, 32, 512, 4_095, 16_383, 16_384, 16_385, 50_000, 65_536,
];

fn both_ways(mut pair: Pair) {
    for len in ODD_SIZES {
        let sent = data(len);
        pair.send(&sent);
        assert!(pair.received_by_them() == sent, "{len} bytes from us");
        // rustls holds at most 64 KiB before it is written out.
        pair.they_send(&sent[..len.min(60_000)]);
        assert!(
            pair.receive().unwrap() == sent[..len.min(60_000)],
            "{len} bytes from rustls"
        );
    }
}

#[test]
fn data_of_odd_sizes_goes_both_ways_under_every_suite_and_role() {
    for name in SUITES {
        both_ways(Pair::our_server(&policy_with_suite(name), LIMITS));
        both_ways(Pair::our_client(&policy_with_suite(name), LIMITS));
    }
}

#[test]
fn a_client_skips_the_tickets_of_a_foreign_server() {
    let mut pair = Pair::our_client(&nbd_policy(), LIMITS);
    pair.they_send(b"behind the tickets");
    assert_eq!(pair.receive().unwrap(), b"behind the tickets");
    assert!(pair.control_received >= 1);
}

fn rekey_both_directions(mut pair: Pair) {
    let mut sent_records = 0;
    for index in 0..400_usize {
        let sent = data(1 + index % 97);
        for _ in 0..7 {
            pair.send(&sent);
            sent_records += 1;
            assert!(pair.received_by_them() == sent);
        }
        // rustls re-keys between its own data, and asks us to do the same.
        if index % 9 == 0 {
            pair.theirs.refresh_traffic_keys().unwrap();
        }
        pair.they_send(&sent);
        assert!(pair.receive().unwrap() == sent);
    }
    assert!(pair.control_sent >= sent_records / 64);
    assert!(pair.control_received >= 44);
}

#[test]
fn both_directions_rekey_at_full_rate_under_every_suite_and_role() {
    for name in SUITES {
        rekey_both_directions(Pair::our_server(&policy_with_suite(name), REKEY_OFTEN));
        rekey_both_directions(Pair::our_client(&policy_with_suite(name), REKEY_OFTEN));
    }
}

#[test]
fn a_request_of_rustls_is_answered_before_our_next_data() {
    let mut pair = Pair::our_server(&nbd_policy(), LIMITS);
    for _ in 0..5 {
        pair.theirs.refresh_traffic_keys().unwrap();
        pair.they_send(b"data under the new key");
        assert_eq!(pair.receive().unwrap(), b"data under the new key");
    }
    assert!(matches!(
        pair.ours.seal(b"x", &mut [0; 64]),
        Err(TlsError::ControlPending)
    ));
    pair.send(b"after one answer");
    assert_eq!(pair.control_sent, 1);
    assert_eq!(pair.received_by_them(), b"after one answer");
}

#[test]
fn rustls_answers_a_request_of_ours() {
    let mut pair = Pair::our_client(&nbd_policy(), LIMITS);
    pair.they_send(b"behind the tickets");
    pair.receive().unwrap();
    let before = pair.control_received;
    pair.ours.queue_key_update(true);
    pair.send(b"under our new key");
    assert_eq!(pair.received_by_them(), b"under our new key");
    pair.they_send(b"under theirs");
    assert_eq!(pair.receive().unwrap(), b"under theirs");
    assert_eq!(pair.control_received, before + 1);
}

#[test]
fn close_notify_goes_both_ways() {
    let mut pair = Pair::our_server(&nbd_policy(), LIMITS);
    pair.ours.queue_close();
    pair.flush_control();
    let mut none = [0; 1];
    assert_eq!(
        pair.theirs.reader().read(&mut none).unwrap(),
        0,
        "an orderly end"
    );
    pair.theirs.send_close_notify();
    pair.they_send(b"");
    assert!(pair.receive().unwrap().is_empty());
    assert!(pair.ours.is_closed_by_peer());
}

#[test]
fn rustls_understands_our_alert_and_we_understand_its() {
    let mut pair = Pair::our_server(&nbd_policy(), LIMITS);
    pair.ours.queue_alert(&TlsError::TooManyKeyUpdates);
    let mut record = [0; 64];
    let len = pair.ours.poll_control(pair.now, &mut record).unwrap();
    pair.theirs.read_tls(&mut &record[..len]).unwrap();
    let told = pair.theirs.process_new_packets().unwrap_err();
    assert_eq!(
        told,
        rustls::Error::AlertReceived(rustls::AlertDescription::UnexpectedMessage)
    );

    let mut pair = Pair::our_server(&nbd_policy(), LIMITS);
    let len = pair.ours.seal(b"damaged on the way", &mut record).unwrap();
    record[len - 1] ^= 1;
    pair.theirs.read_tls(&mut &record[..len]).unwrap();
    pair.theirs.process_new_packets().unwrap_err();
    pair.they_send(b"");
    let told = pair.receive().unwrap_err();
    assert!(matches!(
        told,
        TlsError::AlertReceived {
            alert: Alert::BAD_RECORD_MAC
        }
    ));
}

#[test]
fn a_flood_of_rustls_key_updates_without_data_is_cut_off() {
    let mut pair = Pair::our_server(&nbd_policy(), LIMITS);
    for _ in 0..33 {
        pair.theirs.refresh_traffic_keys().unwrap();
    }
    pair.they_send(b"data, too late");
    let error = pair.receive().unwrap_err();
    assert!(matches!(error, TlsError::TooManyKeyUpdates));
}

#[test]
fn a_record_that_is_cut_short_waits_and_never_opens() {
    let mut pair = Pair::our_server(&nbd_policy(), LIMITS);
    pair.they_send(b"a record");
    let whole = std::mem::take(&mut pair.to_us);
    for cut in 0..5 {
        assert_eq!(Session::frame(&whole[..cut]).unwrap(), None);
    }
    let mut out = [0; 64];
    for cut in 5..whole.len() {
        let frame = Session::frame(&whole[..cut]).unwrap().unwrap();
        assert_eq!(frame.wire_len, whole.len());
        let refused = pair.ours.open(pair.now, &whole[..cut], &mut out);
        assert!(matches!(refused, Err(TlsError::NotOneRecord { .. })));
    }
    let opened = pair.ours.open(pair.now, &whole, &mut out).unwrap();
    assert_eq!(opened, Opened::Data { len: 8 });
}
