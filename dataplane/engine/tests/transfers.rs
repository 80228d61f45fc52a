//! Transfers through a real engine on every tier: content equal, nothing outside, flushed.

mod common;

use common::{
    Site, TIERS, file_export, noise, null_export, spec, start_engine, tls_door, unix_door,
};
use engine::{Cancel, Endpoint, ErrorKind, transfer};
use std::{fs, path::Path, time::Duration};
use sys::RuntimeChoice;
use tls::SessionLimits;

/// A disk with data, a hole, zeroes, and a tail that is no multiple of any block.
fn disk(seed: u64) -> Vec<u8> {
    let mut bytes = noise(seed, 9 * 1024 * 1024 + 4_321);
    bytes[1_000_000..3_400_000].fill(0);
    bytes[5 * 1024 * 1024..6 * 1024 * 1024].fill(0);
    bytes
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("the file is written");
}

#[test]
fn a_file_travels_over_tls_into_a_file_on_every_tier() {
    let site = Site::new();
    for tier in TIERS {
        let dir = tempfile::tempdir_in(".").expect("a folder");
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        let bytes = disk(7);
        write(&source, &bytes);
        // What was there before must be gone, also where the source is zero.
        write(&target, &vec![0xaa; bytes.len()]);
        let engine = start_engine(tier, 2);
        let export = file_export("disk", &target, false);
        let door = tls_door(&engine, &site, vec![export], SessionLimits::default());
        let spec = spec(Endpoint::Path(source), Endpoint::Nbd(door.endpoint.clone()));
        let report =
            transfer::run(&engine, &spec, &Cancel::default(), &mut |_| {}).expect("copied");
        assert!(report.durable, "{tier:?}");
        assert_eq!(report.progress.done_bytes(), bytes.len() as u64, "{tier:?}");
        assert_eq!(
            report.plaintext_copied_bytes, 0,
            "{tier:?}: our own client is never copied"
        );
        assert!(
            fs::read(&target).expect("reads") == bytes,
            "{tier:?}: the content differs"
        );
        assert_eq!(door.exports[0].stats().flush_failures, 0);
        assert!(
            door.exports[0].stats().flushes >= 1,
            "{tier:?}: the target was flushed"
        );
    }
}

#[test]
fn a_file_is_read_back_over_tls_and_over_a_unix_socket() {
    let site = Site::new();
    for tier in TIERS {
        let dir = tempfile::tempdir_in(".").expect("a folder");
        let source = dir.path().join("source");
        let bytes = disk(11);
        write(&source, &bytes);
        let engine = start_engine(tier, 2);
        let export = file_export("disk", &source, true);
        let limits = SessionLimits {
            records_per_key: 64,
            key_updates_per_second: u32::MAX,
        };
        let over_tls = tls_door(&engine, &site, vec![export.clone()], limits);
        let over_unix = unix_door(&engine, dir.path(), vec![export]);
        for (name, door) in [("tls", &over_tls), ("unix", &over_unix)] {
            let target = dir.path().join(format!("target-{name}"));
            let mut spec = spec(
                Endpoint::Nbd(door.endpoint.clone()),
                Endpoint::Path(target.clone()),
            );
            spec.request_bytes = if name == "tls" {
                1024 * 1024
            } else {
                64 * 1024
            };
            let report =
                transfer::run(&engine, &spec, &Cancel::default(), &mut |_| {}).expect("copied");
            assert!(report.durable, "{tier:?} {name}");
            assert!(
                fs::read(&target).expect("reads") == bytes,
                "{tier:?} {name}: content differs"
            );
        }
    }
}

#[test]
fn zero_copy_sends_carry_the_same_bytes_on_every_tier() {
    let site = Site::new();
    for tier in TIERS {
        let dir = tempfile::tempdir_in(".").expect("a folder");
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        let bytes = disk(13);
        write(&source, &bytes);
        write(&target, &vec![0xaa; bytes.len()]);
        let engine = start_engine(tier, 2);
        engine.tunables().set_text("send_zc", "on").expect("a word");
        // Both ends send much: one leg writes to a server, the other reads from it.
        let writable = file_export("disk", &target, false);
        let door = tls_door(&engine, &site, vec![writable], SessionLimits::default());
        let there = spec(
            Endpoint::Path(source.clone()),
            Endpoint::Nbd(door.endpoint.clone()),
        );
        transfer::run(&engine, &there, &Cancel::default(), &mut |_| {}).expect("copied");
        assert!(fs::read(&target).expect("reads") == bytes, "{tier:?}");
        let back = dir.path().join("back");
        let again = spec(
            Endpoint::Nbd(door.endpoint.clone()),
            Endpoint::Path(back.clone()),
        );
        transfer::run(&engine, &again, &Cancel::default(), &mut |_| {}).expect("copied");
        assert!(fs::read(&back).expect("reads") == bytes, "{tier:?}");
        check_zero_copy_counts(&engine, tier, bytes.len() as u64);
    }
}

/// Counters of a run in which every send asked for zero-copy.
fn check_zero_copy_counts(engine: &engine::Engine, tier: RuntimeChoice, moved: u64) {
    let stats = engine.stats();
    let asked: u64 = stats
        .iter()
        .map(|shard| shard.zero_copy_bytes + shard.zero_copy_copied_bytes)
        .sum();
    let granted = engine
        .runtime()
        .features
        .contains(&("zero_copy_send".to_owned(), true));
    match tier {
        RuntimeChoice::Epoll => assert_eq!(asked, 0, "epoll sends as usual"),
        _ if granted => assert!(asked > moved, "{tier:?}: {asked} of {moved} bytes and more"),
        _ => {}
    }
}

#[test]
fn auto_leaves_loopback_alone() {
    let site = Site::new();
    let engine = start_engine(RuntimeChoice::Auto, 1);
    engine
        .tunables()
        .set_text("send_zc", "auto")
        .expect("a word");
    let dir = tempfile::tempdir_in(".").expect("a folder");
    let source = dir.path().join("source");
    write(&source, &noise(4, 4 << 20));
    let null = vec![null_export("null", 1 << 30)];
    let door = tls_door(&engine, &site, null, SessionLimits::default());
    let spec = spec(Endpoint::Path(source), Endpoint::Nbd(door.endpoint.clone()));
    transfer::run(&engine, &spec, &Cancel::default(), &mut |_| {}).expect("copied");
    for shard in engine.stats() {
        assert!(shard.bytes_sent > 4 << 20);
        assert_eq!(shard.zero_copy_bytes + shard.zero_copy_copied_bytes, 0);
    }
}

#[test]
fn a_null_export_takes_everything_and_gives_zeroes() {
    let site = Site::new();
    let engine = start_engine(RuntimeChoice::Auto, 2);
    let dir = tempfile::tempdir_in(".").expect("a folder");
    let source = dir.path().join("source");
    write(&source, &noise(3, 16 * 1024 * 1024));
    let door = tls_door(
        &engine,
        &site,
        vec![null_export("null", 1 << 30)],
        SessionLimits::default(),
    );
    let spec = spec(Endpoint::Path(source), Endpoint::Nbd(door.endpoint.clone()));
    let report = transfer::run(&engine, &spec, &Cancel::default(), &mut |_| {}).expect("copied");
    assert_eq!(report.progress.data_bytes, 16 * 1024 * 1024);
    assert_eq!(door.exports[0].stats().bytes_written, 16 * 1024 * 1024);
}

#[test]
fn a_small_target_is_refused_before_anything_is_written() {
    let engine = start_engine(RuntimeChoice::Auto, 1);
    let dir = tempfile::tempdir_in(".").expect("a folder");
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    write(&source, &noise(1, 1 << 20));
    write(&target, &vec![7; 1 << 19]);
    let spec = spec(Endpoint::Path(source), Endpoint::Path(target.clone()));
    let error = transfer::run(&engine, &spec, &Cancel::default(), &mut |_| {}).expect_err("small");
    assert_eq!(error.kind, ErrorKind::TargetConnect);
    assert!(
        fs::read(&target)
            .expect("reads")
            .iter()
            .all(|byte| *byte == 7)
    );
}

#[test]
fn a_cancelled_transfer_says_so_and_stops_early() {
    let engine = start_engine(RuntimeChoice::Auto, 1);
    let dir = tempfile::tempdir_in(".").expect("a folder");
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    write(&source, &noise(1, 8 << 20));
    let mut spec = spec(Endpoint::Path(source), Endpoint::Path(target));
    spec.rate_bytes_per_s = Some(1 << 20);
    let cancel = Cancel::default();
    let asked = cancel.clone();
    let error = transfer::run(&engine, &spec, &cancel, &mut |progress| {
        if progress.elapsed > Duration::from_millis(300) {
            asked.cancel();
        }
    })
    .expect_err("cancelled");
    assert_eq!(error.kind, ErrorKind::Cancelled);
}

#[test]
fn one_stream_copies_a_file_into_a_file_and_into_nothing_on_every_tier() {
    for tier in TIERS {
        let dir = tempfile::tempdir_in(".").expect("a folder");
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        let bytes = disk(5);
        write(&source, &bytes);
        let engine = start_engine(tier, 1);
        for (to, expected) in [
            (Endpoint::Path(target.clone()), Some(&bytes)),
            (Endpoint::Null { size_bytes: None }, None),
        ] {
            let mut spec = spec(Endpoint::Path(source.clone()), to);
            spec.connections = 1;
            let report =
                transfer::run(&engine, &spec, &Cancel::default(), &mut |_| {}).expect("copied");
            assert_eq!(report.progress.done_bytes(), bytes.len() as u64, "{tier:?}");
            if let Some(expected) = expected {
                assert!(fs::read(&target).expect("reads") == *expected, "{tier:?}");
            }
        }
    }
}
