//! The crash campaign: any part of a copy goes at any byte, and nothing that was called durable is missing. Needs root.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod crash;
mod server;

use crash::disks::can_make_devices;
use crash::plan::{Plan, campaign};
use crash::{Rig, number};

/// Lets `crash` happen at the point of each seed; it tells what was durable then.
fn at_each_point(kind: &str, crash: impl Fn(Rig) -> u64) {
    if can_make_devices() {
        campaign(kind, |plan| Rig::new(plan).map(&crash));
    }
}

#[test]
fn a_sender_that_was_killed_goes_on_behind_what_is_durable() {
    at_each_point("sender killed", |rig| {
        rig.copy_up_to_the_point(&[]).kill();
        rig.link.cut();
        let mark = rig.mark();
        rig.resume(&mark);
        mark.durable_bytes
    });
}

#[test]
fn a_target_that_was_killed_is_waited_for_and_misses_nothing() {
    at_each_point("target killed", |mut rig| {
        let copy = rig.copy_up_to_the_point(&["--reconnect-timeout", "60"]);
        rig.kill_server();
        rig.check_durable();
        rig.serve();
        let mark = rig.mark();
        let result = copy.wait().done().object();
        assert!(number(&result, "reconnects") > 0, "{result}");
        rig.check_end(&mark, &result);
        mark.durable_bytes
    });
}

#[test]
fn when_both_sides_were_killed_the_copy_goes_on_behind_what_is_durable() {
    at_each_point("both killed", |mut rig| {
        let copy = rig.copy_up_to_the_point(&[]);
        rig.kill_server();
        copy.kill();
        rig.check_durable();
        rig.serve();
        let mark = rig.mark();
        rig.resume(&mark);
        mark.durable_bytes
    });
}

#[test]
fn a_network_that_was_cut_is_connected_again() {
    at_each_point("network cut, reconnect", |rig| {
        let copy = rig.copy_up_to_the_point(&["--reconnect-timeout", "60"]);
        let mark = rig.mark();
        rig.link.cut();
        let result = copy.wait().done().object();
        assert!(number(&result, "reconnects") > 0, "{result}");
        rig.check_end(&mark, &result);
        mark.durable_bytes
    });
}

#[test]
fn a_bit_that_was_turned_on_the_way_costs_a_connection_and_nothing_else() {
    let point = |rig: Rig| {
        let copy = rig.copy_up_to_the_point(&["--reconnect-timeout", "60"]);
        let mark = rig.mark();
        rig.link.damage();
        rig.link.release();
        let result = copy.wait().done().object();
        assert!(number(&result, "reconnects") > 0, "{result}");
        rig.check_end(&mark, &result);
        mark.durable_bytes
    };
    if can_make_devices() {
        // Held, so that something is still to come.
        campaign("bit turned", |plan| {
            let holds = true;
            Rig::new(Plan { holds, ..plan }).map(point)
        });
    }
}

#[test]
fn without_patience_a_cut_network_ends_the_copy_and_it_goes_on_later() {
    at_each_point("network cut, resume", |rig| {
        let copy = rig.copy_up_to_the_point(&["--reconnect-timeout", "0"]);
        rig.link.cut();
        let run = copy.wait();
        run.refused(6);
        let mark = rig.mark();
        rig.resume(&mark);
        mark.durable_bytes
    });
}

#[test]
fn after_a_reboot_of_the_target_nothing_is_believed_unseen_and_nothing_sent_twice() {
    at_each_point("target rebooted", |mut rig| {
        let copy = rig.copy_up_to_the_point(&["--reconnect-timeout", "60"]);
        let copy = if rig.plan.both {
            copy.kill();
            None
        } else {
            Some(copy)
        };
        rig.reboot();
        rig.check_durable();
        rig.serve();
        let mark = rig.mark();
        let Some(copy) = copy else {
            let result = rig.resume(&mark);
            let warnings = result["warnings"].to_string();
            assert!(warnings.contains("was compared first"), "{warnings}");
            return mark.durable_bytes;
        };
        let result = copy.wait().done().object();
        assert!(number(&result, "reconnects") > 0, "{result}");
        rig.check_end(&mark, &result);
        mark.durable_bytes
    });
}
