//! A site's files, more certificates of the same authority, and what configurations refuse.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a panic is the report"
)]

mod common;

use std::time::SystemTime;

use common::{Site, handshake, nbd_policy};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tls::{Blame, Credentials, SessionLimits, TlsError, TlsPolicy, client_config, server_config};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

fn der(pem: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem).unwrap()
}

#[test]
fn a_site_has_six_files_and_the_keys_are_secret() {
    let names: Vec<_> = Site::new()
        .0
        .into_iter()
        .map(|(name, _, secret)| (name, secret))
        .collect();
    let expected = [
        ("ca-cert.pem", false),
        ("ca-key.pem", true),
        ("server-cert.pem", false),
        ("server-key.pem", true),
        ("client-cert.pem", false),
        ("client-key.pem", true),
    ];
    assert_eq!(names, expected);
}

#[test]
fn leaf_certificates_carry_what_qemu_and_libvirt_check() {
    let site = Site::new();
    for (file, is_server) in [("server-cert.pem", true), ("client-cert.pem", false)] {
        let der = der(&site.pem(file));
        let (_, certificate) = X509Certificate::from_der(&der).unwrap();
        let usage = certificate.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && usage.key_encipherment());
        assert!(!usage.key_cert_sign());
        let purpose = certificate.extended_key_usage().unwrap().unwrap().value;
        assert_eq!(
            (purpose.server_auth, purpose.client_auth),
            (is_server, !is_server)
        );
        assert!(!certificate.basic_constraints().unwrap().unwrap().value.ca);
        let days = certificate.validity().not_after.timestamp()
            - certificate.validity().not_before.timestamp();
        assert_eq!(days, 30 * 86_400 + 3_600);
    }
}

#[test]
fn the_server_certificate_carries_names_and_addresses() {
    let der = der(&Site::new().pem("server-cert.pem"));
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let names = &certificate
        .subject_alternative_name()
        .unwrap()
        .unwrap()
        .value
        .general_names;
    assert!(names.contains(&GeneralName::DNSName("localhost")));
    assert!(names.contains(&GeneralName::IPAddress(&[127, 0, 0, 1])));
    assert_eq!(names.len(), 3);
}

#[test]
fn the_authority_may_sign_certificates_and_outlives_them() {
    let der = der(&Site::new().pem("ca-cert.pem"));
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    assert!(certificate.is_ca());
    assert!(
        certificate
            .key_usage()
            .unwrap()
            .unwrap()
            .value
            .key_cert_sign()
    );
    let seconds = certificate.validity().not_after.timestamp()
        - certificate.validity().not_before.timestamp();
    assert!(seconds >= 3_650 * 86_400);
}

#[test]
fn more_clients_of_the_same_authority_are_accepted_and_told_apart() {
    let site = Site::new();
    let text = |name| String::from_utf8(site.pem(name)).unwrap();
    let (ca_cert, ca_key) = (text("ca-cert.pem"), text("ca-key.pem"));
    let mut seen = Vec::new();
    for name in ["vma-1", "vma-2"] {
        let issued =
            tls::pki::issue_client(&ca_cert, &ca_key, name, 10, SystemTime::now()).unwrap();
        let credentials = Credentials {
            ca_pem: site.pem("ca-cert.pem"),
            cert_pem: Some(issued.cert_pem.clone().into_bytes()),
            key_pem: Some(issued.key_pem.into_bytes()),
        };
        let client = client_config(&credentials, &nbd_policy()).unwrap();
        let outcome = handshake(
            site.server(&nbd_policy()),
            client,
            "localhost",
            SessionLimits::default(),
            usize::MAX,
        );
        let server = outcome.server.unwrap();
        assert_eq!(server.peer_name.as_deref(), Some(name));
        let expected = tls::pki::fingerprint(issued.cert_pem.as_bytes()).unwrap();
        assert_eq!(server.peer_fingerprint, Some(expected));
        seen.push(expected);
    }
    assert_ne!(seen[0], seen[1]);
}

#[test]
fn a_fingerprint_is_the_same_from_pem_and_der() {
    let pem = Site::new().pem("client-cert.pem");
    assert_eq!(
        tls::pki::fingerprint(&pem).unwrap(),
        tls::pki::fingerprint(&der(&pem)).unwrap()
    );
    assert!(matches!(
        tls::pki::fingerprint(b"no certificate"),
        Err(TlsError::BadPem { .. })
    ));
}

#[test]
fn names_and_validities_that_make_no_sense_are_refused() {
    let site = |hosts: &[&str], days| {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        tls::pki::new_site(&hosts, days, SystemTime::now()).map(|_| ())
    };
    assert!(matches!(
        site(&["two words"], 10),
        Err(TlsError::BadName { .. })
    ));
    assert!(matches!(site(&[], 10), Err(TlsError::Missing { .. })));
    for days in [0, 36_501, u32::MAX] {
        let error = site(&["localhost"], days).unwrap_err();
        assert!(matches!(error, TlsError::BadValidity { .. }));
        assert_eq!(error.blame(), Blame::Operator);
    }
    assert!(matches!(
        tls::pki::issue_client("no pem", "no pem", "x", 10, SystemTime::now()),
        Err(TlsError::Issue { .. })
    ));
}

#[test]
fn a_configuration_says_which_part_is_wrong() {
    let site = Site::new();
    let other = Site::new();
    let policy = nbd_policy();
    let good = site.credentials("server");
    let refused = |credentials: Credentials| server_config(&credentials, &policy).unwrap_err();

    let error = refused(Credentials {
        ca_pem: b"nothing".to_vec(),
        ..good.clone()
    });
    assert!(matches!(
        error,
        TlsError::BadPem {
            what: "ca-cert.pem",
            ..
        }
    ));
    let error = refused(Credentials {
        cert_pem: Some(Vec::new()),
        ..good.clone()
    });
    assert!(matches!(
        error,
        TlsError::BadPem {
            what: "certificate",
            ..
        }
    ));
    let error = refused(Credentials {
        key_pem: Some(b"x".to_vec()),
        ..good.clone()
    });
    assert!(matches!(
        error,
        TlsError::BadPem {
            what: "private key",
            ..
        }
    ));
    let error = refused(Credentials {
        key_pem: None,
        ..good.clone()
    });
    assert!(matches!(error, TlsError::Missing { .. }));
    let error = refused(Credentials {
        cert_pem: None,
        key_pem: None,
        ..good.clone()
    });
    assert!(matches!(error, TlsError::Missing { .. }));
    let error = refused(Credentials {
        key_pem: Some(other.pem("server-key.pem")),
        ..good
    });
    assert!(matches!(error, TlsError::BadCredentials { .. }));
    assert_eq!(error.blame(), Blame::Operator);
    assert!(error.to_string().contains("belong together"));
}

#[test]
fn suites_are_chosen_by_name_and_unknown_ones_refused() {
    let site = Site::new();
    let with = |suites| {
        let policy = TlsPolicy {
            suites: Some(suites),
            ..nbd_policy()
        };
        client_config(&site.credentials("client"), &policy)
    };
    let chosen = with(vec!["tls_aes_256_gcm_sha384"]).unwrap();
    assert_eq!(chosen.crypto_provider().cipher_suites.len(), 1);
    assert!(matches!(
        with(vec!["rc4"]),
        Err(TlsError::UnknownSuite { .. })
    ));
    assert!(matches!(with(Vec::new()), Err(TlsError::Missing { .. })));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn aes_128_comes_first_where_the_cpu_has_aes() {
    let site = Site::new();
    let first = site.server(&nbd_policy()).crypto_provider().cipher_suites[0].suite();
    let expected = if std::arch::is_x86_feature_detected!("aes") {
        rustls::CipherSuite::TLS13_AES_128_GCM_SHA256
    } else {
        rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    };
    assert_eq!(first, expected);
}
