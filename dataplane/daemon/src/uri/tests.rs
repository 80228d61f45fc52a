//! Tests of the URI parser: tables of good and bad texts, and properties over any text.

use proptest::prelude::*;

use super::*;
use crate::exit::Exit;

fn nbd(text: &str) -> NbdUri {
    match text.parse::<Uri>() {
        Ok(Uri::Nbd(nbd)) => nbd,
        other => panic!("{text}: {other:?}"),
    }
}

fn error(text: &str) -> UriError {
    match text.parse::<Uri>() {
        Err(error) => error,
        Ok(uri) => panic!("{text} was read as {uri:?}"),
    }
}

#[test]
fn whatever_has_no_scheme_is_a_path() {
    for text in [
        "/dev/vdb", "disk.img", "./a:b", "/a:b", "a/b:c", "./-x", "~/x", "a b", "1:2",
    ] {
        assert_eq!(text.parse(), Ok(Uri::Path(PathBuf::from(text))), "{text}");
    }
}

#[test]
fn null_takes_an_optional_size() {
    assert_eq!("null:".parse(), Ok(Uri::Null { size_bytes: None }));
    assert_eq!(
        "null:1G".parse(),
        Ok(Uri::Null {
            size_bytes: Some(1 << 30)
        })
    );
    assert!(matches!(error("null:big"), UriError::NullSize(_)));
}

#[test]
fn each_scheme_has_its_port_and_transport() {
    assert_eq!(
        nbd("nbd://127.0.0.1/x").transport,
        Transport::Plain {
            host: Host::Ip([127, 0, 0, 1].into()),
            port: 10_809
        }
    );
    let peer = |host: &str, port| TlsPeer {
        host: Host::Name(host.to_owned()),
        port,
        certificates: None,
        hostname: None,
    };
    assert_eq!(
        nbd("nbds://H.example/x").transport,
        Transport::StartTls(peer("h.example", 10_809))
    );
    assert_eq!(
        nbd("mk://h/x").transport,
        Transport::TlsFirst(peer("h", 443))
    );
    assert_eq!(
        nbd("MK://h:8443/x").transport,
        Transport::TlsFirst(peer("h", 8443))
    );
    assert_eq!(
        nbd("nbd+unix:///x?socket=/run/a%20b").transport,
        Transport::Unix {
            socket: "/run/a b".into()
        }
    );
}

#[test]
fn an_ipv6_address_stands_in_brackets() {
    let uri = nbd("mk://[2001:db8::1]:8443/disk");
    assert_eq!(uri.to_string(), "mk://[2001:db8::1]:8443/disk");
    assert!(nbd("nbd://[::1]/").to_string().starts_with("nbd://[::1]"));
    assert!(nbd("nbd://[::ffff:127.0.0.1]/").export.is_empty());
    assert!(matches!(
        error("mk://2001:db8::1/x"),
        UriError::BareV6 { .. }
    ));
    for text in [
        "mk://[::1/x",
        "mk://[::1]8443/x",
        "mk://[zz]/x",
        "mk://[fe80::1%25eth0]/x",
    ] {
        assert!(matches!(error(text), UriError::BadHost { .. }), "{text}");
    }
}

#[test]
fn exports_are_percent_decoded_and_may_be_empty() {
    let cases = [
        ("mk://h", ""),
        ("mk://h/", ""),
        ("mk://h/a%20b", "a b"),
        ("mk://h/a/b", "a/b"),
        ("mk://h//abs", "/abs"),
        ("mk://h/%C3%A4", "ä"),
        ("mk://h/a+b", "a+b"),
        ("mk://h/100%25", "100%"),
    ];
    for (text, export) in cases {
        assert_eq!(nbd(text).export, export, "{text}");
    }
    for text in ["mk://h/%", "mk://h/%4", "mk://h/%zz", "mk://h/a%"] {
        assert!(matches!(error(text), UriError::BadPercent { .. }), "{text}");
    }
    assert_eq!(error("mk://h/%FF"), UriError::ExportNotUtf8);
    assert_eq!(error("mk://h/%00"), UriError::ZeroByte);
    let long = format!("mk://h/{}", "a".repeat(4097));
    assert!(matches!(error(&long), UriError::ExportTooLong { .. }));
}

#[test]
fn certificates_and_name_come_from_the_query() {
    let uri = nbd("nbds://10.0.0.1/x?tls-certificates=/etc/pki%20a&tls-hostname=disk.example");
    let Transport::StartTls(peer) = &uri.transport else {
        panic!("{uri:?}")
    };
    assert_eq!(peer.certificates.as_deref(), Some(Path::new("/etc/pki a")));
    assert_eq!(peer.certificate_name(), "disk.example");
    assert_eq!(uri.to_string().parse(), Ok(Uri::Nbd(uri)));
}

#[test]
fn a_certificate_is_for_the_host_when_nothing_else_is_said() {
    let Transport::TlsFirst(peer) = nbd("mk://[::1]/x").transport else {
        panic!()
    };
    assert_eq!(peer.certificate_name(), "::1");
}

#[test]
fn unknown_or_repeated_keys_are_errors() {
    for text in [
        "mk://h/x?tls=1",
        "mk://h/x?socket=/s",
        "nbd://localhost/x?tls-certificates=/d",
        "nbd+unix:///x?socket=/s&sock=/t",
        "mk://h/x?=",
    ] {
        assert!(matches!(error(text), UriError::UnknownKey { .. }), "{text}");
    }
    assert!(matches!(
        error("nbd+unix:///x?socket=/s&socket=/t"),
        UriError::KeyTwice { .. }
    ));
    assert!(matches!(
        error("mk://h/x?tls-certificates="),
        UriError::EmptyValue { .. }
    ));
}

#[test]
fn a_unix_uri_has_a_socket_and_no_host() {
    assert_eq!(error("nbd+unix:///x"), UriError::NoSocket);
    assert_eq!(error("nbd+unix:///x?socket="), UriError::NoSocket);
    assert!(matches!(
        error("nbd+unix://h/x?socket=/s"),
        UriError::HostWithSocket { .. }
    ));
    let long = format!("nbd+unix:///x?socket=/{}", "s".repeat(107));
    assert!(matches!(error(&long), UriError::SocketPathTooLong { .. }));
}

#[test]
fn plain_nbd_leaves_no_machine() {
    for text in [
        "nbd://localhost/x",
        "nbd://127.9.9.9/x",
        "nbd://LOCALHOST:1/x",
    ] {
        assert!(
            matches!(nbd(text).transport, Transport::Plain { .. }),
            "{text}"
        );
    }
    for text in [
        "nbd://192.0.2.1/x",
        "nbd://example.com/x",
        "nbd://0.0.0.0/x",
        "nbd://[::]/x",
    ] {
        let failure = error(text).into_failure(text);
        assert_eq!(failure.exit(), Exit::Refused, "{text}");
        assert!(failure.to_string().contains("mk://"), "{failure}");
    }
}

#[test]
fn odd_texts_are_refused_with_a_remedy() {
    let cases = [
        ("", "give a path"),
        ("-x", "./-x"),
        ("http://h/x", "./http://h/x"),
        ("file:///x", "use a path"),
        ("c:disk", "./c:disk"),
        ("mk:h/x", "mk://HOST/EXPORT"),
        ("mk:///x", "behind //"),
        ("mk://u@h/x", "client certificates"),
        ("mk://h/x#y", "%23"),
        ("mk://h:0/x", "1 to 65535"),
        ("mk://h:/x", "1 to 65535"),
        ("mk://h:+1/x", "1 to 65535"),
        ("mk://h:65536/x", "1 to 65535"),
        ("mk://a..b/x", "dns name"),
        ("mk://a b/x", "dns name"),
        ("mk://10.1/x", "dns name"),
        ("mk://$(id)/x", "dns name"),
    ];
    for (text, remedy) in cases {
        let failure = error(text).into_failure(text);
        assert_eq!(failure.exit(), Exit::Usage, "{text}");
        assert!(failure.to_string().contains(remedy), "{text}: {failure}");
    }
}

#[test]
fn a_path_need_not_be_text() {
    let bytes = std::ffi::OsStr::from_bytes(b"/d/\xff");
    assert_eq!(Uri::from_os(bytes), Ok(Uri::Path(PathBuf::from(bytes))));
    assert!(Uri::from_os(std::ffi::OsStr::from_bytes(b"-\xff")).is_err());
}

fn any_host() -> impl Strategy<Value = Host> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|octets| Host::Ip(octets.into())),
        any::<[u16; 8]>().prop_map(|segments| Host::Ip(segments.into())),
        "[a-z][a-z0-9]{0,8}(\\.[a-z][a-z0-9_]{0,8}){0,3}".prop_map(Host::Name),
    ]
}

fn any_path() -> impl Strategy<Value = PathBuf> {
    proptest::collection::vec(1_u8..=255, 1..60)
        .prop_map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
}

fn any_peer() -> impl Strategy<Value = TlsPeer> {
    let name = proptest::option::of(any_host().prop_map(|host| host.bare()));
    (any_host(), 1_u16.., proptest::option::of(any_path()), name).prop_map(
        |(host, port, certificates, hostname)| TlsPeer {
            host,
            port,
            certificates,
            hostname,
        },
    )
}

fn any_transport() -> impl Strategy<Value = Transport> {
    prop_oneof![
        any_path().prop_map(|socket| Transport::Unix { socket }),
        (any::<[u8; 3]>(), 1_u16..).prop_map(|(low, port)| Transport::Plain {
            host: Host::Ip([127, low[0], low[1], low[2]].into()),
            port,
        }),
        any_peer().prop_map(Transport::StartTls),
        any_peer().prop_map(Transport::TlsFirst),
    ]
}

proptest! {
    #[test]
    fn every_nbd_uri_survives_being_written_and_read(
        transport in any_transport(),
        export in "[^\0]{0,40}",
    ) {
        let uri = Uri::Nbd(NbdUri { transport, export });
        prop_assert_eq!(uri.to_string().parse::<Uri>(), Ok(uri));
    }

    #[test]
    fn any_text_is_read_or_refused_with_a_remedy(text in "\\PC{0,60}") {
        if let Err(error) = text.parse::<Uri>() {
            prop_assert!(error.into_failure(&text).to_string().contains(';'));
        }
    }

    #[test]
    fn garbage_behind_a_scheme_never_panics_and_reads_back(
        scheme in "(nbd|nbds|mk|nbd\\+unix)://",
        rest in "[ -~]{0,60}",
    ) {
        if let Ok(uri) = format!("{scheme}{rest}").parse::<Uri>() {
            prop_assert_eq!(uri.to_string().parse::<Uri>(), Ok(uri));
        }
    }
}
