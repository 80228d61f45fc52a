//! Our client against our server in memory: pieces of any size, ALPN, and every certificate failure
//! as both sides see it.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a panic is the report"
)]

mod common;

use std::time::Instant;

use common::{SUITES, Site, established, handshake, nbd_policy, policy_with_suite};
use tls::{
    Alert, Blame, ClientHandshake, HandshakeStep, Opened, ServerHandshake, Session, SessionLimits,
    TlsError, TlsPolicy,
};

const LIMITS: SessionLimits = SessionLimits {
    records_per_key: 1 << 23,
    key_updates_per_second: 8,
};

/// One record from one session to the other.
fn carry(from: &mut Session, to: &mut Session, data: &[u8]) {
    let mut record = vec![0; Session::sealed_len(data.len())];
    let mut out = vec![0; data.len() + 1];
    let len = from.seal(data, &mut record).unwrap();
    let opened = to.open(Instant::now(), &record[..len], &mut out).unwrap();
    assert_eq!(opened, Opened::Data { len: data.len() });
    assert_eq!(&out[..data.len()], data);
}

/// What the first record in `bytes` opens to.
fn first_record(session: &mut Session, bytes: &[u8]) -> Result<Opened, TlsError> {
    let frame = Session::frame(bytes).unwrap().unwrap();
    session.open(
        Instant::now(),
        &bytes[..frame.wire_len],
        &mut vec![0; frame.inner_len],
    )
}

#[test]
fn both_sides_agree_whatever_the_size_of_the_pieces() {
    let site = Site::new();
    let policy = nbd_policy();
    for piece in [1, 2, 5, 7, 100, 1_000, usize::MAX] {
        let outcome = handshake(
            site.server(&policy),
            site.client(&policy),
            "127.0.0.1",
            LIMITS,
            piece,
        );
        let (mut server, mut client) = (outcome.server.unwrap(), outcome.client.unwrap());
        assert_eq!(server.alpn.as_deref(), Some(&b"nbd"[..]));
        assert_eq!(client.alpn.as_deref(), Some(&b"nbd"[..]));
        assert!(server.leftover.is_empty() && client.leftover.is_empty());
        carry(&mut client.session, &mut server.session, b"from the client");
        carry(&mut server.session, &mut client.session, b"from the server");
    }
}

#[test]
fn every_suite_can_be_chosen_and_data_flows() {
    for name in SUITES {
        let (mut server, mut client) = established(&policy_with_suite(name), LIMITS);
        assert_eq!(server.session.suite_name(), name);
        assert_eq!(client.session.suite_name(), name);
        carry(&mut client.session, &mut server.session, &[7; 16_384]);
        carry(&mut server.session, &mut client.session, b"x");
    }
}

#[test]
fn the_servers_order_of_suites_decides() {
    let site = Site::new();
    let server = TlsPolicy {
        suites: Some(vec![SUITES[1], SUITES[0]]),
        ..nbd_policy()
    };
    let client = TlsPolicy {
        suites: Some(vec![SUITES[2], SUITES[0], SUITES[1]]),
        ..nbd_policy()
    };
    let outcome = handshake(
        site.server(&server),
        site.client(&client),
        "localhost",
        LIMITS,
        usize::MAX,
    );
    assert_eq!(outcome.server.unwrap().session.suite_name(), SUITES[1]);
}

#[test]
fn both_sides_learn_who_the_other_is() {
    let site = Site::new();
    let policy = nbd_policy();
    let outcome = handshake(
        site.server(&policy),
        site.client(&policy),
        "localhost",
        LIMITS,
        usize::MAX,
    );
    let (server, client) = (outcome.server.unwrap(), outcome.client.unwrap());
    let fingerprint = |name| tls::pki::fingerprint(&site.pem(name)).unwrap();
    assert_eq!(
        server.peer_fingerprint,
        Some(fingerprint("client-cert.pem"))
    );
    assert_eq!(
        client.peer_fingerprint,
        Some(fingerprint("server-cert.pem"))
    );
    assert_eq!(server.peer_name.as_deref(), Some("migratekit-client"));
    assert_eq!(client.peer_name.as_deref(), Some("localhost"));
}

#[test]
fn a_server_may_do_without_client_certificates() {
    let site = Site::new();
    let policy = TlsPolicy {
        client_certificate_required: false,
        ..nbd_policy()
    };
    let mut anonymous = site.credentials("client");
    anonymous.cert_pem = None;
    anonymous.key_pem = None;
    let client = tls::client_config(&anonymous, &policy).unwrap();
    let outcome = handshake(
        site.server(&policy),
        client,
        "localhost",
        LIMITS,
        usize::MAX,
    );
    assert_eq!(outcome.server.unwrap().peer_fingerprint, None);
    outcome.client.unwrap();
}

#[test]
fn ciphertext_behind_the_handshake_is_handed_back_untouched() {
    let site = Site::new();
    let policy = nbd_policy();
    let mut server = ServerHandshake::new(site.server(&policy), LIMITS).unwrap();
    let mut client = ClientHandshake::new(site.client(&policy), "localhost", LIMITS).unwrap();
    client.handle_input(&[]).unwrap();
    server.handle_input(&client.take_output()).unwrap();
    let HandshakeStep::Done(mut client_end) = client.handle_input(&server.take_output()).unwrap()
    else {
        panic!("the client is done after the server's flight");
    };
    // The last flight and a record and a half of data in one piece.
    let mut bytes = client.take_output();
    let mut record = [0; 64];
    let len = client_end.session.seal(b"early bird", &mut record).unwrap();
    bytes.extend(&record[..len]);
    bytes.extend(&[0x17, 3, 3, 0, 40, 1, 2]);
    let HandshakeStep::Done(mut server_end) = server.handle_input(&bytes).unwrap() else {
        panic!("the server is done");
    };
    assert_eq!(server_end.leftover.len(), len + 7);
    let opened = first_record(&mut server_end.session, &server_end.leftover).unwrap();
    assert_eq!(opened, Opened::Data { len: 10 });
    assert!(matches!(
        server.handle_input(b"more"),
        Err(TlsError::UsedAfterEnd)
    ));
}

#[test]
fn no_ticket_is_sent() {
    let site = Site::new();
    let policy = nbd_policy();
    let outcome = handshake(
        site.server(&policy),
        site.client(&policy),
        "localhost",
        LIMITS,
        usize::MAX,
    );
    outcome.server.unwrap();
    assert!(outcome.server_last.is_empty());
}

#[test]
fn a_client_without_alpn_is_accepted() {
    let site = Site::new();
    let client = TlsPolicy {
        alpn: Vec::new(),
        ..nbd_policy()
    };
    let outcome = handshake(
        site.server(&nbd_policy()),
        site.client(&client),
        "localhost",
        LIMITS,
        50,
    );
    assert_eq!(outcome.server.unwrap().alpn, None);
    assert_eq!(outcome.client.unwrap().alpn, None);
}

#[test]
fn a_client_with_unknown_alpn_gets_the_alert_for_it() {
    let site = Site::new();
    let client = TlsPolicy {
        alpn: vec![b"smtp".to_vec()],
        ..nbd_policy()
    };
    let outcome = handshake(
        site.server(&nbd_policy()),
        site.client(&client),
        "localhost",
        LIMITS,
        50,
    );
    let error = outcome.server.unwrap_err();
    assert!(matches!(error, TlsError::NoApplicationProtocol));
    assert_eq!(error.blame(), Blame::Operator);
    let told = outcome.client.unwrap_err();
    assert!(matches!(
        told,
        TlsError::AlertReceived {
            alert: Alert::NO_APPLICATION_PROTOCOL
        }
    ));
}

#[test]
fn an_expired_server_certificate_is_named_on_both_sides() {
    let (good, bad) = (Site::new(), Site::expired());
    let client = tls::client_config(
        &tls::Credentials {
            ca_pem: bad.pem("ca-cert.pem"),
            ..good.credentials("client")
        },
        &nbd_policy(),
    );
    let outcome = handshake(
        bad.server(&nbd_policy()),
        client.unwrap(),
        "localhost",
        LIMITS,
        usize::MAX,
    );
    let error = outcome.client.unwrap_err();
    assert!(
        matches!(error, TlsError::PeerCertificateExpired(_)),
        "{error:?}"
    );
    assert_eq!(error.alert(), Some(Alert::CERTIFICATE_EXPIRED));
    let told = outcome.server.unwrap_err();
    assert!(matches!(
        told,
        TlsError::AlertReceived {
            alert: Alert::CERTIFICATE_EXPIRED
        }
    ));
    assert_eq!(told.blame(), Blame::Operator);
}

#[test]
fn a_server_certificate_of_the_future_is_named() {
    let site = Site::future();
    let outcome = handshake(
        site.server(&nbd_policy()),
        site.client(&nbd_policy()),
        "localhost",
        LIMITS,
        usize::MAX,
    );
    assert!(matches!(
        outcome.client,
        Err(TlsError::PeerCertificateNotYetValid(_))
    ));
}

#[test]
fn a_server_certificate_of_another_authority_is_named_on_both_sides() {
    let (good, other) = (Site::new(), Site::new());
    let outcome = handshake(
        other.server(&nbd_policy()),
        good.client(&nbd_policy()),
        "localhost",
        LIMITS,
        usize::MAX,
    );
    let error = outcome.client.unwrap_err();
    assert!(
        matches!(error, TlsError::PeerCertificateUntrusted(_)),
        "{error:?}"
    );
    let told = outcome.server.unwrap_err();
    assert!(matches!(
        told,
        TlsError::AlertReceived {
            alert: Alert::UNKNOWN_CA
        }
    ));
}

#[test]
fn a_server_certificate_for_another_name_is_named_on_both_sides() {
    let site = Site::new();
    for name in ["other.example", "10.9.8.7"] {
        let outcome = handshake(
            site.server(&nbd_policy()),
            site.client(&nbd_policy()),
            name,
            LIMITS,
            usize::MAX,
        );
        let error = outcome.client.unwrap_err();
        assert!(
            matches!(error, TlsError::PeerCertificateWrongName(_)),
            "{error:?}"
        );
        let told = outcome.server.unwrap_err();
        assert!(matches!(
            told,
            TlsError::AlertReceived {
                alert: Alert::BAD_CERTIFICATE
            }
        ));
    }
}

/// A client is done before the server has seen its certificate; the alert comes as its first record.
fn refused_client(server: &Site, client: &tls::Credentials) -> (TlsError, TlsError) {
    let client = tls::client_config(client, &nbd_policy()).unwrap();
    let outcome = handshake(
        server.server(&nbd_policy()),
        client,
        "localhost",
        LIMITS,
        usize::MAX,
    );
    let mut client_end = outcome.client.expect("the client's handshake is over");
    let told = first_record(&mut client_end.session, &outcome.server_last).unwrap_err();
    (outcome.server.unwrap_err(), told)
}

#[test]
fn a_missing_client_certificate_is_named_on_both_sides() {
    let site = Site::new();
    let mut anonymous = site.credentials("client");
    anonymous.cert_pem = None;
    anonymous.key_pem = None;
    let (error, told) = refused_client(&site, &anonymous);
    assert!(matches!(error, TlsError::PeerCertificateMissing));
    assert!(matches!(
        told,
        TlsError::AlertReceived {
            alert: Alert::CERTIFICATE_REQUIRED
        }
    ));
    assert_eq!(told.blame(), Blame::Operator);
}

#[test]
fn a_client_certificate_of_another_authority_is_named_on_both_sides() {
    let (site, other) = (Site::new(), Site::new());
    let credentials = tls::Credentials {
        ca_pem: site.pem("ca-cert.pem"),
        ..other.credentials("client")
    };
    let (error, told) = refused_client(&site, &credentials);
    assert!(
        matches!(error, TlsError::PeerCertificateUntrusted(_)),
        "{error:?}"
    );
    assert!(matches!(
        told,
        TlsError::AlertReceived {
            alert: Alert::UNKNOWN_CA
        }
    ));
}

#[test]
fn an_expired_client_certificate_is_named_on_both_sides() {
    let (site, expired) = (Site::new(), Site::expired());
    let server = tls::server_config(
        &tls::Credentials {
            ca_pem: expired.pem("ca-cert.pem"),
            ..site.credentials("server")
        },
        &nbd_policy(),
    )
    .unwrap();
    let client = tls::client_config(
        &tls::Credentials {
            ca_pem: site.pem("ca-cert.pem"),
            ..expired.credentials("client")
        },
        &nbd_policy(),
    )
    .unwrap();
    let outcome = handshake(server, client, "localhost", LIMITS, usize::MAX);
    assert!(matches!(
        outcome.server,
        Err(TlsError::PeerCertificateExpired(_))
    ));
    let mut client_end = outcome.client.unwrap();
    let told = first_record(&mut client_end.session, &outcome.server_last).unwrap_err();
    assert!(matches!(
        told,
        TlsError::AlertReceived {
            alert: Alert::CERTIFICATE_EXPIRED
        }
    ));
}

#[test]
fn a_server_certificate_is_no_client_certificate_and_the_other_way_round() {
    let site = Site::new();
    let (error, told) = refused_client(&site, &site.credentials("server"));
    assert!(
        matches!(error, TlsError::PeerCertificateWrongPurpose(_)),
        "{error:?}"
    );
    assert!(matches!(
        told,
        TlsError::AlertReceived {
            alert: Alert::UNSUPPORTED_CERTIFICATE
        }
    ));
    let server = tls::server_config(&site.credentials("client"), &nbd_policy()).unwrap();
    let outcome = handshake(
        server,
        site.client(&nbd_policy()),
        "localhost",
        LIMITS,
        usize::MAX,
    );
    let error = outcome.client.unwrap_err();
    assert!(
        matches!(
            error,
            TlsError::PeerCertificateWrongPurpose(_) | TlsError::PeerCertificateWrongName(_)
        ),
        "{error:?}"
    );
}

#[test]
fn what_is_not_tls_is_called_so() {
    let site = Site::new();
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"NBDMAGICIHAVEOPT", &[0; 16]] {
        let mut server = ServerHandshake::new(site.server(&nbd_policy()), LIMITS).unwrap();
        assert!(matches!(server.handle_input(bytes), Err(TlsError::NotTls)));
        let mut client =
            ClientHandshake::new(site.client(&nbd_policy()), "localhost", LIMITS).unwrap();
        assert!(matches!(client.handle_input(bytes), Err(TlsError::NotTls)));
    }
}

#[test]
fn a_handshake_that_never_ends_is_cut_off() {
    let site = Site::new();
    let mut server = ServerHandshake::new(site.server(&nbd_policy()), LIMITS).unwrap();
    // A ClientHello that declares 16 MiB, in full records.
    let mut record = vec![22, 3, 1, 0x40, 0];
    record.resize(5 + 16_384, 0xff);
    record[5] = 1;
    let error = (0..100).find_map(|_| server.handle_input(&record).err());
    assert!(error.is_some());
}

#[test]
fn an_unusable_name_is_refused_before_anything_is_sent() {
    let site = Site::new();
    for name in ["", "two words", "-"] {
        let refused = ClientHandshake::new(site.client(&nbd_policy()), name, LIMITS).err();
        assert!(
            matches!(refused, Some(TlsError::BadName { .. })),
            "{name:?}"
        );
    }
}
