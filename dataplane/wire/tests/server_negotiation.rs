//! Options as a server answers them.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use support::*;
use wire::proto::OptionCode;
use wire::{
    BlockSizes, ExportInfo, ExportRefusal, Mode, Query, ServerHandshake, ServerHandshakeConfig,
    ServerHandshakeEvent, ServerParams, TlsPolicy, TransmissionFlags, WireError,
};

const ACK: u32 = 1;
const UNSUP: u32 = 0x8000_0001;
const POLICY: u32 = 0x8000_0002;
const INVALID: u32 = 0x8000_0003;
const TLS_REQD: u32 = 0x8000_0005;
const UNKNOWN: u32 = 0x8000_0006;

fn plain() -> ServerHandshake {
    greeted(TlsPolicy::NotOffered)
}

/// Sends an option, answers what the server asks, returns its replies.
fn ask(server: &mut ServerHandshake, code: u32, data: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let input = option(code, data);
    assert_eq!(server.handle_input(&input), Ok(input.len()));
    if !server.wants_input() {
        match server.poll_event() {
            Some(ServerHandshakeEvent::ExportQuery { name, .. }) => {
                assert!(!server.wants_input(), "an answer is due");
                let answer = if name == "disk" {
                    Ok(info())
                } else {
                    Err(ExportRefusal::Unknown)
                };
                server.answer_export(answer);
            }
            Some(ServerHandshakeEvent::ListQuery) => {
                server.answer_list(Ok(&[("disk".to_owned(), "text".to_owned())]));
            }
            other => panic!("{other:?}"),
        }
    }
    replies(&server.take_output())
}

/// The code of the last reply.
fn code(server: &mut ServerHandshake, option: u32, data: &[u8]) -> u32 {
    let replies = ask(server, option, data);
    let (found, code, _) = replies.last().unwrap();
    assert_eq!(*found, option);
    *code
}

/// Opens the export with GO.
fn go(server: &mut ServerHandshake, kinds: &[u16]) -> ServerParams {
    assert_eq!(code(server, 7, &export_request("disk", kinds)), ACK);
    match server.poll_event() {
        Some(ServerHandshakeEvent::Done(params)) => params,
        other => panic!("{other:?}"),
    }
}

fn ended(server: &mut ServerHandshake) -> ServerHandshakeEvent {
    assert!(!server.wants_input());
    let event = server.poll_event().unwrap();
    assert_eq!(server.handle_input(b"more"), Ok(0), "nothing more is read");
    event
}

#[test]
fn the_greeting_offers_fixed_newstyle_and_no_zeroes() {
    let greeting = server(TlsPolicy::Forced).take_output();
    assert_eq!(greeting, b"NBDMAGICIHAVEOPT\0\x03");
}

#[test]
fn unknown_client_flags_drop_the_connection() {
    for flags in [4_u32, 0x8000_0000, 0xffff_ffff] {
        let mut server = server(TlsPolicy::NotOffered);
        let error = WireError::UnknownClientFlags { found: flags };
        assert_eq!(server.handle_input(&flags.to_be_bytes()), Err(error));
    }
}

#[test]
fn a_client_without_fixed_newstyle_may_only_name_its_export() {
    let mut server = server(TlsPolicy::NotOffered);
    server.handle_input(&[0; 4]).unwrap();
    server.handle_input(&option(3, &[])).unwrap();
    let forbidden = WireError::OptionForbidden {
        option: OptionCode::LIST,
    };
    assert_eq!(
        ended(&mut server),
        ServerHandshakeEvent::Terminate(forbidden)
    );
}

#[test]
fn export_name_is_answered_with_and_without_the_zeroes() {
    for (flags, len) in [(0_u8, 134), (1, 134), (2, 10), (3, 10)] {
        let mut server = server(TlsPolicy::NotOffered);
        server.take_output();
        server.handle_input(&[0, 0, 0, flags]).unwrap();
        server.handle_input(&option(1, b"disk")).unwrap();
        let query = Query::ExportName;
        let asked = ServerHandshakeEvent::ExportQuery {
            name: "disk".to_owned(),
            query,
        };
        assert_eq!(server.poll_event(), Some(asked));
        server.answer_export(Ok(info()));
        let output = server.take_output();
        assert_eq!(output.len(), len);
        assert_eq!(output[..8], SIZE_BYTES.to_be_bytes());
        assert!(output[10..].iter().all(|byte| *byte == 0));
        let ServerHandshakeEvent::Done(params) = ended(&mut server) else {
            panic!()
        };
        assert_eq!(
            (params.mode, params.block_sizes_negotiated),
            (Mode::Simple, false)
        );
        assert!(
            !params.info.flags.contains(TransmissionFlags::SEND_DF),
            "needs structured"
        );
    }
}

#[test]
fn export_name_of_an_unknown_export_ends_the_connection_without_a_word() {
    let mut server = plain();
    assert_eq!(ask(&mut server, 1, b"other"), []);
    let refusal = ExportRefusal::Unknown;
    let refused = WireError::ExportRefused { refusal };
    assert_eq!(ended(&mut server), ServerHandshakeEvent::Terminate(refused));
}

#[test]
fn abort_is_acknowledged_with_or_without_data_and_even_before_tls() {
    for (tls, data) in [
        (TlsPolicy::NotOffered, &b"bye"[..]),
        (TlsPolicy::Forced, b""),
    ] {
        let mut server = greeted(tls);
        server.handle_input(&option(2, data)).unwrap();
        assert_eq!(replies(&server.take_output()), [(2, ACK, vec![])]);
        assert_eq!(ended(&mut server), ServerHandshakeEvent::Aborted);
    }
}

#[test]
fn list_names_exports_unless_it_is_off_or_has_data() {
    let mut server = plain();
    let entry = [&prefixed("disk")[..], b"text"].concat();
    assert_eq!(ask(&mut server, 3, &[]), [(3, 2, entry), (3, ACK, vec![])]);
    assert_eq!(code(&mut server, 3, b"x"), INVALID);
    let (tls, list, extended_headers) = (TlsPolicy::NotOffered, false, true);
    let mut server = ServerHandshake::new(ServerHandshakeConfig {
        tls,
        list,
        extended_headers,
    });
    server.take_output();
    server.handle_input(&[0, 0, 0, 3]).unwrap();
    assert_eq!(code(&mut server, 3, &[]), POLICY);
}

#[test]
fn a_listing_that_is_too_long_does_not_pass_for_a_complete_one() {
    let mut server = plain();
    server.handle_input(&option(3, &[])).unwrap();
    server.poll_event();
    let exports = vec![("n".repeat(4096), "d".repeat(10_000)); 100];
    server.answer_list(Ok(&exports));
    let output = server.take_output();
    assert!(output.len() <= wire::limits::LIST_REPLY_BYTES_MAX + 100);
    assert_eq!(replies(&output).last().unwrap().1, 0x8000_0009, "TOO_BIG");
}

#[test]
fn names_that_cannot_be_said_are_left_out_of_a_listing() {
    let mut server = plain();
    server.handle_input(&option(3, &[])).unwrap();
    server.poll_event();
    let names = ["a\0b".to_owned(), "n".repeat(4097), "good".to_owned()];
    server.answer_list(Ok(&names.map(|name| (name, String::new()))));
    let entries = replies(&server.take_output());
    assert_eq!(entries, [(3, 2, prefixed("good")), (3, ACK, vec![])]);
}

#[test]
fn forced_tls_refuses_everything_before_tls_but_starttls_and_abort() {
    let mut server = greeted(TlsPolicy::Forced);
    for option in [3, 4, 6, 7, 8, 9, 10, 11, 12, 99] {
        assert_eq!(
            code(&mut server, option, &export_request("disk", &[])),
            TLS_REQD
        );
    }
    server.handle_input(&option(1, b"disk")).unwrap();
    let required = WireError::TlsRequired {
        option: OptionCode::EXPORT_NAME,
    };
    assert_eq!(
        ended(&mut server),
        ServerHandshakeEvent::Terminate(required)
    );
}

#[test]
fn starttls_is_offered_once_and_only_where_configured() {
    assert_eq!(code(&mut plain(), 5, &[]), POLICY);
    let mut server = greeted(TlsPolicy::Forced);
    assert_eq!(code(&mut server, 5, b"x"), INVALID, "no data allowed");
    server.handle_input(&option(5, &[])).unwrap();
    assert_eq!(server.poll_event(), Some(ServerHandshakeEvent::StartTls));
    assert!(!server.wants_input());
    server.take_output();
    server.tls_established(0).unwrap();
    assert_eq!(code(&mut server, 5, &[]), INVALID, "a second time");
    let params = go(&mut server, &[]);
    assert_eq!(params.export_name, "disk");
}

#[test]
fn tls_out_of_turn_is_an_error() {
    assert_eq!(plain().tls_established(0), Err(WireError::TlsOutOfTurn));
}

#[test]
fn info_and_go_agree_and_tell_what_was_asked() {
    let mut server = plain();
    let size = SIZE_BYTES.to_be_bytes();
    let flags = info()
        .flags
        .without(TransmissionFlags::SEND_DF)
        .0
        .to_be_bytes();
    let export = [&[0, 0][..], &size, &flags].concat();
    let block = [&[0, 3][..], &[0, 0, 2, 0], &[0, 0, 0x10, 0], &[2, 0, 0, 0]].concat();
    let short = [
        (6, 3, export.clone()),
        (6, 3, block.clone()),
        (6, ACK, vec![]),
    ];
    assert_eq!(ask(&mut server, 6, &export_request("disk", &[])), short);
    let name = b"\0\x01disk".to_vec();
    let text = b"\0\x02a disk".to_vec();
    for option in [6, 7] {
        let found = ask(
            &mut server,
            option,
            &export_request("disk", &[1, 2, 3, 999]),
        );
        let facts = [export.clone(), block.clone(), name.clone(), text.clone()];
        let mut expected: Vec<_> = facts.into_iter().map(|fact| (option, 3, fact)).collect();
        expected.push((option, ACK, vec![]));
        assert_eq!(found, expected);
    }
    let ServerHandshakeEvent::Done(params) = ended(&mut server) else {
        panic!()
    };
    assert!(params.block_sizes_negotiated);
}

#[test]
fn only_block_sizes_asked_for_in_go_bind_the_client() {
    let mut server = plain();
    assert_eq!(code(&mut server, 6, &export_request("disk", &[3])), ACK);
    assert!(!go(&mut server, &[]).block_sizes_negotiated);
}

#[test]
fn refusals_have_their_codes_and_the_conversation_goes_on() {
    let mut server = plain();
    let cases = [
        (ExportRefusal::Unknown, UNKNOWN),
        (ExportRefusal::Policy, POLICY),
        (ExportRefusal::Shutdown, 0x8000_0007),
        (ExportRefusal::Platform, 0x8000_0004),
    ];
    for (refusal, expected) in cases {
        server
            .handle_input(&option(7, &export_request("disk", &[])))
            .unwrap();
        server.poll_event().unwrap();
        server.answer_export(Err(refusal));
        assert_eq!(replies(&server.take_output())[0].1, expected);
        assert!(server.wants_input());
    }
    go(&mut server, &[]);
}

#[test]
fn an_export_that_the_protocol_cannot_describe_is_not_opened() {
    let bad_block = BlockSizes {
        min: 3,
        preferred: 4096,
        payload_max: 1 << 20,
    };
    let bad = [
        ExportInfo {
            size_bytes: 1 << 63,
            ..info()
        },
        ExportInfo {
            block: bad_block,
            ..info()
        },
    ];
    for info in bad {
        let mut server = plain();
        server
            .handle_input(&option(7, &export_request("disk", &[])))
            .unwrap();
        server.poll_event().unwrap();
        server.answer_export(Ok(info));
        assert_eq!(replies(&server.take_output())[0].1, 0x8000_0004, "PLATFORM");
    }
}

#[test]
fn df_is_offered_only_where_it_can_be_kept() {
    for (payload_max, is_offered) in [(32_768, false), (65_536, true), (u32::MAX, true)] {
        let mut server = plain();
        ask(&mut server, 8, &[]);
        server
            .handle_input(&option(7, &export_request("disk", &[])))
            .unwrap();
        server.poll_event().unwrap();
        let block = BlockSizes {
            min: 1,
            preferred: 4096,
            payload_max,
        };
        server.answer_export(Ok(ExportInfo { block, ..info() }));
        let ServerHandshakeEvent::Done(params) = ended(&mut server) else {
            panic!()
        };
        let found = params.info.flags.contains(TransmissionFlags::SEND_DF);
        assert_eq!(found, is_offered, "{payload_max}");
    }
}

#[test]
fn modes_are_negotiated_in_any_order() {
    let mut server = plain();
    assert_eq!(code(&mut server, 8, b"x"), INVALID);
    assert_eq!(code(&mut server, 11, b"x"), INVALID);
    assert_eq!(code(&mut server, 8, &[]), ACK);
    assert_eq!(code(&mut server, 11, &[]), ACK);
    assert_eq!(code(&mut server, 8, &[]), 0x8000_000a, "EXT_HEADER_REQD");
    assert_eq!(go(&mut server, &[]).mode, Mode::Extended);
    let mut server = plain();
    assert_eq!(code(&mut server, 8, &[]), ACK);
    assert_eq!(go(&mut server, &[]).mode, Mode::Structured);
}

#[test]
fn export_name_after_extended_headers_ends_the_connection() {
    let mut server = plain();
    assert_eq!(code(&mut server, 11, &[]), ACK);
    server.handle_input(&option(1, b"disk")).unwrap();
    let forbidden = WireError::OptionForbidden {
        option: OptionCode::EXPORT_NAME,
    };
    assert_eq!(
        ended(&mut server),
        ServerHandshakeEvent::Terminate(forbidden)
    );
}

#[test]
fn a_server_without_extended_headers_says_so() {
    let (tls, list, extended_headers) = (TlsPolicy::NotOffered, true, false);
    let mut server = ServerHandshake::new(ServerHandshakeConfig {
        tls,
        list,
        extended_headers,
    });
    server.take_output();
    server.handle_input(&[0, 0, 0, 3]).unwrap();
    assert_eq!(code(&mut server, 11, &[]), UNSUP);
}

#[test]
fn withdrawn_and_unknown_options_are_consumed_and_unsupported() {
    let mut server = plain();
    for option in [0, 4, 12, 99, u32::MAX] {
        assert_eq!(code(&mut server, option, &[7; 1000]), UNSUP);
    }
    go(&mut server, &[]);
}

#[test]
fn contexts_are_selected_and_listed() {
    let granted = |option, id: u32| {
        vec![
            (
                option,
                4,
                [&id.to_be_bytes()[..], b"base:allocation"].concat(),
            ),
            (option, ACK, vec![]),
        ]
    };
    let nothing = |option| vec![(option, ACK, vec![])];
    let (list, set) = (9, 10);
    let cases = [
        (set, vec!["base:allocation"], granted(set, 1)),
        (
            set,
            vec!["x-a:b", "base:allocation", "qemu:"],
            granted(set, 1),
        ),
        (set, vec!["base:"], nothing(set)),
        (set, vec!["base:other"], nothing(set)),
        (set, vec![], nothing(set)),
        (list, vec![], granted(list, 0)),
        (list, vec!["base:"], granted(list, 0)),
        (list, vec!["base:allocation"], granted(list, 0)),
        (list, vec!["qemu:dirty-bitmap:"], nothing(list)),
    ];
    for (option, queries, expected) in cases {
        let mut server = plain();
        ask(&mut server, 8, &[]);
        let found = ask(&mut server, option, &context_request("disk", &queries));
        assert_eq!(found, expected, "{queries:?}");
        let is_granted = option == set && found.len() == 2;
        assert_eq!(
            go(&mut server, &[]).base_allocation,
            is_granted.then_some(1)
        );
    }
}

#[test]
fn a_query_without_a_namespace_is_invalid() {
    let mut server = plain();
    ask(&mut server, 8, &[]);
    for query in ["", "base", ":allocation"] {
        assert_eq!(
            code(&mut server, 10, &context_request("disk", &[query])),
            INVALID
        );
    }
}

#[test]
fn contexts_need_structured_replies_and_an_export() {
    let contexts = context_request("disk", &["base:allocation"]);
    let mut server = plain();
    assert_eq!(code(&mut server, 10, &contexts), INVALID);
    ask(&mut server, 11, &[]);
    assert_eq!(code(&mut server, 10, &contexts), ACK);
    let other = context_request("other", &["base:allocation"]);
    assert_eq!(code(&mut server, 10, &other), UNKNOWN);
    assert_eq!(
        go(&mut server, &[]).base_allocation,
        None,
        "a failed SET clears the set"
    );
}

#[test]
fn contexts_hold_for_the_export_they_were_selected_for() {
    let mut server = plain();
    ask(&mut server, 8, &[]);
    ask(
        &mut server,
        10,
        &context_request("disk", &["base:allocation"]),
    );
    server
        .handle_input(&option(7, &export_request("", &[])))
        .unwrap();
    server.poll_event().unwrap();
    server.answer_export(Ok(info()));
    let ServerHandshakeEvent::Done(params) = ended(&mut server) else {
        panic!()
    };
    assert_eq!(
        (params.export_name.as_str(), params.base_allocation),
        ("", None)
    );
}

#[test]
fn a_malformed_set_clears_the_set_too() {
    let mut server = plain();
    ask(&mut server, 8, &[]);
    ask(
        &mut server,
        10,
        &context_request("disk", &["base:allocation"]),
    );
    assert_eq!(code(&mut server, 10, b"junk"), INVALID);
    assert_eq!(go(&mut server, &[]).base_allocation, None);
}

#[test]
fn bytes_behind_go_are_left_for_the_transmission_phase() {
    let mut server = plain();
    let option = option(7, &export_request("disk", &[]));
    let input = [&option[..], b"rest"].concat();
    assert_eq!(server.handle_input(&input), Ok(option.len()));
    server.poll_event().unwrap();
    server.answer_export(Ok(info()));
    assert_eq!(server.handle_input(b"rest"), Ok(0));
    assert!(matches!(
        server.poll_event(),
        Some(ServerHandshakeEvent::Done(_))
    ));
}

#[test]
fn a_bad_option_magic_drops_the_connection() {
    let mut server = plain();
    let error = server.handle_input(b"GET / HTTP/1.1\r\n").unwrap_err();
    assert!(matches!(error, WireError::BadMagic { .. }));
}

#[test]
fn answers_nobody_asked_for_change_nothing() {
    let mut server = plain();
    server.answer_export(Ok(info()));
    server.answer_list(Ok(&[]));
    assert_eq!((server.take_output(), server.poll_event()), (vec![], None));
    assert!(server.wants_input());
}
