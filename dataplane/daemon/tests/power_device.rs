//! Power loss: what was only in a cache is gone, and nothing that was called durable is. Needs root.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod crash;
mod server;

use common::{Bed, assert_same, have, skip};
use crash::below::Below;
use crash::check::durable_of;
use crash::disks::can_make_devices;
use crash::foreign::{Nbdkit, foreign_args};
use crash::link::{Link, Upstream};
use crash::plan::{Plan, campaign};
use crash::{Copy, SIZE_BYTES};

fn loses_power_on(kind: &str) {
    if !can_make_devices() || !have("fallocate") {
        return;
    }
    campaign(&format!("power lost on {kind}"), |plan| {
        let plan = Plan {
            on_device: true,
            ..plan
        };
        let mut below = Below::new(kind, plan)?;
        let copy = below
            .rig
            .copy_up_to_the_point(&["--reconnect-timeout", "0"]);
        if !below.lose_power() {
            skip(&format!("kernel cannot shut {kind} down"));
            return None;
        }
        let run = copy.wait();
        assert!(matches!(run.code, 5 | 6), "{run:#?}");
        below.rig.check_durable();
        below.rig.attach();
        below.rig.start_in_next_boot();
        let mark = below.rig.mark();
        below.rig.resume(&mark);
        Some(mark.durable_bytes)
    });
}

#[test]
fn what_is_durable_survives_a_power_loss_of_ext4_below_the_device() {
    loses_power_on("ext4");
}

#[test]
fn what_is_durable_survives_a_power_loss_of_xfs_below_the_device() {
    loses_power_on("xfs");
}

/// The campaign has teeth: a device that answers flushes and does nothing is found out.
#[test]
fn a_device_that_does_not_flush_is_caught_after_a_power_loss() {
    if !can_make_devices() || !have("fallocate") {
        return;
    }
    let plan = Plan {
        on_device: true,
        both: false,
        ..Plan::late(1)
    };
    let Some(mut below) = Below::new("ext4", plan) else {
        return;
    };
    let device = below.rig.device.as_ref().unwrap();
    device.flushes(false);
    let copy = below.rig.copy_up_to_the_point(&[]);
    if !below.lose_power() {
        return skip("kernel cannot shut ext4 down");
    }
    copy.kill();
    let lie = durable_of(&below.rig.bed, &below.rig.backing);
    println!("{}", lie.expect_err("lost data went unnoticed"));
}

/// A server that keeps writes in its memory until a flush.
fn caching(bed: &Bed, cache: &str) -> Nbdkit {
    let cache = format!("cache={cache}");
    Nbdkit::start(bed, &["--filter=cache", "file", "backing", &cache])
}

/// Copies to a caching server up to the point, kills it and the copy, and says what the journal was worth.
fn killed_in_its_cache(plan: &Plan, cache: &str) -> (Bed, Link, Result<u64, String>) {
    let bed = Bed::new();
    bed.disk("source", SIZE_BYTES);
    std::fs::write(
        bed.path("backing"),
        vec![0xee; usize::try_from(SIZE_BYTES).unwrap()],
    )
    .unwrap();
    let link = Link::new();
    let server = caching(&bed, cache);
    link.point(Upstream::Unix(server.socket.clone()));
    link.arm(plan.at_bytes, plan.holds);
    let args = foreign_args(&link, &["--rate-limit", "32M", "--reconnect-timeout", "0"]);
    let copy = Copy::start(&bed, &args);
    assert!(link.wait(), "not that far: {}", copy.told());
    server.kill();
    link.cut();
    let run = copy.wait();
    run.refused(6);
    let durable = durable_of(&bed, &bed.path("backing"));
    (bed, link, durable.map(|ranges| ranges.total_bytes()))
}

#[test]
fn what_is_durable_survives_a_foreign_server_that_dies_with_its_cache() {
    if !have("nbdkit") {
        return;
    }
    campaign("foreign cache lost", |plan| {
        let (bed, link, durable) = killed_in_its_cache(&plan, "writeback");
        let server = caching(&bed, "writeback");
        link.point(Upstream::Unix(server.socket.clone()));
        let run = Copy::start(&bed, &foreign_args(&link, &["--resume"])).wait();
        let result = run.done().object();
        let warnings = result["warnings"].to_string();
        assert!(warnings.contains("the copy began again"), "{warnings}");
        server.kill();
        assert_same(&bed.path("source"), &bed.path("backing"));
        Some(durable.unwrap())
    });
}

/// The campaign has teeth here as well.
#[test]
fn a_foreign_server_that_ignores_flushes_is_caught() {
    if !have("nbdkit") {
        return;
    }
    let (.., durable) = killed_in_its_cache(&Plan::late(1), "unsafe");
    println!("{}", durable.expect_err("lost data went unnoticed"));
}
