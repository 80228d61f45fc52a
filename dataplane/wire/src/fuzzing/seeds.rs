//! The seed corpus: a few well-formed conversations per target, so that a fuzzer starts behind the
//! magic numbers. `tests.rs` checks that the files in `fuzz/corpus` are these.

use super::{CLIENT_REQUESTS, SIZE_BYTES};
use crate::client::ClientGoal;
use crate::proto::{
    ChunkHeader, ChunkKind, Command, CommandFlags, Cookie, OPTION_MAGIC, RequestHeader, SimpleReply,
};
use crate::{
    ClientHandshake, ClientHandshakeConfig, ExportInfo, HeaderBuf, Mode, ServerHandshake,
    ServerHandshakeConfig, ServerHandshakeEvent, TlsPolicy,
};

/// (target, name, bytes)
pub(super) type Seed = (&'static str, String, Vec<u8>);

pub(super) fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    seeds.extend(server_handshake());
    seeds.extend(client_handshake());
    seeds.extend(server_transmission());
    seeds.extend(client_transmission());
    seeds.extend(pair());
    seeds
}

const MODES: [(u8, Mode); 3] = [
    (0, Mode::Simple),
    (1, Mode::Structured),
    (2, Mode::Extended),
];

fn option(code: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(code.to_be_bytes());
    bytes.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    bytes.extend(data);
    bytes
}

fn named(name: &str, rest: &[u8]) -> Vec<u8> {
    let mut data = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
    data.extend(name.as_bytes());
    data.extend(rest);
    data
}

fn server_handshake() -> Vec<Seed> {
    let flags = 3_u32.to_be_bytes().to_vec();
    let context = named(
        "disk",
        &[&[0, 0, 0, 1][..], &named("base:allocation", &[])].concat(),
    );
    let go = named("disk", &[0, 2, 0, 3, 0, 1]);
    let conversations: [(&str, u8, Vec<Vec<u8>>); 6] = [
        ("export_name", 6, vec![option(1, b"disk")]),
        (
            "go_structured",
            6,
            vec![option(8, &[]), option(10, &context), option(7, &go)],
        ),
        (
            "go_extended",
            6,
            vec![option(11, &[]), option(10, &context), option(7, &go)],
        ),
        (
            "starttls",
            7,
            vec![option(5, &[]), option(6, &go), option(7, &go)],
        ),
        (
            "list_abort",
            6,
            vec![option(3, &[]), option(99, b"junk"), option(2, &[])],
        ),
        (
            "forced_too_early",
            7,
            vec![option(8, &[]), option(1, b"disk")],
        ),
    ];
    let seed = |(name, config, options): (&str, u8, Vec<Vec<u8>>)| {
        let bytes = [vec![config, 0], flags.clone(), options.concat()].concat();
        ("server_handshake", name.to_owned(), bytes)
    };
    conversations.into_iter().map(seed).collect()
}

/// What our server says to a client with this configuration byte.
fn server_words(config: u8, goal: ClientGoal) -> Vec<u8> {
    let mut client = ClientHandshake::new(ClientHandshakeConfig {
        export_name: "disk".to_owned(),
        goal,
        starttls: config & 4 != 0,
        extended_headers: config & 8 != 0,
        structured_replies: config & 16 != 0,
        contexts: vec!["base:allocation".to_owned()],
    });
    let mut server = ServerHandshake::new(ServerHandshakeConfig {
        tls: if config & 4 != 0 {
            TlsPolicy::Forced
        } else {
            TlsPolicy::NotOffered
        },
        list: true,
        extended_headers: config & 32 == 0,
    });
    let info = ExportInfo {
        size_bytes: SIZE_BYTES,
        ..super::export_info()
    };
    let mut words = Vec::new();
    loop {
        let output = server.take_output();
        words.extend(&output);
        client.handle_input(&output).unwrap();
        if client.poll_event() == Some(crate::ClientHandshakeEvent::StartTls) {
            client.tls_established(0).unwrap();
        }
        let input = client.take_output();
        server.handle_input(&input).unwrap();
        match server.poll_event() {
            Some(ServerHandshakeEvent::StartTls) => {
                let ack = server.take_output();
                words.extend(&ack);
                server.tls_established(0).unwrap();
                client.handle_input(&ack).unwrap();
                client.poll_event();
                client.tls_established(0).unwrap();
                server.handle_input(&client.take_output()).unwrap();
            }
            Some(ServerHandshakeEvent::ExportQuery { .. }) => {
                server.answer_export(Ok(info.clone()));
            }
            Some(ServerHandshakeEvent::ListQuery) => {
                server.answer_list(Ok(&[("disk".to_owned(), "text".to_owned())]));
            }
            Some(_) => {
                words.extend(server.take_output());
                return words;
            }
            None => {}
        }
    }
}

fn client_handshake() -> Vec<Seed> {
    let conversations = [
        ("info_simple", 0, ClientGoal::Info),
        ("list", 1, ClientGoal::List),
        ("go_structured", 2 | 16, ClientGoal::Go),
        ("go_extended", 2 | 8 | 16, ClientGoal::Go),
        ("go_extended_refused", 2 | 8 | 16 | 32, ClientGoal::Go),
        ("go_starttls", 2 | 4 | 8, ClientGoal::Go),
    ];
    let seed = |(name, config, goal): (&str, u8, ClientGoal)| {
        let bytes = [vec![config, 0], server_words(config, goal)].concat();
        ("client_handshake", name.to_owned(), bytes)
    };
    conversations.into_iter().map(seed).collect()
}

fn request(mode: Mode, command: Command, flags: u16, offset: u64, len: u64) -> Vec<u8> {
    let mut out = HeaderBuf::new();
    let header = RequestHeader {
        flags: CommandFlags(flags),
        command,
        cookie: Cookie(7),
        offset,
        len,
    };
    header.encode(mode, &mut out);
    out.as_bytes().to_vec()
}

fn server_transmission() -> Vec<Seed> {
    let seed = |(byte, mode): (u8, Mode)| {
        let write_flags = if mode == Mode::Extended { 33 } else { 1 };
        let bytes = [
            vec![byte, 3],
            request(mode, Command::Read, 0, 0, 4096),
            request(mode, Command::Write, write_flags, 512, 512),
            vec![7; 512],
            request(mode, Command::Write, write_flags, SIZE_BYTES, 16),
            vec![7; 16],
            request(mode, Command::WriteZeroes, 18, 0, 1 << 20),
            request(mode, Command::BlockStatus, 8, 0, 65_536),
            request(mode, Command::Unknown(8), 0, u64::MAX, 1),
            request(mode, Command::Flush, 0, 0, 0),
            request(mode, Command::Disconnect, 0, 0, 0),
        ];
        ("server_transmission", mode_name(mode), bytes.concat())
    };
    MODES.into_iter().map(seed).collect()
}

fn chunk(mode: Mode, slot: u64, kind: ChunkKind, done: u16, body: &[u8]) -> Vec<u8> {
    let mut out = HeaderBuf::new();
    let slot_index = usize::try_from(slot).unwrap();
    let header = ChunkHeader {
        flags: done,
        kind,
        cookie: Cookie(1 << 32 | slot),
        offset: CLIENT_REQUESTS[slot_index].2,
        len: body.len() as u64,
    };
    header.encode(mode, &mut out);
    [out.as_bytes(), body].concat()
}

fn client_transmission() -> Vec<Seed> {
    let simple = |slot: u64, error| {
        let mut out = HeaderBuf::new();
        SimpleReply {
            error,
            cookie: Cookie(1 << 32 | slot),
        }
        .encode(&mut out);
        out.as_bytes().to_vec()
    };
    let words = |mode: Mode| match mode {
        Mode::Simple => [
            simple(0, 0),
            vec![1; 4096],
            simple(2, 28),
            simple(7, 0),
            vec![1],
            simple(3, 0),
        ]
        .concat(),
        Mode::Structured | Mode::Extended => {
            let offset = |value: u64| value.to_be_bytes().to_vec();
            let hole = [offset(0), 1024_u32.to_be_bytes().to_vec()].concat();
            let status = if mode == Mode::Extended {
                let fixed = [0, 0, 0, 1, 0, 0, 0, 1];
                (
                    ChunkKind::BLOCK_STATUS_EXT,
                    [&fixed[..], &offset(65_536), &offset(3)].concat(),
                )
            } else {
                (
                    ChunkKind::BLOCK_STATUS,
                    vec![0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 3],
                )
            };
            [
                chunk(mode, 0, ChunkKind::OFFSET_HOLE, 0, &hole),
                chunk(
                    mode,
                    0,
                    ChunkKind::OFFSET_DATA,
                    0,
                    &[offset(1024), vec![1; 3072]].concat(),
                ),
                chunk(mode, 0, ChunkKind::NONE, 1, &[]),
                chunk(
                    mode,
                    2,
                    ChunkKind::ERROR,
                    1,
                    &[0, 0, 0, 28, 0, 2, b'n', b'o'],
                ),
                chunk(mode, 5, status.0, 1, &status.1),
                chunk(mode, 6, status.0, 1, &status.1),
                chunk(mode, 4, ChunkKind::NONE, 1, &[]),
            ]
            .concat()
        }
    };
    let seed = |(byte, mode): (u8, Mode)| {
        (
            "client_transmission",
            mode_name(mode),
            [vec![byte, 5], words(mode)].concat(),
        )
    };
    MODES.into_iter().map(seed).collect()
}

/// Any bytes are a script; a spread of them starts the fuzzer off with long ones.
fn pair() -> Vec<Seed> {
    let seed = |(byte, mode): (u8, Mode)| {
        let bytes = (0..200_u8)
            .map(|index| index.wrapping_mul(37).wrapping_add(byte))
            .collect();
        let bytes: Vec<u8> = bytes;
        ("pair", mode_name(mode), [vec![byte], bytes].concat())
    };
    MODES.into_iter().map(seed).collect()
}

fn mode_name(mode: Mode) -> String {
    format!("{mode:?}").to_lowercase()
}
