//! Builds the bytes of the protocol by hand, so that tests do not check the crate with itself.
#![allow(dead_code, reason = "every test file uses another part")]
#![allow(clippy::unwrap_used, reason = "test code")]

use wire::{
    BlockSizes, ClientConn, ClientEvent, ClientGoal, ClientHandshakeConfig, ClientParams,
    ClientWant, Command, CommandFlags, Cookie, ExportInfo, HeaderBuf, Mode, ServerHandshake,
    ServerHandshakeConfig, ServerParams, TlsPolicy, TransmissionFlags, WireError,
};

pub(crate) const DONE: u16 = 1;
pub(crate) const SIZE_BYTES: u64 = 1 << 30;
/// Everything but READ_ONLY.
pub(crate) const ALL_FLAGS: TransmissionFlags = TransmissionFlags(0b1101_1111_1101);

pub(crate) fn info() -> ExportInfo {
    ExportInfo {
        size_bytes: SIZE_BYTES,
        flags: ALL_FLAGS,
        block: BlockSizes {
            min: 512,
            preferred: 4096,
            payload_max: 32 << 20,
        },
        description: "a disk".to_owned(),
    }
}

// ---- handshake ----

pub(crate) fn server(tls: TlsPolicy) -> ServerHandshake {
    ServerHandshake::new(ServerHandshakeConfig {
        tls,
        list: true,
        extended_headers: true,
    })
}

/// A server that has its client flags (FIXED_NEWSTYLE, NO_ZEROES) and whose greeting was taken.
pub(crate) fn greeted(tls: TlsPolicy) -> ServerHandshake {
    let mut server = server(tls);
    assert_eq!(server.take_output().len(), 18);
    assert_eq!(server.handle_input(&[0, 0, 0, 3]), Ok(4));
    server
}

pub(crate) fn client_config() -> ClientHandshakeConfig {
    ClientHandshakeConfig {
        export_name: "disk".to_owned(),
        goal: ClientGoal::Go,
        starttls: false,
        extended_headers: true,
        structured_replies: true,
        contexts: vec!["base:allocation".to_owned()],
    }
}

pub(crate) fn option(code: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [
        b"IHAVEOPT",
        &code.to_be_bytes()[..],
        &len.to_be_bytes(),
        data,
    ]
    .concat()
}

pub(crate) fn option_reply(option: u32, reply: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    let magic = 0x0003_e889_0455_65a9_u64;
    let fields = [option, reply, len].map(u32::to_be_bytes).concat();
    [&magic.to_be_bytes()[..], &fields, data].concat()
}

/// Splits the output of a server into (option, reply, data).
pub(crate) fn replies(mut output: &[u8]) -> Vec<(u32, u32, Vec<u8>)> {
    let mut replies = Vec::new();
    while !output.is_empty() {
        let field = |at: usize| u32::from_be_bytes(output[at..at + 4].try_into().unwrap());
        assert_eq!(output[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes());
        let end = 20 + field(16) as usize;
        replies.push((field(8), field(12), output[20..end].to_vec()));
        output = &output[end..];
    }
    replies
}

pub(crate) fn prefixed(string: &str) -> Vec<u8> {
    let len = u32::try_from(string.len()).unwrap();
    [&len.to_be_bytes()[..], string.as_bytes()].concat()
}

/// Data of INFO or GO.
pub(crate) fn export_request(name: &str, kinds: &[u16]) -> Vec<u8> {
    let count = u16::try_from(kinds.len()).unwrap();
    let mut data = prefixed(name);
    for field in [&[count], kinds].concat() {
        data.extend(field.to_be_bytes());
    }
    data
}

/// Data of a meta context option.
pub(crate) fn context_request(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = prefixed(name);
    data.extend(u32::try_from(queries.len()).unwrap().to_be_bytes());
    for query in queries {
        data.extend(prefixed(query));
    }
    data
}

// ---- transmission ----

pub(crate) fn server_params(mode: Mode) -> ServerParams {
    ServerParams {
        export_name: "disk".to_owned(),
        info: info(),
        mode,
        base_allocation: (mode != Mode::Simple).then_some(1),
        block_sizes_negotiated: true,
    }
}

/// A request header.
pub(crate) fn request(mode: Mode, flags: u16, command: u16, offset: u64, len: u64) -> Vec<u8> {
    let magic: u32 = if mode == Mode::Extended {
        0x21e4_1c71
    } else {
        0x2560_9513
    };
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(command.to_be_bytes());
    bytes.extend(77_u64.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    match mode {
        Mode::Extended => bytes.extend(len.to_be_bytes()),
        _ => bytes.extend(u32::try_from(len).unwrap().to_be_bytes()),
    }
    bytes
}

pub(crate) fn client_params(mode: Mode) -> ClientParams {
    let names = ["base:allocation", "qemu:dirty-bitmap:a"];
    let contexts = if mode == Mode::Simple {
        vec![]
    } else {
        vec![(1, names[0].to_owned())]
    };
    ClientParams {
        info: info(),
        mode,
        contexts,
        block_sizes_stated: true,
    }
}

pub(crate) fn client(mode: Mode) -> ClientConn {
    ClientConn::new(&client_params(mode), 4)
}

pub(crate) fn start(conn: &mut ClientConn, command: Command, offset: u64, len: u64) -> Cookie {
    start_with(conn, command, CommandFlags::NONE, offset, len)
}

pub(crate) fn start_with(
    conn: &mut ClientConn,
    command: Command,
    flags: CommandFlags,
    offset: u64,
    len: u64,
) -> Cookie {
    conn.start(command, flags, offset, len, &mut HeaderBuf::new())
        .unwrap()
}

pub(crate) fn simple_reply(cookie: Cookie, error: u32) -> Vec<u8> {
    let mut bytes = 0x6744_6698_u32.to_be_bytes().to_vec();
    bytes.extend(error.to_be_bytes());
    bytes.extend(cookie.0.to_be_bytes());
    bytes
}

/// A structured chunk.
pub(crate) fn chunk(cookie: Cookie, flags: u16, kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = chunk_header(cookie, flags, kind, u32::try_from(body.len()).unwrap());
    bytes.extend(body);
    bytes
}

pub(crate) fn chunk_header(cookie: Cookie, flags: u16, kind: u16, len: u32) -> Vec<u8> {
    let mut bytes = 0x668e_33ef_u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.0.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}

/// An extended chunk.
pub(crate) fn chunk_ext(
    cookie: Cookie,
    flags: u16,
    kind: u16,
    offset: u64,
    body: &[u8],
) -> Vec<u8> {
    let mut bytes = chunk_ext_header(cookie, flags, kind, offset, body.len() as u64);
    bytes.extend(body);
    bytes
}

pub(crate) fn chunk_ext_header(
    cookie: Cookie,
    flags: u16,
    kind: u16,
    offset: u64,
    len: u64,
) -> Vec<u8> {
    let mut bytes = 0x6e8a_278c_u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    for field in [cookie.0, offset, len] {
        bytes.extend(field.to_be_bytes());
    }
    bytes
}

/// Body of OFFSET_DATA.
pub(crate) fn data(offset: u64, bytes: &[u8]) -> Vec<u8> {
    [&offset.to_be_bytes()[..], bytes].concat()
}

/// Body of OFFSET_HOLE.
pub(crate) fn hole(offset: u64, len: u32) -> Vec<u8> {
    [&offset.to_be_bytes()[..], &len.to_be_bytes()].concat()
}

/// Body of BLOCK_STATUS.
pub(crate) fn status(context: u32, extents: &[(u32, u32)]) -> Vec<u8> {
    let mut body = context.to_be_bytes().to_vec();
    for (len, flags) in extents {
        body.extend(len.to_be_bytes());
        body.extend(flags.to_be_bytes());
    }
    body
}

/// Body of BLOCK_STATUS_EXT.
pub(crate) fn status_ext(context: u32, extents: &[(u64, u64)]) -> Vec<u8> {
    let mut body = context.to_be_bytes().to_vec();
    body.extend(u32::try_from(extents.len()).unwrap().to_be_bytes());
    for (len, flags) in extents {
        body.extend(len.to_be_bytes());
        body.extend(flags.to_be_bytes());
    }
    body
}

/// Body of ERROR.
pub(crate) fn error(code: u32, text: &[u8]) -> Vec<u8> {
    let len = u16::try_from(text.len()).unwrap();
    [&code.to_be_bytes()[..], &len.to_be_bytes(), text].concat()
}

/// Events, and payload as (offset, length) pieces.
pub(crate) type Fed = (Vec<ClientEvent>, Vec<(u32, u32)>);

/// Feeds a client everything.
pub(crate) fn feed(conn: &mut ClientConn, mut input: &[u8]) -> Result<Fed, WireError> {
    let (mut events, mut payload) = (Vec::new(), Vec::new());
    while !input.is_empty() {
        let (used, event) = match conn.want() {
            ClientWant::Header { .. } => conn.handle_header(input)?,
            ClientWant::Payload { offset, len, .. } => {
                assert!(input.len() >= len as usize, "payload is sent whole");
                payload.push((offset, len));
                (len as usize, conn.handle_payload(len))
            }
            ClientWant::Closed => panic!("closed with input left"),
        };
        input = &input[used..];
        events.extend(event);
    }
    Ok((events, payload))
}

/// The error that a client ends with when it is fed this.
pub(crate) fn fault(conn: &mut ClientConn, input: &[u8]) -> WireError {
    let error = feed(conn, input).expect_err("the client must refuse this");
    assert_eq!(conn.want(), ClientWant::Closed);
    assert_eq!(conn.handle_header(&[]), Err(error), "an error must last");
    error
}
