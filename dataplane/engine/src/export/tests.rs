use super::*;
use std::thread::{self, JoinHandle};

fn null() -> Arc<Export> {
    Export::new(ExportSpec {
        name: "n".into(),
        store: Store::Null {
            size_bytes: 1 << 20,
        },
        read_only: false,
        scratch: true,
    })
}

#[test]
fn waiting_for_idle_sees_the_last_connection_go() {
    let export = null();
    export.enter();
    assert!(!export.wait_idle(Duration::ZERO));
    let other = Arc::clone(&export);
    let thread = std::thread::spawn(move || other.leave());
    assert!(export.wait_idle(Duration::from_secs(30)));
    thread.join().expect("the thread ends");
    assert!(export.wait_idle(Duration::ZERO));
}

#[test]
fn a_failed_flush_ends_an_epoch() {
    let export = null();
    let syncs = &export.watch.syncs;
    syncs.end(syncs.begin());
    assert_eq!(export.is_durable(syncs.mark()), Some(true));
    syncs.fail(syncs.begin());
    assert!(export.has_failed());
    syncs.end(syncs.begin());
    assert_eq!(
        export.is_durable(syncs.mark()),
        Some(false),
        "a good one afterwards means nothing"
    );
}

#[test]
fn what_ended_well_is_durable_once_the_others_have_ended_well_too() {
    for (fails, durable) in [(false, true), (true, false)] {
        let export = null();
        let syncs = &export.watch.syncs;
        let (other, half) = (syncs.begin(), syncs.begin());
        syncs.end(half);
        let since = syncs.mark();
        assert_eq!(export.is_durable(since), None);
        if fails {
            syncs.fail(other);
        } else {
            syncs.end(other);
        }
        assert_eq!(export.is_durable(since), Some(durable));
    }
}

fn export_on(file: &Arc<DeviceFile>) -> Arc<Export> {
    Export::new(ExportSpec {
        name: "disk".into(),
        store: Store::Device(Arc::clone(file)),
        read_only: false,
        scratch: false,
    })
}

fn memory() -> Arc<DeviceFile> {
    Arc::new(DeviceFile::in_memory(1 << 20).expect("a file in memory"))
}

/// A flush off the shards that waits for another sync of its device.
fn flush_that_waits(export: &Arc<Export>) -> JoinHandle<bool> {
    let other = Arc::clone(export);
    let thread = thread::spawn(move || other.flush_blocking().is_ok());
    while export.watch.syncs.waiting() == 0 {
        assert!(!thread.is_finished(), "it did not wait");
        thread::yield_now();
    }
    thread
}

#[test]
fn a_blocking_flush_waits_for_the_others_and_succeeds_with_them() {
    let export = export_on(&memory());
    let half = export.watch.syncs.begin();
    let thread = flush_that_waits(&export);
    export.watch.syncs.end(half);
    assert!(thread.join().expect("it returns"));
    assert_eq!(export.stats().flushes, 1);
}

#[test]
fn a_blocking_flush_fails_with_the_sync_that_it_overlapped() {
    let export = export_on(&memory());
    let half = export.watch.syncs.begin();
    let thread = flush_that_waits(&export);
    export.watch.syncs.fail(half);
    assert!(!thread.join().expect("it returns"));
    assert_eq!(export.stats().flushes, 0);
}

#[test]
fn a_blocking_flush_fails_with_a_sync_of_another_export_of_its_device() {
    let file = memory();
    let (export, other) = (export_on(&file), export_on(&file));
    let half = other.watch.syncs.begin();
    let thread = flush_that_waits(&export);
    other.watch.syncs.fail(half);
    assert!(!thread.join().expect("it returns"));
    assert!(export.has_failed() && other.has_failed());
}

#[test]
fn an_export_that_is_made_after_the_failure_knows_nothing_of_it() {
    let file = memory();
    let old = export_on(&file);
    let syncs = &old.watch.syncs;
    syncs.fail(syncs.begin());
    let under_way = syncs.begin();
    let new = export_on(&file);
    assert!(old.has_failed() && !new.has_failed());
    assert_eq!((old.flush_epoch(), new.flush_epoch()), (1, 0));
    // What was under way when it was made may have lost what was written since.
    syncs.fail(under_way);
    assert_eq!((old.flush_epoch(), new.flush_epoch()), (2, 1));
}

#[test]
fn syncs_that_a_broken_shard_leaves_behind_count_as_failed() {
    let export = export_on(&memory());
    let mut syncs = ConnectionSyncs::new(&export.watch);
    let (first, _second) = (syncs.begin(), syncs.begin());
    syncs.end(first);
    let mark = export.watch.syncs.mark();
    assert!(!export.watch.syncs.is_past(mark));
    drop(syncs);
    assert!(export.watch.syncs.is_past(mark) && export.has_failed());
}
