//! A device that loses what it was given: the flush fails, and nobody is told otherwise afterwards. Needs root.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod server;

use std::path::Path;
use std::process::Command;

use common::{Bed, finish, have, skip};
use server::{Server, client_fingerprint, pki};

const SIZE_BYTES: u64 = 8 << 20;

/// A file system in a file, mounted; both go when dropped.
struct Mount<'a> {
    bed: &'a Bed,
}

impl<'a> Mount<'a> {
    /// `None`, and a skip, where nothing can be mounted.
    fn make(bed: &'a Bed) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skip("needs root");
            return None;
        }
        let tools = ["mkfs.ext4", "losetup", "mount", "xfs_io"];
        if tools.iter().filter(|tool| !have(tool)).count() > 0 {
            return None;
        }
        let image = std::fs::File::create_new(bed.path("image")).unwrap();
        image.set_len(64 << 20).unwrap();
        bed.tool("mkfs.ext4", &["-q", "-F", "image"]);
        std::fs::create_dir(bed.path("mnt")).unwrap();
        let run = finish(bed.command("mount").args(["-o", "loop", "image", "mnt"]));
        if run.code != 0 {
            skip(&format!("kernel mounts no file: {}", run.stderr.trim()));
            return None;
        }
        Some(Self { bed })
    }

    /// Takes the disk away from below the file system, as far as it can see.
    fn shut_down(&self) -> bool {
        let how = ["-x", "-c", "shutdown", "mnt"];
        finish(self.bed.command("xfs_io").args(how)).code == 0
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        finish(self.bed.command("umount").args(["--lazy", "mnt"]));
    }
}

/// A loop device over a file in there; detached when dropped.
struct Loop(String);

impl Loop {
    fn make(file: &Path) -> Option<Self> {
        let mut command = Command::new("losetup");
        let run = finish(command.args(["--find", "--show"]).arg(file));
        if run.code != 0 {
            skip(&format!("kernel gives no loop device: {}", run.stderr));
            return None;
        }
        Some(Self(run.stdout.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        finish(Command::new("losetup").args(["--detach", &self.0]));
    }
}

fn start(bed: &Bed) -> Server {
    let args = ["--listen", "127.0.0.1:0", "--tls-dir", "pki"];
    Server::start(bed, &[&args[..], &["--control-dir", "ctl"]].concat())
}

#[test]
fn an_export_whose_flush_failed_never_says_that_all_is_well_until_it_is_opened_again() {
    let bed = Bed::new();
    let Some(mount) = Mount::make(&bed) else {
        return;
    };
    let file = bed.path("mnt/disk");
    let disk = std::fs::File::create_new(&file).unwrap();
    disk.set_len(SIZE_BYTES).unwrap();
    drop(disk);
    let Some(device) = Loop::make(&file) else {
        return;
    };
    let pki = pki(&bed, "pki");
    let server = start(&bed);
    let body = |device: &str, fence: u64| {
        let client = client_fingerprint(&pki);
        format!(
            r#"{{"device": "{device}", "mode": "rw", "client_fingerprints": ["{client}"], "fence": {fence}}}"#
        )
    };
    let first = body(&device.0, 1);
    server.exports("PUT", "/v1/exports/d", &first).json(201);
    let mut client = server.connect_tls("d", &pki).unwrap();
    let mut witness = server.connect_tls("d", &pki).unwrap();
    client.write(0, &[0x11; 65_536]).unwrap();
    client.flush().unwrap();
    client.write(0, &[0x22; 65_536]).unwrap();
    if !mount.shut_down() {
        return skip("kernel cannot shut an ext4 down");
    }
    let failed = client.flush().expect_err("nothing can be written any more");
    println!("the client hears {failed}");
    for _ in 0..3 {
        client.flush().expect_err("it stays so");
        witness.flush().expect_err("for everybody");
    }
    let list = server.transfers("GET", "/v1/exports", "").json(200);
    let view = &list["exports"][0];
    assert_eq!(view["state"], "failed", "{view}");
    assert_eq!(view["totals"]["flush_failures"], 1, "{view}");
    assert_eq!(view["totals"]["flushes"], 1, "{view}");
    let failures = "migratekit_dataplane_export_flush_failures_total";
    assert_eq!(server.metric(failures), [1]);
    assert!(
        server.connect_tls("d", &pki).is_err(),
        "nobody new is let in"
    );
    // No question and no order makes it well again.
    let flushed = server.transfers("POST", "/v1/exports/d/flush", "");
    assert_eq!(flushed.json(500)["error"]["kind"], "device");
    let again = server.exports("PUT", "/v1/exports/d", &first).json(200);
    assert_eq!(again["state"], "failed", "{again}");
    let kept = server.exports("DELETE", "/v1/exports/d?drain_timeout_s=0", "");
    assert_eq!(kept.json(500)["error"]["kind"], "device");
    let view = server.transfers("GET", "/v1/exports", "").json(200);
    assert_eq!(view["exports"][0]["state"], "failed", "{view}");

    // The device is repaired, and opened again under a higher fence.
    let healthy = bed.path("healthy");
    let other = std::fs::File::create_new(&healthy).unwrap();
    other.set_len(SIZE_BYTES).unwrap();
    let second = body(&healthy.display().to_string(), 2);
    let view = server.exports("PUT", "/v1/exports/d", &second).json(201);
    assert_eq!(view["state"], "open", "{view}");
    let mut client = server.connect_tls("d", &pki).unwrap();
    client.write(0, &[0x22; 65_536]).unwrap();
    client.flush().unwrap();
    client.disconnect();
    server.stop();
    assert_eq!(std::fs::read(&healthy).unwrap()[..65_536], [0x22; 65_536]);
}

#[test]
fn a_server_that_ends_with_a_failed_export_says_so_by_its_exit_code() {
    let bed = Bed::new();
    let Some(mount) = Mount::make(&bed) else {
        return;
    };
    let file = bed.path("mnt/disk");
    let disk = std::fs::File::create_new(&file).unwrap();
    disk.set_len(SIZE_BYTES).unwrap();
    drop(disk);
    let args = ["--nbd-unix", "s", "--export", "d=mnt/disk"];
    let server = Server::start(&bed, &args);
    let mut client = server.connect_unix("d").unwrap();
    client.write(0, &[0x11; 65_536]).unwrap();
    if !mount.shut_down() {
        return skip("kernel cannot shut an ext4 down");
    }
    client.flush().expect_err("nothing can be written any more");
    client.disconnect();
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(server.wait(), 5);
}
