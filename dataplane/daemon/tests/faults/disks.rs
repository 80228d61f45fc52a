//! Targets that are full, gone, read-only, smaller, or another device.

use std::path::Path;

use super::{assert_told, copy};
use crate::common::{Bed, assert_same, have};
use crate::crash::below::Below;
use crate::crash::disks::{FileSystem, Loop, can_make_devices};
use crate::crash::plan::Plan;
use crate::crash::{Copy, Rig, SIZE_BYTES};

/// A file system with room for a third of the source, as long as the file `filler` is there.
fn nearly_full(bed: &Bed) -> Option<FileSystem> {
    let disk = FileSystem::make(bed, "ext4", 160 << 20)?;
    let filler = disk.dir.join("filler").display().to_string();
    bed.tool("fallocate", &["--length", "110M", &filler]);
    bed.tool("sync", &["--file-system", &filler]);
    Some(disk)
}

fn make_room(disk: &FileSystem) {
    std::fs::remove_file(disk.dir.join("filler")).unwrap();
    std::fs::File::open(&disk.dir).unwrap().sync_all().unwrap();
}

#[test]
fn a_file_on_a_full_disk_is_exit_5_and_goes_on_when_there_is_room() {
    let bed = Bed::new();
    if !can_make_devices() || !have("fallocate") {
        return;
    }
    let Some(disk) = nearly_full(&bed) else {
        return;
    };
    bed.disk("source", SIZE_BYTES);
    let run = copy(&bed, "source", "mnt/target", &[]);
    assert_told(&run, 5, &["mnt/target", "free space"]);
    make_room(&disk);
    let run = copy(&bed, "source", "mnt/target", &["--resume", "--overwrite"]);
    run.done();
    assert_same(&bed.path("source"), &bed.path("mnt/target"));
}

#[test]
fn a_device_on_a_full_disk_is_exit_5_and_goes_on_when_there_is_room() {
    let bed = Bed::new();
    if !can_make_devices() || !have("fallocate") {
        return;
    }
    let Some(disk) = nearly_full(&bed) else {
        return;
    };
    bed.disk("source", SIZE_BYTES);
    let backing = disk.dir.join("backing");
    let file = std::fs::File::create_new(&backing).unwrap();
    file.set_len(SIZE_BYTES).unwrap();
    drop(file);
    let Some(device) = Loop::attach(&backing, &[]) else {
        return;
    };
    let run = copy(&bed, "source", &device.device, &[]);
    assert_told(&run, 5, &[&device.device]);
    make_room(&disk);
    let run = copy(&bed, "source", &device.device, &["--resume", "--overwrite"]);
    run.done();
    device.detach();
    assert_same(&bed.path("source"), &backing);
}

#[test]
fn a_medium_that_goes_away_is_exit_5_and_the_copy_goes_on_when_it_is_back() {
    if !can_make_devices() || !have("fallocate") {
        return;
    }
    let plan = Plan {
        on_device: true,
        ..Plan::late(2)
    };
    let Some(mut below) = Below::new("ext4", plan) else {
        return;
    };
    let copy = below.rig.copy_up_to_the_point(&[]);
    if !below.disk.shut_down() {
        return crate::common::skip("kernel cannot shut ext4 down");
    }
    let run = copy.wait();
    assert_told(&run, 5, &["disk"]);
    assert!(below.repair(), "it can be mounted again");
    let mark = below.rig.mark();
    below.rig.resume(&mark);
}

#[test]
fn a_read_only_device_is_refused_before_anything_is_written() {
    let bed = Bed::new();
    if !can_make_devices() {
        return;
    }
    bed.disk("source", SIZE_BYTES);
    let backing = bed.path("backing");
    let old = vec![0xee; usize::try_from(SIZE_BYTES).unwrap()];
    std::fs::write(&backing, &old).unwrap();
    let Some(device) = Loop::attach(&backing, &["--read-only"]) else {
        return;
    };
    let run = copy(&bed, "source", &device.device, &["--overwrite"]);
    assert_told(&run, 5, &[&device.device, "read-only"]);
    device.detach();
    assert!(std::fs::read(&backing).unwrap() == old, "it was written");
    let device = Loop::attach(&backing, &[]).unwrap();
    let run = copy(&bed, "source", &device.device, &["--overwrite", "--resume"]);
    run.done();
    device.detach();
    assert_same(&bed.path("source"), &backing);
}

/// A copy to a device that was killed behind its first checkpoints; its device is away.
fn killed_halfway(on_device: bool) -> Option<Rig> {
    let plan = Plan {
        on_device,
        ..Plan::late(2)
    };
    let mut rig = Rig::new(plan)?;
    rig.copy_up_to_the_point(&[]).kill();
    rig.kill_server();
    assert!(
        rig.check_durable() > 0,
        "nothing that could be trusted wrongly"
    );
    rig.detach();
    Some(rig)
}

fn resume(rig: &Rig) -> crate::common::Run {
    Copy::start(&rig.bed, &rig.copy_args(&["--resume"])).wait()
}

#[test]
fn a_device_that_shrank_is_refused_and_taken_again_at_its_size() {
    if !can_make_devices() {
        return;
    }
    let Some(mut rig) = killed_halfway(true) else {
        return;
    };
    let less = (SIZE_BYTES - (8 << 20)).to_string();
    rig.device = Loop::attach(&rig.backing, &["--sizelimit", &less]);
    rig.serve();
    let before = rig.written_bytes();
    let run = resume(&rig);
    assert_told(&run, 5, &["disk", &less]);
    assert_eq!(rig.written_bytes(), before, "it was written");
    rig.kill_server();
    rig.detach();
    rig.attach();
    rig.serve();
    let mark = rig.mark();
    rig.resume(&mark);
}

/// A device without a serial that has another content is no reason to refuse, and none to believe.
#[test]
fn another_device_under_the_same_name_gets_everything() {
    if !can_make_devices() {
        return;
    }
    let Some(mut rig) = killed_halfway(true) else {
        return;
    };
    rig.backing = other_file(&rig.bed);
    rig.attach();
    rig.serve();
    let result = resume(&rig).done().object();
    assert_eq!(result["resumed_bytes"], 0, "{result}");
    let warnings = result["warnings"].to_string();
    assert!(warnings.contains("are not at the target"), "{warnings}");
    assert_same(&rig.bed.path("source"), &rig.backing);
}

#[test]
fn another_file_under_the_same_name_is_refused() {
    if !can_make_devices() {
        return;
    }
    let Some(mut rig) = killed_halfway(false) else {
        return;
    };
    let first = std::mem::replace(&mut rig.backing, other_file(&rig.bed));
    let before = std::fs::read(&rig.backing).unwrap();
    rig.serve();
    assert_told(&resume(&rig), 9, &["journal", "another file"]);
    assert!(std::fs::read(&rig.backing).unwrap() == before);
    rig.kill_server();
    rig.backing = first;
    rig.serve();
    let mark = rig.mark();
    rig.resume(&mark);
}

fn other_file(bed: &Bed) -> std::path::PathBuf {
    let path: &Path = &bed.path("other");
    std::fs::write(path, vec![0x77; usize::try_from(SIZE_BYTES).unwrap()]).unwrap();
    path.to_owned()
}
