//! Journals that cannot be written or are another copy's, and sources that change.

use super::{assert_told, copy, touch_content};
use crate::common::{Bed, assert_same, skip, write_pattern};
use crate::crash::disks::{TinyDisk, can_make_devices};
use crate::crash::plan::Plan;
use crate::crash::{Copy, Rig, SIZE_BYTES};

#[test]
fn a_full_disk_of_the_journal_ends_the_copy_and_room_lets_it_go_on() {
    let bed = Bed::new();
    if !can_make_devices() {
        return;
    }
    let Some(tiny) = TinyDisk::mount(&bed, "tiny") else {
        return;
    };
    // A range of every 64 KiB: what they take in the journal is more than a page.
    let source = std::fs::File::create_new(bed.path("source")).unwrap();
    source.set_len(SIZE_BYTES).unwrap();
    let mut extents = String::new();
    for offset in (0..SIZE_BYTES).step_by(65_536) {
        write_pattern(&source, offset, 4096);
        extents += &format!("{offset} 4096\n");
    }
    std::fs::write(bed.path("extents"), extents).unwrap();
    let args = |more: &[&str]| {
        let fixed = ["copy", "source", "target", "--extents", "extents"];
        let journal = ["--journal", "tiny/journal", "--output", "json"];
        let args = [&fixed[..], &journal, more].concat();
        args.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = Copy::start(&bed, &args(&[])).wait();
    assert_told(&run, 8, &["tiny/journal", "is full", "--resume"]);
    tiny.grow();
    let run = Copy::start(&bed, &args(&["--resume", "--overwrite"])).wait();
    run.done();
    assert_same(&bed.path("source"), &bed.path("target"));
}

#[test]
fn a_file_that_is_no_journal_is_refused_and_not_touched() {
    let bed = Bed::new();
    bed.disk("source", SIZE_BYTES);
    std::fs::write(bed.path("journal"), "root:x:0:0\n").unwrap();
    let run = copy(&bed, "source", "target", &["--resume", "--overwrite"]);
    assert_told(&run, 9, &["journal", "no journal of a copy"]);
    let text = std::fs::read_to_string(bed.path("journal")).unwrap();
    assert_eq!(text, "root:x:0:0\n");
}

#[test]
fn the_journal_of_another_source_is_refused_and_nothing_written() {
    let bed = Bed::new();
    bed.disk("source", SIZE_BYTES);
    bed.disk("second", SIZE_BYTES);
    copy(&bed, "source", "target", &[]).done();
    touch_content(&bed.path("second"));
    let run = copy(&bed, "second", "target", &["--resume", "--overwrite"]);
    assert_told(&run, 9, &["journal", "belongs to another copy"]);
    assert_same(&bed.path("source"), &bed.path("target"));
}

#[test]
fn a_journal_that_exists_is_not_overwritten_unasked() {
    let bed = Bed::new();
    bed.disk("source", SIZE_BYTES);
    copy(&bed, "source", "target", &[]).done();
    let before = std::fs::read(bed.path("journal")).unwrap();
    let run = copy(&bed, "source", "target", &["--overwrite"]);
    assert_told(&run, 9, &["journal", "--resume"]);
    assert!(std::fs::read(bed.path("journal")).unwrap() == before);
}

/// A copy that stands still at its point.
fn standing() -> Option<(Rig, Copy)> {
    if !nix::unistd::geteuid().is_root() {
        skip("needs root");
        return None;
    }
    let rig = Rig::new(Plan {
        holds: true,
        on_device: false,
        ..Plan::late(2)
    })?;
    let copy = rig.copy_up_to_the_point(&[]);
    Some((rig, copy))
}

#[test]
fn a_source_that_changes_under_the_copy_is_exit_4() {
    let Some((rig, copy)) = standing() else {
        return;
    };
    touch_content(&rig.bed.path("source"));
    rig.link.release();
    let run = copy.wait();
    assert_told(&run, 4, &["source", "changed while it was read"]);
}

#[test]
fn a_source_that_changed_between_two_runs_is_refused() {
    let Some((rig, copy)) = standing() else {
        return;
    };
    copy.kill();
    rig.link.cut();
    touch_content(&rig.bed.path("source"));
    let run = Copy::start(&rig.bed, &rig.copy_args(&["--resume"])).wait();
    assert_told(&run, 9, &["journal", "was modified"]);
}
