//! The control sockets of a running server.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod server;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use common::{Bed, assert_same};
use server::{PATIENCE, Server, client_fingerprint, pki};

/// A server with control sockets and a TLS listener.
fn start(bed: &Bed) -> Server {
    pki(bed, "pki");
    Server::start(
        bed,
        &[
            "--listen",
            "127.0.0.1:0",
            "--tls-dir",
            "pki",
            "--control-dir",
            "ctl",
        ],
    )
}

fn disk(bed: &Bed, name: &str, size_bytes: u64) -> String {
    let file = std::fs::File::create(bed.path(name)).unwrap();
    file.set_len(size_bytes).unwrap();
    bed.path(name).display().to_string()
}

fn put_body(device: &str, clients: &str, fence: u64) -> String {
    format!(
        r#"{{"device": "{device}", "mode": "rw", "client_fingerprints": ["{clients}"], "fence": {fence}}}"#
    )
}

#[test]
fn each_socket_is_for_its_own_people() {
    let bed = Bed::new();
    let server = start(&bed);
    let mode = |name: &str| {
        let metadata = std::fs::metadata(bed.path("ctl").join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("exports.sock"), 0o600);
    assert_eq!(mode("transfers.sock"), 0o660);
    let status = server.transfers("GET", "/v1/status", "").json(200);
    assert_eq!(
        status["boot_id"],
        server.exports("GET", "/v1/status", "").json(200)["boot_id"]
    );
    assert_eq!(status["tier"], server.tier.as_str());
    assert_eq!(status["pid"], server.pid().as_raw());
    server.exports("GET", "/v1/transfers", "").json(404);
    server.transfers("PUT", "/v1/exports/a", "{}").json(404);
    server.stop();
    assert!(
        !bed.path("ctl").join("exports.sock").exists(),
        "sockets go with their server"
    );
}

#[test]
fn an_export_is_put_written_flushed_and_deleted() {
    let bed = Bed::new();
    let server = start(&bed);
    let pki = bed.path("pki");
    let source = bed.disk("source", 8 << 20);
    let target = disk(&bed, "target", 8 << 20);
    let body = put_body(&target, &client_fingerprint(&pki), 1);
    let view = server.exports("PUT", "/v1/exports/vm%201", &body).json(201);
    assert_eq!(view["name"], "vm 1");
    let uri = server.tls_uri("vm%201", &pki);
    bed.run(&["copy", source.to_str().unwrap(), &uri]).done();
    let flushed = server
        .transfers("POST", "/v1/exports/vm%201/flush", "")
        .json(200);
    let moved =
        ["bytes_written", "bytes_zeroed"].map(|key| flushed["totals"][key].as_u64().unwrap());
    assert_eq!(moved.iter().sum::<u64>(), 8 << 20, "{flushed}");
    let removed = server
        .exports("DELETE", "/v1/exports/vm%201?fence=2", "")
        .json(200);
    assert_eq!(
        (&removed["flushed"], &removed["connections_cut"]),
        (&true.into(), &0.into())
    );
    assert!(server.connect_tls("vm 1", &pki).is_err());
    assert_same(&source, &bed.path("target"));
    server.stop();
}

#[test]
fn a_higher_fence_ends_the_connections_of_the_old_export() {
    let bed = Bed::new();
    let server = start(&bed);
    let pki = bed.path("pki");
    let target = disk(&bed, "target", 1 << 20);
    server
        .exports("PUT", "/v1/exports/d", &put_body(&target, "any", 1))
        .json(201);
    let mut old = server.connect_tls("d", &pki).unwrap();
    let mut block = [0; 512];
    old.read(0, &mut block).unwrap();
    server
        .exports("PUT", "/v1/exports/d", &put_body(&target, "any", 1))
        .json(200);
    old.read(0, &mut block)
        .expect("the same again closes nothing");
    let view = server
        .exports("PUT", "/v1/exports/d", &put_body(&target, "any", 2))
        .json(201);
    assert_eq!(view["connections"], 0);
    assert!(
        old.read(0, &mut block).is_err(),
        "the old connection is gone"
    );
    server
        .connect_tls("d", &pki)
        .unwrap()
        .read(0, &mut block)
        .unwrap();
    let error = server
        .exports("PUT", "/v1/exports/d", &put_body(&target, "any", 1))
        .json(409);
    assert_eq!(error["error"]["kind"], "stale_fence");
    server.stop();
}

#[test]
fn a_delete_lets_clients_finish_and_cuts_those_who_do_not() {
    let bed = Bed::new();
    let server = start(&bed);
    let pki = bed.path("pki");
    let target = disk(&bed, "target", 1 << 20);
    server
        .exports("PUT", "/v1/exports/d", &put_body(&target, "any", 1))
        .json(201);
    let mut lingering = server.connect_tls("d", &pki).unwrap();
    let removed = server
        .exports("DELETE", "/v1/exports/d?drain_timeout_s=0", "")
        .json(200);
    assert_eq!(removed["connections_cut"], 1);
    assert!(lingering.read(0, &mut [0; 512]).is_err());
    // The device is free again.
    server
        .exports("PUT", "/v1/exports/e", &put_body(&target, "any", 1))
        .json(201);
    let again = server.exports("DELETE", "/v1/exports/d", "").json(200);
    assert_eq!(again["was_present"], false);
    server.stop();
}

#[test]
fn a_hold_outlives_the_export_and_keeps_others_out() {
    let bed = Bed::new();
    let server = start(&bed);
    let target = disk(&bed, "target", 1 << 20);
    let hold = format!(r#"{{"device": "{target}", "size_bytes": 1048576, "fence": 1}}"#);
    server.exports("PUT", "/v1/holds/v", &hold).json(201);
    server
        .exports("PUT", "/v1/exports/d", &put_body(&target, "any", 1))
        .json(201);
    server.exports("DELETE", "/v1/exports/d", "").json(200);
    let source = bed.disk("source", 1 << 20);
    bed.run(&["copy", source.to_str().unwrap(), &target, "--overwrite"])
        .refused(9);
    server.exports("DELETE", "/v1/holds/v", "").json(200);
    bed.run(&["copy", source.to_str().unwrap(), &target, "--overwrite"])
        .done();
    server.stop();
}

#[test]
fn a_transfer_runs_by_its_id_and_its_events_end_with_it() {
    let bed = Bed::new();
    let server = start(&bed);
    let pki = bed.path("pki");
    let source = bed.disk("source", 8 << 20);
    let target = disk(&bed, "target", 8 << 20);
    server
        .exports("PUT", "/v1/exports/d", &put_body(&target, "any", 1))
        .json(201);
    let uri = server.tls_uri("d", &pki);
    let source_uri = source.display();
    let body = format!(r#"{{"id": "t:1", "source": "{source_uri}", "target": "{uri}"}}"#);
    server.transfers("POST", "/v1/transfers", &body).json(201);
    let socket = bed.path("ctl").join("transfers.sock");
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = "GET /v1/transfers/t:1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let lines = BufReader::new(stream).lines().map(Result::unwrap);
    let events: Vec<String> = lines.filter(|line| line.starts_with("data: ")).collect();
    let last: serde_json::Value = serde_json::from_str(&events.last().unwrap()[6..]).unwrap();
    assert_eq!(last["transfer"]["state"], "succeeded", "{last}");
    assert_eq!(last["transfer"]["report"]["durable"], true, "{last}");
    let view = server.transfers("POST", "/v1/transfers", &body).json(200);
    assert_eq!(view["state"], "succeeded", "the same again finds the first");
    assert_same(&source, &bed.path("target"));
    server.stop();
}

#[test]
fn a_cancelled_transfer_says_so() {
    let bed = Bed::new();
    let server = start(&bed);
    // So slow that it cannot end by itself before the test does; only data is paced, so it has some.
    let source = bed.disk("source", 24 << 20).display().to_string();
    let body = format!(
        r#"{{"id": "slow", "source": "{source}", "target": "null:", "rate_bytes_per_s": 65536}}"#
    );
    let started = server.transfers("POST", "/v1/transfers", &body).json(201);
    assert_eq!(started["state"], "running");
    let view = server
        .transfers("DELETE", "/v1/transfers/slow", "")
        .json(200);
    assert_eq!(view["state"], "cancelled", "{view}");
    assert_eq!(view["error"]["kind"], "cancelled", "{view}");
    server.stop();
}

#[test]
fn tunables_of_a_running_server_change() {
    let bed = Bed::new();
    let server = start(&bed);
    server
        .transfers("PATCH", "/v1/tunables", r#"{"device_depth": 7}"#)
        .json(200);
    let list = server.transfers("GET", "/v1/tunables", "").json(200);
    let depth = list["tunables"]
        .as_array()
        .unwrap()
        .iter()
        .find(|one| one["name"] == "device_depth");
    assert_eq!(depth.unwrap()["value"], 7);
    let metrics = server.transfers("GET", "/metrics", "").body;
    assert!(metrics.contains("migratekit_dataplane_info{"), "{metrics}");
    server.stop();
}
