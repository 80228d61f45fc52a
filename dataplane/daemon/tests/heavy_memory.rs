//! Peak memory of both sides at defaults: however many connections, disks or holes.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod server;

use common::{BINARY, Bed, write_pattern};
use nix::sys::resource::{UsageWho, getrusage};
use server::{Server, pki};
use std::fs::File;

/// What either side may need at its peak, KiB.
const PEAK_KIB_MAX: u64 = 256 * 1024;
const DISKS: usize = 32;

/// Peak of the server so far, KiB.
fn server_peak_kib(server: &Server) -> u64 {
    let path = format!("/proc/{}/status", server.pid());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Peak of the largest child that has ended, KiB.
fn senders_peak_kib() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    u64::try_from(usage.max_rss()).unwrap()
}

fn assert_small(server: &Server, what: &str) {
    let (server, sender) = (server_peak_kib(server), senders_peak_kib());
    assert!(server < PEAK_KIB_MAX, "{what}: the server had {server} KiB");
    assert!(sender < PEAK_KIB_MAX, "{what}: a sender had {sender} KiB");
}

#[test]
fn memory_stays_bounded_with_connections_disks_and_sparse_sources() {
    let bed = Bed::new();
    pki(&bed, "pki");
    let exports: Vec<String> = (0..DISKS).map(|disk| format!("d{disk}=null:64M")).collect();
    let mut args = vec![
        "--listen",
        "127.0.0.1:0",
        "--tls-dir",
        "pki",
        "--export",
        "big=null:2T",
    ];
    for export in &exports {
        args.extend(["--export", export]);
    }
    let server = Server::start(&bed, &args);
    let address = server.tls.unwrap();
    let disk = File::create_new(bed.path("disk")).unwrap();
    write_pattern(&disk, 0, 64 << 20);
    for connections in ["1", "8", "64"] {
        let uri = format!("mk://{address}/d0");
        bed.run(&[
            "copy",
            "disk",
            &uri,
            "--tls-dir",
            "pki",
            "--connections",
            connections,
        ])
        .done();
        assert_small(&server, &format!("{connections} connections"));
    }
    let senders: Vec<_> = (0..DISKS)
        .map(|disk| {
            let uri = format!("mk://{address}/d{disk}");
            let mut command = bed.command(BINARY);
            command.args([
                "copy",
                "disk",
                &uri,
                "--tls-dir",
                "pki",
                "--progress",
                "none",
            ]);
            command.stdout(std::process::Stdio::null()).spawn().unwrap()
        })
        .collect();
    for mut sender in senders {
        assert!(sender.wait().unwrap().success());
    }
    assert_small(&server, "32 disks at a time");
    File::create_new(bed.path("sparse"))
        .unwrap()
        .set_len(2 << 40)
        .unwrap();
    bed.run(&[
        "copy",
        "sparse",
        &format!("mk://{address}/big"),
        "--tls-dir",
        "pki",
    ])
    .done();
    assert_small(&server, "a sparse disk of 2 TiB");
}
