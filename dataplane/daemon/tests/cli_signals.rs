//! What signals do to a copy: the first lets it finish what is in flight, the second ends it at once.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStderr, Stdio};

use common::{BINARY, Bed, have};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A copy that would take an hour, and has begun to move data.
struct SlowCopy {
    child: Child,
    stderr: BufReader<ChildStderr>,
}

impl SlowCopy {
    fn start(bed: &Bed, source: &str) -> Self {
        let mut child = bed
            .command(BINARY)
            .args([
                "copy",
                source,
                "slow",
                "--rate-limit",
                "64K",
                "--progress",
                "json",
            ])
            .args([
                "--output",
                "json",
                "--connections",
                "1",
                "--request-size",
                "64K",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while stderr.read_line(&mut line).unwrap() > 0 {
            let object: serde_json::Value = serde_json::from_str(&line).unwrap();
            if object["data_bytes"].as_u64().unwrap() > 0 {
                return Self { child, stderr };
            }
            line.clear();
        }
        panic!("the copy ended before it moved a byte: {:?}", child.wait());
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Reads up to the line that says that the first signal has come.
    fn wait_for_note(&mut self) {
        let mut line = String::new();
        while self.stderr.read_line(&mut line).unwrap() > 0 {
            if line.starts_with("interrupted:") {
                return;
            }
            line.clear();
        }
        panic!("no note of the signal");
    }

    /// Exit code, standard output, the rest of standard error.
    fn end(mut self) -> (Option<i32>, String, String) {
        let (mut out, mut rest) = (String::new(), String::new());
        self.stderr.read_to_string(&mut rest).unwrap();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut out)
            .unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.signal(), None);
        (status.code(), out, rest)
    }
}

#[test]
fn the_first_signal_drains_and_ends_with_exit_8() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let bed = Bed::new();
        bed.disk("a", 64 << 20);
        let mut copy = SlowCopy::start(&bed, "a");
        copy.signal(signal);
        copy.wait_for_note();
        let (code, out, rest) = copy.end();
        assert_eq!(code, Some(8), "{rest}");
        let object: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(object["outcome"], "interrupted");
        assert_eq!(object["error"]["exit_code"], 8);
    }
}

#[test]
fn qemu_nbd_and_its_folder_go_on_every_way_out() {
    if !have("qemu-img") || !have("qemu-nbd") {
        return;
    }
    for signals in [1, 2] {
        let bed = Bed::new();
        bed.disk("a", 64 << 20);
        bed.tool("qemu-img", &["convert", "-O", "qcow2", "a", "a.qcow2"]);
        let mut copy = SlowCopy::start(&bed, "a.qcow2");
        copy.signal(Signal::SIGTERM);
        copy.wait_for_note();
        if signals == 2 {
            copy.signal(Signal::SIGTERM);
        }
        assert_eq!(copy.end().0, Some(8));
        bed.assert_no_leftovers();
        // The image is free again: qemu-img takes the lock that a reader would hold.
        bed.tool("qemu-img", &["resize", "-q", "a.qcow2", "65M"]);
    }
}

#[test]
fn killing_the_copy_ends_qemu_nbd_too() {
    if !have("qemu-img") || !have("qemu-nbd") {
        return;
    }
    let bed = Bed::new();
    bed.disk("a", 64 << 20);
    bed.tool("qemu-img", &["convert", "-O", "qcow2", "a", "a.qcow2"]);
    let mut copy = SlowCopy::start(&bed, "a.qcow2");
    let helper = child_of(copy.child.id());
    copy.child.kill().unwrap();
    copy.child.wait().unwrap();
    // Its descriptor of the process becomes readable when it ends.
    wait_for_end(helper);
}

/// The only child of a process.
fn child_of(parent: u32) -> u32 {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = std::fs::read_to_string(path).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

/// Waits for a process that is not ours. `tail --pid` does it without a sleep in this test.
fn wait_for_end(pid: u32) {
    let status = std::process::Command::new("timeout")
        .args([
            "20",
            "tail",
            "-s",
            "0.05",
            "-f",
            "/dev/null",
            &format!("--pid={pid}"),
        ])
        .status()
        .unwrap();
    assert!(status.success(), "qemu-nbd {pid} is still there");
}
