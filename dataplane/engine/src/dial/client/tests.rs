use super::*;
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    thread,
    time::Duration,
};
use wire::{
    Mode,
    proto::{BlockSizes, ExportInfo, TransmissionFlags},
};

const TIMEOUT: Duration = Duration::from_secs(5);
/// Of a server, much less than what is read at once.
const PAYLOAD_MAX: u32 = 65_536;

/// A request in the compact form: type, cookie, length.
struct Asked {
    command: u16,
    cookie: [u8; 8],
    len: u32,
}

fn next(socket: &mut UnixStream) -> Asked {
    let mut header = [0; 28];
    socket.read_exact(&mut header).expect("a request");
    Asked {
        command: u16::from_be_bytes([header[6], header[7]]),
        cookie: header[8..16].try_into().expect("eight bytes"),
        len: u32::from_be_bytes(header[24..28].try_into().expect("four bytes")),
    }
}

/// A simple reply.
fn answer(socket: &mut UnixStream, asked: &Asked, errno: u32, payload: &[u8]) {
    let mut reply = 0x6744_6698_u32.to_be_bytes().to_vec();
    reply.extend_from_slice(&errno.to_be_bytes());
    reply.extend_from_slice(&asked.cookie);
    reply.extend_from_slice(payload);
    socket.write_all(&reply).expect("the client reads");
}

/// A client past its handshake, its own socket once more, and the server's end.
fn pair() -> (NbdClient, UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("two sockets");
    let again = ours.try_clone().expect("a second handle");
    let conn = Conn::new(ours.into(), Role::Target, "nbd+unix:test".into(), TIMEOUT);
    let params = ClientParams {
        info: ExportInfo {
            size_bytes: 1 << 30,
            flags: TransmissionFlags(0),
            block: BlockSizes {
                payload_max: PAYLOAD_MAX,
                ..BlockSizes::DEFAULT
            },
            description: String::new(),
        },
        mode: Mode::Simple,
        contexts: Vec::new(),
        block_sizes_stated: true,
    };
    let client = NbdClient {
        conn: conn.expect("a connection"),
        machine: ClientConn::new(&params, 1),
        params,
    };
    (client, again, theirs)
}

#[test]
fn a_flush_may_take_longer_than_a_read() {
    let (mut client, ours, mut theirs) = pair();
    let limit = |socket: &UnixStream| socket.read_timeout().expect("a socket option");
    let server = thread::spawn(move || {
        [(); 2].map(|()| {
            let asked = next(&mut theirs);
            let found = (asked.command, limit(&ours));
            answer(&mut theirs, &asked, 0, &vec![0; asked.len as usize]);
            found
        })
    });
    client.flush().expect("flushed");
    client.read(0, &mut [0; 512]).expect("read");
    let flush = Duration::from_secs(FLUSH_SECONDS_MAX);
    // NBD_CMD_FLUSH is 3, NBD_CMD_READ 0.
    assert_eq!(
        server.join().expect("no panic"),
        [(3, Some(flush)), (0, Some(TIMEOUT))]
    );
}

#[test]
fn no_read_is_longer_than_the_server_takes() {
    let (mut client, _ours, mut theirs) = pair();
    let server = thread::spawn(move || {
        [(); 3].map(|()| {
            let asked = next(&mut theirs);
            answer(&mut theirs, &asked, 0, &vec![7; asked.len as usize]);
            asked.len
        })
    });
    let mut bytes = vec![0; 150_000];
    client.read(4096, &mut bytes).expect("read");
    let rest = 150_000 - 2 * PAYLOAD_MAX;
    assert_eq!(
        server.join().expect("no panic"),
        [PAYLOAD_MAX, PAYLOAD_MAX, rest]
    );
    assert!(bytes.iter().all(|byte| *byte == 7));
}

#[test]
fn a_server_that_shuts_down_is_a_lost_connection() {
    let (mut client, _ours, mut theirs) = pair();
    let server = thread::spawn(move || {
        // ESHUTDOWN, then EIO.
        for errno in [108, 5] {
            let asked = next(&mut theirs);
            answer(&mut theirs, &asked, errno, &[]);
        }
    });
    let error = client.flush().expect_err("it shuts down");
    assert_eq!(error.kind, ErrorKind::ConnectionLost);
    let error = client.flush().expect_err("it fails");
    assert_eq!(error.kind, ErrorKind::TargetIo);
    server.join().expect("no panic");
}
