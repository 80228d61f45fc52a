//! Bodies of the fuzz targets: each takes any bytes and must return.
//!
//! The targets in `fuzz/` call these functions and nothing else; the corpus beside them is replayed
//! by an ordinary test, so a finding stays fixed on machines without a fuzzer.
//!
//! What is checked beside the absence of panics: machines never take more than they were given,
//! never stop making progress, repeat their error for ever, and let nothing through that the rules
//! of the protocol forbid.

mod dice;
mod disk;
mod pair;
mod rounds;

#[cfg(test)]
mod seeds;
#[cfg(test)]
mod tests;

pub use pair::pair;

use crate::limits::{LIST_REPLY_BYTES_MAX, OPTIONS_MAX};
use crate::proto::NbdError;
use crate::{
    BlockSizes, ClientConn, ClientEvent, ClientGoal, ClientHandshake, ClientHandshakeConfig,
    ClientHandshakeEvent, ClientParams, ClientWant, Command, CommandFlags, Cookie, ExportInfo,
    ExportRefusal, Extent, HeaderBuf, Incoming, Mode, Query, ServerConn, ServerHandshake,
    ServerHandshakeConfig, ServerHandshakeEvent, ServerParams, ServerWant, TlsPolicy,
    TransmissionFlags,
};
use dice::Dice;

/// Size of the export that the targets serve.
const SIZE_BYTES: u64 = 1 << 20;
/// Most bytes a server may owe: every option answered at its longest.
const OUTPUT_BYTES_MAX: usize = OPTIONS_MAX as usize * (LIST_REPLY_BYTES_MAX + 1024) + 64;

/// Everything a server of this crate can offer.
fn export_info() -> ExportInfo {
    ExportInfo {
        size_bytes: SIZE_BYTES,
        flags: TransmissionFlags(0b1101_1111_1101),
        block: BlockSizes {
            min: 512,
            preferred: 4096,
            payload_max: 1 << 16,
        },
        description: "a disk".to_owned(),
    }
}

fn mode_of(byte: u8) -> Mode {
    match byte % 3 {
        0 => Mode::Simple,
        1 => Mode::Structured,
        _ => Mode::Extended,
    }
}

/// Cuts `data` into pieces of 1 to 64 bytes, or leaves it whole.
fn pieces(data: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let mut dice = Dice::new(u64::from(seed));
    let mut rest = data;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let len = if seed == 0 {
            rest.len()
        } else {
            dice.below(64) + 1
        };
        let (piece, tail) = rest.split_at(len.min(rest.len()));
        rest = tail;
        Some(piece)
    })
}

/// Target `server_handshake`: byte 0 configures, byte 1 cuts, the rest is the client.
pub fn server_handshake(data: &[u8]) {
    let [config, cuts, input @ ..] = data else {
        return;
    };
    let mut server = ServerHandshake::new(ServerHandshakeConfig {
        tls: if config & 1 == 0 {
            TlsPolicy::NotOffered
        } else {
            TlsPolicy::Forced
        },
        list: config & 2 != 0,
        extended_headers: config & 4 != 0,
    });
    let is_known = config & 8 == 0;
    let mut owed = 0;
    for piece in pieces(input, *cuts) {
        let mut rest = piece;
        loop {
            let used = match server.handle_input(rest) {
                Ok(used) => used,
                Err(error) => {
                    assert_eq!(server.handle_input(&[]), Err(error), "an error must last");
                    assert_eq!(server.poll_event(), None, "no event after an error");
                    return;
                }
            };
            rest = &rest[used..];
            let event = server.poll_event();
            owed += server.take_output().len();
            assert!(owed <= OUTPUT_BYTES_MAX, "output must be bounded");
            match event {
                Some(event) => {
                    if !answer(&mut server, event, is_known) {
                        return;
                    }
                }
                None if rest.is_empty() => break,
                None => assert!(used > 0, "a machine without a question must make progress"),
            }
        }
    }
}

/// Answers a server's question; `false` at the end of the handshake.
fn answer(server: &mut ServerHandshake, event: ServerHandshakeEvent, is_known: bool) -> bool {
    assert!(!server.wants_input() || event == ServerHandshakeEvent::StartTls);
    match event {
        ServerHandshakeEvent::ExportQuery { name, query } => {
            assert!(name.len() <= 4096 && !name.contains('\0'));
            let is_refused = !is_known || (query == Query::Go && name == "refused");
            let refusal = Err(ExportRefusal::Unknown);
            server.answer_export(if is_refused {
                refusal
            } else {
                Ok(export_info())
            });
        }
        ServerHandshakeEvent::ListQuery => {
            let exports = [
                ("disk".to_owned(), "text".to_owned()),
                (String::new(), String::new()),
            ];
            server.answer_list(Ok(&exports));
        }
        ServerHandshakeEvent::StartTls => {
            server.tls_established(0).expect("TLS was asked for");
        }
        ServerHandshakeEvent::Done(params) => {
            assert!(params.base_allocation.is_none() || params.mode != Mode::Simple);
            return false;
        }
        ServerHandshakeEvent::Aborted | ServerHandshakeEvent::Terminate(_) => return false,
    }
    true
}

/// Target `server_transmission`: byte 0 is the mode, byte 1 cuts, the rest is the client.
pub fn server_transmission(data: &[u8]) {
    let [mode, cuts, input @ ..] = data else {
        return;
    };
    let params = ServerParams {
        export_name: String::new(),
        info: export_info(),
        mode: mode_of(*mode),
        base_allocation: (mode & 4 == 0).then_some(1),
        block_sizes_negotiated: mode & 8 == 0,
    };
    let mut conn = ServerConn::new(&params);
    for piece in pieces(input, *cuts) {
        let mut rest = piece;
        while !rest.is_empty() {
            let used = match conn.want() {
                ServerWant::Closed => return,
                ServerWant::Payload { len, .. } => {
                    let taken = rest.len().min(len as usize);
                    conn.handle_payload(u32::try_from(taken).expect("at most len"));
                    taken
                }
                ServerWant::Header { len } => match conn.handle_header(rest) {
                    Ok((used, incoming)) => {
                        assert!(used <= len);
                        if let Some(incoming) = incoming {
                            reply_to(&conn, &params, incoming);
                        }
                        used
                    }
                    Err(error) => {
                        assert_eq!(conn.handle_header(&[]), Err(error), "an error must last");
                        assert_eq!(conn.want(), ServerWant::Closed);
                        return;
                    }
                },
            };
            assert!(used > 0, "an open machine must make progress");
            rest = &rest[used..];
        }
    }
}

/// Encodes every reply a request could get.
fn reply_to(conn: &ServerConn, params: &ServerParams, incoming: Incoming) {
    let mut out = HeaderBuf::new();
    let request = match incoming {
        Incoming::Disconnect => return,
        Incoming::Invalid { request, error } => {
            return conn.encode_error(&request, error, &mut out);
        }
        Incoming::Request(request) => request,
    };
    assert!(!matches!(
        request.command,
        Command::Unknown(_) | Command::Disconnect
    ));
    let end = request
        .offset
        .checked_add(request.len)
        .expect("checked by the machine");
    assert!(end <= params.info.size_bytes);
    assert!(request.len > 0 || request.command == Command::Flush);
    conn.encode_done(&request, &mut out);
    conn.encode_error(&request, NbdError::Overflow, &mut out);
    conn.encode_error_text(&request, NbdError::Io, &"é".repeat(64), &mut out);
    if request.command == Command::Read {
        let len = u32::try_from(request.len).expect("payload is bounded");
        conn.encode_data(&request, request.offset, len, true, &mut out);
        if conn.mode() != Mode::Simple {
            conn.encode_hole(&request, request.offset, 1, false, &mut out);
        }
    }
    if request.command == Command::BlockStatus {
        let extents = [
            Extent { len: 512, flags: 0 },
            Extent {
                len: u64::MAX,
                flags: u64::MAX,
            },
        ];
        let mut reply = [0; 80];
        let status = conn
            .encode_block_status(&request, &extents, &mut reply)
            .expect("it fits");
        assert!(status.extents >= 1 && status.len_bytes <= reply.len());
    }
}

/// Target `client_handshake`: byte 0 configures, byte 1 cuts, the rest is the server.
pub fn client_handshake(data: &[u8]) {
    let [config, cuts, input @ ..] = data else {
        return;
    };
    let mut client = ClientHandshake::new(ClientHandshakeConfig {
        export_name: "disk".to_owned(),
        goal: match config & 3 {
            0 => ClientGoal::Info,
            1 => ClientGoal::List,
            _ => ClientGoal::Go,
        },
        starttls: config & 4 != 0,
        extended_headers: config & 8 != 0,
        structured_replies: config & 16 != 0,
        contexts: vec![crate::proto::BASE_ALLOCATION.to_owned()],
    });
    for piece in pieces(input, *cuts) {
        let mut rest = piece;
        loop {
            let used = match client.handle_input(rest) {
                Ok(used) => used,
                Err(error) => {
                    assert_eq!(client.handle_input(&[]), Err(error), "an error must last");
                    assert_eq!(client.poll_event(), None, "no event after an error");
                    return;
                }
            };
            rest = &rest[used..];
            assert!(
                client.take_output().len() <= 2 * 65_536,
                "one option at a time"
            );
            match client.poll_event() {
                Some(ClientHandshakeEvent::StartTls) => {
                    client.tls_established(0).expect("TLS was asked for");
                }
                Some(ClientHandshakeEvent::Done(params)) => {
                    assert!(i64::try_from(params.info.size_bytes).is_ok());
                    assert!(params.info.block.check().is_ok());
                    return;
                }
                Some(_) => return,
                None if rest.is_empty() => break,
                None => assert!(used > 0, "a machine that waits must make progress"),
            }
        }
    }
}

/// Requests that the client of `client_transmission` has in flight, in the order of their slots.
/// Their cookies are `1 << 32 | slot`.
const CLIENT_REQUESTS: [(Command, CommandFlags, u64, u64); 8] = [
    (Command::Read, CommandFlags::NONE, 0, 4096),
    (Command::Read, CommandFlags::DF, 8192, 512),
    (Command::Write, CommandFlags::FUA, 0, 512),
    (Command::Flush, CommandFlags::NONE, 0, 0),
    (Command::WriteZeroes, CommandFlags::NO_HOLE, 512, 1024),
    (Command::BlockStatus, CommandFlags::NONE, 0, 65_536),
    (Command::BlockStatus, CommandFlags::REQ_ONE, 512, 65_536),
    (Command::Read, CommandFlags::NONE, SIZE_BYTES - 1, 1),
];

/// Target `client_transmission`: byte 0 is the mode, byte 1 cuts, the rest is the server.
pub fn client_transmission(data: &[u8]) {
    let [mode, cuts, input @ ..] = data else {
        return;
    };
    let mode = mode_of(*mode);
    let contexts = if mode == Mode::Simple {
        vec![]
    } else {
        vec![(1, "a".to_owned())]
    };
    let info = export_info();
    let params = ClientParams {
        info,
        mode,
        contexts,
        block_sizes_stated: true,
    };
    let mut conn = ClientConn::new(&params, CLIENT_REQUESTS.len());
    let mut out = HeaderBuf::new();
    for (command, flags, offset, len) in CLIENT_REQUESTS {
        // Without contexts there is no BLOCK_STATUS; a flush keeps the slot.
        let is_status = command == Command::BlockStatus && mode == Mode::Simple;
        let command = if is_status { Command::Flush } else { command };
        conn.start(command, flags, offset, len, &mut out)
            .expect("the table has room");
    }
    let mut completed = 0;
    for piece in pieces(input, *cuts) {
        let mut rest = piece;
        while !rest.is_empty() {
            let (used, event) = match conn.want() {
                ClientWant::Closed => return,
                ClientWant::Payload {
                    cookie,
                    offset,
                    len,
                } => {
                    let (_, _, _, request_len) = CLIENT_REQUESTS[ClientConn::slot_of(cookie)];
                    assert!(u64::from(offset) + u64::from(len) <= request_len);
                    let taken = rest.len().min(len as usize);
                    let event = conn.handle_payload(u32::try_from(taken).expect("at most len"));
                    (taken, event)
                }
                ClientWant::Header { len } => match conn.handle_header(rest) {
                    Ok((used, event)) => {
                        assert!(used <= len);
                        (used, event)
                    }
                    Err(error) => {
                        assert_eq!(conn.handle_header(&[]), Err(error), "an error must last");
                        assert_eq!(conn.want(), ClientWant::Closed);
                        return;
                    }
                },
            };
            assert!(used > 0, "an open machine must make progress");
            rest = &rest[used..];
            if event.is_some_and(|event| check_event(&event)) {
                completed += 1;
                assert_eq!(conn.in_flight(), CLIENT_REQUESTS.len() - completed);
            }
        }
    }
}

/// Checks an event against the request it is about; `true` when it ends the request.
fn check_event(event: &ClientEvent) -> bool {
    let request = |cookie: Cookie| CLIENT_REQUESTS[ClientConn::slot_of(cookie)];
    match event {
        ClientEvent::Completed { .. } => true,
        ClientEvent::Hole {
            cookie,
            offset,
            len,
            done,
        } => {
            let (command, _, _, request_len) = request(*cookie);
            assert_eq!(command, Command::Read);
            assert!(*len > 0 && u64::from(*offset) + u64::from(*len) <= request_len);
            *done
        }
        ClientEvent::Extents {
            cookie,
            extents,
            done,
            ..
        } => {
            let (_, _, offset, _) = request(*cookie);
            assert!(!extents.is_empty() && extents.iter().all(|extent| extent.len > 0));
            let sum: u64 = extents.iter().map(|extent| extent.len).sum();
            assert!(offset + sum <= SIZE_BYTES);
            *done
        }
    }
}
