//! Reading a ClientHello in any pieces, and what the reader refuses.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a panic is the report"
)]

mod common;

use common::{Site, nbd_policy};
use tls::limits::CLIENT_HELLO_BYTES_MAX;
use tls::{
    ALPN_NBD, Alert, ClientHandshake, ClientHello, HandshakeStep, HelloReader, ServerHandshake,
    SessionLimits, TlsError, TlsPolicy,
};

/// A client of ours with its first flight.
fn client(site: &Site, alpn: &[&str], name: &str) -> (ClientHandshake, Vec<u8>) {
    let alpn = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let policy = TlsPolicy {
        alpn,
        ..nbd_policy()
    };
    let limits = SessionLimits::default();
    let mut client = ClientHandshake::new(site.client(&policy), name, limits).unwrap();
    client.handle_input(&[]).unwrap();
    let hello = client.take_output();
    (client, hello)
}

fn read(bytes: &[u8], piece: usize) -> Result<Option<ClientHello>, TlsError> {
    let mut reader = HelloReader::new();
    for piece in bytes.chunks(piece) {
        if let Some(hello) = reader.handle_input(piece)? {
            return Ok(Some(hello));
        }
    }
    Ok(None)
}

/// The same message cut into records of `len` bytes of payload.
fn in_records(hello: &[u8], len: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for fragment in hello[5..].chunks(len) {
        out.extend([22, 3, 1]);
        out.extend(u16::try_from(fragment.len()).unwrap().to_be_bytes());
        out.extend(fragment);
    }
    out
}

#[test]
fn a_hello_is_read_in_pieces_of_any_size() {
    let (_, hello) = client(&Site::new(), &["nbd", "mk-data/1"], "localhost");
    for piece in [1, 2, 3, 5, 6, 100, usize::MAX] {
        let found = read(&hello, piece).unwrap().unwrap();
        assert_eq!(found.alpn, [b"nbd".to_vec(), b"mk-data/1".to_vec()]);
        assert_eq!(found.server_name.as_deref(), Some("localhost"));
        assert_eq!(found.bytes, hello);
    }
    for cut in [0, 1, 5, 6, hello.len() - 1] {
        assert_eq!(read(&hello[..cut], usize::MAX).unwrap(), None);
    }
}

#[test]
fn a_hello_may_span_many_records_and_the_handshake_goes_on_from_its_bytes() {
    let site = Site::new();
    for len in [1, 2, 7, 100] {
        for piece in [1, 11, usize::MAX] {
            let (mut client, hello) = client(&site, &["nbd"], "127.0.0.1");
            let found = read(&in_records(&hello, len), piece).unwrap().unwrap();
            assert_eq!(found.alpn, [b"nbd".to_vec()]);
            assert_eq!(found.server_name, None, "an address is no server name");
            let config = site.server(&nbd_policy());
            let mut server = ServerHandshake::new(config, SessionLimits::default()).unwrap();
            let step = server.handle_input(&found.bytes).unwrap();
            assert!(matches!(step, HandshakeStep::NeedInput));
            let step = client.handle_input(&server.take_output()).unwrap();
            assert!(matches!(step, HandshakeStep::Done(_)));
            let step = server.handle_input(&client.take_output()).unwrap();
            assert!(matches!(step, HandshakeStep::Done(_)));
        }
    }
}

#[test]
fn our_order_of_protocols_decides_and_no_offer_means_nbd() {
    let served = [&b"h2"[..], b"http/1.1", ALPN_NBD];
    let hello = |alpn: &[&str]| read(&client(&Site::new(), alpn, "localhost").1, 64);
    let chosen = |alpn: &[&str]| hello(alpn).unwrap().unwrap().choose_alpn(&served);
    assert_eq!(chosen(&["nbd"]).unwrap(), b"nbd");
    assert_eq!(chosen(&["http/1.1", "h2"]).unwrap(), b"h2");
    assert_eq!(chosen(&["smtp", "nbd"]).unwrap(), b"nbd");
    assert_eq!(chosen(&[]).unwrap(), b"nbd");
    let error = chosen(&["smtp"]).unwrap_err();
    assert!(matches!(error, TlsError::NoApplicationProtocol));
    assert_eq!(error.alert(), Some(Alert::NO_APPLICATION_PROTOCOL));
    let nothing = hello(&[]).unwrap().unwrap();
    assert!(nothing.choose_alpn(&[b"h2"]).is_err());
}

#[test]
fn what_is_not_tls_is_refused_with_an_alert() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x80\x2e\x01\x00\x02aaaa",
        b"NBDMAGIC",
    ] {
        let mut reader = HelloReader::new();
        let error = reader.handle_input(bytes).unwrap_err();
        assert!(
            matches!(error, TlsError::NotTls | TlsError::Handshake(_)),
            "{error:?}"
        );
        assert_eq!(reader.take_alert().first(), Some(&21));
        assert!(reader.take_alert().is_empty());
        assert!(matches!(
            reader.handle_input(b"x"),
            Err(TlsError::UsedAfterEnd)
        ));
    }
}

#[test]
fn another_handshake_message_in_place_of_a_hello_is_refused() {
    let mut bytes = vec![22, 3, 3, 0, 4];
    bytes.extend([20, 0, 0, 0]);
    assert!(matches!(read(&bytes, 1), Err(TlsError::Handshake(_))));
}

#[test]
fn a_client_of_tls_1_2_is_refused_by_the_handshake_with_protocol_version() {
    // A minimal ClientHello: version 1.2, one suite, signature_algorithms as its only extension.
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    body.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    let mut message = vec![1, 0, 0, u8::try_from(body.len()).unwrap()];
    message.extend(body);
    let mut record = vec![22, 3, 1, 0, u8::try_from(message.len()).unwrap()];
    record.extend(message);
    let config = Site::new().server(&nbd_policy());
    let mut server = ServerHandshake::new(config, SessionLimits::default()).unwrap();
    let error = server.handle_input(&record).unwrap_err();
    assert!(
        matches!(error, TlsError::NoCommonParameters(_)),
        "{error:?}"
    );
    let alert = server.take_output();
    assert_eq!(alert[0], 21, "an alert record");
    assert_eq!(Alert(alert[6]), Alert::PROTOCOL_VERSION);
}

#[test]
fn a_hello_without_end_is_cut_off() {
    // A ClientHello that says it is 16 MiB long, in full records and byte by byte.
    let mut record = vec![22, 3, 1, 0x40, 0];
    record.resize(5 + 16_384, 0xff);
    record[5] = 1;
    let flood: Vec<u8> = std::iter::repeat_n(record, 8).flatten().collect();
    for piece in [1_000, 60_000] {
        let mut reader = HelloReader::new();
        let mut taken = 0;
        let error = flood.chunks(piece).find_map(|bytes| {
            taken += bytes.len();
            reader.handle_input(bytes).err()
        });
        assert!(error.is_some());
        assert!(taken <= CLIENT_HELLO_BYTES_MAX + piece);
        assert_eq!(reader.take_alert().first(), Some(&21));
    }
}

#[test]
fn empty_records_without_end_are_cut_off() {
    let mut reader = HelloReader::new();
    let error = (0..20_000).find_map(|_| reader.handle_input(&[22, 3, 1, 0, 0]).err());
    assert!(error.is_some());
}
