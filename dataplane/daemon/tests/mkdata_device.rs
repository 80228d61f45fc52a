//! `mk-data/1` of a real block device. Needs root.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod mkdata;
mod server;

use std::process::Command;

use common::{Bed, finish, have, skip};
use mkdata::{Data, digests_of};
use server::{Server, pki};

const SIZE_BYTES: u64 = 16 << 20;

/// A loop device, detached when dropped.
struct Loop(String);

impl Drop for Loop {
    fn drop(&mut self) {
        finish(Command::new("losetup").args(["--detach", &self.0]));
    }
}

#[test]
fn a_loop_device_has_the_identity_that_sysfs_shows_and_its_own_hashes() {
    let bed = Bed::new();
    if !have("losetup") {
        return;
    }
    let file = bed.disk("file", SIZE_BYTES);
    let made = finish(
        Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&file),
    );
    if made.code != 0 {
        return skip(&format!(
            "kernel gives no loop device: {}",
            made.stderr.trim()
        ));
    }
    let device = Loop(made.stdout.trim().to_owned());
    let pki = pki(&bed, "pki");
    let export = format!("disk={}", device.0);
    let flags = [
        "--tls-dir",
        "pki",
        "--listen",
        "127.0.0.1:0",
        "--export",
        &export,
    ];
    let server = Server::start(&bed, &flags);
    let mut data = Data::connect(&server, &pki);
    let facts = data.get("/v1/exports/disk").json(200);
    let name = device.0.trim_start_matches("/dev/");
    let sysfs = |what: &str| {
        let text = std::fs::read_to_string(format!("/sys/block/{name}/{what}"));
        text.map(|text| text.trim().to_owned())
    };
    let numbers = sysfs("dev").unwrap();
    let (major, minor) = numbers.split_once(':').unwrap();
    let dev = nix::sys::stat::makedev(major.parse().unwrap(), minor.parse().unwrap());
    assert_eq!(facts["identity"]["kind"], "block");
    assert_eq!(facts["identity"]["dev"], dev);
    assert!(facts["identity"].get("inode").is_none());
    if let Ok(diskseq) = sysfs("diskseq") {
        assert_eq!(facts["identity"]["diskseq"].to_string(), diskseq);
    }
    let block = sysfs("queue/logical_block_size").unwrap();
    assert_eq!(facts["logical_block_bytes"].to_string(), block);
    assert_eq!(
        (&facts["size_bytes"], &facts["direct"]),
        (&SIZE_BYTES.into(), &true.into())
    );
    let bytes = std::fs::read(&file).unwrap();
    let digests = data.hashes("disk", 0, SIZE_BYTES, 65_536).digests();
    assert_eq!(digests, digests_of(&bytes, 65_536));
    server.stop();
}
