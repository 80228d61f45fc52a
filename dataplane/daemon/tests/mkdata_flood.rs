//! More connections of `mk-data/1` than one certificate may have.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod mkdata;
mod server;

use common::Bed;
use mkdata::{Data, other_client};
use server::{Server, pki};

/// Connections that one certificate may have, and a few that are turned away.
const PLACES: usize = 128;
const TOO_MANY: usize = 10;

#[test]
fn one_certificate_has_a_bounded_number_of_connections_and_others_get_theirs() {
    let bed = Bed::new();
    let own = pki(&bed, "pki");
    let other = other_client(&bed, "pki", "other");
    let flags = [
        "--tls-dir",
        "pki",
        "--listen",
        "127.0.0.1:0",
        "--export",
        "null=null:1G",
        "--control-dir",
        "c",
    ];
    let server = Server::start(&bed, &flags);
    let mut held: Vec<Data> = (0..PLACES).map(|_| Data::connect(&server, &own)).collect();
    for data in &mut held {
        data.get("/v1/exports/null").json(200);
    }
    for _ in 0..TOO_MANY {
        let mut data = Data::connect(&server, &own);
        let sent = data.send(b"GET /v1/exports/null HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(sent.is_err() || data.reply().is_err());
    }
    Data::connect(&server, &other)
        .get("/v1/exports/null")
        .json(200);
    let nbd = server.connect_tls("null", &own).unwrap();
    let status = server.exports("GET", "/v1/status", "").json(200);
    assert!(status["connections"]["data"].as_u64().unwrap() >= PLACES as u64);
    nbd.disconnect();
    // All at once ask for hashes: some are told to come again, none hangs, and the door goes on.
    let path = "/v1/exports/null/hashes?offset=0&len=268435456&chunk=4096";
    let ask = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    for data in &mut held {
        data.send(ask.as_bytes()).unwrap();
    }
    Data::connect(&server, &other)
        .get("/v1/exports/null")
        .json(200);
    let replies: Vec<_> = held.iter_mut().map(|data| data.reply().unwrap()).collect();
    let told = |status| {
        replies
            .iter()
            .filter(|reply| reply.status == status)
            .count()
    };
    assert!(told(200) > 0);
    assert_eq!(told(200) + told(429), PLACES);
    let refused = replies.iter().find(|reply| reply.status == 429);
    assert!(refused.is_none_or(|reply| reply.head.contains("retry-after: 1")));
    drop(held);
    server.stop();
}
