//! Defects the checker must find: a checker that never complains proves nothing.

use super::{
    case::{Case, Fault, Flaw, Shape},
    check::verdict,
    run::run,
};
use crate::error::ErrorKind;

/// Seeds tried for each defect.
const SEEDS: u64 = 24;

/// Something but zeroes is copied.
fn has_data(shape: &Shape) -> bool {
    let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    let mut ranges = shape.ranges.iter();
    ranges.any(|range| {
        let bytes = &shape.source[place(range.start)..place(range.end)];
        bytes.iter().any(|byte| *byte != 0)
    })
}

/// What any lie of a disk leads to at a checkpoint in the middle.
const NOT_DURABLE: &str = "is called durable and is not on the medium";

/// Every run in which the disk lies must be caught, and for the lie it told.
fn must_be_caught(flaw: Flaw, complaints: &[&str]) {
    for seed in 0..SEEDS {
        let case = Case {
            flaw,
            // Unaligned writes are durable at once, with and without a flush.
            align: Some(1),
            ..Case::new(seed, Fault::None)
        };
        let (shape, ending) = run(case);
        let Err(problem) = verdict(&shape, &ending) else {
            // Only a transfer without a byte of data gives these lies nothing to spoil.
            let spoilt = flaw == Flaw::FlushSkipped || has_data(&shape);
            assert!(!spoilt, "seed {seed}: {flaw:?} went unnoticed");
            continue;
        };
        assert!(
            problem.contains(NOT_DURABLE) || complaints.iter().any(|w| problem.contains(w)),
            "seed {seed}: {flaw:?} was caught for another reason: {problem}"
        );
    }
}

#[test]
fn canary_a_flush_that_is_skipped_is_caught() {
    must_be_caught(
        Flaw::FlushSkipped,
        &["the durable target when the flush was answered"],
    );
}

#[test]
fn a_short_write_taken_as_full_is_caught() {
    must_be_caught(Flaw::ShortTakenAsFull, &["the target at the end"]);
}

#[test]
fn a_write_off_by_one_block_is_caught() {
    must_be_caught(
        Flaw::OffByOneBlock,
        &["outside of the ranges", "the target at the end"],
    );
}

#[test]
fn a_dropped_tail_is_caught() {
    must_be_caught(Flaw::TailDropped, &["the target at the end"]);
}

/// One bit of the first sealed bytes is wrong: nothing of them, and nothing after them, may reach the disk.
#[test]
fn a_forged_record_reaches_no_disk() {
    for seed in 0..SEEDS {
        // In turn: the header's record, and payload behind it.
        let forge_at = Some(if seed.is_multiple_of(2) { 20 } else { 200 });
        let case = Case {
            forge_at,
            tls: Some(true),
            push: Some(true),
            movers: Some(1),
            ..Case::new(seed, Fault::None)
        };
        let (shape, ending) = run(case);
        if let Err(problem) = verdict(&shape, &ending) {
            panic!("seed {seed}: {problem}\n{}", ending.story);
        }
        if !has_data(&shape) {
            // A few zeroing requests are shorter than the place of the forgery.
            continue;
        }
        let error = ending.result.expect_err("a forged stream cannot succeed");
        assert!(
            matches!(error.kind, ErrorKind::Tls | ErrorKind::ConnectionLost),
            "seed {seed}: {error:?}"
        );
        if forge_at == Some(20) {
            assert!(
                ending.image == shape.target,
                "seed {seed}: something of a forged stream was written"
            );
        }
    }
}

/// Without the record layer the same bit goes through unseen: so it is the tag that keeps it out.
#[test]
fn the_same_forgery_in_plain_is_caught_by_the_checker() {
    let caught = (0..SEEDS).filter(|seed| {
        let case = Case {
            forge_at: Some(200),
            tls: Some(false),
            push: Some(true),
            ..Case::new(*seed, Fault::None)
        };
        let (shape, ending) = run(case);
        ending.result.is_err() || verdict(&shape, &ending).is_err()
    });
    assert!(caught.count() as u64 * 2 >= SEEDS);
}
