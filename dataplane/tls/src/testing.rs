//! Sessions without a handshake, records no honest peer makes, and the bodies of the fuzz targets.
//! For tests and fuzzing only.

use std::sync::OnceLock;
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::error::TlsError;
use crate::handoff::KeySchedule;
use crate::limits::{CONTROL_RECORD_MAX, RECORD_INNER_MAX, RECORD_WIRE_MAX};
use crate::record::{DirectionKeys, Suite};
use crate::session::{Keys, Opened, Session, SessionLimits};
use crate::{ClientHandshake, Credentials, HandshakeStep, HelloReader, ServerHandshake, TlsPolicy};

/// A key schedule that counts instead of deriving: generation `n` of a direction has a key made of
/// its direction and `n`.
pub(crate) struct FixedSchedule {
    pub(crate) is_client: bool,
    tx_generation: u8,
    rx_generation: u8,
}

impl FixedSchedule {
    fn keys(suite: Suite, from_client: bool, generation: u8) -> Result<DirectionKeys, TlsError> {
        let direction = if from_client { 0xc0 } else { 0x50 };
        let mut key = [direction; 32];
        key[0] = generation;
        let len = if suite == Suite::Aes128Gcm { 16 } else { 32 };
        DirectionKeys::new(suite, &key[..len], &[direction ^ generation; 12], 0)
    }

    pub(crate) fn next_tx(&mut self, suite: Suite) -> Result<DirectionKeys, TlsError> {
        self.tx_generation = self.tx_generation.wrapping_add(1);
        Self::keys(suite, self.is_client, self.tx_generation)
    }

    pub(crate) fn next_rx(&mut self, suite: Suite) -> Result<DirectionKeys, TlsError> {
        self.rx_generation = self.rx_generation.wrapping_add(1);
        Self::keys(suite, !self.is_client, self.rx_generation)
    }
}

fn session(suite: Suite, is_client: bool, limits: SessionLimits) -> Session {
    let schedule = FixedSchedule {
        is_client,
        tx_generation: 0,
        rx_generation: 0,
    };
    let keys = |from_client| {
        FixedSchedule::keys(suite, from_client, 0).expect("fixed keys have the right length")
    };
    Session::new(
        Keys {
            suite,
            tx: keys(is_client),
            rx: keys(!is_client),
            schedule: KeySchedule::Fixed(schedule),
        },
        limits,
    )
}

/// A client and a server session that understand each other. `suite` counts in the order AES-128,
/// AES-256, ChaCha20 and wraps.
pub fn session_pair(suite: usize, limits: SessionLimits) -> (Session, Session) {
    let suite = Suite::ALL[suite % Suite::ALL.len()];
    (session(suite, true, limits), session(suite, false, limits))
}

/// Seals arbitrary inner plaintext: `content`, then `trailer` (type byte and padding).
pub fn seal_inner(
    session: &mut Session,
    content: &[u8],
    trailer: &[u8],
    out: &mut [u8],
) -> Result<usize, TlsError> {
    session.tx_for_tests().seal_inner(content, trailer, out)
}

/// `input` as what a peer sends: once bare, once as records that authenticate.
///
/// Nothing may panic; an error is final; data has the length the record had room for; and as long
/// as there was no error, data goes both ways afterwards.
pub fn fuzz_records(mut now: Instant, input: &[u8]) {
    open_bare(now, input);
    let Some((&kind, mut script)) = input.split_first() else {
        return;
    };
    let limits = SessionLimits {
        records_per_key: 3,
        key_updates_per_second: u32::MAX,
    };
    let (mut peer, mut ours) = session_pair(usize::from(kind), limits);
    if kind & 0x80 != 0 {
        std::mem::swap(&mut peer, &mut ours);
    }
    let mut wire = vec![0; RECORD_WIRE_MAX + 512];
    let mut out = vec![0; RECORD_INNER_MAX];
    // One step: content type, padding, length, content.
    while let Some((&[content_type, padding, high, low], rest)) = script.split_first_chunk::<4>() {
        let len = usize::from(u16::from_be_bytes([high & 0x3f, low])).min(rest.len());
        let (content, behind) = rest.split_at(len);
        script = behind;
        let mut trailer = vec![0; 1 + usize::from(padding)];
        trailer[0] = content_type;
        let Ok(wire_len) = seal_inner(&mut peer, content, &trailer, &mut wire) else {
            return;
        };
        match ours.open(now, &wire[..wire_len], &mut out) {
            Err(error) => return check_end(now, &mut ours, &error),
            Ok(Opened::Closed) => return,
            Ok(Opened::Data { len }) => assert_eq!(out[..len], content[..len]),
            // The peer follows its own KeyUpdate. Hidden in fragments it is not seen here, and then
            // the next record does not authenticate.
            Ok(Opened::Control) if matches!(content, [24, 0, 0, 1, _]) => {
                peer.rekey_for_tests().expect("a next key");
            }
            Ok(Opened::Control) => {}
        }
        // Time passes, or the honest answers of one instant would be a flood.
        now += Duration::from_millis(10);
        exchange(now, &mut ours, &mut peer);
    }
}

/// Bytes of anybody, where a record is expected.
fn open_bare(now: Instant, input: &[u8]) {
    let (_, mut ours) = session_pair(0, SessionLimits::default());
    if let Ok(Some(frame)) = Session::frame(input) {
        assert!(frame.wire_len <= RECORD_WIRE_MAX && frame.inner_len <= RECORD_INNER_MAX);
        let mut out = vec![0; frame.inner_len];
        if let Some(record) = input.get(..frame.wire_len) {
            let opened = ours.open(now, record, &mut out);
            assert!(matches!(opened, Err(TlsError::BadRecordMac)));
        }
    }
    assert!(ours.open(now, input, &mut [0; RECORD_INNER_MAX]).is_err());
}

/// After an error: no data, one alert at most.
fn check_end(now: Instant, ours: &mut Session, error: &TlsError) {
    let mut wire = [0; CONTROL_RECORD_MAX];
    ours.queue_alert(error);
    let first = ours.poll_control(now, &mut wire).expect("an alert fits");
    assert_eq!(first > 0, error.alert().is_some());
    assert_eq!(
        ours.poll_control(now, &mut wire).expect("nothing is left"),
        0
    );
    assert!(ours.seal(b"x", &mut wire).is_err());
}

/// Ours sends what is pending and a byte of data; the peer understands both.
fn exchange(now: Instant, ours: &mut Session, peer: &mut Session) {
    let mut wire = [0; CONTROL_RECORD_MAX];
    let mut out = [0; CONTROL_RECORD_MAX];
    loop {
        let len = ours.poll_control(now, &mut wire).expect("control fits");
        if len == 0 {
            break;
        }
        assert!(peer.open(now, &wire[..len], &mut out).is_ok());
    }
    let len = ours.seal(b"x", &mut wire).expect("nothing holds data back");
    let opened = peer
        .open(now, &wire[..len], &mut out)
        .expect("the peer understands");
    assert_eq!((opened, out[0]), (Opened::Data { len: 1 }, b'x'));
}

/// `input` as what a client sends first, whole and in pieces: both must come to the same.
pub fn fuzz_hello(input: &[u8]) {
    let Some((&piece, bytes)) = input.split_first() else {
        return;
    };
    let whole = read_hello(bytes, usize::MAX);
    let pieces = read_hello(bytes, usize::from(piece).max(1));
    match (whole, pieces) {
        (Ok(Some(whole)), Ok(Some(pieces))) => {
            assert_eq!(
                (whole.alpn, whole.server_name),
                (pieces.alpn, pieces.server_name)
            );
            assert!(whole.bytes.starts_with(&pieces.bytes));
        }
        // A bad header right behind the hello is seen only when it came in the same piece.
        (whole, pieces) => assert!(whole.is_err() || pieces.is_ok()),
    }
}

fn read_hello(bytes: &[u8], piece: usize) -> Result<Option<crate::ClientHello>, TlsError> {
    let mut reader = HelloReader::new();
    for piece in bytes.chunks(piece) {
        match reader.handle_input(piece) {
            Ok(None) => {}
            Ok(hello) => return Ok(hello),
            Err(error) => {
                assert!(!reader.take_alert().is_empty());
                return Err(error);
            }
        }
    }
    Ok(None)
}

/// `input` as what a client or a server sends first, in pieces. Nobody can finish a handshake
/// without keys, so it ends in an error or waits.
pub fn fuzz_handshake(input: &[u8]) {
    let Some((&piece, bytes)) = input.split_first() else {
        return;
    };
    let site = site();
    let piece = usize::from(piece).max(1);
    let limits = SessionLimits::default();
    let mut server = ServerHandshake::new(site.server.clone(), limits).expect("a server starts");
    let mut client =
        ClientHandshake::new(site.client.clone(), "localhost", limits).expect("a client starts");
    client.handle_input(&[]).expect("a client speaks first");
    let mut server_alive = true;
    let mut client_alive = true;
    for piece in bytes.chunks(piece) {
        if server_alive {
            server_alive = waits(&server.handle_input(piece));
            server.take_output();
        }
        if client_alive {
            client_alive = waits(&client.handle_input(piece));
            client.take_output();
        }
    }
}

fn waits(step: &Result<HandshakeStep, TlsError>) -> bool {
    assert!(
        !matches!(step, Ok(HandshakeStep::Done(_))),
        "a handshake without keys"
    );
    step.is_ok()
}

struct FuzzSite {
    server: std::sync::Arc<rustls::ServerConfig>,
    client: std::sync::Arc<rustls::ClientConfig>,
}

fn site() -> &'static FuzzSite {
    static SITE: OnceLock<FuzzSite> = OnceLock::new();
    SITE.get_or_init(|| {
        let now = UNIX_EPOCH + Duration::from_secs(1_750_000_000);
        let files = crate::pki::new_site(&["localhost".to_owned()], 36_500, now).expect("a site");
        let pem = |index: usize| files[index].1.clone().into_bytes();
        let credentials = |cert, key| Credentials {
            ca_pem: pem(0),
            cert_pem: Some(pem(cert)),
            key_pem: Some(pem(key)),
        };
        let policy = TlsPolicy {
            alpn: vec![b"nbd".to_vec()],
            client_certificate_required: true,
            suites: None,
        };
        FuzzSite {
            server: crate::server_config(&credentials(2, 3), &policy).expect("a server"),
            client: crate::client_config(&credentials(4, 5), &policy).expect("a client"),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn replay(target: &str, body: impl Fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            body(&std::fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0, "the corpus of {target} is empty");
    }

    #[test]
    fn the_corpus_of_records_passes() {
        replay("records", |input| fuzz_records(Instant::now(), input));
    }

    #[test]
    fn the_corpus_of_hellos_passes() {
        replay("hello", fuzz_hello);
    }

    #[test]
    fn the_corpus_of_handshakes_passes() {
        replay("handshake", fuzz_handshake);
    }
}
