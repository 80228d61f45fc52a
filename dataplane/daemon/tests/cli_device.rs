//! Copies into real block devices: loop devices, by the real binary. Needs root.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::path::PathBuf;
use std::process::Command;

use common::{Bed, finish, have, skip};

/// A loop device over a file of the bed; detached when dropped.
struct Loop {
    device: String,
    file: PathBuf,
}

impl Loop {
    /// `None`, and a skip, where loop devices cannot be made.
    fn make(bed: &Bed, name: &str, size_bytes: u64) -> Option<Self> {
        Self::with(bed, name, size_bytes, &[])
    }

    /// The same with more flags of `losetup`.
    fn with(bed: &Bed, name: &str, size_bytes: u64, flags: &[&str]) -> Option<Self> {
        if !have("losetup") {
            return None;
        }
        let file = bed.path(name);
        std::fs::File::create_new(&file)
            .unwrap()
            .set_len(size_bytes)
            .unwrap();
        let run = finish(
            Command::new("losetup")
                .args(["--find", "--show"])
                .args(flags)
                .arg(&file),
        );
        if run.code != 0 {
            skip(&format!(
                "kernel gives no loop device: {}",
                run.stderr.trim()
            ));
            return None;
        }
        Some(Self {
            device: run.stdout.trim().to_owned(),
            file,
        })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        finish(Command::new("losetup").args(["--detach", &self.device]));
    }
}

#[test]
fn a_blank_device_takes_the_disk_and_keeps_its_tail() {
    let bed = Bed::new();
    let Some(target) = Loop::make(&bed, "back", 4 << 20) else {
        return;
    };
    bed.disk("a", (3 << 20) + 512);
    let result = bed
        .run(&["copy", "a", &target.device, "--output", "json"])
        .done()
        .object();
    assert_eq!(result["durable"], true);
    let (from, to) = (
        std::fs::read(bed.path("a")).unwrap(),
        std::fs::read(&target.file).unwrap(),
    );
    assert!(to[..from.len()] == from[..]);
    assert!(to[from.len()..].iter().all(|byte| *byte == 0));
}

/// fallocate(2) refuses what is no multiple of the sector; sources of 512-byte sectors have such zeroes.
#[test]
fn a_device_with_large_sectors_takes_zeroes_of_small_ones() {
    let bed = Bed::new();
    let flags = ["--sector-size", "4096"];
    let Some(target) = Loop::with(&bed, "back", 4 << 20, &flags) else {
        return;
    };
    // What is copied as zeroes has to go.
    let old = vec![0xaa; 4 << 20];
    std::fs::write(&target.device, &old).unwrap();
    bed.disk("a", (3 << 20) + 512);
    let mut bytes = std::fs::read(bed.path("a")).unwrap();
    bytes[512..(1 << 20) + 512].fill(0);
    bytes[3 << 20..].fill(0);
    std::fs::write(bed.path("a"), &bytes).unwrap();
    // As a hole, and as zeroes among data.
    bed.tool("fallocate", &["-p", "-o", "512", "-l", "1048576", "a"]);
    bed.run(&["copy", "a", &target.device, "--overwrite"])
        .done();
    let to = std::fs::read(&target.device).unwrap();
    assert!(to[..bytes.len()] == bytes[..]);
    assert!(to[bytes.len()..] == old[bytes.len()..]);
}

#[test]
fn a_device_is_described() {
    let bed = Bed::new();
    let Some(device) = Loop::make(&bed, "back", 4 << 20) else {
        return;
    };
    let result = bed
        .run(&["info", &device.device, "--output", "json"])
        .done()
        .object();
    assert_eq!(result["kind"], "block");
    assert_eq!(result["size_bytes"], 4 << 20);
    assert!(result["diskseq"].as_u64().is_some(), "{result}");
    assert!(result["logical_block_bytes"].as_u64().unwrap() >= 512);
}

#[test]
fn a_foreign_partition_table_is_not_overwritten_unasked() {
    if !have("sgdisk") {
        return;
    }
    let bed = Bed::new();
    let Some(target) = Loop::make(&bed, "back", 4 << 20) else {
        return;
    };
    bed.disk("a", 3 << 20);
    bed.tool("sgdisk", &["--new=1:0:0", &target.device]);
    let before = std::fs::read(&target.file).unwrap();
    let run = bed.run(&["copy", "a", &target.device]);
    let line = run.refused(9);
    assert!(
        line.contains(&target.device) && line.contains("--overwrite"),
        "{line}"
    );
    assert!(
        std::fs::read(&target.file).unwrap() == before,
        "the device was touched"
    );
    bed.run(&["copy", "a", &target.device, "--overwrite"])
        .done();
    let (from, to) = (
        std::fs::read(bed.path("a")).unwrap(),
        std::fs::read(&target.file).unwrap(),
    );
    assert!(to[..from.len()] == from[..]);
}

#[test]
fn a_mounted_device_is_refused_even_with_overwrite() {
    if !have("mkfs.ext4") || !have("mount") {
        return;
    }
    let bed = Bed::new();
    let Some(target) = Loop::make(&bed, "back", 8 << 20) else {
        return;
    };
    bed.disk("a", 1 << 20);
    bed.tool("mkfs.ext4", &["-q", &target.device]);
    std::fs::create_dir(bed.path("mnt")).unwrap();
    let mounted = finish(bed.command("mount").args([&target.device, "mnt"]));
    if mounted.code != 0 {
        skip(&format!(
            "kernel mounts nothing here: {}",
            mounted.stderr.trim()
        ));
        return;
    }
    let run = bed.run(&["copy", "a", &target.device, "--overwrite"]);
    bed.tool("umount", &["mnt"]);
    let line = run.refused(9);
    assert!(
        line.contains(&target.device) && line.contains("mounted"),
        "{line}"
    );
    assert!(line.contains("release it first"), "{line}");
    // What was mounted is a file system still, and not to be lost unasked either.
    let run = bed.run(&["copy", "a", &target.device]);
    let line = run.refused(9);
    assert!(line.contains(&target.device), "{line}");
    assert!(
        line.contains("ext2/3/4 file system") && line.contains("--overwrite"),
        "{line}"
    );
}

#[test]
fn a_device_that_is_too_small_is_exit_5() {
    let bed = Bed::new();
    let Some(target) = Loop::make(&bed, "back", 1 << 20) else {
        return;
    };
    bed.disk("a", 2 << 20);
    let run = bed.run(&["copy", "a", &target.device]);
    let line = run.refused(5);
    assert!(
        line.contains(&target.device) && line.contains("at least the source's size"),
        "{line}"
    );
    assert!(
        std::fs::read(&target.file)
            .unwrap()
            .iter()
            .all(|byte| *byte == 0)
    );
}

#[test]
fn two_nodes_of_one_device_are_the_same_disk() {
    let bed = Bed::new();
    let Some(device) = Loop::make(&bed, "back", 1 << 20) else {
        return;
    };
    std::os::unix::fs::symlink(&device.device, bed.path("other-name")).unwrap();
    let run = bed.run(&["copy", &device.device, "other-name", "--overwrite"]);
    assert!(run.refused(9).contains("same disk"));
}
