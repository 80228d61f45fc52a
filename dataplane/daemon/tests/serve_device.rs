//! Exports and holds of real block devices. Needs root.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod server;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Bed, assert_same, finish, have, skip};
use server::{Server, pki};

const SIZE_BYTES: u64 = 16 << 20;

/// A loop device over a file of the bed; detached when dropped.
struct Loop {
    device: String,
    file: PathBuf,
}

impl Loop {
    /// `None`, and a skip, where loop devices cannot be made.
    fn make(bed: &Bed, name: &str, head: &[u8]) -> Option<Self> {
        if !have("losetup") {
            return None;
        }
        let file = bed.path(name);
        std::fs::write(&file, head).unwrap();
        std::fs::OpenOptions::new()
            .write(true)
            .open(&file)
            .unwrap()
            .set_len(SIZE_BYTES)
            .unwrap();
        let run = finish(
            Command::new("losetup")
                .args(["--find", "--show", "--partscan"])
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

/// An MBR with one Linux partition from sector 2048, 4096 sectors long.
fn one_partition() -> [u8; 512] {
    let mut mbr = [0; 512];
    let entry = &mut mbr[446..462];
    entry[4] = 0x83;
    entry[8..12].copy_from_slice(&2_048u32.to_le_bytes());
    entry[12..16].copy_from_slice(&4_096u32.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    mbr
}

fn start(bed: &Bed) -> Server {
    pki(bed, "pki");
    Server::start(
        bed,
        &[
            "--listen",
            "127.0.0.1:0",
            "--tls-dir",
            "pki",
            "--control-dir",
            "ctl",
        ],
    )
}

fn put(device: &str, size_bytes: u64) -> String {
    format!(
        r#"{{"device": "{device}", "size_bytes": {size_bytes}, "mode": "rw",
             "client_fingerprints": ["any"], "fence": 1}}"#
    )
}

#[test]
fn a_held_device_is_exported_written_and_released() {
    let bed = Bed::new();
    let Some(disk) = Loop::make(&bed, "back", &[]) else {
        return;
    };
    let server = start(&bed);
    let hold = format!(r#"{{"device": "{}", "fence": 1}}"#, disk.device);
    server.exports("PUT", "/v1/holds/v", &hold).json(201);
    let error = server
        .exports("PUT", "/v1/exports/d", &put(&disk.device, SIZE_BYTES + 512))
        .json(409);
    assert_eq!(error["error"]["kind"], "identity_mismatch");
    let view = server
        .exports("PUT", "/v1/exports/d", &put(&disk.device, SIZE_BYTES))
        .json(201);
    assert_eq!(
        (&view["held"], &view["direct"]),
        (&true.into(), &true.into())
    );
    let source = bed.disk("source", SIZE_BYTES);
    let uri = server.tls_uri("d", &bed.path("pki"));
    bed.run(&["copy", "source", &uri]).done();
    server.exports("DELETE", "/v1/exports/d", "").json(200);
    // The device is nobody else's while it is held, and anybody's afterwards.
    bed.run(&["copy", "source", &disk.device, "--overwrite"])
        .refused(9);
    server.exports("DELETE", "/v1/holds/v", "").json(200);
    bed.run(&["copy", &disk.device, "back2"]).done();
    assert_same(&source, &bed.path("back2"));
    assert_same(&source, &disk.file);
    server.stop();
}

#[test]
fn a_partition_is_not_held() {
    let bed = Bed::new();
    let Some(parted) = Loop::make(&bed, "parted", &one_partition()) else {
        return;
    };
    let partition = format!("{}p1", parted.device);
    if !Path::new(&partition).exists() {
        return skip("kernel shows no partitions of loop devices");
    }
    let server = start(&bed);
    let hold = format!(r#"{{"device": "{partition}", "fence": 1}}"#);
    let error = server.exports("PUT", "/v1/holds/p", &hold).json(409);
    let what = error["error"]["what"].as_str().unwrap();
    assert!(what.contains("partition"), "{error}");
    server.stop();
}

#[test]
fn a_mounted_device_is_not_exported() {
    if !have("mkfs.ext4") {
        return;
    }
    let bed = Bed::new();
    let Some(mounted) = Loop::make(&bed, "mounted", &[]) else {
        return;
    };
    let server = start(&bed);
    bed.tool("mkfs.ext4", &["-q", &mounted.device]);
    std::fs::create_dir(bed.path("mnt")).unwrap();
    let mount = finish(bed.command("mount").args([&mounted.device, "mnt"]));
    if mount.code != 0 {
        let why = mount.stderr.trim();
        return skip(&format!("kernel mounts no loop device: {why}"));
    }
    let put = put(&mounted.device, SIZE_BYTES);
    let answer = server.exports("PUT", "/v1/exports/m", &put);
    finish(bed.command("umount").arg("mnt"));
    let error = answer.json(409);
    let kind = error["error"]["kind"].as_str().unwrap();
    assert!(["refused", "busy"].contains(&kind), "{error}");
    server.exports("PUT", "/v1/exports/m", &put).json(201);
    server.stop();
}
