//! Requests as a server sees them: which are valid, what answers the others, what follows them.

#![allow(clippy::unwrap_used, reason = "test code")]

mod support;

use support::*;
use wire::{
    BlockSizes, Command, CommandFlags, Cookie, Extent, HeaderBuf, Incoming, Mode, NbdError,
    Request, ServerConn, ServerWant, TransmissionFlags, WireError,
};

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISC: u16 = 2;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const ZEROES: u16 = 6;
const STATUS: u16 = 7;
const RESIZE: u16 = 8;

const FUA: u16 = 1;
const NO_HOLE: u16 = 2;
const DF: u16 = 4;
const REQ_ONE: u16 = 8;
const FAST_ZERO: u16 = 16;
const PAYLOAD_LEN: u16 = 32;

const GOOD: Result<(), NbdError> = Ok(());
const INVAL: Result<(), NbdError> = Err(NbdError::Inval);
const NOSPC: Result<(), NbdError> = Err(NbdError::NoSpace);
const PERM: Result<(), NbdError> = Err(NbdError::Perm);

/// The verdict on one request to a server of this mode, all else as in `server_params`.
fn verdict(mode: Mode, flags: u16, command: u16, offset: u64, len: u64) -> Result<(), NbdError> {
    verdict_by(
        &mut ServerConn::new(&server_params(mode)),
        flags,
        command,
        offset,
        len,
    )
}

fn verdict_by(
    conn: &mut ServerConn,
    flags: u16,
    command: u16,
    offset: u64,
    len: u64,
) -> Result<(), NbdError> {
    let mode = conn.mode();
    let is_extended_write = mode == Mode::Extended && command == WRITE;
    let flags = if is_extended_write {
        flags | PAYLOAD_LEN
    } else {
        flags
    };
    let header = request(mode, flags, command, offset, len);
    let (used, incoming) = conn.handle_header(&header).unwrap();
    assert_eq!(used, header.len());
    let has_payload = command == WRITE || (mode == Mode::Extended && flags & PAYLOAD_LEN != 0);
    let verdict = match incoming.unwrap() {
        Incoming::Request(request) => {
            assert_eq!(request.cookie, Cookie(77));
            assert_eq!(request.command, Command::from_code(command));
            assert_eq!((request.offset, request.len), (offset, len));
            assert_eq!(request.flags.0, flags & !PAYLOAD_LEN);
            Ok(())
        }
        Incoming::Invalid { request, error } => {
            assert_eq!(request.cookie, Cookie(77));
            Err(error)
        }
        Incoming::Disconnect => panic!("not a disconnect"),
    };
    if has_payload && len > 0 {
        let len = u32::try_from(len).unwrap();
        let discard = verdict.is_err();
        assert_eq!(conn.want(), ServerWant::Payload { len, discard });
        conn.handle_payload(len);
    }
    assert!(
        matches!(conn.want(), ServerWant::Header { .. }),
        "ready for the next request"
    );
    verdict
}

#[test]
fn ranges_are_judged_as_the_protocol_says() {
    let end = SIZE_BYTES;
    for mode in [Mode::Simple, Mode::Structured, Mode::Extended] {
        for (command, past_end) in [
            (READ, INVAL),
            (WRITE, NOSPC),
            (TRIM, INVAL),
            (CACHE, INVAL),
            (ZEROES, NOSPC),
        ] {
            let check = |offset, len| verdict(mode, 0, command, offset, len);
            assert_eq!(check(0, 512), GOOD, "{mode} {command}");
            assert_eq!(check(end - 512, 512), GOOD, "{mode} {command}");
            assert_eq!(check(end - 512, 1024), past_end, "{mode} {command}");
            assert_eq!(check(end, 512), past_end, "{mode} {command}");
            assert_eq!(check(u64::MAX - 511, 512), past_end, "{mode} {command}");
            assert_eq!(check(0, 0), INVAL, "{mode} {command}: empty");
            assert_eq!(check(end, 0), INVAL, "{mode} {command}: empty at the end");
        }
    }
}

#[test]
fn the_end_is_exact_to_the_byte() {
    let mut params = server_params(Mode::Extended);
    params.block_sizes_negotiated = false;
    for (command, past_end) in [
        (READ, INVAL),
        (WRITE, NOSPC),
        (ZEROES, NOSPC),
        (STATUS, INVAL),
    ] {
        let mut conn = ServerConn::new(&params);
        assert_eq!(
            verdict_by(&mut conn, 0, command, SIZE_BYTES - 1, 1),
            GOOD,
            "{command}"
        );
        assert_eq!(
            verdict_by(&mut conn, 0, command, SIZE_BYTES - 1, 2),
            past_end,
            "{command}"
        );
        assert_eq!(
            verdict_by(&mut conn, 0, command, SIZE_BYTES, 1),
            past_end,
            "{command}"
        );
    }
}

#[test]
fn alignment_binds_only_clients_that_asked_for_block_sizes() {
    for command in [READ, WRITE, TRIM, CACHE, ZEROES, STATUS] {
        let mut params = server_params(Mode::Structured);
        for (is_negotiated, expected) in [(true, INVAL), (false, GOOD)] {
            params.block_sizes_negotiated = is_negotiated;
            let mut conn = ServerConn::new(&params);
            assert_eq!(
                verdict_by(&mut conn, 0, command, 1, 512),
                expected,
                "{command}"
            );
            assert_eq!(
                verdict_by(&mut conn, 0, command, 512, 511),
                expected,
                "{command}"
            );
            assert_eq!(
                verdict_by(&mut conn, 0, command, 512, 512),
                GOOD,
                "{command}"
            );
        }
    }
}

#[test]
fn every_flag_belongs_to_its_commands() {
    let table: [(u16, u16); 6] = [
        (READ, FUA | DF),
        (WRITE, FUA),
        (TRIM, FUA),
        (CACHE, FUA),
        (ZEROES, FUA | NO_HOLE | FAST_ZERO),
        (STATUS, FUA | REQ_ONE),
    ];
    for mode in [Mode::Structured, Mode::Extended] {
        for (command, allowed) in table {
            for bit in (0..16).map(|shift| 1_u16 << shift) {
                // A flag that frames is not judged like one that asks.
                if bit == PAYLOAD_LEN {
                    continue;
                }
                let expected = if allowed & bit != 0 { GOOD } else { INVAL };
                let found = verdict(mode, bit, command, 512, 512);
                assert_eq!(found, expected, "{mode} command {command} flag {bit:#x}");
            }
        }
        assert_eq!(
            verdict(mode, FUA, FLUSH, 0, 0),
            GOOD,
            "FUA is accepted on any command"
        );
        assert_eq!(verdict(mode, DF, FLUSH, 0, 0), INVAL);
    }
    assert_eq!(verdict(Mode::Simple, 0, STATUS, 0, 512), INVAL);
}

#[test]
fn what_was_not_offered_is_invalid() {
    let cases = [
        (TransmissionFlags::SEND_FLUSH, 0, FLUSH, 0),
        (TransmissionFlags::SEND_FUA, FUA, WRITE, 512),
        (TransmissionFlags::SEND_TRIM, 0, TRIM, 512),
        (TransmissionFlags::SEND_WRITE_ZEROES, 0, ZEROES, 512),
        (TransmissionFlags::SEND_FAST_ZERO, FAST_ZERO, ZEROES, 512),
        (TransmissionFlags::SEND_CACHE, 0, CACHE, 512),
        (TransmissionFlags::SEND_DF, DF, READ, 512),
    ];
    for (offer, flags, command, len) in cases {
        let mut params = server_params(Mode::Structured);
        let mut conn = ServerConn::new(&params);
        assert_eq!(
            verdict_by(&mut conn, flags, command, 0, len),
            GOOD,
            "{offer} offered"
        );
        params.info.flags = params.info.flags.without(offer);
        let mut conn = ServerConn::new(&params);
        assert_eq!(
            verdict_by(&mut conn, flags, command, 0, len),
            INVAL,
            "{offer} not offered"
        );
    }
    let mut params = server_params(Mode::Structured);
    params.base_allocation = None;
    assert_eq!(
        verdict_by(&mut ServerConn::new(&params), 0, STATUS, 0, 512),
        INVAL
    );
}

#[test]
fn a_read_only_export_refuses_writes_before_anything_else_about_them() {
    let mut params = server_params(Mode::Extended);
    params.info.flags = TransmissionFlags::HAS_FLAGS.union(TransmissionFlags::READ_ONLY);
    let mut conn = ServerConn::new(&params);
    for command in [WRITE, TRIM, ZEROES] {
        assert_eq!(
            verdict_by(&mut conn, 0, command, SIZE_BYTES, 512),
            PERM,
            "{command}"
        );
    }
    assert_eq!(verdict_by(&mut conn, 0, READ, 0, 512), GOOD);
}

#[test]
fn unknown_commands_and_resize_are_invalid_and_the_connection_goes_on() {
    for mode in [Mode::Simple, Mode::Extended] {
        let mut conn = ServerConn::new(&server_params(mode));
        for command in [RESIZE, 9, 0x1234, u16::MAX] {
            assert_eq!(
                verdict_by(&mut conn, 0, command, 1 << 40, 0),
                INVAL,
                "{command}"
            );
        }
        assert_eq!(verdict_by(&mut conn, 0, READ, 0, 512), GOOD);
    }
}

#[test]
fn flush_takes_no_range() {
    for (offset, len) in [(1, 0), (0, 1), (512, 512)] {
        assert_eq!(verdict(Mode::Simple, 0, FLUSH, offset, len), INVAL);
    }
    assert_eq!(verdict(Mode::Simple, 0, FLUSH, 0, 0), GOOD);
}

#[test]
fn reads_and_writes_above_the_stated_payload_are_invalid_with_eoverflow_for_df() {
    let mut params = server_params(Mode::Structured);
    params.info.block = BlockSizes {
        min: 512,
        preferred: 4096,
        payload_max: 65_536,
    };
    let mut conn = ServerConn::new(&params);
    assert_eq!(verdict_by(&mut conn, 0, READ, 0, 65_536), GOOD);
    assert_eq!(
        verdict_by(&mut conn, DF, READ, 0, 65_536),
        GOOD,
        "DF up to 64 KiB is served"
    );
    assert_eq!(verdict_by(&mut conn, 0, READ, 0, 66_048), INVAL);
    assert_eq!(
        verdict_by(&mut conn, DF, READ, 0, 66_048),
        Err(NbdError::Overflow)
    );
    assert_eq!(verdict_by(&mut conn, 0, WRITE, 0, 65_536), GOOD);
    assert_eq!(
        verdict_by(&mut conn, 0, WRITE, 0, 66_048),
        INVAL,
        "consumed, not dropped"
    );
}

#[test]
fn effects_may_be_longer_than_any_payload() {
    let mut params = server_params(Mode::Extended);
    params.info.size_bytes = 1 << 60;
    let mut conn = ServerConn::new(&params);
    for len in [1 << 25, u64::from(u32::MAX) - 511, 1 << 32, 1 << 60] {
        for command in [TRIM, CACHE, ZEROES, STATUS] {
            assert_eq!(
                verdict_by(&mut conn, 0, command, 0, len),
                GOOD,
                "{command} {len}"
            );
        }
    }
}

#[test]
fn an_extended_write_has_its_payload_even_when_it_does_not_say_so() {
    let mut conn = ServerConn::new(&server_params(Mode::Extended));
    let header = request(Mode::Extended, 0, WRITE, 0, 512);
    assert!(matches!(
        conn.handle_header(&header),
        Ok((_, Some(Incoming::Request(_))))
    ));
    let payload = ServerWant::Payload {
        len: 512,
        discard: false,
    };
    assert_eq!(conn.want(), payload);
}

#[test]
fn payload_on_other_commands_is_consumed_and_invalid() {
    let mut conn = ServerConn::new(&server_params(Mode::Extended));
    for command in [READ, TRIM, STATUS, ZEROES, 99] {
        assert_eq!(
            verdict_by(&mut conn, PAYLOAD_LEN, command, 0, 512),
            INVAL,
            "{command}"
        );
    }
    // Compact requests have no such flag: nothing follows a READ, a WRITE is skipped.
    let mut conn = ServerConn::new(&server_params(Mode::Structured));
    assert_eq!(verdict_by(&mut conn, PAYLOAD_LEN, READ, 0, 512), INVAL);
    assert_eq!(verdict_by(&mut conn, PAYLOAD_LEN, WRITE, 0, 512), INVAL);
}

#[test]
fn each_mode_has_one_request_magic() {
    for (mode, other) in [
        (Mode::Simple, Mode::Extended),
        (Mode::Structured, Mode::Extended),
        (Mode::Extended, Mode::Simple),
    ] {
        let mut conn = ServerConn::new(&server_params(mode));
        let header = request(other, 0, READ, 0, 512);
        assert!(matches!(
            conn.handle_header(&header),
            Err(WireError::BadMagic { .. })
        ));
        assert!(conn.handle_header(&[]).is_err(), "the error lasts");
    }
}

#[test]
fn disconnect_ends_reading_whatever_it_carries() {
    for (flags, len) in [(0, 0), (PAYLOAD_LEN, 512), (FUA, u64::MAX)] {
        let mut conn = ServerConn::new(&server_params(Mode::Extended));
        let header = request(Mode::Extended, flags, DISC, 0, len);
        assert_eq!(
            conn.handle_header(&header),
            Ok((32, Some(Incoming::Disconnect)))
        );
        assert_eq!(conn.want(), ServerWant::Closed);
        assert_eq!(conn.handle_header(&header), Ok((0, None)));
    }
}

#[test]
fn payload_may_arrive_in_pieces_and_headers_byte_by_byte() {
    let mut conn = ServerConn::new(&server_params(Mode::Simple));
    let header = request(Mode::Simple, 0, WRITE, 0, 1024);
    for (index, byte) in header.iter().enumerate() {
        assert_eq!(
            conn.want(),
            ServerWant::Header {
                len: header.len() - index
            }
        );
        let (used, incoming) = conn.handle_header(&[*byte]).unwrap();
        assert_eq!((used, incoming.is_some()), (1, index + 1 == header.len()));
    }
    conn.handle_payload(1000);
    assert_eq!(
        conn.want(),
        ServerWant::Payload {
            len: 24,
            discard: false
        }
    );
    assert_eq!(
        conn.handle_header(&header),
        Ok((0, None)),
        "payload is no header"
    );
    conn.handle_payload(u32::MAX);
    assert_eq!(conn.want(), ServerWant::Header { len: 28 });
}

// ---- replies ----

fn asked(command: Command, flags: CommandFlags, offset: u64, len: u64) -> Request {
    Request {
        cookie: Cookie(77),
        command,
        flags,
        offset,
        len,
    }
}

fn encoded(encode: impl FnOnce(&mut HeaderBuf)) -> Vec<u8> {
    let mut out = HeaderBuf::new();
    encode(&mut out);
    out.as_bytes().to_vec()
}

#[test]
fn success_is_simple_where_allowed_and_a_chunk_elsewhere() {
    let write = asked(Command::Write, CommandFlags::NONE, 512, 512);
    let read = asked(Command::Read, CommandFlags::NONE, 512, 512);
    let cookie = Cookie(77);
    let done = |mode, request| {
        let conn = ServerConn::new(&server_params(mode));
        encoded(|out| conn.encode_done(&request, out))
    };
    assert_eq!(done(Mode::Simple, write), simple_reply(cookie, 0));
    assert_eq!(done(Mode::Structured, write), simple_reply(cookie, 0));
    assert_eq!(done(Mode::Structured, read), chunk(cookie, DONE, 0, &[]));
    assert_eq!(
        done(Mode::Extended, write),
        chunk_ext(cookie, DONE, 0, 512, &[])
    );
}

#[test]
fn an_early_error_of_a_structured_read_is_structured() {
    let mut conn = ServerConn::new(&server_params(Mode::Structured));
    let (_, incoming) = conn
        .handle_header(&request(Mode::Structured, 0x4000, READ, 0, 512))
        .unwrap();
    let Some(Incoming::Invalid { request, error }) = incoming else {
        panic!()
    };
    let reply = encoded(|out| conn.encode_error(&request, error, out));
    assert_eq!(reply[..4], 0x668e_33ef_u32.to_be_bytes());
    assert_eq!(reply[6..8], [0x80, 0x01]);
    assert_eq!(reply[20..24], 22_u32.to_be_bytes());
}

#[test]
fn an_error_has_its_number_in_every_mode() {
    let zeroes = asked(Command::WriteZeroes, CommandFlags::FAST_ZERO, 512, 512);
    let conn = ServerConn::new(&server_params(Mode::Simple));
    let reply = encoded(|out| conn.encode_error(&zeroes, NbdError::NotSup, out));
    assert_eq!(reply, simple_reply(Cookie(77), 95));
    let conn = ServerConn::new(&server_params(Mode::Extended));
    let reply = encoded(|out| conn.encode_error_text(&zeroes, NbdError::NotSup, "slow", out));
    let expected = chunk_ext(Cookie(77), DONE, 0x8001, 512, &error(95, b"slow"));
    assert_eq!(reply, expected);
}

#[test]
fn errors_reserved_for_other_requests_become_einval() {
    let conn = ServerConn::new(&server_params(Mode::Simple));
    let cases = [
        (
            Command::WriteZeroes,
            CommandFlags::NONE,
            NbdError::NotSup,
            22,
        ),
        (Command::Trim, CommandFlags::FAST_ZERO, NbdError::NotSup, 22),
        (Command::Write, CommandFlags::NONE, NbdError::Overflow, 22),
        (
            Command::WriteZeroes,
            CommandFlags::NONE,
            NbdError::Overflow,
            22,
        ),
        (Command::Read, CommandFlags::NONE, NbdError::Overflow, 22),
        (Command::Read, CommandFlags::DF, NbdError::Overflow, 75),
        (Command::Trim, CommandFlags::NONE, NbdError::Overflow, 75),
        (Command::Write, CommandFlags::NONE, NbdError::NoSpace, 28),
    ];
    for (command, flags, error, code) in cases {
        let request = asked(command, flags, 0, 512);
        let reply = encoded(|out| conn.encode_error(&request, error, out));
        assert_eq!(reply, simple_reply(Cookie(77), code), "{command} {error}");
    }
}

#[test]
fn data_and_holes_are_framed_by_the_mode() {
    let read = asked(Command::Read, CommandFlags::NONE, 4096, 4096);
    let cookie = Cookie(77);
    let conn = ServerConn::new(&server_params(Mode::Simple));
    let reply = encoded(|out| conn.encode_data(&read, 4096, 4096, true, out));
    assert_eq!(reply, simple_reply(cookie, 0));
    let conn = ServerConn::new(&server_params(Mode::Structured));
    let reply = encoded(|out| conn.encode_data(&read, 4608, 512, false, out));
    assert_eq!(
        reply,
        [chunk_header(cookie, 0, 1, 520), data(4608, &[])].concat()
    );
    let reply = encoded(|out| conn.encode_hole(&read, 5120, 3072, true, out));
    assert_eq!(reply, chunk(cookie, DONE, 2, &hole(5120, 3072)));
    let conn = ServerConn::new(&server_params(Mode::Extended));
    let reply = encoded(|out| conn.encode_data(&read, 4608, 512, true, out));
    let expected = [
        chunk_ext_header(cookie, DONE, 1, 4096, 520),
        data(4608, &[]),
    ];
    assert_eq!(reply, expected.concat());
}

/// The extents that a server says, as bytes, and how many of ours it used.
fn said(
    mode: Mode,
    flags: CommandFlags,
    (offset, len): (u64, u64),
    extents: &[(u64, u64)],
    room: usize,
) -> Option<(Vec<u8>, usize)> {
    let conn = ServerConn::new(&server_params(mode));
    let extents: Vec<Extent> = extents
        .iter()
        .map(|&(len, flags)| Extent { len, flags })
        .collect();
    let mut out = vec![0; room];
    let request = asked(Command::BlockStatus, flags, offset, len);
    let status = conn.encode_block_status(&request, &extents, &mut out)?;
    out.truncate(status.len_bytes);
    Some((out, status.extents))
}

#[test]
fn block_status_follows_the_rules_for_extents() {
    let none = CommandFlags::NONE;
    let say =
        |flags, range, extents: &[(u64, u64)]| said(Mode::Structured, flags, range, extents, 1000);
    let reply = |extents: &[(u32, u32)]| chunk(Cookie(77), DONE, 5, &status(1, extents));
    // The last extent may reach beyond the request; nothing may start there.
    let found = say(none, (0, 1024), &[(512, 0), (4096, 3), (512, 0)]);
    assert_eq!(found, Some((reply(&[(512, 0), (4096, 3)]), 2)));
    // REQ_ONE: one, and within the request.
    let found = say(CommandFlags::REQ_ONE, (0, 1024), &[(4096, 3), (512, 0)]);
    assert_eq!(found, Some((reply(&[(1024, 3)]), 1)));
    // Nothing past the end of the export, nothing empty.
    let found = say(
        none,
        (SIZE_BYTES - 1024, 1024),
        &[(0, 1), (512, 0), (9999, 3)],
    );
    assert_eq!(found, Some((reply(&[(512, 0), (512, 3)]), 3)));
    // Nothing to say.
    assert_eq!(say(none, (0, 1024), &[]), None);
    assert_eq!(say(none, (0, 1024), &[(0, 1)]), None);
    assert_eq!(
        said(Mode::Simple, none, (0, 1024), &[(1024, 0)], 1000),
        None
    );
}

#[test]
fn block_status_says_as_many_extents_as_there_is_room_for() {
    let none = CommandFlags::NONE;
    let extents = [(512, 0), (512, 3), (512, 0)];
    let fixed = 20 + 4;
    let two = chunk(Cookie(77), DONE, 5, &status(1, &[(512, 0), (512, 3)]));
    for room in [fixed + 16, fixed + 23] {
        let found = said(Mode::Structured, none, (0, 4096), &extents, room);
        assert_eq!(found, Some((two.clone(), 2)));
    }
    for room in [0, fixed, fixed + 7] {
        assert_eq!(
            said(Mode::Structured, none, (0, 4096), &extents, room),
            None
        );
    }
    let extended = chunk_ext(Cookie(77), DONE, 6, 0, &status_ext(1, &[(512, 0)]));
    let found = said(Mode::Extended, none, (0, 4096), &extents, 32 + 8 + 16);
    assert_eq!(found, Some((extended, 1)));
}

#[test]
#[should_panic(expected = "outside of its request")]
fn data_outside_of_the_request_is_a_fault_of_the_caller() {
    let conn = ServerConn::new(&server_params(Mode::Structured));
    let read = asked(Command::Read, CommandFlags::NONE, 4096, 4096);
    conn.encode_data(&read, 4095, 4096, true, &mut HeaderBuf::new());
}
