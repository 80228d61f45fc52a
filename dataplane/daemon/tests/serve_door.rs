//! The front door: who gets in, and what those hear who do not.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod server;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use common::Bed;
use server::{Server, client_config, client_fingerprint, connect, pki, read_to_end};
use tls::{HandshakeStep, Opened, Session, SessionLimits, TlsError};

/// Exports of the tests: one for everybody, one for nobody.
const CONFIG: &str = r#"
handshake_deadline_s = 2

[[export]]
name = "open"
null_bytes = 1048576

[[export]]
name = "closed"
null_bytes = 1048576
client_fingerprints = []
"#;

fn start(bed: &Bed) -> Server {
    pki(bed, "pki");
    std::fs::write(bed.path("config.toml"), CONFIG).unwrap();
    let tls = [
        "--config",
        "config.toml",
        "--tls-dir",
        "pki",
        "--listen",
        "127.0.0.1:0",
    ];
    let others = ["--nbds-listen", "127.0.0.1:0", "--nbd-unix", "nbd.sock"];
    Server::start(bed, &[tls.as_slice(), &others].concat())
}

/// A handshake of our own making; on an error also what the server sent last.
fn handshake(
    stream: &mut TcpStream,
    config: std::sync::Arc<rustls::ClientConfig>,
) -> Result<Session, TlsError> {
    let mut machine =
        tls::ClientHandshake::new(config, "localhost", SessionLimits::default()).unwrap();
    let mut received = Vec::new();
    loop {
        let step = machine.handle_input(&received)?;
        stream.write_all(&machine.take_output()).unwrap();
        match step {
            HandshakeStep::Done(established) => {
                assert!(established.leftover.is_empty());
                return Ok(established.session);
            }
            HandshakeStep::NeedInput => {
                let mut buffer = [0; 4096];
                let len = stream.read(&mut buffer).unwrap();
                assert_ne!(len, 0, "the server closed without a word");
                received = buffer[..len].to_vec();
            }
        }
    }
}

/// Opens everything up to the end; the plaintext and how it ended.
fn open_all(stream: &mut TcpStream, session: &mut Session) -> (Vec<u8>, Result<(), TlsError>) {
    let (mut plain, mut bytes) = (Vec::new(), read_to_end(stream));
    while let Some(frame) = Session::frame(&bytes).unwrap() {
        let mut out = vec![0; frame.inner_len];
        match session.open(
            std::time::Instant::now(),
            &bytes[..frame.wire_len],
            &mut out,
        ) {
            Ok(Opened::Data { len }) => plain.extend_from_slice(&out[..len]),
            Ok(Opened::Control) => {}
            Ok(Opened::Closed) => return (plain, Ok(())),
            Err(error) => return (plain, Err(error)),
        }
        bytes.drain(..frame.wire_len);
    }
    (plain, Ok(()))
}

fn alert_of(stream: &mut TcpStream, pki: &Path, alpn: &[&[u8]]) -> String {
    match handshake(stream, client_config(pki, alpn)) {
        Err(error) => error.to_string(),
        // A client of TLS 1.3 is done before the server has looked at its certificate.
        Ok(mut session) => open_all(stream, &mut session).1.unwrap_err().to_string(),
    }
}

#[test]
fn clients_with_alpn_nbd_and_without_any_get_the_nbd_service() {
    let bed = Bed::new();
    let server = start(&bed);
    for alpn in [&[b"nbd".as_slice()][..], &[]] {
        let mut stream = connect(server.tls.unwrap());
        let config = client_config(&bed.path("pki"), alpn);
        let mut session = handshake(&mut stream, config).unwrap();
        let mut bytes = vec![0; 64];
        let len = stream.read(&mut bytes).unwrap();
        let mut out = [0; 64];
        let opened = session
            .open(std::time::Instant::now(), &bytes[..len], &mut out)
            .unwrap();
        assert_eq!(opened, Opened::Data { len: 18 });
        assert_eq!(&out[..16], b"NBDMAGICIHAVEOPT");
    }
    server.stop();
}

#[test]
fn an_unknown_protocol_ends_with_its_alert() {
    let bed = Bed::new();
    let server = start(&bed);
    for alpn in [b"h2".as_slice(), b"mk-data/9", b"NBD"] {
        let text = alert_of(&mut connect(server.tls.unwrap()), &bed.path("pki"), &[alpn]);
        assert!(text.contains("no_application_protocol"), "{text}");
    }
    server.stop();
}

#[test]
fn clients_without_a_certificate_of_ours_are_told_so() {
    let bed = Bed::new();
    let server = start(&bed);
    let stranger = pki(&bed, "stranger");
    // The stranger trusts our authority, but its own certificate comes from another one.
    std::fs::copy(bed.path("pki/ca-cert.pem"), stranger.join("ca-cert.pem")).unwrap();
    let text = alert_of(&mut connect(server.tls.unwrap()), &stranger, &[b"nbd"]);
    assert!(text.contains("unknown_ca"), "{text}");
    let nobody = bed.path("nobody");
    std::fs::create_dir(&nobody).unwrap();
    std::fs::copy(bed.path("pki/ca-cert.pem"), nobody.join("ca-cert.pem")).unwrap();
    let text = alert_of(&mut connect(server.tls.unwrap()), &nobody, &[b"nbd"]);
    assert!(text.contains("certificate_required"), "{text}");
    let log = server.log();
    assert!(log.contains("authority we do not trust"), "{log}");
    server.stop();
}

#[test]
fn an_export_that_is_not_ours_to_open_looks_like_one_that_does_not_exist() {
    let bed = Bed::new();
    let server = start(&bed);
    let pki = bed.path("pki");
    let said = |name: &str| {
        let error = server.connect_tls(name, &pki).map(|_| ()).unwrap_err();
        let source = error
            .source
            .map(|cause| cause.to_string())
            .unwrap_or_default();
        format!("{}: {} {source}", error.what, error.on).replace(name, "NAME")
    };
    assert_eq!(said("closed"), said("absent"));
    server.connect_tls("open", &pki).unwrap();
    // Whoever may open our socket is trusted with every export.
    server.connect_unix("closed").unwrap();
    let listed = bed
        .run(&["info", "--list", &server.tls_uri("", &pki)])
        .done()
        .stdout;
    assert!(
        listed.contains("open") && !listed.contains("closed"),
        "{listed}"
    );
    server.stop();
}

#[test]
fn a_fingerprint_opens_its_export() {
    let bed = Bed::new();
    let dir = pki(&bed, "pki");
    let config = format!(
        "[[export]]\nname = \"mine\"\nnull_bytes = 4096\nclient_fingerprints = [\"{}\"]\n",
        client_fingerprint(&dir)
    );
    std::fs::write(bed.path("config.toml"), config).unwrap();
    let args = [
        "--config",
        "config.toml",
        "--tls-dir",
        "pki",
        "--listen",
        "127.0.0.1:0",
    ];
    let server = Server::start(&bed, &args);
    server.connect_tls("mine", &dir).unwrap();
    server.stop();
}

#[test]
fn silence_and_half_a_hello_end_with_the_deadline() {
    let bed = Bed::new();
    let server = start(&bed);
    let mut silent = [server.tls, server.nbds].map(|address| connect(address.unwrap()));
    let mut partial = connect(server.tls.unwrap());
    partial
        .write_all(&[22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3])
        .unwrap();
    let mut greeting = [0; 18];
    silent[1].read_exact(&mut greeting).unwrap();
    assert!(read_to_end(&mut silent[0]).is_empty());
    assert!(read_to_end(&mut silent[1]).is_empty());
    assert!(read_to_end(&mut partial).is_empty());
    // A client that has authenticated does not get for ever either.
    let mut stream = connect(server.tls.unwrap());
    let config = client_config(&bed.path("pki"), &[b"nbd"]);
    let mut session = handshake(&mut stream, config).unwrap();
    let (plain, _) = open_all(&mut stream, &mut session);
    assert_eq!(plain.len(), 18, "the greeting and nothing else");
    server.connect_tls("open", &bed.path("pki")).unwrap();
    server.stop();
}

#[test]
fn garbage_in_every_state_ends_the_connection_and_nothing_else() {
    let bed = Bed::new();
    let server = start(&bed);
    let pki = bed.path("pki");
    let garbage: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"NBDMAGICIHAVEOPT".repeat(64),
        vec![0; 70_000],
        vec![0xff; 70_000],
        vec![22, 3, 1, 255, 255, 1],
        [&[22, 3, 3, 0, 4, 1, 0, 0, 0][..], &[0; 64]].concat(),
    ];
    for bytes in &garbage {
        for address in [server.tls, server.nbds] {
            let mut stream = connect(address.unwrap());
            // The server may close while we still talk.
            let _ = stream.write_all(bytes);
            read_to_end(&mut stream);
        }
        // Behind the handshake: inside of TLS, and beside it.
        for sealed in [true, false] {
            let mut stream = connect(server.tls.unwrap());
            let mut session = handshake(&mut stream, client_config(&pki, &[b"nbd"])).unwrap();
            for piece in bytes.chunks(16_384) {
                let mut record = vec![0; Session::sealed_len(piece.len())];
                let len = session.seal(piece, &mut record).unwrap();
                let _ = stream.write_all(if sealed { &record[..len] } else { piece });
            }
            read_to_end(&mut stream);
        }
    }
    server.connect_tls("open", &pki).unwrap();
    server.stop();
}

/// The options of NBD that these tests send by hand.
fn option(code: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [
        b"IHAVEOPT",
        &code.to_be_bytes()[..],
        &len.to_be_bytes(),
        data,
    ]
    .concat()
}

const STARTTLS: u32 = 5;
const LIST: u32 = 3;

fn nbds_after_greeting(server: &Server) -> TcpStream {
    let mut stream = connect(server.nbds.unwrap());
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    stream.write_all(&3u32.to_be_bytes()).unwrap();
    stream
}

#[test]
fn before_starttls_nothing_else_is_answered() {
    let bed = Bed::new();
    let server = start(&bed);
    let mut stream = nbds_after_greeting(&server);
    stream.write_all(&option(LIST, b"")).unwrap();
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    // NBD_REP_ERR_TLS_REQD
    assert_eq!(reply[12..16], [0x80, 0, 0, 5]);
    server.stop();
}

#[test]
fn bytes_smuggled_in_before_tls_end_the_connection() {
    let bed = Bed::new();
    let server = start(&bed);
    let mut stream = nbds_after_greeting(&server);
    // An attacker between us adds an option for the server to believe later.
    let smuggled = [option(STARTTLS, b""), option(LIST, b"")].concat();
    stream.write_all(&smuggled).unwrap();
    let rest = read_to_end(&mut stream);
    // At most the ACK of STARTTLS may have been on its way; LIST has no answer.
    assert!(rest.len() <= 20, "{rest:?}");
    let deadline = std::time::Instant::now() + server::PATIENCE;
    while !server
        .log()
        .contains("between STARTTLS and the TLS handshake")
    {
        assert!(std::time::Instant::now() < deadline, "{}", server.log());
        std::thread::yield_now();
    }
    server.stop();
}

#[test]
fn a_client_that_does_not_wait_for_its_export_is_refused() {
    let bed = Bed::new();
    let server = start(&bed);
    let mut stream = connect(server.tls.unwrap());
    let config = client_config(&bed.path("pki"), &[b"nbd"]);
    let mut session = handshake(&mut stream, config).unwrap();
    let name = b"open";
    let go = [&4u32.to_be_bytes()[..], name, &[0, 0]].concat();
    let read_request = [&[0x25, 0x60, 0x95, 0x13][..], &[0; 24]].concat();
    let bytes = [&3u32.to_be_bytes()[..], &option(7, &go), &read_request].concat();
    let mut record = vec![0; Session::sealed_len(bytes.len())];
    let len = session.seal(&bytes, &mut record).unwrap();
    stream.write_all(&record[..len]).unwrap();
    let (plain, _) = open_all(&mut stream, &mut session);
    // Greeting and the answers to GO; no reply to the request that came too early.
    assert!(
        !plain
            .windows(4)
            .any(|word| word == [0x67, 0x44, 0x66, 0x98])
    );
    server.connect_tls("open", &bed.path("pki")).unwrap();
    server.stop();
}
