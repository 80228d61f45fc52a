//! Power loss: what was only in a cache is gone, and nothing that was called durable is. Needs root.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod crash;
mod server;

use std::path::PathBuf;
use std::process::Command;

use common::{Bed, assert_same, finish, have, skip};
use crash::check::durable_of;
use crash::disks::{FileSystem, can_make_devices};
use crash::link::{Link, Upstream};
use crash::plan::{Plan, campaign};
use crash::{Copy, Rig, SIZE_BYTES};

/// XFS makes none that is smaller.
const IMAGE_BYTES: u64 = 320 << 20;

/// A target behind a device whose file lies in a file system of its own.
struct Below {
    rig: Rig,
    disk: FileSystem,
}

impl Below {
    fn new(kind: &str, plan: Plan) -> Option<Self> {
        let bed = Bed::new();
        let disk = FileSystem::make(&bed, kind, IMAGE_BYTES)?;
        bed.disk("source", SIZE_BYTES);
        let backing = disk.dir.join("backing");
        // Its blocks are there, and read as zeroes until a write to them is in the log.
        let size = SIZE_BYTES.to_string();
        let file = backing.display().to_string();
        bed.tool("fallocate", &["--length", &size, &file]);
        bed.tool("sync", &["--file-system", &file]);
        let rig = Rig::over(bed, backing, plan)?;
        Some(Self { rig, disk })
    }

    /// Nothing gets to the medium from now on; the machine goes down, comes up, and replays its log.
    fn lose_power(&mut self) -> bool {
        let rig = &mut self.rig;
        // A crash has no order: the disk may go first, and errors may be told.
        let disk_first = rig.plan.both;
        if disk_first && !self.disk.shut_down() {
            return false;
        }
        rig.kill_server();
        if !disk_first && !self.disk.shut_down() {
            return false;
        }
        rig.detach();
        self.disk.unmount();
        assert!(self.disk.mount());
        true
    }
}

impl Drop for Below {
    fn drop(&mut self) {
        // What is above the file system goes first.
        self.rig.server = None;
        self.rig.device = None;
    }
}

fn loses_power_on(kind: &str) {
    if !can_make_devices() || !have("fallocate") {
        return;
    }
    campaign(&format!("power lost on {kind}"), |plan| {
        let plan = Plan {
            on_device: true,
            ..plan
        };
        let mut below = Below::new(kind, plan)?;
        let copy = below
            .rig
            .copy_up_to_the_point(&["--reconnect-timeout", "0"]);
        if !below.lose_power() {
            skip(&format!("kernel cannot shut {kind} down"));
            return None;
        }
        let run = copy.wait();
        assert!(matches!(run.code, 5 | 6), "{run:#?}");
        below.rig.check_durable();
        below.rig.attach();
        below.rig.start_in_next_boot();
        let mark = below.rig.mark();
        below.rig.resume(&mark);
        Some(mark.durable_bytes)
    });
}

#[test]
fn what_is_durable_survives_a_power_loss_of_ext4_below_the_device() {
    loses_power_on("ext4");
}

#[test]
fn what_is_durable_survives_a_power_loss_of_xfs_below_the_device() {
    loses_power_on("xfs");
}

/// The campaign has teeth: a device that answers flushes and does nothing is found out.
#[test]
fn a_device_that_does_not_flush_is_caught_after_a_power_loss() {
    if !can_make_devices() || !have("fallocate") {
        return;
    }
    let plan = Plan {
        on_device: true,
        both: false,
        ..Plan::late(1)
    };
    let Some(mut below) = Below::new("ext4", plan) else {
        return;
    };
    let device = below.rig.device.as_ref().unwrap();
    device.flushes(false);
    let copy = below.rig.copy_up_to_the_point(&[]);
    if !below.lose_power() {
        return skip("kernel cannot shut ext4 down");
    }
    copy.kill();
    let lie = durable_of(&below.rig.bed, &below.rig.backing);
    println!("{}", lie.expect_err("lost data went unnoticed"));
}

/// A server that is not ours and keeps writes in memory until a flush; killed when dropped.
struct Nbdkit {
    pid: PathBuf,
    socket: PathBuf,
}

impl Nbdkit {
    /// Returns once it listens.
    fn start(bed: &Bed, cache: &str) -> Self {
        let (pid, socket) = (bed.path("nbdkit.pid"), bed.path("nbdkit.sock"));
        let mut command = bed.command("nbdkit");
        command
            .arg("--pidfile")
            .arg(&pid)
            .arg("--unix")
            .arg(&socket);
        command.args(["--filter=cache", "file", "backing"]);
        finish(command.arg(format!("cache={cache}"))).done();
        Self { pid, socket }
    }

    fn kill(&self) {
        let Ok(pid) = std::fs::read_to_string(&self.pid) else {
            return;
        };
        let mut command = Command::new("tail");
        // It is nobody's child, but its end can be waited for.
        let waiting = command.args(["--follow", "/dev/null", "--pid", pid.trim()]);
        let mut waiting = waiting.args(["--sleep-interval", "0.02"]).spawn().unwrap();
        finish(Command::new("kill").args(["-KILL", pid.trim()]));
        waiting.wait().unwrap();
        std::fs::remove_file(&self.pid).unwrap();
        std::fs::remove_file(&self.socket).unwrap();
    }
}

impl Drop for Nbdkit {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Copies to a caching server up to the point, kills it and the copy, and says what the journal was worth.
fn killed_in_its_cache(plan: &Plan, cache: &str) -> (Bed, Link, Result<u64, String>) {
    let bed = Bed::new();
    bed.disk("source", SIZE_BYTES);
    std::fs::write(
        bed.path("backing"),
        vec![0xee; usize::try_from(SIZE_BYTES).unwrap()],
    )
    .unwrap();
    let link = Link::new();
    let server = Nbdkit::start(&bed, cache);
    link.point(Upstream::Unix(server.socket.clone()));
    link.arm(plan.at_bytes, plan.holds);
    let args = foreign_args(&link, &["--rate-limit", "32M", "--reconnect-timeout", "0"]);
    let copy = Copy::start(&bed, &args);
    assert!(link.wait(), "not that far: {}", copy.told());
    server.kill();
    link.cut();
    let run = copy.wait();
    run.refused(6);
    let durable = durable_of(&bed, &bed.path("backing"));
    (bed, link, durable.map(|ranges| ranges.total_bytes()))
}

fn foreign_args(link: &Link, more: &[&str]) -> Vec<String> {
    let target = format!("nbd://127.0.0.1:{}/", link.port());
    let fixed = ["copy", "source", &target];
    let args = [&fixed[..], &crash::COPY_FLAGS, more].concat();
    args.into_iter().map(str::to_owned).collect()
}

#[test]
fn what_is_durable_survives_a_foreign_server_that_dies_with_its_cache() {
    if !have("nbdkit") {
        return;
    }
    campaign("foreign cache lost", |plan| {
        let (bed, link, durable) = killed_in_its_cache(&plan, "writeback");
        let server = Nbdkit::start(&bed, "writeback");
        link.point(Upstream::Unix(server.socket.clone()));
        let run = Copy::start(&bed, &foreign_args(&link, &["--resume"])).wait();
        let result = run.done().object();
        let warnings = result["warnings"].to_string();
        assert!(warnings.contains("the copy began again"), "{warnings}");
        server.kill();
        assert_same(&bed.path("source"), &bed.path("backing"));
        Some(durable.unwrap())
    });
}

/// The campaign has teeth here as well.
#[test]
fn a_foreign_server_that_ignores_flushes_is_caught() {
    if !have("nbdkit") {
        return;
    }
    let (.., durable) = killed_in_its_cache(&Plan::late(1), "unsafe");
    println!("{}", durable.expect_err("lost data went unnoticed"));
}
