//! Many seeds, every fault.

use crate::ExtentSet;

use super::{
    case::Shape,
    case::{Case, Fault},
    check::{Ending, expected, verdict},
    run::{run, run_shape},
};

/// Seeds of every fault when nobody asks for more.
const SEEDS: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("the variable holds a number"))
}

fn check(case: Case) {
    let (shape, ending) = run(case);
    if let Err(problem) = verdict(&shape, &ending) {
        panic!(
            "MK_SIM_SEED={} MK_SIM_FAULT={:?}: {problem}\n{} turns, {:?}, tls {}, server has the {}, \
             {} movers; last events:\n{}",
            case.seed,
            case.fault,
            ending.turns,
            shape.mode,
            shape.tls,
            if shape.push { "target" } else { "source" },
            shape.movers,
            ending.story
        );
    }
    if ending.result.is_err()
        && let Err(problem) = resume(case, shape, ending)
    {
        let Case { seed, fault, .. } = case;
        panic!("MK_SIM_SEED={seed} MK_SIM_FAULT={fault:?}: {problem}");
    }
}

/// After a failure a second run copies what the first did not call durable, and no more. Then all of it is there.
fn resume(case: Case, shape: Shape, ending: Ending) -> Result<(), String> {
    let whole = expected(&shape);
    let wanted: ExtentSet = shape.ranges.iter().cloned().collect();
    let size = shape.source.len() as u64;
    let remaining = wanted.intersect(&ending.durable.complement(size));
    let rest = Shape {
        target: ending.image,
        ranges: remaining.iter().collect(),
        fate: None,
        interrupted_ns: None,
        ..shape
    };
    let again = run_shape(Case::new(case.seed, Fault::None), &rest);
    verdict(&rest, &again).map_err(|problem| format!("resumed: {problem}"))?;
    if again.image != whole {
        return Err("resumed: the target differs in the end".into());
    }
    Ok(())
}

fn campaign(fault: Fault) {
    let only = std::env::var("MK_SIM_FAULT").ok();
    if only.is_some_and(|name| name != format!("{fault:?}")) {
        return;
    }
    if let Some(seed) = number("MK_SIM_SEED") {
        return check(Case::new(seed, fault));
    }
    for seed in 0..number("MK_SIM_SEEDS").unwrap_or(SEEDS) {
        check(Case::new(seed, fault));
    }
}

macro_rules! campaigns {
    ($($name:ident: $fault:ident,)*) => {
        $(#[test]
        fn $name() {
            campaign(Fault::$fault);
        })*

        #[test]
        fn every_fault_has_its_campaign() {
            assert_eq!([$(Fault::$fault),*], Fault::ALL);
        }
    };
}

campaigns! {
    a_transfer_survives_delays_and_cuts: None,
    a_transfer_survives_short_reads_and_writes: ShortIo,
    a_source_that_fails_never_makes_a_false_success: ReadEio,
    a_target_that_fails_never_makes_a_false_success: WriteEio,
    a_bad_sector_never_makes_a_false_success: BadSector,
    a_full_target_never_makes_a_false_success: Enospc,
    a_failed_flush_never_makes_a_false_success: FlushEio,
    a_source_that_shrinks_never_makes_a_false_success: SourceShrinks,
    a_transfer_survives_a_slow_disk: SlowDisk,
    a_transfer_survives_a_target_that_cannot_zero: ZeroUnsupported,
    a_transfer_survives_a_full_queue: QueueFull,
    a_reset_connection_never_makes_a_false_success: ResetMidPayload,
    an_early_end_of_stream_never_makes_a_false_success: Hangup,
    a_silent_network_never_makes_a_false_success: Stall,
    a_transfer_survives_a_network_that_comes_back: Pause,
    a_cancelled_transfer_keeps_what_it_flushed: Cancel,
    a_power_cut_takes_nothing_that_was_flushed: PowerCut,
}

/// What a full queue refused goes out on the next turn, not when the shard looks at its deadlines.
#[test]
fn a_full_queue_costs_turns_and_not_half_seconds() {
    for seed in 0..100 {
        let took_ns = |fault| run(Case::new(seed, fault)).1.took_ns;
        let (free, full) = (took_ns(Fault::None), took_ns(Fault::QueueFull));
        assert!(
            full < free * 2 + 200_000_000,
            "seed {seed}: {full} ns instead of {free} ns"
        );
    }
}

/// A server with a page cache writes out GiBs before it answers.
#[test]
fn a_flush_may_take_longer_than_a_write() {
    for seed in 0..40 {
        let case = Case {
            slow_flush: true,
            ..Case::new(seed, Fault::SlowDisk)
        };
        check(case);
    }
}

#[test]
fn a_connection_lost_after_the_last_flush_is_no_failure() {
    for seed in 0..100 {
        let case = Case {
            cut_when_flushed: true,
            ..Case::new(seed, Fault::None)
        };
        check(case);
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in 0..8 {
        for fault in [Fault::None, Fault::QueueFull, Fault::ResetMidPayload] {
            let (first, second) = (run(Case::new(seed, fault)).1, run(Case::new(seed, fault)).1);
            assert_eq!(
                (first.turns, first.trace),
                (second.turns, second.trace),
                "seed {seed} {fault:?}"
            );
        }
    }
}
