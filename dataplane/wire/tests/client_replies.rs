//! Replies as a client takes them: what completes a request, and what ends the connection.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use support::*;
use wire::limits::READ_SPANS_MAX;
use wire::{
    ClientConn, ClientEvent, ClientWant, Command, CommandFlags, Cookie, Extent, HeaderBuf, Mode,
    NbdError, WireError,
};

fn completed(cookie: Cookie, result: Result<(), NbdError>) -> ClientEvent {
    ClientEvent::Completed { cookie, result }
}

fn ok(conn: &mut ClientConn, input: &[u8]) -> (Vec<ClientEvent>, Vec<(u32, u32)>) {
    feed(conn, input).unwrap()
}

#[test]
fn requests_are_framed_by_the_mode() {
    let cookie = Cookie(1 << 32);
    for (mode, write_flags) in [
        (Mode::Simple, 1),
        (Mode::Structured, 1),
        (Mode::Extended, 33),
    ] {
        let mut conn = client(mode);
        let mut out = HeaderBuf::new();
        let started = conn.start(Command::Write, CommandFlags::FUA, 512, 1024, &mut out);
        assert_eq!(started, Some(cookie));
        let mut expected = request(mode, write_flags, 1, 512, 1024);
        expected[8..16].copy_from_slice(&cookie.0.to_be_bytes());
        assert_eq!(out.as_bytes(), expected);
        // PAYLOAD_LEN belongs to framing, so a caller cannot set it on anything else.
        let flags = CommandFlags::PAYLOAD_LEN.union(CommandFlags::DF);
        conn.start(Command::Read, flags, 0, 512, &mut out).unwrap();
        assert_eq!(out.as_bytes()[4..6], [0, 4]);
    }
}

#[test]
fn a_full_table_starts_nothing() {
    let mut conn = client(Mode::Simple);
    let cookies: Vec<Cookie> = (0..4)
        .map(|index| start(&mut conn, Command::Read, index * 512, 512))
        .collect();
    let slots: Vec<usize> = cookies
        .iter()
        .map(|cookie| ClientConn::slot_of(*cookie))
        .collect();
    assert_eq!(slots, [0, 1, 2, 3]);
    let mut out = HeaderBuf::new();
    assert_eq!(
        conn.start(Command::Flush, CommandFlags::NONE, 0, 0, &mut out),
        None
    );
    assert!(out.as_bytes().is_empty());
    ok(&mut conn, &simple_reply(cookies[2], 5));
    let cookie = start(&mut conn, Command::Flush, 0, 0);
    assert_eq!((ClientConn::slot_of(cookie), conn.in_flight()), (2, 4));
}

#[test]
fn simple_reads_bring_their_payload_or_an_error() {
    let mut conn = client(Mode::Simple);
    let cookie = start(&mut conn, Command::Read, 4096, 1024);
    let input = [simple_reply(cookie, 0), vec![7; 1024]].concat();
    assert_eq!(
        ok(&mut conn, &input),
        (vec![completed(cookie, Ok(()))], vec![(0, 1024)])
    );
    let cookie = start(&mut conn, Command::Read, 4096, 1024);
    let found = ok(&mut conn, &simple_reply(cookie, 12345));
    let inval = completed(cookie, Err(NbdError::Inval));
    assert_eq!(
        found,
        (vec![inval], vec![]),
        "unknown numbers read as EINVAL"
    );
}

#[test]
fn payload_may_be_taken_in_pieces() {
    let mut conn = client(Mode::Simple);
    let cookie = start(&mut conn, Command::Read, 0, 1000);
    conn.handle_header(&simple_reply(cookie, 0)).unwrap();
    assert_eq!(conn.handle_payload(300), None);
    let want = ClientWant::Payload {
        cookie,
        offset: 300,
        len: 700,
    };
    assert_eq!(conn.want(), want);
    assert_eq!(
        conn.handle_header(&[0; 16]),
        Ok((0, None)),
        "payload is no header"
    );
    assert_eq!(
        conn.handle_payload(u32::MAX),
        Some(completed(cookie, Ok(())))
    );
    assert_eq!(conn.handle_payload(1), None);
}

#[test]
fn structured_mode_takes_simple_replies_to_all_but_reads() {
    let mut conn = client(Mode::Structured);
    for (command, len) in [
        (Command::Write, 512),
        (Command::Flush, 0),
        (Command::Trim, 512),
        (Command::Cache, 512),
    ] {
        let cookie = start(&mut conn, command, 0, len);
        let found = ok(&mut conn, &simple_reply(cookie, 0));
        assert_eq!(found.0, [completed(cookie, Ok(()))]);
        let cookie = start(&mut conn, command, 0, len);
        let found = ok(&mut conn, &chunk(cookie, DONE, 0, &[]));
        assert_eq!(found.0, [completed(cookie, Ok(()))]);
    }
    let cookie = start(&mut conn, Command::BlockStatus, 0, 512);
    let found = ok(&mut conn, &simple_reply(cookie, 22));
    assert_eq!(
        found.0,
        [completed(cookie, Err(NbdError::Inval))],
        "an error has no payload"
    );
    for (command, error) in [
        (Command::Read, 0),
        (Command::Read, 5),
        (Command::BlockStatus, 0),
    ] {
        let mut conn = client(Mode::Structured);
        let cookie = start(&mut conn, command, 0, 512);
        let forbidden = WireError::SimpleReplyForbidden { command };
        assert_eq!(fault(&mut conn, &simple_reply(cookie, error)), forbidden);
    }
}

#[test]
fn a_simple_reply_after_a_chunk_is_refused() {
    let mut conn = client(Mode::Structured);
    let cookie = start(&mut conn, Command::Write, 0, 512);
    let input = [
        chunk(cookie, 0, 0x8001, &error(5, b"")),
        simple_reply(cookie, 0),
    ]
    .concat();
    let forbidden = WireError::SimpleReplyForbidden {
        command: Command::Write,
    };
    assert_eq!(fault(&mut conn, &input), forbidden);
}

#[test]
fn each_mode_takes_its_own_frames_only() {
    let cookie = Cookie(1 << 32);
    let simple = simple_reply(cookie, 0);
    let structured = chunk(cookie, DONE, 0, &[]);
    let extended = chunk_ext(cookie, DONE, 0, 0, &[]);
    for (mode, bad) in [
        (Mode::Simple, [&structured, &extended]),
        (Mode::Structured, [&extended, &extended]),
        (Mode::Extended, [&simple, &structured]),
    ] {
        for input in bad {
            let mut conn = client(mode);
            assert_eq!(start(&mut conn, Command::Flush, 0, 0), cookie);
            let error = fault(&mut conn, input);
            assert!(
                matches!(error, WireError::BadMagic { .. }),
                "{mode}: {error}"
            );
        }
    }
}

#[test]
fn chunks_come_in_any_order_and_between_other_replies() {
    let mut conn = client(Mode::Structured);
    let read = start(&mut conn, Command::Read, 4096, 4096);
    let write = start(&mut conn, Command::Write, 0, 512);
    let input = [
        chunk(read, 0, 1, &data(7168, &[1; 1024])),
        chunk(read, 0, 2, &hole(4096, 1024)),
        simple_reply(write, 0),
        chunk(read, DONE, 1, &data(5120, &[2; 2048])),
    ];
    let (events, payload) = ok(&mut conn, &input.concat());
    let hole = ClientEvent::Hole {
        cookie: read,
        offset: 0,
        len: 1024,
        done: false,
    };
    assert_eq!(
        events,
        [hole, completed(write, Ok(())), completed(read, Ok(()))]
    );
    assert_eq!(payload, [(3072, 1024), (1024, 2048)]);
}

#[test]
fn a_hole_may_end_a_read() {
    let mut conn = client(Mode::Extended);
    let cookie = start(&mut conn, Command::Read, 4096, 4096);
    let (events, _) = ok(
        &mut conn,
        &chunk_ext(cookie, DONE, 2, 4096, &hole(4096, 4096)),
    );
    assert_eq!(
        events,
        [ClientEvent::Hole {
            cookie,
            offset: 0,
            len: 4096,
            done: true
        }]
    );
    assert_eq!(conn.in_flight(), 0);
}

#[test]
fn a_read_must_be_covered_exactly_once() {
    type Chunks = Vec<(u16, u16, Vec<u8>)>;
    let incomplete = |found| WireError::ReadIncomplete {
        found,
        expected: 4096,
    };
    let overlap = |offset, len| WireError::ChunkOverlap { offset, len };
    let cases: Vec<(Chunks, WireError)> = vec![
        (vec![(DONE, 0, vec![])], incomplete(0)),
        (vec![(DONE, 1, data(0, &[1; 4095]))], incomplete(4095)),
        (vec![(DONE, 2, hole(1, 4095))], incomplete(4095)),
        (
            vec![(0, 1, data(0, &[1; 4095])), (DONE, 0, vec![])],
            incomplete(4095),
        ),
        (
            vec![(0, 1, data(0, &[1; 512])), (0, 1, data(0, &[1; 512]))],
            overlap(0, 512),
        ),
        (
            vec![(0, 1, data(512, &[1; 512])), (0, 2, hole(0, 513))],
            overlap(0, 513),
        ),
        (
            vec![(0, 2, hole(0, 4096)), (DONE, 2, hole(4095, 1))],
            overlap(4095, 1),
        ),
        // The same number of bytes as asked for, and still not all of them.
        (
            vec![(0, 2, hole(0, 2048)), (DONE, 2, hole(1024, 2048))],
            overlap(1024, 2048),
        ),
    ];
    for (chunks, expected) in cases {
        let mut conn = client(Mode::Structured);
        let cookie = start(&mut conn, Command::Read, 0, 4096);
        let input: Vec<u8> = chunks
            .iter()
            .flat_map(|(flags, kind, body)| chunk(cookie, *flags, *kind, body))
            .collect();
        assert_eq!(fault(&mut conn, &input), expected);
    }
}

#[test]
fn more_data_than_is_lacking_is_refused_before_its_offset_arrives() {
    let mut conn = client(Mode::Structured);
    let cookie = start(&mut conn, Command::Read, 0, 4096);
    let input = [
        chunk(cookie, 0, 1, &data(0, &[1; 4000])),
        chunk_header(cookie, 0, 1, 8 + 97),
    ]
    .concat();
    let bad = WireError::BadChunkLength {
        kind: wire::ChunkKind::OFFSET_DATA,
        found: 105,
    };
    assert_eq!(fault(&mut conn, &input), bad);
}

#[test]
fn df_means_one_content_chunk() {
    let mut conn = client(Mode::Structured);
    let cookie = start_with(&mut conn, Command::Read, CommandFlags::DF, 0, 1024);
    let input = [
        chunk(cookie, 0, 1, &data(0, &[1; 1024])),
        chunk(cookie, DONE, 0, &[]),
    ]
    .concat();
    assert_eq!(ok(&mut conn, &input).0, [completed(cookie, Ok(()))]);
    let cookie = start_with(&mut conn, Command::Read, CommandFlags::DF, 0, 1024);
    let input = [
        chunk(cookie, 0, 1, &data(0, &[1; 512])),
        chunk(cookie, 0, 1, &data(512, &[1; 512])),
    ];
    assert_eq!(fault(&mut conn, &input.concat()), WireError::Fragmented);
}

#[test]
fn scattered_pieces_are_bounded() {
    let mut conn = client(Mode::Structured);
    let cookie = start(&mut conn, Command::Read, 0, 65_536);
    let input: Vec<u8> = (0..=READ_SPANS_MAX as u64)
        .flat_map(|i| chunk(cookie, 0, 2, &hole(i * 2, 1)))
        .collect();
    assert_eq!(
        fault(&mut conn, &input),
        WireError::TooFragmented {
            max: READ_SPANS_MAX
        }
    );
}

#[test]
fn errors_with_offset_must_point_into_the_request() {
    let body = |offset: u64| [&error(5, b"bad")[..], &offset.to_be_bytes()].concat();
    for (offset, is_good) in [(4096, true), (8191, true), (4095, false), (8192, false)] {
        let mut conn = client(Mode::Structured);
        let cookie = start(&mut conn, Command::Write, 4096, 4096);
        let input = chunk(cookie, DONE, 0x8002, &body(offset));
        // Byte by byte: the offset is what the last eight bytes say, however they arrive.
        let outcome = input.iter().try_fold(None, |event, byte| {
            conn.handle_header(&[*byte]).map(|(_, next)| next.or(event))
        });
        assert_eq!(outcome.is_ok(), is_good, "{offset}");
        if is_good {
            assert_eq!(outcome, Ok(Some(completed(cookie, Err(NbdError::Io)))));
        }
    }
}

#[test]
fn error_chunks_of_unknown_kinds_fail_their_request_only() {
    let mut conn = client(Mode::Structured);
    let cookie = start(&mut conn, Command::Read, 0, 512);
    let body = [&error(95, b"new")[..], &[1; 40]].concat();
    let found = ok(&mut conn, &chunk(cookie, DONE, 0x8abc, &body));
    assert_eq!(found.0, [completed(cookie, Err(NbdError::NotSup))]);
}

#[test]
fn the_first_error_of_a_reply_counts() {
    let mut conn = client(Mode::Structured);
    let cookie = start(&mut conn, Command::Read, 0, 512);
    let input = [
        chunk(cookie, 0, 0x8001, &error(28, b"first")),
        chunk(cookie, 0, 0x8001, &error(5, b"second")),
        chunk(cookie, DONE, 0, &[]),
    ];
    let found = ok(&mut conn, &input.concat());
    assert_eq!(found.0, [completed(cookie, Err(NbdError::NoSpace))]);
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn impossible_chunks_are_refused() {
    use wire::ChunkKind;
    let bad_length = |kind, found| WireError::BadChunkLength { kind, found };
    let forbidden = |kind, command| WireError::ChunkForbidden { kind, command };
    let read = Command::Read;
    let write = Command::Write;
    let cases: Vec<(Command, u16, u16, Vec<u8>, WireError)> = vec![
        (read, DONE, 0, vec![1], bad_length(ChunkKind::NONE, 1)),
        (write, 0, 0, vec![], WireError::DoneMissing),
        (
            read,
            0,
            1,
            vec![0; 8],
            bad_length(ChunkKind::OFFSET_DATA, 8),
        ),
        (
            read,
            0,
            2,
            vec![0; 11],
            bad_length(ChunkKind::OFFSET_HOLE, 11),
        ),
        (
            read,
            0,
            2,
            hole(0, 0),
            bad_length(ChunkKind::OFFSET_HOLE, 0),
        ),
        (
            write,
            0,
            1,
            data(0, &[1]),
            forbidden(ChunkKind::OFFSET_DATA, write),
        ),
        (
            write,
            0,
            2,
            hole(0, 1),
            forbidden(ChunkKind::OFFSET_HOLE, write),
        ),
        (
            read,
            0,
            5,
            status(1, &[(1, 0)]),
            forbidden(ChunkKind::BLOCK_STATUS, read),
        ),
        (
            read,
            0,
            3,
            vec![0; 4],
            WireError::UnknownChunk { kind: ChunkKind(3) },
        ),
        (
            read,
            0,
            6,
            vec![0; 24],
            WireError::UnknownChunk {
                kind: ChunkKind::BLOCK_STATUS_EXT,
            },
        ),
        (write, 0, 0x8001, error(0, b""), WireError::ErrorMissing),
        (
            write,
            0,
            0x8001,
            vec![0, 0, 0, 5, 0, 9, 1],
            bad_length(ChunkKind::ERROR, 7),
        ),
    ];
    for (command, flags, kind, body, expected) in cases {
        let mut conn = client(Mode::Structured);
        let cookie = start(&mut conn, command, 0, 512);
        assert_eq!(
            fault(&mut conn, &chunk(cookie, flags, kind, &body)),
            expected
        );
    }
}

#[test]
fn an_extended_chunk_echoes_the_offset_of_its_request() {
    let mut conn = client(Mode::Extended);
    let cookie = start(&mut conn, Command::Write, 4096, 512);
    let error = WireError::BadOffsetEcho {
        found: 0,
        expected: 4096,
    };
    assert_eq!(fault(&mut conn, &chunk_ext(cookie, DONE, 0, 0, &[])), error);
}

#[test]
fn unknown_chunk_flags_are_ignored() {
    let mut conn = client(Mode::Structured);
    let cookie = start(&mut conn, Command::Flush, 0, 0);
    let found = ok(&mut conn, &chunk(cookie, 0xffff, 0, &[]));
    assert_eq!(found.0, [completed(cookie, Ok(()))]);
}

// ---- block status ----

fn extents(list: &[(u64, u64)]) -> Vec<Extent> {
    list.iter()
        .map(|&(len, flags)| Extent { len, flags })
        .collect()
}

#[test]
fn extents_are_told_and_the_last_may_reach_beyond_the_request() {
    for mode in [Mode::Structured, Mode::Extended] {
        let mut conn = client(mode);
        let cookie = start(&mut conn, Command::BlockStatus, 512, 4096);
        let input = if mode == Mode::Extended {
            chunk_ext(cookie, DONE, 6, 512, &status_ext(1, &[(512, 3), (8192, 1)]))
        } else {
            chunk(cookie, DONE, 5, &status(1, &[(512, 3), (8192, 1)]))
        };
        let extents = extents(&[(512, 3), (8192, 1)]);
        let event = ClientEvent::Extents {
            cookie,
            context: 1,
            extents,
            done: true,
        };
        assert_eq!(ok(&mut conn, &input).0, [event]);
    }
}

#[test]
fn a_status_chunk_may_arrive_byte_by_byte() {
    let mut conn = client(Mode::Extended);
    let cookie = start(&mut conn, Command::BlockStatus, 512, 4096);
    let input = chunk_ext(cookie, DONE, 6, 512, &status_ext(1, &[(512, 3), (3584, 0)]));
    let mut events = vec![];
    for byte in input {
        let (used, event) = conn.handle_header(&[byte]).unwrap();
        assert_eq!(used, 1);
        events.extend(event);
    }
    let extents = extents(&[(512, 3), (3584, 0)]);
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

#[test]
fn extents_end_with_the_export() {
    let mut conn = client(Mode::Extended);
    let offset = SIZE_BYTES - 512;
    let cookie = start(&mut conn, Command::BlockStatus, offset, 512);
    let input = chunk_ext(cookie, DONE, 6, offset, &status_ext(1, &[(1 << 40, 0)]));
    let extents = extents(&[(512, 0)]);
    let event = ClientEvent::Extents {
        cookie,
        context: 1,
        extents,
        done: true,
    };
    assert_eq!(ok(&mut conn, &input).0, [event]);
}

#[test]
fn impossible_extents_are_refused() {
    let too_long = WireError::ExtentsTooLong { max: 4096 };
    let cases = [
        (CommandFlags::NONE, vec![(0, 0)], WireError::EmptyExtent),
        (
            CommandFlags::NONE,
            vec![(512, 0), (0, 0)],
            WireError::EmptyExtent,
        ),
        (CommandFlags::NONE, vec![(4096, 0), (512, 0)], too_long),
        (CommandFlags::REQ_ONE, vec![(4097, 0)], too_long),
        (
            CommandFlags::REQ_ONE,
            vec![(512, 0), (512, 3)],
            WireError::TooManyExtents { found: 2, max: 1 },
        ),
    ];
    for (flags, list, expected) in cases {
        let mut conn = client(Mode::Structured);
        let cookie = start_with(&mut conn, Command::BlockStatus, flags, 0, 4096);
        assert_eq!(
            fault(&mut conn, &chunk(cookie, DONE, 5, &status(1, &list))),
            expected
        );
    }
}

#[test]
fn status_chunks_have_the_length_of_their_extents() {
    for len in [0, 3, 4, 11, 13] {
        let mut conn = client(Mode::Structured);
        let cookie = start(&mut conn, Command::BlockStatus, 0, 4096);
        let error = fault(&mut conn, &chunk(cookie, DONE, 5, &vec![0; len]));
        assert!(matches!(error, WireError::BadChunkLength { .. }), "{len}");
    }
    let mut conn = client(Mode::Extended);
    let cookie = start(&mut conn, Command::BlockStatus, 0, 4096);
    let mut body = status_ext(1, &[(512, 0)]);
    body[7] = 2;
    let error = WireError::BadExtentCount {
        found: 2,
        expected: 1,
    };
    assert_eq!(
        fault(&mut conn, &chunk_ext(cookie, DONE, 6, 0, &body)),
        error
    );
}

#[test]
fn every_context_is_answered_once() {
    let mut params = client_params(Mode::Structured);
    params.contexts = vec![(7, "base:allocation".to_owned()), (9, "a:b".to_owned())];
    let answer = |cookie, flags, id| chunk(cookie, flags, 5, &status(id, &[(4096, id)]));
    let begin = || {
        let mut conn = ClientConn::new(&params, 1);
        let cookie = start(&mut conn, Command::BlockStatus, 0, 4096);
        (conn, cookie)
    };
    let (mut conn, cookie) = begin();
    let input = [answer(cookie, 0, 9), answer(cookie, DONE, 7)].concat();
    let contexts: Vec<_> = ok(&mut conn, &input)
        .0
        .into_iter()
        .map(|event| match event {
            ClientEvent::Extents { context, done, .. } => (context, done),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(contexts, [(9, false), (7, true)]);

    let (mut conn, cookie) = begin();
    let input = [answer(cookie, 0, 9), answer(cookie, 0, 9)].concat();
    assert_eq!(
        fault(&mut conn, &input),
        WireError::ContextRepeated { id: 9 }
    );
    let (mut conn, cookie) = begin();
    assert_eq!(
        fault(&mut conn, &answer(cookie, 0, 8)),
        WireError::ContextUnknown { id: 8 }
    );
    let missing = WireError::ContextMissing {
        found: 1,
        expected: 2,
    };
    let (mut conn, cookie) = begin();
    assert_eq!(fault(&mut conn, &answer(cookie, DONE, 9)), missing);
    let (mut conn, cookie) = begin();
    let input = [answer(cookie, 0, 7), chunk(cookie, DONE, 0, &[])].concat();
    assert_eq!(fault(&mut conn, &input), missing);
}

#[test]
fn a_failed_status_needs_no_extents() {
    let mut conn = client(Mode::Structured);
    let cookie = start(&mut conn, Command::BlockStatus, 0, 4096);
    let found = ok(&mut conn, &chunk(cookie, DONE, 0x8001, &error(22, b"")));
    assert_eq!(found.0, [completed(cookie, Err(NbdError::Inval))]);
}

// ---- the end ----

#[test]
fn disconnect_waits_for_what_is_outstanding() {
    let mut conn = client(Mode::Simple);
    let cookie = start(&mut conn, Command::Flush, 0, 0);
    let mut out = HeaderBuf::new();
    conn.encode_disconnect(&mut out);
    assert_eq!(out.as_bytes()[4..8], [0, 0, 0, 2]);
    assert_eq!(
        conn.start(Command::Flush, CommandFlags::NONE, 0, 0, &mut out),
        None
    );
    assert_eq!(conn.want(), ClientWant::Header { len: 16 });
    ok(&mut conn, &simple_reply(cookie, 0));
    assert_eq!(conn.want(), ClientWant::Closed);
    assert_eq!(conn.handle_header(&[0; 16]), Ok((0, None)));
}

#[test]
fn the_longest_request_is_known_before_it_is_started() {
    let conn = client(Mode::Structured);
    assert_eq!(conn.len_max(Command::Read), 1 << 25);
    assert_eq!(conn.len_max(Command::WriteZeroes), u64::from(u32::MAX));
    assert_eq!(
        client(Mode::Extended).len_max(Command::WriteZeroes),
        u64::MAX
    );
}

#[test]
#[should_panic(expected = "cannot be said")]
fn a_request_that_cannot_be_said_is_a_fault_of_the_caller() {
    start(&mut client(Mode::Structured), Command::Trim, 0, 1 << 32);
}
