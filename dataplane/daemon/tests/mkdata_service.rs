//! `mk-data/1` of a real server: identities and hashes, and who gets them.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod mkdata;
mod server;

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{Bed, have};
use mkdata::{Data, digests_of, nbd_header, other_client, raw_nbd};
use nix::sys::signal::Signal;
use server::{PATIENCE, Server, client_fingerprint, http, pki};

const SIZE_BYTES: u64 = (9 << 20) + 4_321;

/// A server with the exports `disk` (a file), `null` and, for nobody with our certificate, `secret`.
fn serve(bed: &Bed) -> Server {
    let disk = bed.disk("disk", SIZE_BYTES);
    bed.disk("other", 1 << 20);
    let config = format!(
        "listen = \"127.0.0.1:0\"\ntls_dir = \"pki\"\ncontrol_dir = \"control\"\nnbd_unix = \"nbd\"\n\
         [[export]]\nname = \"disk\"\npath = \"{}\"\n\
         [[export]]\nname = \"null\"\nnull_bytes = \"1T\"\n\
         [[export]]\nname = \"secret\"\npath = \"{}\"\nclient_fingerprints = [\"{}\"]\n",
        disk.display(),
        bed.path("other").display(),
        "ab".repeat(32),
    );
    std::fs::write(bed.path("config"), config).unwrap();
    let flags = [
        "--config",
        "config",
        "--control-dir",
        "control",
        "--nbd-unix",
        "nbd",
        "--listen",
        "127.0.0.1:0",
    ];
    Server::start(bed, &flags)
}

#[test]
fn the_facts_of_a_file_are_those_of_the_file_system() {
    let bed = Bed::new();
    let pki = pki(&bed, "pki");
    let server = serve(&bed);
    let mut data = Data::connect(&server, &pki);
    let facts = data.get("/v1/exports/disk").json(200);
    let file = std::fs::metadata(bed.path("disk")).unwrap();
    assert_eq!(facts["size_bytes"], SIZE_BYTES);
    assert_eq!(facts["identity"]["kind"], "file");
    assert_eq!(facts["identity"]["dev"], file.dev());
    assert_eq!(facts["identity"]["inode"], file.ino());
    assert!(facts["identity"].get("serial").is_none());
    assert_eq!(facts["logical_block_bytes"], 512);
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(facts["machine_boot_id"], boot.trim());
    assert_eq!(facts["version"], env!("CARGO_PKG_VERSION"));
    let time = facts["time"].as_str().unwrap();
    assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
    for (key, value) in [
        ("read_only", false),
        ("scratch", false),
        ("discarded", false),
    ] {
        assert_eq!(facts[key], value, "{key}");
    }
    let status = server.exports("GET", "/v1/status", "").json(200);
    assert_eq!(facts["boot_id"], status["boot_id"]);
    assert_eq!(status["connections"]["data"], 1);
    let null = data.get("/v1/exports/null").json(200);
    assert_eq!(null["identity"], serde_json::json!({"kind": "null"}));
    assert_eq!(null["discarded"], true);
    let epoch = &facts["flush"]["epoch"];
    server
        .transfers("POST", "/v1/exports/disk/flush", "")
        .json(200);
    let after = data.get("/v1/exports/disk").json(200);
    assert_eq!(&after["flush"]["epoch"], epoch);
    assert_eq!(after["flush"]["succeeded"], 1);
    server.stop();
}

#[test]
fn hashes_are_those_of_the_same_bytes_at_both_doors() {
    let bed = Bed::new();
    let pki = pki(&bed, "pki");
    let server = serve(&bed);
    let bytes = std::fs::read(bed.path("disk")).unwrap();
    let mut data = Data::connect(&server, &pki);
    for chunk in [4096usize, 65_536, 4 << 20] {
        let digests = data.hashes("disk", 0, SIZE_BYTES, chunk as u64).digests();
        assert!(digests == digests_of(&bytes, chunk), "chunks of {chunk}");
    }
    let part = data.hashes("disk", 1_536, 70_001, 65_536).digests();
    assert_eq!(part, digests_of(&bytes[1_536..][..70_001], 65_536));
    let query = format!("/v1/exports/disk/hashes?offset=0&len={SIZE_BYTES}&chunk=4194304");
    assert_eq!(local(&server, &query), digests_of(&bytes, 4 << 20).concat());
    if have("b3sum") {
        let range = bed.path("range");
        std::fs::write(&range, &bytes[4 << 20..8 << 20]).unwrap();
        let printed = server::tool(&bed, "b3sum", &["--no-names", "range"]);
        let digest = data.hashes("disk", 4 << 20, 4 << 20, 4 << 20).digests()[0];
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(printed.trim(), hex);
    }
    server.stop();
}

/// A binary answer of `transfers.sock`.
fn local(server: &Server, path: &str) -> Vec<u8> {
    let socket = server.control.as_ref().unwrap().join("transfers.sock");
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert!(
        all.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&all)
    );
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    all.split_off(end + 4)
}

#[test]
fn what_a_client_may_not_open_looks_like_what_does_not_exist() {
    let bed = Bed::new();
    let pki = pki(&bed, "pki");
    let stranger = other_client(&bed, "pki", "stranger");
    let server = serve(&bed);
    for certificates in [&pki, &stranger] {
        let mut data = Data::connect(&server, certificates);
        for tail in ["", "/hashes?offset=0&len=4096&chunk=4096"] {
            let secret = data.get(&format!("/v1/exports/secret{tail}"));
            let absent = data.get(&format!("/v1/exports/absent{tail}"));
            assert_eq!(secret.error(404), "not_found");
            let words = String::from_utf8(secret.body).unwrap();
            let same = String::from_utf8(absent.body)
                .unwrap()
                .replace("absent", "secret");
            assert_eq!(words, same, "the name does not leak");
        }
        assert_eq!(data.get("/v1/exports").error(404), "not_found");
        assert_eq!(
            data.ask("DELETE", "/v1/exports/disk", "").error(405),
            "method_not_allowed"
        );
        let patch = data.ask("PATCH", "/v1/tunables", "{\"values\":{}}");
        assert_eq!(patch.error(403), "forbidden");
    }
    // Local callers are no strangers.
    assert_eq!(
        local(
            &server,
            "/v1/exports/secret/hashes?offset=0&len=4096&chunk=4096"
        )
        .len(),
        32
    );
    server.stop();
}

#[test]
fn another_authority_and_another_protocol_end_in_the_handshake() {
    let bed = Bed::new();
    let own = pki(&bed, "pki");
    let foreign = pki(&bed, "foreign");
    let server = serve(&bed);
    // The foreign certificate, and the authority of the server.
    std::fs::copy(own.join("ca-cert.pem"), foreign.join("ca-cert.pem")).unwrap();
    let mut data = Data::connect(&server, &foreign);
    let sent = data.send(b"GET /v1/exports/disk HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(sent.is_err() || data.reply().is_err());
    let mut data = Data::offering(&server, &own, &[b"mk-data/2"]);
    let error = data.send(b"x").unwrap_err();
    assert!(
        error.to_string().contains("NoApplicationProtocol"),
        "{error}"
    );
    let mut data = Data::offering(&server, &own, &[b"mk-data/2", b"mk-data/1"]);
    data.get("/v1/exports/disk").json(200);
    server.stop();
}

#[test]
fn what_no_export_can_answer_is_refused_with_the_limit() {
    let bed = Bed::new();
    let pki = pki(&bed, "pki");
    let server = serve(&bed);
    let mut data = Data::connect(&server, &pki);
    for (offset, len, chunk, word) in [
        (1, 4096, 4096, "multiple of 512"),
        (0, (1 << 30) + 1, 4 << 20, "1073741824"),
        (0, 1 << 30, 4096, "65536"),
        (0, 4096, 8 << 20, "4194304"),
        (0, 4096, 1000, "4194304"),
        (1 << 40, 512, 4096, "1099511627776 bytes"),
        (u64::MAX - 511, 1024, 4096, "2^64"),
    ] {
        let reply = data.hashes("null", offset, len, chunk);
        assert_eq!(reply.error(400), "bad_request");
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert!(text.contains(word), "{word}: {text}");
    }
    for query in [
        "",
        "?offset=0",
        "?offset=0&len=1&chunk=4096&x=1",
        "?offset=a&len=1&chunk=4096",
    ] {
        let reply = data.get(&format!("/v1/exports/null/hashes{query}"));
        assert_eq!(reply.error(400), "bad_request", "{query}");
    }
    server.stop();
}

/// Asks until the status is this one; what happens in the server meanwhile has no event.
#[track_caller]
fn until_status(data: &mut Data, path: &str, status: u16) {
    let deadline = Instant::now() + PATIENCE;
    while data.get(path).status != status {
        assert!(Instant::now() < deadline, "{path} does not become {status}");
    }
}

#[test]
fn a_range_is_busy_from_the_header_of_a_write_to_its_answer() {
    let bed = Bed::new();
    let pki = pki(&bed, "pki");
    let server = serve(&bed);
    let mut data = Data::connect(&server, &pki);
    let (near, far) = (
        "/v1/exports/disk/hashes?offset=0&len=4194304&chunk=65536",
        "/v1/exports/disk/hashes?offset=4194304&len=4194304&chunk=65536",
    );
    let mut nbd = raw_nbd(&server, "disk");
    nbd.write_all(&nbd_header(1, 65_536, 8_192)).unwrap();
    nbd.write_all(&[0x5a; 4_096]).unwrap();
    until_status(&mut data, near, 409);
    assert_eq!(data.get(near).error(409), "busy");
    assert_eq!(data.get(far).status, 200, "elsewhere nothing is written");
    nbd.write_all(&[0x5a; 4_096]).unwrap();
    nbd.read_exact(&mut [0; 16]).unwrap();
    let digests = data.get(near).digests();
    let bytes = std::fs::read(bed.path("disk")).unwrap();
    assert_eq!(bytes[65_536..][..8_192], [0x5a; 8_192]);
    assert_eq!(digests, digests_of(&bytes[..4 << 20], 65_536));
    // A client that leaves in the middle leaves nothing behind.
    nbd.write_all(&nbd_header(1, 0, 8_192)).unwrap();
    until_status(&mut data, near, 409);
    drop(nbd);
    until_status(&mut data, near, 200);
    server.stop();
}

#[test]
fn peers_that_dawdle_or_lie_hold_nobody_up_and_are_let_go() {
    let bed = Bed::new();
    let pki = pki(&bed, "pki");
    let server = serve(&bed);
    let begun = Instant::now();
    let mut slow = Data::connect(&server, &pki);
    slow.send(b"GET /v1/exports/disk HT").unwrap();
    let mut lying = Data::connect(&server, &pki);
    lying
        .send(b"PATCH /v1/tunables HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{\"va")
        .unwrap();
    let mut garbage = Data::connect(&server, &pki);
    garbage.send(&[0x16; 300]).unwrap();
    let mut endless = Data::connect(&server, &pki);
    // It is turned away long before all of it is taken.
    let head = format!("GET /{} HTTP/1.1\r\n", "x".repeat(200_000));
    let _ = endless.send(head.as_bytes());
    let mut long = Data::connect(&server, &pki);
    long.send(b"PATCH /v1/tunables HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n")
        .unwrap();
    let _ = long.send(&[b' '; 70_000]);
    assert_eq!(long.reply().unwrap().error(413), "too_large");
    let mut half = Data::connect(&server, &pki);
    half.send(b"PATCH /v1/tunables HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        .unwrap();
    half.shut();
    assert!(half.rest().is_empty() || begun.elapsed() < Duration::from_secs(9));

    let mut good = Data::connect(&server, &pki);
    good.get("/v1/exports/disk").json(200);
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "nobody was waited for"
    );
    assert!(garbage.rest().starts_with(b"HTTP/1.1 400"));
    let turned_away = endless.rest();
    assert!(turned_away.is_empty() || turned_away.starts_with(b"HTTP/1.1 4"));
    assert_eq!(lying.reply().unwrap().error(400), "bad_request");
    lying.rest();
    slow.rest();
    assert!(
        begun.elapsed() < Duration::from_secs(50),
        "the head had its deadline"
    );
    // What is lied about a body is not taken for the next request.
    good.send(b"GET /v1/exports/disk HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nGET /v1/tunables HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(good.reply().unwrap().status, 200);
    assert_eq!(good.reply().unwrap().status, 400);
    server.stop();
}

#[test]
fn an_idle_connection_does_not_keep_the_server_from_ending() {
    let bed = Bed::new();
    let pki = pki(&bed, "pki");
    let server = serve(&bed);
    let mut data = Data::connect(&server, &pki);
    let first = data.get("/v1/exports/disk").json(200)["boot_id"].clone();
    server.signal(Signal::SIGTERM);
    assert!(data.rest().is_empty());
    assert_eq!(server.wait(), 0);
    let server = serve_again(&bed);
    let mut data = Data::connect(&server, &pki);
    let second = data.get("/v1/exports/disk").json(200)["boot_id"].clone();
    assert_ne!(first, second, "a restart is seen");
    server.stop();
}

fn serve_again(bed: &Bed) -> Server {
    let flags = [
        "--config",
        "config",
        "--control-dir",
        "control",
        "--listen",
        "127.0.0.1:0",
    ];
    Server::start(bed, &flags)
}

/// The server's configuration with our certificate among the tuners.
fn add_tuner(bed: &Bed, pki: &Path) {
    let text = std::fs::read_to_string(bed.path("config")).unwrap();
    let tuners = format!("tuners = [\"{}\"]\n{text}", client_fingerprint(pki));
    std::fs::write(bed.path("config"), tuners).unwrap();
}

fn depth_at(server: &Server) -> u64 {
    let socket = server.control.as_ref().unwrap().join("transfers.sock");
    depth(&http(&socket, "GET", "/v1/tunables", "").json(200))
}

fn depth(list: &serde_json::Value) -> u64 {
    let all = list["tunables"].as_array().unwrap();
    let one = all
        .iter()
        .find(|one| one["name"] == "device_depth")
        .unwrap();
    one["value"].as_u64().unwrap()
}

#[track_caller]
fn until_depth(server: &Server, wanted: u64) {
    let deadline = Instant::now() + PATIENCE;
    while depth_at(server) != wanted {
        assert!(Instant::now() < deadline, "device_depth does not fall back");
    }
}

#[test]
fn a_trial_of_tunables_ends_with_its_lease_or_its_connection() {
    let bed = Bed::new();
    let pki = pki(&bed, "pki");
    let stranger = other_client(&bed, "pki", "stranger");
    let server = serve(&bed);
    add_tuner(&bed, &pki);
    server.signal(Signal::SIGHUP);
    server.wait_for_notice("READY=1");
    let before = depth_at(&server);
    let trial = |value: u64, lease: u64| {
        format!("{{\"values\":{{\"device_depth\":{value}}},\"lease_s\":{lease}}}")
    };
    let mut data = Data::connect(&server, &pki);
    assert_eq!(depth(&data.get("/v1/tunables").json(200)), before);
    let list = data.ask("PATCH", "/v1/tunables", &trial(7, 600)).json(200);
    assert_eq!((depth(&list), depth_at(&server)), (7, 7));
    // Others may look, and only one may try.
    let mut other = Data::connect(&server, &stranger);
    assert_eq!(depth(&other.get("/v1/tunables").json(200)), 7);
    assert_eq!(data.get("/v1/status").json(200)["connections"]["served"], 0);
    assert_eq!(other.get("/v1/status").error(403), "forbidden");
    assert_eq!(
        other.ask("PATCH", "/v1/tunables", &trial(9, 1)).error(403),
        "forbidden"
    );
    let mut second = Data::connect(&server, &pki);
    assert_eq!(
        second.ask("PATCH", "/v1/tunables", &trial(9, 1)).error(409),
        "busy"
    );
    for bad in [
        "{}",
        "{\"values\":{\"speed\":1}}",
        "{\"values\":{},\"lease_s\":0}",
        "[",
        "",
    ] {
        assert_eq!(data.ask("PATCH", "/v1/tunables", bad).status, 400, "{bad}");
    }
    drop(data);
    until_depth(&server, before);
    // A lease of one second ends by itself.
    second.ask("PATCH", "/v1/tunables", &trial(9, 1)).json(200);
    until_depth(&server, before);
    second
        .ask(
            "PATCH",
            "/v1/tunables",
            "{\"values\":{\"device_depth\":11}}",
        )
        .json(200);
    drop(second);
    assert_eq!(depth_at(&server), 11, "without a lease it stays");
    server.stop();
}
