//! What the target hashes while bytes arrive, through the real binary: writes, zeroes and trims in any order.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod mkdata;
mod server;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use common::Bed;
use mkdata::{Data, digests_of, nbd_header, raw_nbd};
use server::{Server, pki};

const CHUNK: u64 = 4 << 20;
const SIZE_BYTES: u64 = 5 * CHUNK;

/// State and value of each place.
fn entries(data: &mut Data, path: &str) -> Vec<(u8, [u8; 32])> {
    let reply = data.get(path);
    assert_eq!(
        reply.status,
        200,
        "{}",
        String::from_utf8_lossy(&reply.body)
    );
    let (entries, rest) = reply.body.as_chunks::<33>();
    assert!(rest.is_empty());
    let split = |entry: &[u8; 33]| (entry[0], entry[1..].try_into().unwrap());
    entries.iter().map(split).collect()
}

fn stream(data: &mut Data) -> Vec<(u8, [u8; 32])> {
    entries(
        data,
        &format!("/v1/exports/disk/stream?offset=0&len={SIZE_BYTES}"),
    )
}

/// One request, answered with success.
fn request(nbd: &mut UnixStream, command: u8, offset: u64, len: u32, payload: &[u8]) {
    nbd.write_all(&nbd_header(command, offset, len)).unwrap();
    nbd.write_all(payload).unwrap();
    let mut reply = [0; 16];
    nbd.read_exact(&mut reply).unwrap();
    assert_eq!(reply[4..8], [0; 4], "the request failed");
}

fn write(nbd: &mut UnixStream, offset: u64, len: usize, seed: u8) {
    let bytes: Vec<u8> = (0..len)
        .map(|at| (at / 7 % 256).to_le_bytes()[0] ^ seed)
        .collect();
    request(nbd, 1, offset, u32::try_from(len).unwrap(), &bytes);
}

/// Writes, zeroes and trims on two connections.
fn change(one: &mut UnixStream, other: &mut UnixStream) {
    // Chunk 0: written backwards on two connections. 1: zeroes in pieces. 2: written, then a part trimmed.
    for piece in (0..16u8).rev() {
        let nbd = if piece % 2 == 0 {
            &mut *one
        } else {
            &mut *other
        };
        write(nbd, u64::from(piece) << 18, 1 << 18, piece);
    }
    request(one, 6, CHUNK, 1 << 20, &[]);
    request(other, 6, CHUNK + (1 << 20), 3 << 20, &[]);
    write(one, 2 * CHUNK, 4 << 20, 3);
    request(other, 4, 2 * CHUNK + 65_536, 65_536, &[]);
    // Chunk 3: unaligned over what was whole, and whole again over that. 4: one request over the border before it.
    write(one, 3 * CHUNK, 4 << 20, 4);
    write(other, 3 * CHUNK + 100_000, 50, 5);
    write(one, 3 * CHUNK + 65_536, 65_536, 6);
    write(other, 4 * CHUNK - 65_536, 131_072, 7);
}

/// What is no range of chunks.
fn refuses(data: &mut Data, path: &str) {
    for bad in [
        "?offset=1&len=4194304",
        "?offset=0&len=0",
        "?offset=0&len=1099511627776",
        "?offset=0",
    ] {
        assert_eq!(
            data.get(&format!("{path}{bad}")).error(400),
            "bad_request",
            "{bad}"
        );
    }
}

#[test]
fn what_is_believed_of_a_stream_is_what_is_on_the_disk() {
    let bed = Bed::new();
    let pki = pki(&bed, "pki");
    bed.disk("disk", SIZE_BYTES);
    let flags = [
        "--tls-dir",
        "pki",
        "--listen",
        "127.0.0.1:0",
        "--nbd-unix",
        "nbd",
        "--export",
        "disk=disk",
    ];
    let server = Server::start(&bed, &flags);
    let mut data = Data::connect(&server, &pki);
    let path = "/v1/exports/disk/stream";
    let reply = data.get(&format!("{path}?offset=0&len={CHUNK}"));
    assert_eq!(reply.error(409), "conflict", "nobody asked for it");
    assert_eq!(data.ask("PUT", path, "").json(200)["streaming"], true);
    let (mut one, mut other) = (raw_nbd(&server, "disk"), raw_nbd(&server, "disk"));

    change(&mut one, &mut other);
    let bytes = std::fs::read(bed.path("disk")).unwrap();
    let expected = digests_of(&bytes, 4 << 20);
    let found = stream(&mut data);
    let states: Vec<u8> = found.iter().map(|(state, _)| *state).collect();
    assert_eq!(states, [1, 1, 2, 1, 2]);
    for chunk in [0, 1, 3] {
        assert_eq!(found[chunk].1, expected[chunk], "chunk {chunk}");
    }
    // What is known of grains is what the medium says of them.
    let grains = |data: &mut Data, from: &str| {
        entries(
            data,
            &format!(
                "/v1/exports/disk/grains?offset={}&len={CHUNK}&from={from}",
                2 * CHUNK
            ),
        )
    };
    let (hot, medium) = (grains(&mut data, "stream"), grains(&mut data, "medium"));
    assert_eq!(
        hot.iter().filter(|(state, _)| *state == 0).count(),
        1,
        "the trimmed one"
    );
    assert_eq!(hot[1].0, 0);
    for (position, (hot, medium)) in hot.iter().zip(&medium).enumerate() {
        assert!(hot.0 == 0 || hot == medium, "grain {position}");
    }
    // A write in flight makes its chunk unknown, and so does one whose client left.
    one.write_all(&nbd_header(1, 0, 8_192)).unwrap();
    while stream(&mut data)[0].0 != 0 {}
    drop(one);
    while stream(&mut data)[0].0 == 0 {}
    assert_eq!(stream(&mut data)[0].0, 2, "all but the first grain");
    refuses(&mut data, path);
    data.ask("DELETE", path, "").json(200);
    assert_eq!(
        data.get(&format!("{path}?offset=0&len={CHUNK}")).error(409),
        "conflict"
    );
    server.stop();
}
