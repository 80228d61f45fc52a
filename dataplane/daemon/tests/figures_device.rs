//! What checking costs on the wire, counted there. Needs no more than the campaign's relay.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod crash;
mod server;

use std::fs::File;
use std::os::unix::fs::FileExt;

use common::{Bed, write_pattern};
use crash::plan::Plan;
use crash::{Copy, Rig, number};

const CHUNK_BYTES: u64 = 4 << 20;

/// A tenth of data in small pieces, the rest is hole; and as large a target.
fn disk() -> (Rig, u64) {
    let size_bytes = if std::env::var_os("MIGRATEKIT_SOAK").is_some() {
        10 << 30
    } else {
        1 << 30
    };
    let bed = Bed::new();
    for name in ["source", "backing"] {
        let file = File::create_new(bed.path(name)).unwrap();
        file.set_len(size_bytes).unwrap();
    }
    let source = File::options()
        .write(true)
        .open(bed.path("source"))
        .unwrap();
    for chunk in (0..size_bytes).step_by(1 << 26) {
        write_pattern(&source, chunk, CHUNK_BYTES + 4096);
    }
    let backing = bed.path("backing");
    let plan = Plan {
        on_device: false,
        connections: 2,
        ..Plan::of(1)
    };
    let plan = Plan {
        integrity: None,
        ..plan
    };
    (Rig::over(bed, backing, plan).unwrap(), size_bytes)
}

fn run(rig: &Rig, journal: &str, more: &[&str]) -> serde_json::Value {
    // The last journal counts: one is there already.
    let args = [&["--journal", journal], more].concat();
    let mut all = rig.copy_args(&[]);
    all.retain(|arg| arg != "--journal" && arg != "journal");
    all.extend(args.into_iter().map(str::to_owned));
    Copy::start(&rig.bed, &all).wait().done().object()
}

#[test]
fn verifying_a_disk_and_copying_its_differences_sends_what_it_has_to() {
    let (rig, size_bytes) = disk();
    let result = run(&rig, "first", &["--verify"]);
    let asked = rig.link.asked_bytes();
    assert_eq!(number(&result, "verified_bytes"), size_bytes, "{result}");
    assert_eq!(result["verified_by"], "target", "{result}");
    assert!(asked > 0 && asked < 1 << 20, "{asked} bytes of digests");
    println!("verify of {size_bytes} bytes: {asked} bytes of digests both ways");

    // One chunk of a hundred differs, in one sector.
    let target = File::options().write(true).open(&rig.backing).unwrap();
    let mut differing = 0;
    for chunk in (0..size_bytes / CHUNK_BYTES).step_by(100) {
        target
            .write_all_at(&[0x5a; 512], chunk * CHUNK_BYTES + 8192)
            .unwrap();
        differing += CHUNK_BYTES;
    }
    target.sync_all().unwrap();
    let (sent, asked) = (rig.link.sent_bytes(), rig.link.asked_bytes());
    let result = run(&rig, "second", &["--checksum-diff"]);
    let moved = number(&result, "data_bytes") + number(&result, "zero_bytes");
    let (sent, asked) = (rig.link.sent_bytes() - sent, rig.link.asked_bytes() - asked);
    println!("diff: {moved} of {differing} bytes that differ, {sent} sent, {asked} of digests");
    assert_eq!(moved, differing, "{result}");
    assert!(
        sent < differing + differing / 20 + (1 << 20),
        "{sent} bytes sent"
    );
    assert!(asked < 1 << 20, "{asked} bytes of digests");
    let mut at = 0;
    let source = File::open(rig.bed.path("source")).unwrap();
    let target = File::open(&rig.backing).unwrap();
    let (mut mine, mut theirs) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    while at < size_bytes {
        source.read_exact_at(&mut mine, at).unwrap();
        target.read_exact_at(&mut theirs, at).unwrap();
        assert!(mine == theirs, "they differ behind byte {at}");
        at += 1 << 20;
    }
}
