//! One test per fault that other NBD implementations had and that a protocol core can have.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use support::*;
use wire::limits::{EXTENTS_MAX, OPTION_BYTES_MAX, OPTIONS_MAX, PAYLOAD_BYTES_MAX};
use wire::proto::OptionCode;
use wire::{
    ClientEvent, ClientHandshake, ClientHandshakeConfig, ClientHandshakeEvent, Command,
    CommandFlags, Cookie, ExportRefusal, Extent, HeaderBuf, Incoming, Mode, NbdError, Query,
    Request, ServerConn, ServerHandshakeEvent, ServerWant, TlsPolicy, WireError,
};

/// nbdkit kept structured replies, agreed on in the clear, across STARTTLS.
#[test]
fn cve_2021_3716_structured_state_is_reset_by_starttls() {
    // FORCEDTLS refuses the option in the clear; whatever was negotiated is void all the same.
    let mut server = greeted(TlsPolicy::Forced);
    server.handle_input(&option(8, &[])).unwrap();
    assert_eq!(replies(&server.take_output())[0].1, 0x8000_0005, "TLS_REQD");
    server.handle_input(&option(5, &[])).unwrap();
    assert_eq!(server.poll_event(), Some(ServerHandshakeEvent::StartTls));
    assert_eq!(replies(&server.take_output()), [(5, 1, vec![])]);
    server.tls_established(0).unwrap();
    // Meta contexts need structured replies: had they survived, this would be accepted.
    server
        .handle_input(&option(10, &context_request("disk", &["base:allocation"])))
        .unwrap();
    assert_eq!(replies(&server.take_output())[0].1, 0x8000_0003, "INVALID");
    server
        .handle_input(&option(7, &export_request("disk", &[])))
        .unwrap();
    server.poll_event().unwrap();
    server.answer_export(Ok(info()));
    let Some(ServerHandshakeEvent::Done(params)) = server.poll_event() else {
        panic!("GO ends the handshake");
    };
    assert_eq!((params.mode, params.base_allocation), (Mode::Simple, None));
}

/// The upgrade must also forget what was negotiated where that is possible: the option count.
#[test]
fn cve_2021_3716_options_in_the_clear_do_not_count_inside_tls() {
    let mut server = greeted(TlsPolicy::Forced);
    for _ in 1..OPTIONS_MAX {
        server.handle_input(&option(8, &[])).unwrap();
    }
    server.handle_input(&option(5, &[])).unwrap();
    assert_eq!(server.poll_event(), Some(ServerHandshakeEvent::StartTls));
    server.tls_established(0).unwrap();
    for _ in 0..OPTIONS_MAX {
        server.handle_input(&option(8, &[])).unwrap();
        assert_eq!(server.poll_event(), None);
    }
}

/// The injection that the 2021 STARTTLS survey found: a command sent in the clear behind STARTTLS
/// must not be believed inside TLS.
#[test]
fn starttls_surplus_in_the_same_read_ends_the_connection() {
    let mut server = greeted(TlsPolicy::Forced);
    let injected = [option(5, &[]), option(8, &[])].concat();
    let error = WireError::SurplusBeforeTls { found: 16 };
    assert_eq!(server.handle_input(&injected), Err(error));
    assert_eq!(server.poll_event(), None, "the upgrade is off");
    assert_eq!(server.tls_established(0), Err(error));
}

#[test]
fn starttls_surplus_in_a_later_read_ends_the_connection() {
    let mut server = greeted(TlsPolicy::Forced);
    server.handle_input(&option(5, &[])).unwrap();
    assert_eq!(server.handle_input(&[]), Ok(0), "waiting is fine");
    assert_eq!(
        server.handle_input(b"I"),
        Err(WireError::SurplusBeforeTls { found: 1 })
    );
    assert!(server.tls_established(0).is_err());
}

#[test]
fn starttls_surplus_that_the_driver_counted_ends_the_connection() {
    let mut server = greeted(TlsPolicy::Forced);
    server.handle_input(&option(5, &[])).unwrap();
    assert_eq!(
        server.tls_established(1),
        Err(WireError::SurplusBeforeTls { found: 1 })
    );
    assert!(
        server.handle_input(&option(8, &[])).is_err(),
        "nothing is taken any more"
    );
}

fn tls_client() -> ClientHandshake {
    let mut client = ClientHandshake::new(ClientHandshakeConfig {
        starttls: true,
        ..client_config()
    });
    client.handle_input(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
    assert_eq!(
        client.take_output(),
        [&[0, 0, 0, 3], &option(5, &[])[..]].concat()
    );
    client
}

#[test]
fn starttls_surplus_from_a_server_ends_the_connection() {
    let ack = option_reply(5, 1, &[]);
    let mut client = tls_client();
    let injected = [ack.clone(), option_reply(11, 1, &[])].concat();
    let error = WireError::SurplusBeforeTls { found: 20 };
    assert_eq!(client.handle_input(&injected), Err(error));
    assert_eq!(client.poll_event(), None);
    let mut client = tls_client();
    client.handle_input(&ack).unwrap();
    assert_eq!(
        client.tls_established(3),
        Err(WireError::SurplusBeforeTls { found: 3 })
    );
}

/// libnbd went on in the clear when the server refused TLS.
#[test]
fn cve_2019_14842_a_refused_starttls_is_never_a_downgrade() {
    for code in [
        0x8000_0001,
        0x8000_0002,
        0x8000_0003,
        0x8000_0005,
        0x8000_1234,
    ] {
        let mut client = tls_client();
        client.handle_input(&option_reply(5, code, b"no")).unwrap();
        let text = "no".to_owned();
        let refused = ClientHandshakeEvent::Refused {
            option: 5,
            code,
            text,
        };
        assert_eq!(client.poll_event(), Some(refused));
        assert_eq!(
            client.take_output(),
            option(2, &[]),
            "ABORT and nothing else"
        );
        assert!(client.tls_established(0).is_err());
    }
}

/// An answer that is no ACK does not start TLS either.
#[test]
fn cve_2019_14842_only_an_ack_starts_tls() {
    let mut client = tls_client();
    let info = option_reply(5, 3, &[0; 12]);
    assert!(matches!(
        client.handle_input(&info),
        Err(WireError::UnexpectedReply { .. })
    ));
}

/// nbdkit opened its backend for any client that merely connected.
#[test]
fn cve_2019_14850_no_export_is_asked_for_before_negotiation_names_it() {
    let mut server = greeted(TlsPolicy::NotOffered);
    for input in [option(8, &[]), option(11, &[]), option(99, &[])] {
        server.handle_input(&input).unwrap();
        assert_eq!(server.poll_event(), None);
    }
    server
        .handle_input(&option(7, &export_request("disk", &[])))
        .unwrap();
    let query = ServerHandshakeEvent::ExportQuery {
        name: "disk".to_owned(),
        query: Query::Go,
    };
    assert_eq!(server.poll_event(), Some(query));
}

/// nbdkit asserted on INFO followed by GO of another export.
#[test]
fn cve_2019_14851_options_may_come_in_any_order() {
    let mut server = greeted(TlsPolicy::NotOffered);
    for (code, name) in [
        (6, "a"),
        (6, "b"),
        (10, "c"),
        (6, ""),
        (9, "c"),
        (3, ""),
        (7, "d"),
    ] {
        let data = match code {
            3 => vec![],
            9 | 10 => context_request(name, &[]),
            _ => export_request(name, &[3]),
        };
        server.handle_input(&option(code, &data)).unwrap();
        match server.poll_event() {
            Some(ServerHandshakeEvent::ExportQuery { .. }) => {
                let is_known = name != "b";
                server.answer_export(is_known.then(info).ok_or(ExportRefusal::Unknown));
            }
            Some(ServerHandshakeEvent::ListQuery) => server.answer_list(Ok(&[])),
            None => assert!(matches!(code, 9 | 10), "contexts before structured replies"),
            other => panic!("{other:?}"),
        }
    }
    let Some(ServerHandshakeEvent::Done(params)) = server.poll_event() else {
        panic!("GO ends the handshake");
    };
    assert_eq!(params.export_name, "d");
}

/// nbdkit: off by one in the longest block status length.
#[test]
fn cve_2025_47711_block_status_at_the_32_bit_boundary() {
    let size_bytes = 1 << 40;
    for mode in [Mode::Structured, Mode::Extended] {
        let mut params = server_params(mode);
        params.info.size_bytes = size_bytes;
        params.block_sizes_negotiated = false;
        let conn = ServerConn::new(&params);
        for len in [u64::from(u32::MAX) - 1, u64::from(u32::MAX), 1 << 32] {
            if mode == Mode::Structured && len > u64::from(u32::MAX) {
                continue;
            }
            for extent_len in [len - 1, len, len + 1, 1 << 32, u64::MAX] {
                let (command, cookie) = (Command::BlockStatus, Cookie(9));
                let flags = CommandFlags::NONE;
                let request = Request {
                    cookie,
                    command,
                    flags,
                    offset: 0,
                    len,
                };
                let extents = [
                    Extent {
                        len: extent_len,
                        flags: 3,
                    },
                    Extent { len: 7, flags: 0 },
                ];
                let mut out = [0; 128];
                let status = conn
                    .encode_block_status(&request, &extents, &mut out)
                    .unwrap();
                let mut client_params = client_params(mode);
                client_params.info.size_bytes = size_bytes;
                let mut client = wire::ClientConn::new(&client_params, 1);
                let cookie = start(&mut client, Command::BlockStatus, 0, len);
                let cookie_at = 8;
                out[cookie_at..cookie_at + 8].copy_from_slice(&cookie.0.to_be_bytes());
                let (events, _) = feed(&mut client, &out[..status.len_bytes]).unwrap();
                let [
                    ClientEvent::Extents {
                        extents: found,
                        done: true,
                        ..
                    },
                ] = &events[..]
                else {
                    panic!("{events:?}");
                };
                let first = extent_len.min(size_bytes);
                let fits = mode == Mode::Extended || first <= u64::from(u32::MAX);
                assert_eq!(
                    found[0].len,
                    if fits { first } else { len },
                    "{mode:?} {extent_len}"
                );
                let is_covered = extent_len >= len;
                assert_eq!(found.len(), if is_covered { 1 } else { 2 });
            }
        }
    }
}

#[test]
fn cve_2025_47711_exactly_2_to_the_20_extents_pass_and_one_more_fails() {
    let count = EXTENTS_MAX as usize;
    let len = (count as u64 + 1) * 512;
    let mut conn = client(Mode::Structured);
    let cookie = start(&mut conn, Command::BlockStatus, 0, len);
    let body = status(1, &vec![(512, 0); count]);
    assert_eq!(body.len(), 8_388_612);
    let (events, _) = feed(&mut conn, &chunk(cookie, DONE, 5, &body)).unwrap();
    let [ClientEvent::Extents { extents, .. }] = &events[..] else {
        panic!()
    };
    assert_eq!(extents.len(), count);

    let mut conn = client(Mode::Structured);
    let cookie = start(&mut conn, Command::BlockStatus, 0, len);
    let header = chunk_header(cookie, DONE, 5, 8_388_612 + 8);
    let found = u64::from(EXTENTS_MAX) + 1;
    let too_many = WireError::TooManyExtents {
        found,
        max: EXTENTS_MAX,
    };
    assert_eq!(
        fault(&mut conn, &header),
        too_many,
        "before a byte of the body"
    );

    // Our own server stops at the same number.
    let mut params = server_params(Mode::Structured);
    params.block_sizes_negotiated = false;
    let conn = ServerConn::new(&params);
    let (command, flags) = (Command::BlockStatus, CommandFlags::NONE);
    let request = Request {
        cookie: Cookie(1),
        command,
        flags,
        offset: 0,
        len,
    };
    let extents = vec![Extent { len: 512, flags: 0 }; count + 1];
    let mut out = vec![0; 16 << 20];
    let status = conn
        .encode_block_status(&request, &extents, &mut out)
        .unwrap();
    assert_eq!((status.extents, status.len_bytes), (count, 20 + 8_388_612));
}

/// nbdkit: 32-bit overflow when rounding extents. Every sum here is checked in 64 bits.
#[test]
fn cve_2025_47712_extents_that_overflow_are_refused() {
    let mut conn = client(Mode::Extended);
    let cookie = start(&mut conn, Command::BlockStatus, 512, 4096);
    let body = status_ext(1, &[(4095, 0), (u64::MAX, 0)]);
    let too_long = WireError::ExtentsTooLong { max: 4096 };
    assert_eq!(
        fault(&mut conn, &chunk_ext(cookie, DONE, 6, 512, &body)),
        too_long
    );
}

#[test]
fn cve_2025_47712_requests_that_overflow_are_refused() {
    let mut conn = ServerConn::new(&server_params(Mode::Extended));
    for (command, error) in [
        (0, NbdError::Inval),
        (6, NbdError::NoSpace),
        (7, NbdError::Inval),
    ] {
        for (offset, len) in [(u64::MAX, 512), (512, u64::MAX), (u64::MAX - 511, 512)] {
            let header = request(Mode::Extended, 0, command, offset, len);
            let (_, incoming) = conn.handle_header(&header).unwrap();
            let Some(Incoming::Invalid { error: found, .. }) = incoming else {
                panic!("{incoming:?}");
            };
            assert_eq!(found, error);
        }
    }
}

/// qemu: a 4096-byte name smashed the stack.
#[test]
fn cve_2017_15118_names_of_4096_bytes_pass_and_longer_ones_are_refused() {
    let longest = "n".repeat(4096);
    let mut server = greeted(TlsPolicy::NotOffered);
    server
        .handle_input(&option(6, &export_request(&longest, &[])))
        .unwrap();
    let query = ServerHandshakeEvent::ExportQuery {
        name: longest.clone(),
        query: Query::Info,
    };
    assert_eq!(server.poll_event(), Some(query));
    server.answer_export(Err(ExportRefusal::Unknown));
    server.take_output();

    let longer = format!("{longest}n");
    server
        .handle_input(&option(6, &export_request(&longer, &[])))
        .unwrap();
    assert_eq!(server.poll_event(), None);
    assert_eq!(replies(&server.take_output())[0].1, 0x8000_0003, "INVALID");
    server.handle_input(&option(1, longer.as_bytes())).unwrap();
    let option = OptionCode::EXPORT_NAME;
    let bad_name = WireError::BadName {
        option,
        found: 4097,
    };
    assert_eq!(
        server.poll_event(),
        Some(ServerHandshakeEvent::Terminate(bad_name))
    );
}

/// qemu swallowed 4 GiB of option data.
#[test]
fn cve_2017_15119_an_option_above_the_cap_is_refused_unread() {
    let mut server = greeted(TlsPolicy::NotOffered);
    let mut header = option(99, &[]);
    header[12..].copy_from_slice(&u32::MAX.to_be_bytes());
    server.handle_input(&header).unwrap();
    let (max, option) = (OPTION_BYTES_MAX, OptionCode(99));
    let too_long = WireError::OptionTooLong {
        option,
        found: u32::MAX,
        max,
    };
    assert_eq!(
        server.poll_event(),
        Some(ServerHandshakeEvent::Terminate(too_long))
    );
    assert_eq!(replies(&server.take_output())[0].1, 0x8000_0009, "TOO_BIG");
    assert_eq!(server.handle_input(&[0; 64]), Ok(0), "nothing more is read");

    // At the cap it is consumed, refused, and the conversation goes on.
    let mut server = greeted(TlsPolicy::NotOffered);
    server
        .handle_input(&support::option(99, &vec![7; OPTION_BYTES_MAX as usize]))
        .unwrap();
    assert_eq!(replies(&server.take_output())[0].1, 0x8000_0001, "UNSUP");
    assert!(server.wants_input());
}

#[test]
fn cve_2017_15119_the_number_of_options_is_bounded() {
    let mut server = greeted(TlsPolicy::NotOffered);
    for _ in 0..OPTIONS_MAX {
        server.handle_input(&option(99, &[])).unwrap();
        assert_eq!(server.poll_event(), None);
    }
    server.handle_input(&option(99, &[])).unwrap();
    let too_many = WireError::TooManyOptions { max: OPTIONS_MAX };
    assert_eq!(
        server.poll_event(),
        Some(ServerHandshakeEvent::Terminate(too_many))
    );
}

/// qemu crashed when a client hung up early or sent stray data; here every prefix just waits.
#[test]
fn cve_2017_7539_a_hang_up_at_any_byte_leaves_a_machine_that_waits() {
    let conversation = [
        vec![0, 0, 0, 3],
        option(8, &[]),
        option(10, &context_request("disk", &["base:allocation"])),
        option(6, &export_request("disk", &[1, 2, 3])),
    ]
    .concat();
    for end in 0..conversation.len() {
        let mut server = server(TlsPolicy::NotOffered);
        let mut rest = &conversation[..end];
        while !rest.is_empty() {
            let used = server.handle_input(rest).unwrap();
            rest = &rest[used..];
            if server.poll_event().is_some() {
                server.answer_export(Ok(info()));
            }
        }
        assert!(server.wants_input(), "byte {end}");
    }
}

#[test]
fn cve_2017_9524_stray_data_instead_of_a_request_is_an_error_at_its_fourth_byte() {
    let mut conn = ServerConn::new(&server_params(Mode::Simple));
    assert_eq!(conn.handle_header(b"GET"), Ok((3, None)));
    let error = conn.handle_header(b" / HTTP/1.1").unwrap_err();
    assert!(matches!(
        error,
        WireError::BadMagic {
            found: 0x4745_5420,
            ..
        }
    ));
    assert_eq!(conn.want(), ServerWant::Closed);
}

/// qemu asserted when the text of an error was near the longest name.
#[test]
fn cve_2020_10761_error_texts_are_cut_to_fit() {
    for mode in [Mode::Structured, Mode::Extended] {
        let conn = ServerConn::new(&server_params(mode));
        let (command, flags) = (Command::Read, CommandFlags::NONE);
        let request = Request {
            cookie: Cookie(1),
            command,
            flags,
            offset: 0,
            len: 512,
        };
        for text in ["", "x", &"é".repeat(5000), &"n".repeat(100_000)] {
            let mut out = HeaderBuf::new();
            conn.encode_error_text(&request, NbdError::Io, text, &mut out);
            let bytes = out.as_bytes();
            let body = if mode == Mode::Extended { 32 } else { 20 };
            let len = u16::from_be_bytes(bytes[body + 4..body + 6].try_into().unwrap());
            assert_eq!(bytes.len(), body + 6 + usize::from(len));
            assert!(
                std::str::from_utf8(&bytes[body + 6..]).is_ok(),
                "cut between characters"
            );
        }
    }
}

/// nbd-server trusted the length of the name in INFO and GO.
#[test]
fn cve_2022_26495_a_name_length_of_ffffffff_is_refused() {
    for code in [6, 7, 9, 10] {
        for len in [u32::MAX, u32::MAX - 5, 0x8000_0000, 3] {
            let mut server = greeted(TlsPolicy::NotOffered);
            server.handle_input(&option(8, &[])).unwrap();
            server.take_output();
            let data = [&len.to_be_bytes()[..], b"ab"].concat();
            server.handle_input(&option(code, &data)).unwrap();
            assert_eq!(server.poll_event(), None);
            assert_eq!(replies(&server.take_output())[0].1, 0x8000_0003, "INVALID");
        }
    }
}

/// nbd-server: counts that do not match the option's length.
#[test]
fn cve_2022_26496_counts_must_match_the_length_exactly() {
    let mut server = greeted(TlsPolicy::NotOffered);
    server.handle_input(&option(8, &[])).unwrap();
    server.take_output();
    let good = export_request("disk", &[3]);
    let contexts = context_request("disk", &["base:allocation"]);
    let bad: [(u32, Vec<u8>); 6] = [
        (7, good[..good.len() - 1].to_vec()),
        (7, [&good[..], &[0]].concat()),
        (7, [&prefixed("disk")[..], &[0xff, 0xff]].concat()),
        (7, prefixed("disk")),
        (10, contexts[..contexts.len() - 1].to_vec()),
        (10, [&contexts[..], &[0]].concat()),
    ];
    for (code, data) in bad {
        server.handle_input(&option(code, &data)).unwrap();
        assert_eq!(server.poll_event(), None, "{data:?}");
        assert_eq!(replies(&server.take_output())[0].1, 0x8000_0003, "INVALID");
    }
}

/// The qemu client overflowed on a LIST reply.
#[test]
fn cve_2017_2630_a_list_reply_with_a_wrong_name_length_is_refused() {
    for (name_len, is_good) in [(4_u32, true), (9, false), (u32::MAX, false)] {
        let goal = wire::ClientGoal::List;
        let mut client = ClientHandshake::new(ClientHandshakeConfig {
            goal,
            ..client_config()
        });
        client.handle_input(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
        let data = [&name_len.to_be_bytes()[..], b"disktext"].concat();
        let outcome = client.handle_input(&option_reply(3, 2, &data));
        assert_eq!(outcome.is_ok(), is_good, "{name_len}");
    }
}

/// libnbd wrote a chunk outside of the request's buffer.
#[test]
fn libnbd_2019_chunks_outside_of_their_request_are_refused() {
    let bodies = [
        data(4095, &[1]),
        data(8192, &[1]),
        data(8191, &[1, 1]),
        data(0, &[1]),
        data(u64::MAX, &[1]),
        data(u64::MAX - 4096, &[1; 4096]),
    ];
    for body in bodies {
        let mut conn = client(Mode::Structured);
        let cookie = start(&mut conn, Command::Read, 4096, 4096);
        let error = fault(&mut conn, &chunk(cookie, 0, 1, &body));
        assert!(
            matches!(error, WireError::ChunkOutsideRequest { .. }),
            "{error}"
        );
    }
    for body in [hole(4096, 4097), hole(4095, 1), hole(8191, u32::MAX)] {
        let mut conn = client(Mode::Structured);
        let cookie = start(&mut conn, Command::Read, 4096, 4096);
        let error = fault(&mut conn, &chunk(cookie, 0, 2, &body));
        assert!(
            matches!(error, WireError::ChunkOutsideRequest { .. }),
            "{error}"
        );
    }
}

/// libnbd asserted on states that the peer chose.
#[test]
fn cve_2021_20286_a_server_that_answers_the_unexpected_is_an_error_not_a_panic() {
    for reply in [2, 3, 4, 5, 0x7fff_ffff] {
        for code in [11, 3, 7, 5] {
            let mut client = ClientHandshake::new(client_config());
            client.handle_input(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
            assert!(
                client
                    .handle_input(&option_reply(code, reply, &[0; 4]))
                    .is_err()
            );
            assert!(client.handle_input(&[0; 64]).is_err(), "the error lasts");
        }
    }
}

/// nbdcopy took a failed read for a good one. Success is a value here, and it needs every byte.
#[test]
fn cve_2022_0485_a_failed_read_is_never_a_success() {
    let mut conn = client(Mode::Structured);
    let cookie = start(&mut conn, Command::Read, 0, 1024);
    let input = [
        chunk(cookie, 0, 1, &data(0, &[1; 512])),
        chunk(cookie, 0, 0x8001, &error(5, b"")),
        chunk(cookie, DONE, 1, &data(512, &[1; 512])),
    ];
    let (events, _) = feed(&mut conn, &input.concat()).unwrap();
    let result = Err(NbdError::Io);
    assert_eq!(events, [ClientEvent::Completed { cookie, result }]);

    // Also when the last chunk is a hole, which otherwise would be reported as the end.
    let cookie = start(&mut conn, Command::Read, 0, 1024);
    let input = [
        chunk(cookie, 0, 0x8001, &error(5, b"")),
        chunk(cookie, DONE, 2, &hole(0, 1024)),
    ];
    let (events, _) = feed(&mut conn, &input.concat()).unwrap();
    assert_eq!(events, [ClientEvent::Completed { cookie, result }]);
}

/// libnbd read sizes above 2^63 as negative.
#[test]
fn cve_2023_5215_export_sizes_above_the_signed_range_are_refused() {
    for (size, is_good) in [(u64::MAX >> 1, true), (1 << 63, false), (u64::MAX, false)] {
        let config = ClientHandshakeConfig {
            extended_headers: false,
            structured_replies: false,
            ..client_config()
        };
        let mut client = ClientHandshake::new(config.clone());
        client.handle_input(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
        let fact = [&[0, 0], &size.to_be_bytes()[..], &[0, 1]].concat();
        assert_eq!(
            client.handle_input(&option_reply(7, 3, &fact)).is_ok(),
            is_good
        );

        let mut client = ClientHandshake::new(config);
        client.handle_input(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
        client
            .handle_input(&option_reply(7, 0x8000_0001, &[]))
            .unwrap();
        let answer = [&size.to_be_bytes()[..], &[0, 1]].concat();
        assert_eq!(client.handle_input(&answer).is_ok(), is_good, "EXPORT_NAME");
    }
}

/// libnbd asserted that flags of extents fit 32 bits.
#[test]
fn cve_2023_5871_64_bit_extent_flags_pass_through() {
    let mut conn = client(Mode::Extended);
    let cookie = start(&mut conn, Command::BlockStatus, 512, 4096);
    let body = status_ext(1, &[(4096, u64::MAX)]);
    let (events, _) = feed(&mut conn, &chunk_ext(cookie, DONE, 6, 512, &body)).unwrap();
    let extents = vec![Extent {
        len: 4096,
        flags: u64::MAX,
    }];
    assert_eq!(
        events,
        [ClientEvent::Extents {
            cookie,
            context: 1,
            extents,
            done: true
        }]
    );
}

/// qemu noticed oversized replies only after it had made room for them.
#[test]
fn qemu_2023_oversized_reply_lengths_are_refused_at_the_header() {
    let cases: [(Command, u16, u64); 8] = [
        (Command::Read, 1, u64::MAX),
        (Command::Read, 1, 4096 + 9),
        (Command::Read, 2, 13),
        (Command::Write, 0, 1),
        (Command::Write, 0x8001, 65_537),
        (Command::Write, 0x8001, 5),
        (Command::Write, 0x8002, 13),
        (Command::BlockStatus, 6, u64::MAX - 7),
    ];
    for (command, kind, len) in cases {
        let mut conn = client(Mode::Extended);
        let cookie = start(&mut conn, command, 0, 4096);
        let error = fault(&mut conn, &chunk_ext_header(cookie, DONE, kind, 0, len));
        let is_length_fault = matches!(
            error,
            WireError::BadChunkLength { .. } | WireError::TooManyExtents { .. }
        );
        assert!(is_length_fault, "{command} {kind:#x} {len}: {error}");
    }
    let mut client = ClientHandshake::new(client_config());
    client.handle_input(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
    let mut header = option_reply(11, 0x8000_0001, &[]);
    header[16..].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(
        client.handle_input(&header),
        Err(WireError::ReplyTooLong { .. })
    ));
}

/// A WRITE of more than a server should take ends the connection instead of filling memory.
#[test]
fn oversized_writes_end_the_connection_and_smaller_bad_ones_are_skipped() {
    for (mode, flags) in [(Mode::Structured, 0), (Mode::Extended, 32)] {
        let max = u64::from(PAYLOAD_BYTES_MAX);
        let mut conn = ServerConn::new(&server_params(mode));
        conn.handle_header(&request(mode, flags, 1, SIZE_BYTES, max))
            .unwrap();
        let want = ServerWant::Payload {
            len: PAYLOAD_BYTES_MAX,
            discard: true,
        };
        assert_eq!(conn.want(), want);

        let mut conn = ServerConn::new(&server_params(mode));
        let header = request(mode, flags, 1, 0, max + 512);
        let too_long = WireError::PayloadTooLong {
            found: max + 512,
            max: PAYLOAD_BYTES_MAX,
        };
        assert_eq!(conn.handle_header(&header), Err(too_long));
    }
}

/// A reply to a request that ended must not complete the one that follows in its slot.
#[test]
fn a_confused_cookie_is_an_error() {
    let mut conn = client(Mode::Simple);
    let first = start(&mut conn, Command::Write, 0, 512);
    feed(&mut conn, &simple_reply(first, 0)).unwrap();
    let second = start(&mut conn, Command::Write, 512, 512);
    assert_eq!(
        wire::ClientConn::slot_of(first),
        wire::ClientConn::slot_of(second)
    );
    let unknown = WireError::UnknownCookie { cookie: first };
    assert_eq!(
        fault(&mut conn, &simple_reply(first, 0)),
        unknown,
        "answered twice"
    );

    for confuse in [1, 1 << 32, 3 << 32, 1 << 63, u64::MAX] {
        let mut conn = client(Mode::Simple);
        let cookie = start(&mut conn, Command::Write, 0, 512);
        let cookie = Cookie(cookie.0 ^ confuse);
        let unknown = WireError::UnknownCookie { cookie };
        assert_eq!(fault(&mut conn, &simple_reply(cookie, 0)), unknown);
    }
}
