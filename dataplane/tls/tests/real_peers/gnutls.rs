//! `gnutls-serv --echo` and `gnutls-cli --inline-commands`, the library of libnbd, nbdkit and qemu.
//!
//! GnuTLS ends a connection that sends more than 8 KeyUpdates a second, so ours go at 6.

use std::net::TcpListener;

use tls::{Alert, SessionLimits, TlsError};

use crate::common::{Site, nbd_policy};
use crate::link::{Event, Link};
use crate::text;
use crate::tools::{Folder, Program, is_installed, listening_port};

const LIMITS: SessionLimits = SessionLimits {
    records_per_key: 64,
    key_updates_per_second: 6,
};

/// `gnutls-serv` that sends every line back; returns its port.
fn server(folder: &Folder) -> (Program, u16) {
    let (ca, cert, key) = (
        folder.file("ca-cert.pem"),
        folder.file("server-cert.pem"),
        folder.file("server-key.pem"),
    );
    let mut program = Program::start(
        "gnutls-serv",
        &[
            "--echo",
            "--port",
            "0",
            "--require-client-cert",
            "--verify-client-cert",
            "--alpn",
            "nbd",
            "--x509cafile",
            &ca,
            "--x509certfile",
            &cert,
            "--x509keyfile",
            &key,
        ],
    );
    program.wait_for(b"IPv4 0.0.0.0 port 0...done");
    let port = listening_port(program.id());
    (program, port)
}

/// `gnutls-cli` towards `listener`.
fn client(folder: &Folder, listener: &TcpListener, with_certificate: bool) -> Program {
    let (ca, cert, key) = (
        folder.file("ca-cert.pem"),
        folder.file("client-cert.pem"),
        folder.file("client-key.pem"),
    );
    let port = listener.local_addr().unwrap().port().to_string();
    let mut arguments = vec![
        "--inline-commands",
        "--port",
        &port,
        "--x509cafile",
        &ca,
        "--alpn",
        "nbd",
    ];
    if with_certificate {
        arguments.extend(["--x509certfile", &cert, "--x509keyfile", &key]);
    }
    arguments.push("127.0.0.1");
    Program::start("gnutls-cli", &arguments)
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[test]
fn our_client_and_gnutls_serv_exchange_lines_while_we_rekey() {
    if !is_installed("gnutls-serv") {
        return;
    }
    let site = Site::new();
    let folder = Folder::new(&site);
    let (_program, port) = server(&folder);
    let mut link = Link::connect(port, site.client(&nbd_policy()), LIMITS).unwrap();
    assert_eq!(link.alpn.as_deref(), Some(&b"nbd"[..]));
    let mut round = 0;
    // The first KeyUpdate is free, and eight more take a good second.
    while link.control_sent < 9 {
        let line = text(1 + round % 900);
        link.send(&line, 16_384);
        assert!(link.receive_data(line.len()) == line, "round {round}");
        round += 1;
    }
    assert!(round >= 9 * 64);
}

#[test]
fn our_server_and_gnutls_cli_exchange_data_and_both_rekey() {
    if !is_installed("gnutls-cli") {
        return;
    }
    let site = Site::new();
    let folder = Folder::new(&site);
    let listener = listen();
    let mut program = client(&folder, &listener, true);
    let mut link = Link::accept(&listener, site.server(&nbd_policy()), LIMITS).unwrap();
    program.wait_for(b"Simple Client Mode");
    let sent = text(400_000);
    link.send(b"<<begin\n", 997);
    link.send(&sent, 997);
    link.send(b"end>>\n", 997);
    program.wait_for(b"<<begin\n");
    assert!(
        program.wait_for(b"end>>\n") == sent,
        "gnutls received something else"
    );
    assert!(link.control_sent >= 1);

    // `rekey` asks us to update as well, `rekey1` does not.
    for (command, is_request) in [(&b"^rekey^\n"[..], true), (b"^rekey1^\n", false)] {
        program.type_in(b"a line from gnutls\n");
        assert_eq!(link.receive_data(19), b"a line from gnutls\n");
        program.type_in(command);
        assert_eq!(link.receive().unwrap(), Event::Control);
        if is_request {
            assert!(link.control_pending());
        }
        link.send(b"<<after an update>>\n", 997);
        program.wait_for(b"<<after an update>>\n");
    }
    program.type_in(b"the last line\n");
    assert_eq!(link.receive_data(14), b"the last line\n");
    program.hang_up();
    assert_eq!(link.receive().unwrap(), Event::Closed);
}

#[test]
fn gnutls_cli_without_a_certificate_is_told_so() {
    if !is_installed("gnutls-cli") {
        return;
    }
    let site = Site::new();
    let folder = Folder::new(&site);
    let listener = listen();
    let mut program = client(&folder, &listener, false);
    let refused = Link::accept(&listener, site.server(&nbd_policy()), LIMITS)
        .err()
        .unwrap();
    assert!(matches!(refused, TlsError::PeerCertificateMissing));
    program.wait_for(b"ertificate is required");
}

#[test]
fn our_client_without_a_certificate_learns_it_from_gnutls_serv() {
    if !is_installed("gnutls-serv") {
        return;
    }
    let site = Site::new();
    let folder = Folder::new(&site);
    let (_program, port) = server(&folder);
    let mut anonymous = site.credentials("client");
    anonymous.cert_pem = None;
    anonymous.key_pem = None;
    let config = tls::client_config(&anonymous, &nbd_policy()).unwrap();
    let mut link = Link::connect(port, config, LIMITS).unwrap();
    let told = link.receive().unwrap_err();
    assert!(matches!(
        told,
        TlsError::AlertReceived {
            alert: Alert::CERTIFICATE_REQUIRED
        }
    ));
}
