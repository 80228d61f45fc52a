use super::*;
use proptest::prelude::*;
use std::{sync::atomic::AtomicBool, thread};

/// Far more than anything here takes.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_mark_is_past_at_once_when_nothing_is_under_way() {
    let syncs = Syncs::default();
    for _ in 0..5 {
        assert!(syncs.is_past(syncs.mark()));
        let half = syncs.begin();
        syncs.end(half);
    }
}

#[test]
fn a_mark_is_past_when_what_was_under_way_has_ended() {
    let syncs = Syncs::default();
    let (first, second) = (syncs.begin(), syncs.begin());
    let mark = syncs.mark();
    assert!(!syncs.is_past(mark));
    syncs.end(first);
    let later = syncs.begin();
    assert!(!syncs.is_past(mark));
    syncs.end(second);
    assert!(syncs.is_past(mark), "the later one is not waited for");
    assert!(!syncs.is_past(syncs.mark()));
    syncs.end(later);
}

#[test]
fn a_dense_stream_of_syncs_keeps_nobody_waiting() {
    let syncs = Syncs::default();
    let mut under_way = syncs.begin();
    let mark = syncs.mark();
    let mut rounds = 0;
    while !syncs.is_past(mark) {
        // There is never a moment without one.
        let next = syncs.begin();
        syncs.end(std::mem::replace(&mut under_way, next));
        rounds += 1;
        assert!(rounds <= 3, "it waits for those that came later");
    }
}

#[test]
fn a_failure_is_known_when_the_sync_is_seen_gone() {
    let syncs = Syncs::default();
    let half = syncs.begin();
    let mark = syncs.mark();
    syncs.fail(half);
    assert!(syncs.is_past(mark));
    assert_eq!(syncs.failures(), 1);
}

#[test]
fn a_sync_is_not_counted_in_an_epoch_that_has_ended() {
    let syncs = Syncs::default();
    let epoch = syncs.epoch.load(SeqCst);
    assert!(syncs.is_past(syncs.mark()), "two epochs end");
    // Whoever ends the next one may have seen the counter of this one empty already.
    assert_eq!(syncs.enter(epoch), None);
    assert!(syncs.is_past(syncs.mark()), "it left nothing behind");
    let half = syncs.begin();
    assert!(!syncs.is_past(syncs.mark()));
    syncs.end(half);
}

#[derive(Debug, Clone)]
enum Step {
    Begin,
    End(prop::sample::Index),
    Mark,
    Look(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Begin),
        3 => any::<prop::sample::Index>().prop_map(Step::End),
        1 => Just(Step::Mark),
        2 => any::<prop::sample::Index>().prop_map(Step::Look),
    ]
}

proptest! {
    /// The model: which syncs are under way, and which of them a mark saw.
    #[test]
    fn no_mark_is_past_before_those_it_saw(steps in prop::collection::vec(step(), 1..200)) {
        let syncs = Syncs::default();
        let mut under_way: Vec<(u64, Half)> = Vec::new();
        let mut marks: Vec<(Mark, Vec<u64>)> = Vec::new();
        let mut number = 0;
        for step in steps {
            match step {
                Step::Begin => {
                    number += 1;
                    under_way.push((number, syncs.begin()));
                }
                Step::End(_) if under_way.is_empty() => {}
                Step::End(index) => {
                    let (_, half) = under_way.swap_remove(index.index(under_way.len()));
                    syncs.end(half);
                }
                Step::Mark => {
                    let seen = under_way.iter().map(|(number, _)| *number).collect();
                    marks.push((syncs.mark(), seen));
                }
                Step::Look(_) if marks.is_empty() => {}
                Step::Look(index) => {
                    let (mark, seen) = &marks[index.index(marks.len())];
                    let is_left = under_way.iter().any(|(number, _)| seen.contains(number));
                    prop_assert!(!(is_left && syncs.is_past(*mark)));
                    prop_assert!(!under_way.is_empty() || syncs.is_past(*mark));
                }
            }
        }
    }
}

/// Many threads, each with a flag that is up while its sync is under way. Who finds a mark past must find every flag
/// that was up at the mark either down or raised anew.
#[test]
fn threads_that_begin_and_end_at_will_are_never_overlooked() {
    const THREADS: usize = 4;
    const ROUNDS: u64 = 20_000;
    let syncs = Syncs::default();
    let current: [AtomicU64; THREADS] = Default::default();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for mine in &current {
            let (syncs, is_over) = (&syncs, &is_over);
            scope.spawn(move || {
                let mut number = 1;
                while !is_over.load(SeqCst) {
                    let half = syncs.begin();
                    mine.store(number, SeqCst);
                    std::hint::spin_loop();
                    mine.store(0, SeqCst);
                    syncs.end(half);
                    number += 1;
                }
            });
        }
        let problem = (0..ROUNDS).find_map(|_| {
            let seen = current.each_ref().map(|one| one.load(SeqCst));
            if !syncs.wait(syncs.mark(), LONG) {
                return Some("somebody is forgotten");
            }
            let is_left = |(was, is): (&u64, &AtomicU64)| *was != 0 && is.load(SeqCst) == *was;
            let mut pairs = seen.iter().zip(&current);
            pairs.any(is_left).then_some("one is under way still")
        });
        // First, or the threads would never end.
        is_over.store(true, SeqCst);
        assert_eq!(problem, None);
    });
}
