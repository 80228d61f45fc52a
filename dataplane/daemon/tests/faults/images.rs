//! Images whose parts change: the file that is named is not the only one that is read.

use super::{assert_told, touch_content};
use crate::common::{Bed, assert_same, have, skip};
use crate::crash::plan::Plan;
use crate::crash::{Copy, Rig};

const FLAGS: [&str; 3] = ["--source-format", "qcow2", "--allow-backing"];

/// A copy of an image that stands at its point; all of its data is in `base`, below two others.
fn standing() -> Option<(Rig, Copy)> {
    if !nix::unistd::geteuid().is_root() {
        skip("needs root");
        return None;
    }
    if !have("qemu-img") || !have("qemu-nbd") {
        return None;
    }
    let rig = Rig::new(Plan {
        holds: true,
        on_device: false,
        ..Plan::late(2)
    })?;
    let bed = &rig.bed;
    std::fs::rename(bed.path("source"), bed.path("base")).unwrap();
    overlay(bed, "middle", "base", "raw");
    overlay(bed, "source", "middle", "qcow2");
    let copy = rig.copy_up_to_the_point(&FLAGS);
    Some((rig, copy))
}

fn overlay(bed: &Bed, name: &str, on: &str, format: &str) {
    let args = ["create", "-q", "-f", "qcow2", "-b", on, "-F", format, name];
    bed.tool("qemu-img", &args);
}

#[test]
fn a_base_that_changes_under_the_copy_of_its_overlay_is_exit_4() {
    let Some((rig, copy)) = standing() else {
        return;
    };
    touch_content(&rig.bed.path("base"));
    rig.link.release();
    assert_told(&copy.wait(), 4, &["base", "changed while it was read"]);
}

#[test]
fn an_overlay_whose_base_nobody_touched_is_copied() {
    let Some((rig, copy)) = standing() else {
        return;
    };
    rig.link.release();
    copy.wait().done();
    assert_same(&rig.bed.path("base"), &rig.backing);
}

#[test]
fn a_base_that_changed_between_two_runs_is_refused() {
    let Some((rig, copy)) = standing() else {
        return;
    };
    copy.kill();
    rig.link.cut();
    touch_content(&rig.bed.path("base"));
    let again = [&["--resume"], &FLAGS[..]].concat();
    let run = Copy::start(&rig.bed, &rig.copy_args(&again)).wait();
    assert_told(&run, 9, &["journal", "was modified"]);
}

#[test]
fn an_image_on_something_far_is_told_and_needs_a_name_for_its_state() {
    if !have("qemu-img") || !have("qemu-nbd") || !have("nbdkit") {
        return;
    }
    let bed = Bed::new();
    let copies = r#"
        qemu-img create -q -f qcow2 -b "$uri" -F raw far.qcow2
        set -- "$BIN" copy far.qcow2
        "$@" plain --allow-backing --output json
        "$@" unnamed --allow-backing --journal journal && exit 99
        "$@" named --allow-backing --journal journal --source-id monday
    "#;
    let run = bed.under_nbdkit(&["pattern", "1M"], copies).done();
    let warned = |line: &&str| line.contains("nobody can tell whether it changes");
    assert_eq!(run.stderr.lines().filter(warned).count(), 1, "{run:#?}");
    assert!(run.stdout.contains("nobody can tell whether it changes"));
    assert!(run.stderr.contains("--source-id"), "{run:#?}");
    assert!(!bed.path("unnamed").exists());
    assert_same(&bed.path("plain"), &bed.path("named"));
}
