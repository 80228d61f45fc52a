//! Disks as block devices: FUSE, loop devices, power cuts, what a killed lab leaves. Needs root.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

mod stage;

use lab::{Bus, CloudStack};
use stage::{able, lab, run, text};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn volume(lab: &CloudStack) -> String {
    let (zone, offering) = (lab.zone(), lab.disk_offering());
    let create = [
        ("command", "createVolume"),
        ("name", "d"),
        ("zoneid", zone.as_str()),
        ("diskofferingid", &offering),
        ("size", "1"),
    ];
    let (_, answer) = lab.control().call(&create);
    text(&answer, "/createvolumeresponse/id")
}

fn attach(lab: &CloudStack, id: &str) -> PathBuf {
    let job = run(
        lab,
        &[
            ("command", "attachVolume"),
            ("id", id),
            ("virtualmachineid", &lab.appliance()),
        ],
    );
    assert_eq!(job["jobstatus"], 1, "{job}");
    lab.by_id().join(Bus::Virtio.name(id))
}

fn open(device: &Path) -> File {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .unwrap()
}

fn read(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

#[test]
fn a_device_holds_what_is_written_and_is_busy_while_it_is_held() {
    if !able() {
        return;
    }
    let (_folder, lab) = lab();
    let id = volume(&lab);
    let device = attach(&lab, &id);
    assert!(
        device
            .canonicalize()
            .unwrap()
            .to_string_lossy()
            .starts_with("/dev/loop")
    );
    let file = open(&device);
    let end = (1 << 30) - 512;
    assert!(
        read(&file, end, 512).iter().any(|byte| *byte != 0),
        "tails are random, too"
    );
    file.write_all_at(&[7; 8192], 4096).unwrap();
    let job = run(&lab, &[("command", "detachVolume"), ("id", &id)]);
    assert!(
        job["jobresult"]["errortext"]
            .as_str()
            .unwrap()
            .contains("device is busy"),
        "{job}"
    );
    drop(file);
    assert_eq!(
        run(&lab, &[("command", "detachVolume"), ("id", &id)])["jobstatus"],
        1
    );
    assert!(!device.exists());
    let again = open(&attach(&lab, &id));
    assert_eq!(read(&again, 4096, 8192), [7; 8192]);
}

#[test]
fn a_power_cut_loses_what_was_not_flushed_and_nothing_else() {
    if !able() {
        return;
    }
    let (folder, lab) = lab();
    let id = volume(&lab);
    let device = attach(&lab, &id);
    // Past the page cache above the device, as the data plane writes.
    let write = |byte: u8, block: u64, flush: bool| {
        let source = folder.path().join("block");
        std::fs::write(&source, [byte; 4096]).unwrap();
        let mut dd = Command::new("dd");
        dd.arg(format!("if={}", source.display()))
            .arg(format!("of={}", device.display()));
        dd.args(["bs=4096", "count=1", "oflag=direct", "conv=notrunc"])
            .arg(format!("seek={block}"));
        if flush {
            dd.arg("conv=notrunc,fsync");
        }
        assert!(dd.stderr(Stdio::null()).status().unwrap().success());
    };
    write(1, 0, true);
    let flushed = lab.control().digests(&id).unwrap();
    assert_eq!(flushed.visible, flushed.durable);
    for block in 1..=16 {
        write(2, block, false);
    }
    let pending = lab.control().digests(&id).unwrap();
    assert_eq!(pending.durable, flushed.durable);
    assert_ne!(pending.visible, pending.durable);
    let lost = lab.control().power_cut(11).unwrap();
    assert!(lost > 0 && lost < 16, "{lost}");
    let after = lab.control().digests(&id).unwrap();
    assert_eq!(after.visible, after.durable);
    let file = open(&device);
    assert_eq!(read(&file, 0, 4096), [1; 4096], "what was flushed is there");
    let kept = (1..=16)
        .filter(|block| read(&file, block * 4096, 4096) == [2; 4096])
        .count();
    assert_eq!(kept as u64 + lost, 16);
}

#[test]
fn snapshots_clones_and_sizes_reach_the_device() {
    if !able() {
        return;
    }
    let (_folder, lab) = lab();
    let id = volume(&lab);
    let device = attach(&lab, &id);
    open(&device).write_all_at(&[3; 4096], 0).unwrap();
    Command::new("blockdev")
        .arg("--flushbufs")
        .arg(&device)
        .status()
        .unwrap();
    let job = run(&lab, &[("command", "createSnapshot"), ("volumeid", &id)]);
    let snapshot = text(&job, "/jobresult/snapshot/id");
    let file = open(&device);
    file.write_all_at(&[4; 4096], 0).unwrap();
    drop(file);
    let job = run(
        &lab,
        &[
            ("command", "createVolume"),
            ("name", "clone"),
            ("snapshotid", &snapshot),
        ],
    );
    let clone = text(&job, "/jobresult/volume/id");
    let file = open(&attach(&lab, &clone));
    assert_eq!(read(&file, 0, 4096), [3; 4096]);
    let tail = read(&file, (1 << 30) - 4096, 4096);
    assert_eq!(
        tail,
        read(&open(&device), (1 << 30) - 4096, 4096),
        "unwritten bytes are cloned, too"
    );
    drop(file);
    assert_eq!(
        run(
            &lab,
            &[("command", "resizeVolume"), ("id", &clone), ("size", "2")]
        )["jobstatus"],
        1
    );
    let size = Command::new("blockdev")
        .arg("--getsize64")
        .arg(lab.by_id().join(Bus::Virtio.name(&clone)))
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&size.stdout).trim(),
        (2u64 << 30).to_string()
    );
}

#[test]
fn zeroed_and_discarded_blocks_are_zero() {
    if !able() {
        return;
    }
    let (_folder, lab) = lab();
    let device = attach(&lab, &volume(&lab));
    for (arguments, block) in [
        (vec!["-z", "-o", "8192", "-l", "4096"], 2),
        (vec!["-o", "16384", "-l", "4096"], 4),
    ] {
        assert!(
            Command::new("blkdiscard")
                .args(arguments)
                .arg(&device)
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(
            read(&open(&device), block * 4096, 4096),
            [0; 4096],
            "zeroed and discarded blocks are zero"
        );
    }
}

fn left(folder: &Path) -> bool {
    let loops = Command::new("losetup")
        .args(["--list", "--noheadings", "--output", "BACK-FILE"])
        .output()
        .unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let name = folder.to_string_lossy().into_owned();
    String::from_utf8_lossy(&loops.stdout).contains(&name) || mounts.contains(&name)
}

#[test]
fn a_lab_that_ends_or_is_killed_leaves_nothing_that_clean_does_not_find() {
    if !able() {
        return;
    }
    let (folder, lab) = lab();
    attach(&lab, &volume(&lab));
    assert!(left(folder.path()));
    drop(lab);
    assert!(!left(folder.path()), "a lab that ends cleans up");

    let mut child = Command::new(env!("CARGO_BIN_EXE_migratekit-lab"))
        .args(["cloudstack", "--backing", "devices", "--folder"])
        .arg(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let facts: serde_json::Value = serde_json::from_str(&line).unwrap();
    let call = |body: serde_json::Value| {
        let url = format!("{}/call", facts["control"].as_str().unwrap());
        let done = Command::new("curl")
            .args(["-sS", "-d", &body.to_string(), &url])
            .output()
            .unwrap();
        serde_json::from_slice::<serde_json::Value>(&done.stdout).unwrap()
    };
    let made = call(
        serde_json::json!({"command": "createVolume", "zoneid": facts["zones"][0]["id"], "size": "1",
        "diskofferingid": facts["disk_offerings"][0]["id"]}),
    );
    let id = &made["createvolumeresponse"]["id"];
    call(
        serde_json::json!({"command": "attachVolume", "id": id, "virtualmachineid": facts["appliance"]}),
    );
    let device =
        Path::new(facts["by_id"].as_str().unwrap()).join(Bus::Virtio.name(id.as_str().unwrap()));
    let start = Instant::now();
    while !device.exists() {
        assert!(start.elapsed() < Duration::from_secs(20), "no device");
        std::thread::park_timeout(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(left(folder.path()), "a killed lab leaves things");
    let done = lab::clean(folder.path()).unwrap();
    assert!(
        done.iter()
            .any(|line| line.starts_with("detached /dev/loop")),
        "{done:?}"
    );
    assert!(
        done.iter().any(|line| line.starts_with("unmounted")),
        "{done:?}"
    );
    assert!(!left(folder.path()));
    assert_eq!(lab::clean(folder.path()).unwrap(), Vec::<String>::new());
}
