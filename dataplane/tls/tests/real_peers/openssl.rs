//! `openssl s_server` and `openssl s_client`. Both take `K` (update keys and ask for the same) and
//! `k` (update) at the start of a line of input, and print what they receive.

use std::net::TcpListener;
use std::sync::Arc;

use tls::{Alert, SessionLimits, TlsError, TlsPolicy};

use crate::common::{REKEY_OFTEN, SUITES, Site, nbd_policy, policy_with_suite};
use crate::link::{Event, Link};
use crate::text;
use crate::tools::{Folder, Program, is_installed};

const PIECE: usize = 997;

/// `openssl s_server` that wants a client certificate; returns its port.
fn server(folder: &Folder, more: &[&str]) -> (Program, u16) {
    let (ca, cert, key) = (
        folder.file("ca-cert.pem"),
        folder.file("server-cert.pem"),
        folder.file("server-key.pem"),
    );
    let mut arguments = vec![
        "s_server",
        "-accept",
        "127.0.0.1:0",
        "-tls1_3",
        "-alpn",
        "nbd",
        "-CAfile",
        &ca,
        "-cert",
        &cert,
        "-key",
        &key,
        "-Verify",
        "2",
        "-verify_return_error",
    ];
    arguments.extend(more);
    let mut program = Program::start("openssl", &arguments);
    program.wait_for(b"ACCEPT 127.0.0.1:");
    let port = String::from_utf8(program.wait_for(b"\n")).unwrap();
    (program, port.parse().unwrap())
}

/// `openssl s_client` towards `listener`.
fn client(folder: &Folder, listener: &TcpListener, more: &[&str]) -> Program {
    let ca = folder.file("ca-cert.pem");
    let address = listener.local_addr().unwrap().to_string();
    let mut arguments = vec![
        "s_client",
        "-connect",
        &address,
        "-tls1_3",
        "-CAfile",
        &ca,
        "-verify_hostname",
        "localhost",
        "-verify_return_error",
    ];
    arguments.extend(more);
    Program::start("openssl", &arguments)
}

fn with_certificate(folder: &Folder) -> [String; 6] {
    [
        "-alpn",
        "nbd",
        "-cert",
        &folder.file("client-cert.pem"),
        "-key",
        &folder.file("client-key.pem"),
    ]
    .map(str::to_owned)
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// What `s_server` prints when a record brought no data, in the middle of what it received.
const REMARK: &[u8] = b"Read BLOCK\n";

fn without_remarks(printed: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(printed.len());
    let mut rest = printed;
    while let Some(&first) = rest.first() {
        if let Some(behind) = rest.strip_prefix(REMARK) {
            rest = behind;
        } else {
            kept.push(first);
            rest = &rest[1..];
        }
    }
    kept
}

/// Data both ways, then a KeyUpdate of either kind by the program, and data again.
fn exchange(link: &mut Link, program: &mut Program) {
    let sent = text(400_000);
    link.send(b"<<begin\n", PIECE);
    link.send(&sent, PIECE);
    link.send(b"end>>\n", PIECE);
    program.wait_for(b"<<begin\n");
    let printed = without_remarks(&program.wait_for(b"end>>\n"));
    assert!(printed == sent, "the program received something else");
    // 403 records, a KeyUpdate after every 64.
    assert_eq!(link.control_sent, 6);

    for command in [&b"K\n"[..], b"k\n", b"K\n"] {
        let line = text(3_000);
        program.type_in(&line);
        assert!(link.receive_data(line.len()) == line);
        program.type_in(command);
        let before = link.control_sent;
        // Tickets came before the data, so this is the KeyUpdate.
        assert_eq!(link.receive().unwrap(), Event::Control);
        assert_eq!(link.control_pending(), command == b"K\n");
        link.send(b"<<after an update>>\n", PIECE);
        assert_eq!(link.control_sent - before, usize::from(command == b"K\n"));
        program.wait_for(b"<<after an update>>\n");
    }
    let line = text(20_000);
    program.type_in(&line);
    assert!(link.receive_data(line.len()) == line);
}

#[test]
fn our_client_and_s_server_exchange_data_and_rekey_under_every_suite() {
    if !is_installed("openssl") {
        return;
    }
    let site = Site::new();
    let folder = Folder::new(&site);
    for suite in SUITES {
        let (mut program, port) = server(&folder, &["-ciphersuites", suite]);
        let config = site.client(&nbd_policy());
        let mut link = Link::connect(port, config, REKEY_OFTEN).unwrap();
        assert_eq!(link.alpn.as_deref(), Some(&b"nbd"[..]));
        exchange(&mut link, &mut program);
    }
}

#[test]
fn our_server_and_s_client_exchange_data_and_rekey_under_every_suite() {
    if !is_installed("openssl") {
        return;
    }
    let site = Site::new();
    let folder = Folder::new(&site);
    let credentials = with_certificate(&folder);
    let more: Vec<_> = credentials.iter().map(String::as_str).collect();
    for suite in SUITES {
        let listener = listen();
        let mut program = client(&folder, &listener, &more);
        let config = site.server(&policy_with_suite(suite));
        let mut link = Link::accept(&listener, config, REKEY_OFTEN).unwrap();
        assert_eq!(link.alpn.as_deref(), Some(&b"nbd"[..]));
        exchange(&mut link, &mut program);
        // `Q` ends the client in an orderly way (and the server in an abrupt one).
        program.type_in(b"Q\n");
        assert_eq!(link.receive().unwrap(), Event::Closed);
    }
}

#[test]
fn padded_records_of_openssl_are_understood() {
    if !is_installed("openssl") {
        return;
    }
    let site = Site::new();
    let folder = Folder::new(&site);
    let (mut program, port) = server(&folder, &["-record_padding", "4096"]);
    let mut link =
        Link::connect(port, site.client(&nbd_policy()), SessionLimits::default()).unwrap();
    for len in [1, 100, 5_000, 16_000] {
        let line = text(len);
        program.type_in(&line);
        assert!(link.receive_data(len) == line);
    }
}

#[test]
fn our_close_notify_ends_s_client_in_an_orderly_way() {
    if !is_installed("openssl") {
        return;
    }
    let site = Site::new();
    let folder = Folder::new(&site);
    let credentials = with_certificate(&folder);
    let more: Vec<_> = credentials.iter().map(String::as_str).collect();
    let listener = listen();
    let mut program = client(&folder, &listener, &more);
    let config = site.server(&nbd_policy());
    let mut link = Link::accept(&listener, config, SessionLimits::default()).unwrap();
    link.close();
    program.wait_for(b"closed");
}

#[test]
fn s_client_without_a_certificate_is_told_so() {
    if !is_installed("openssl") {
        return;
    }
    let site = Site::new();
    let folder = Folder::new(&site);
    let listener = listen();
    let mut program = client(&folder, &listener, &["-alpn", "nbd"]);
    let config = site.server(&nbd_policy());
    let refused = Link::accept(&listener, config, SessionLimits::default())
        .err()
        .unwrap();
    assert!(matches!(refused, TlsError::PeerCertificateMissing));
    program.wait_for(b"certificate required");
}

#[test]
fn our_client_without_a_certificate_learns_it_from_s_server() {
    if !is_installed("openssl") {
        return;
    }
    let site = Site::new();
    let folder = Folder::new(&site);
    let (_program, port) = server(&folder, &[]);
    let mut anonymous = site.credentials("client");
    anonymous.cert_pem = None;
    anonymous.key_pem = None;
    let config = tls::client_config(&anonymous, &nbd_policy()).unwrap();
    let mut link = Link::connect(port, config, SessionLimits::default()).unwrap();
    let told = link.receive().unwrap_err();
    assert!(matches!(
        told,
        TlsError::AlertReceived {
            alert: Alert::CERTIFICATE_REQUIRED
        }
    ));
}

#[test]
fn s_server_of_another_site_is_refused_and_told_so() {
    if !is_installed("openssl") {
        return;
    }
    let (site, other) = (Site::new(), Site::new());
    let folder = Folder::new(&other);
    let (mut program, port) = server(&folder, &[]);
    let config = site.client(&nbd_policy());
    let refused = Link::connect(port, config, SessionLimits::default())
        .err()
        .unwrap();
    assert!(matches!(refused, TlsError::PeerCertificateUntrusted(_)));
    program.wait_for(b"unknown ca");
}

#[test]
fn s_client_without_alpn_is_accepted_and_with_an_unknown_one_refused() {
    if !is_installed("openssl") {
        return;
    }
    let site = Site::new();
    let folder = Folder::new(&site);
    let policy = TlsPolicy {
        client_certificate_required: false,
        ..nbd_policy()
    };
    let config = site.server(&policy);
    let listener = listen();
    let _program = client(&folder, &listener, &[]);
    let link = Link::accept(&listener, Arc::clone(&config), SessionLimits::default()).unwrap();
    assert_eq!(link.alpn, None);

    let listener = listen();
    let mut program = client(&folder, &listener, &["-alpn", "smtp"]);
    let refused = Link::accept(&listener, config, SessionLimits::default())
        .err()
        .unwrap();
    assert!(matches!(refused, TlsError::NoApplicationProtocol));
    program.wait_for(b"no application protocol");
}
