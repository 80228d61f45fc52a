//! The client's options, and what it makes of the answers.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use support::*;
use wire::limits::{
    CONTEXTS_MAX, LIST_BYTES_MAX, LIST_EXPORTS_MAX, OPTION_BYTES_MAX, OPTION_REPLIES_MAX,
};
use wire::proto::{OptionCode, ReplyCode};
use wire::{
    BlockSizes, ClientGoal, ClientHandshake, ClientHandshakeConfig, ClientHandshakeEvent,
    ClientParams, Mode, TransmissionFlags, WireError,
};

const ACK: u32 = 1;
const UNSUP: u32 = 0x8000_0001;
const POLICY: u32 = 0x8000_0002;
const TLS_REQD: u32 = 0x8000_0005;
const UNKNOWN: u32 = 0x8000_0006;
const SHUTDOWN: u32 = 0x8000_0007;

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\0\x03";

/// A client that has its greeting; its flags were checked and taken.
fn greeted(config: ClientHandshakeConfig) -> ClientHandshake {
    let mut client = ClientHandshake::new(config);
    assert!(client.take_output().is_empty(), "the server speaks first");
    client.handle_input(GREETING).unwrap();
    client
}

/// The option (code, data) that the client sent last.
fn sent(client: &mut ClientHandshake) -> (u32, Vec<u8>) {
    let mut output = client.take_output();
    if output.starts_with(&[0, 0, 0, 3]) {
        output.drain(..4);
    }
    assert!(output.starts_with(b"IHAVEOPT"), "{output:?}");
    let code = u32::from_be_bytes(output[8..12].try_into().unwrap());
    assert_eq!(
        u32::from_be_bytes(output[12..16].try_into().unwrap()) as usize,
        output.len() - 16
    );
    (code, output.split_off(16))
}

/// Expects an option and answers it.
fn answer(client: &mut ClientHandshake, option: u32, reply: u32) {
    assert_eq!(sent(client).0, option);
    client
        .handle_input(&option_reply(option, reply, &[]))
        .unwrap();
}

fn export_fact(size: u64) -> Vec<u8> {
    [&[0, 0][..], &size.to_be_bytes(), &[0, 0x0d]].concat()
}

fn block_fact(min: u32, preferred: u32, payload_max: u32) -> Vec<u8> {
    [
        &[0, 3][..],
        &[min, preferred, payload_max].map(u32::to_be_bytes).concat(),
    ]
    .concat()
}

/// Answers GO with an export, ends the handshake.
fn open(client: &mut ClientHandshake) -> ClientParams {
    assert_eq!(sent(client), (7, export_request("disk", &[3, 2])));
    client
        .handle_input(&option_reply(7, 3, &export_fact(4096)))
        .unwrap();
    client.handle_input(&option_reply(7, ACK, &[])).unwrap();
    match client.poll_event() {
        Some(ClientHandshakeEvent::Done(params)) => params,
        other => panic!("{other:?}"),
    }
}

fn simple_config() -> ClientHandshakeConfig {
    ClientHandshakeConfig {
        extended_headers: false,
        structured_replies: false,
        contexts: vec![],
        ..client_config()
    }
}

#[test]
fn extended_headers_come_first_and_contexts_before_go() {
    let mut client = greeted(client_config());
    answer(&mut client, 11, ACK);
    assert_eq!(
        sent(&mut client),
        (10, context_request("disk", &["base:allocation"]))
    );
    let context = b"\0\0\0\x07base:allocation";
    client.handle_input(&option_reply(10, 4, context)).unwrap();
    client.handle_input(&option_reply(10, ACK, &[])).unwrap();
    let params = open(&mut client);
    assert_eq!(params.mode, Mode::Extended);
    assert_eq!(params.contexts, [(7, "base:allocation".to_owned())]);
    assert!(!params.block_sizes_stated);
    assert_eq!(params.info.block, BlockSizes::DEFAULT);
    assert_eq!(
        (params.info.size_bytes, params.info.flags),
        (4096, TransmissionFlags(0x0d))
    );
    assert!(
        client.take_output().is_empty(),
        "no ABORT: the connection is used"
    );
}

#[test]
fn refused_modes_fall_back_one_by_one() {
    for refusal in [UNSUP, POLICY, 0x8000_0099] {
        let mut client = greeted(client_config());
        answer(&mut client, 11, refusal);
        answer(&mut client, 8, ACK);
        answer(&mut client, 10, refusal);
        let params = open(&mut client);
        assert_eq!((params.mode, params.contexts), (Mode::Structured, vec![]));

        let mut client = greeted(client_config());
        answer(&mut client, 11, refusal);
        answer(&mut client, 8, refusal);
        assert_eq!(
            open(&mut client).mode,
            Mode::Simple,
            "and no contexts are asked for"
        );
    }
}

#[test]
fn what_is_not_wanted_is_not_asked_for() {
    assert_eq!(open(&mut greeted(simple_config())).mode, Mode::Simple);
    let config = ClientHandshakeConfig {
        structured_replies: true,
        ..simple_config()
    };
    let mut client = greeted(config);
    answer(&mut client, 8, ACK);
    assert_eq!(open(&mut client).mode, Mode::Structured);
}

#[test]
fn answers_that_condemn_every_option_end_the_handshake() {
    for code in [TLS_REQD, SHUTDOWN] {
        for ack_first in [vec![], vec![11]] {
            let mut client = greeted(client_config());
            for option in &ack_first {
                answer(&mut client, *option, ACK);
            }
            let (option, _) = sent(&mut client);
            client
                .handle_input(&option_reply(option, code, b"go\naway"))
                .unwrap();
            let text = "go away".to_owned();
            let refused = ClientHandshakeEvent::Refused { option, code, text };
            assert_eq!(client.poll_event(), Some(refused));
            assert_eq!(sent(&mut client).0, 2, "ABORT");
        }
    }
}

#[test]
fn a_server_without_go_is_asked_by_export_name() {
    for (flags, padding) in [(3, 0), (1, 124)] {
        let mut client = ClientHandshake::new(ClientHandshakeConfig {
            structured_replies: true,
            ..simple_config()
        });
        client
            .handle_input(&[&GREETING[..17], &[flags]].concat())
            .unwrap();
        let output = client.take_output();
        assert_eq!(output[..4], [0, 0, 0, flags]);
        client.handle_input(&option_reply(8, UNSUP, &[])).unwrap();
        answer(&mut client, 7, UNSUP);
        assert_eq!(sent(&mut client), (1, b"disk".to_vec()));
        let reply = [&4096_u64.to_be_bytes()[..], &[0, 1], &vec![0; padding]].concat();
        let used = client
            .handle_input(&[&reply[..], b"rest"].concat())
            .unwrap();
        assert_eq!(used, reply.len());
        let Some(ClientHandshakeEvent::Done(params)) = client.poll_event() else {
            panic!()
        };
        assert_eq!((params.info.size_bytes, params.mode), (4096, Mode::Simple));
        assert_eq!(params.info.block, BlockSizes::DEFAULT);
    }
}

#[test]
fn export_name_is_never_sent_after_extended_headers() {
    let mut client = greeted(ClientHandshakeConfig {
        contexts: vec![],
        ..client_config()
    });
    answer(&mut client, 11, ACK);
    answer(&mut client, 7, UNSUP);
    assert_eq!(sent(&mut client).0, 2, "ABORT");
    let refused = ClientHandshakeEvent::Refused {
        option: 7,
        code: UNSUP,
        text: String::new(),
    };
    assert_eq!(client.poll_event(), Some(refused));
}

#[test]
fn a_refused_export_is_told_with_its_reason() {
    let mut client = greeted(simple_config());
    client
        .handle_input(&option_reply(7, UNKNOWN, b"no such disk"))
        .unwrap();
    let text = "no such disk".to_owned();
    let refused = ClientHandshakeEvent::Refused {
        option: 7,
        code: UNKNOWN,
        text,
    };
    assert_eq!(client.poll_event(), Some(refused));
    assert_eq!(ReplyCode(UNKNOWN).to_string(), "ERR_UNKNOWN");
}

#[test]
fn info_describes_and_aborts() {
    let mut client = greeted(ClientHandshakeConfig {
        goal: ClientGoal::Info,
        ..simple_config()
    });
    assert_eq!(sent(&mut client), (6, export_request("disk", &[3, 2])));
    let facts = [
        export_fact(1 << 40),
        block_fact(4096, 65_536, u32::MAX),
        b"\0\x02my\x07disk".to_vec(),
    ];
    for fact in facts {
        client.handle_input(&option_reply(6, 3, &fact)).unwrap();
    }
    client
        .handle_input(&option_reply(6, 3, &[0x77, 0x77, 1, 2, 3]))
        .unwrap();
    client.handle_input(&option_reply(6, ACK, &[])).unwrap();
    let Some(ClientHandshakeEvent::Done(params)) = client.poll_event() else {
        panic!()
    };
    let block = BlockSizes {
        min: 4096,
        preferred: 65_536,
        payload_max: u32::MAX,
    };
    assert_eq!(
        (params.info.block, params.block_sizes_stated),
        (block, true)
    );
    assert_eq!(params.info.description, "my disk");
    assert_eq!(sent(&mut client).0, 2, "ABORT");
}

#[test]
fn list_collects_and_aborts() {
    let mut client = greeted(ClientHandshakeConfig {
        goal: ClientGoal::List,
        ..client_config()
    });
    assert_eq!(sent(&mut client), (3, vec![]));
    let entry = [&prefixed("disk")[..], b"text"].concat();
    client.handle_input(&option_reply(3, 2, &entry)).unwrap();
    client
        .handle_input(&option_reply(3, 2, &prefixed("")))
        .unwrap();
    client.handle_input(&option_reply(3, ACK, &[])).unwrap();
    let exports = vec![
        ("disk".to_owned(), "text".to_owned()),
        (String::new(), String::new()),
    ];
    assert_eq!(
        client.poll_event(),
        Some(ClientHandshakeEvent::Exports(exports))
    );
    assert_eq!(sent(&mut client).0, 2, "ABORT");
}

#[test]
fn an_endless_listing_is_refused_by_count_and_by_size() {
    let (exports_max, bytes_max) = (LIST_EXPORTS_MAX, LIST_BYTES_MAX);
    for entry in [prefixed(""), prefixed(&"n".repeat(4096))] {
        let mut client = greeted(ClientHandshakeConfig {
            goal: ClientGoal::List,
            ..client_config()
        });
        let reply = option_reply(3, 2, &entry);
        let error = (0..=LIST_EXPORTS_MAX).find_map(|_| client.handle_input(&reply).err());
        assert_eq!(
            error,
            Some(WireError::ListTooLong {
                exports_max,
                bytes_max
            })
        );
    }
}

#[test]
fn endless_facts_are_refused() {
    let mut client = greeted(simple_config());
    let reply = option_reply(7, 3, &[0x77, 0x77]);
    let error = (0..=OPTION_REPLIES_MAX).find_map(|_| client.handle_input(&reply).err());
    let (option, max) = (OptionCode::GO, OPTION_REPLIES_MAX);
    assert_eq!(error, Some(WireError::TooManyReplies { option, max }));
}

#[test]
fn context_ids_must_be_unique_and_few() {
    let grant = |id: u32| option_reply(10, 4, &[&id.to_be_bytes()[..], b"a:b"].concat());
    let mut client = greeted(client_config());
    answer(&mut client, 11, ACK);
    client.handle_input(&grant(1)).unwrap();
    assert_eq!(
        client.handle_input(&grant(1)),
        Err(WireError::ContextRepeated { id: 1 })
    );

    let mut client = greeted(client_config());
    answer(&mut client, 11, ACK);
    let error = (0..40).find_map(|id| client.handle_input(&grant(id)).err());
    assert_eq!(
        error,
        Some(WireError::TooManyContexts { max: CONTEXTS_MAX })
    );
}

#[test]
fn greetings_of_other_protocols_are_refused() {
    let refuse = |greeting: &[u8]| {
        let mut client = ClientHandshake::new(client_config());
        client.handle_input(greeting).unwrap_err()
    };
    let oldstyle = [
        &b"NBDMAGIC"[..],
        &0x0000_4202_8186_1253_u64.to_be_bytes(),
        &[0; 2],
    ]
    .concat();
    assert_eq!(refuse(&oldstyle), WireError::OldstyleServer);
    assert!(matches!(
        refuse(b"SSH-2.0-OpenSSH_9.9\r\n"),
        WireError::BadMagic { .. }
    ));
    assert!(matches!(
        refuse(b"NBDMAGICNBDMAGIC\0\x03"),
        WireError::BadMagic { .. }
    ));
    let not_fixed = WireError::NotFixedNewstyle { found: 2 };
    assert_eq!(refuse(b"NBDMAGICIHAVEOPT\0\x02"), not_fixed);
}

#[test]
fn replies_must_belong_to_the_option_in_flight() {
    let mut client = greeted(simple_config());
    let (found, expected) = (OptionCode::INFO, OptionCode::GO);
    let error = WireError::ReplyForOtherOption { found, expected };
    assert_eq!(client.handle_input(&option_reply(6, ACK, &[])), Err(error));
    assert_eq!(client.poll_event(), None);
}

#[test]
fn an_acknowledged_go_without_the_export_is_refused() {
    let mut client = greeted(simple_config());
    let error = WireError::ExportInfoMissing;
    assert_eq!(client.handle_input(&option_reply(7, ACK, &[])), Err(error));
}

#[test]
fn malformed_facts_are_refused() {
    let mut long = export_fact(4096);
    long.push(0);
    let facts = [
        vec![],
        vec![0],
        export_fact(4096)[..11].to_vec(),
        long,
        block_fact(512, 4096, 1 << 20)[..13].to_vec(),
    ];
    for fact in facts {
        let mut client = greeted(simple_config());
        let error = client.handle_input(&option_reply(7, 3, &fact)).unwrap_err();
        assert!(
            matches!(error, WireError::ReplyMalformed { .. }),
            "{fact:?}"
        );
    }
    for (min, preferred, payload_max) in [(0, 4096, 1 << 20), (3, 4096, 1 << 20), (1, 4096, 512)] {
        let mut client = greeted(simple_config());
        let fact = block_fact(min, preferred, payload_max);
        let error = client.handle_input(&option_reply(7, 3, &fact)).unwrap_err();
        assert_eq!(
            error,
            WireError::BadBlockSizes {
                min,
                preferred,
                payload_max
            }
        );
    }
}

#[test]
fn an_ack_carries_no_data() {
    for (option, config) in [(11, client_config()), (7, simple_config())] {
        let mut client = greeted(config);
        let error = client
            .handle_input(&option_reply(option, ACK, b"x"))
            .unwrap_err();
        assert!(matches!(error, WireError::ReplyMalformed { .. }));
    }
}

#[test]
fn starttls_is_the_first_option_and_the_rest_follows_inside() {
    let mut client = greeted(ClientHandshakeConfig {
        starttls: true,
        ..simple_config()
    });
    answer(&mut client, 5, ACK);
    assert_eq!(client.poll_event(), Some(ClientHandshakeEvent::StartTls));
    assert!(
        client.take_output().is_empty(),
        "nothing is said in the clear"
    );
    client.tls_established(0).unwrap();
    assert_eq!(open(&mut client).mode, Mode::Simple);
    assert_eq!(client.tls_established(0), Err(WireError::TlsOutOfTurn));
}

#[test]
fn overlong_names_never_make_an_overlong_option() {
    let config = ClientHandshakeConfig {
        export_name: "é".repeat(10_000),
        contexts: vec!["x".repeat(4096); 100],
        ..client_config()
    };
    let mut client = greeted(config);
    answer(&mut client, 11, ACK);
    let (option, data) = sent(&mut client);
    assert_eq!(option, 10);
    assert!(data.len() <= OPTION_BYTES_MAX as usize);
    assert_eq!(data[..4], 4096_u32.to_be_bytes());
}

#[test]
fn a_conversation_may_be_cut_anywhere() {
    let words = [
        GREETING.to_vec(),
        option_reply(11, ACK, &[]),
        option_reply(10, 4, b"\0\0\0\x01base:allocation"),
        option_reply(10, ACK, &[]),
        option_reply(7, 3, &export_fact(4096)),
        option_reply(7, ACK, &[]),
    ]
    .concat();
    for cut in 1..words.len() {
        let mut client = ClientHandshake::new(client_config());
        for piece in [&words[..cut], &words[cut..]] {
            assert_eq!(client.handle_input(piece), Ok(piece.len()));
        }
        assert!(matches!(
            client.poll_event(),
            Some(ClientHandshakeEvent::Done(_))
        ));
    }
}
