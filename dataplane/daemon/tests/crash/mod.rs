//! A copy through the real programs over a network that can be cut, and what must be true after a crash of any part.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(
    clippy::print_stdout,
    reason = "a failure is told with the seeds and numbers before it"
)]

pub mod below;
pub mod check;
pub mod disks;
pub mod foreign;
pub mod link;
pub mod plan;

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::common::{BINARY, Bed, Run};
use crate::server::{PATIENCE, Server, pki};
use disks::Loop;
use link::{Link, Upstream};
use plan::Plan;

/// The disk: a third of data, a third of hole, a third of data.
pub const SIZE_BYTES: u64 = 72 << 20;
/// What of it travels.
pub const DATA_BYTES: u64 = SIZE_BYTES / 3 * 2;
/// What the target has before; no byte of the source is like that.
const OLD_BYTE: u8 = 0xee;
/// What a connection may have had in flight when it ended, and what is cut off at the edges of chunks.
pub const SLACK_BYTES: u64 = 4 << 20;

/// Both ends, and what is between them. Dropped in this order.
pub struct Rig {
    pub link: Link,
    pub server: Option<Server>,
    pub device: Option<Loop>,
    /// The file that is the target, or is behind the device.
    pub backing: PathBuf,
    pub plan: Plan,
    boots: u32,
    pub bed: Bed,
}

impl Rig {
    /// A target with old bytes, served. `None`, and a skip, where a device is wanted and there are none.
    pub fn new(plan: Plan) -> Option<Self> {
        let bed = Bed::new();
        bed.disk("source", SIZE_BYTES);
        let backing = bed.path("backing");
        let old = vec![OLD_BYTE; usize::try_from(SIZE_BYTES).unwrap()];
        std::fs::write(&backing, old).unwrap();
        // Else the first flush of the copy has all of it to write.
        for path in [&backing, &bed.path("source")] {
            File::open(path).unwrap().sync_all().unwrap();
        }
        Self::over(bed, backing, plan)
    }

    /// The same over a file that is there.
    pub fn over(bed: Bed, backing: PathBuf, plan: Plan) -> Option<Self> {
        pki(&bed, "pki");
        let device = match plan.on_device {
            true => Some(Loop::attach(&backing, &[])?),
            false => None,
        };
        let mut rig = Self {
            link: Link::new(),
            server: None,
            device,
            backing,
            plan,
            boots: 0,
            bed,
        };
        rig.serve();
        Some(rig)
    }

    /// Starts the target's server, in the boot that it is in.
    pub fn serve(&mut self) {
        let path = match &self.device {
            Some(device) => device.device.clone(),
            None => self.backing.display().to_string(),
        };
        let export = format!("disk={path}");
        let args = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--tls-dir",
            "pki",
            "--export",
            &export,
        ];
        let server = match self.boots {
            0 => Server::start_by(&self.bed, self.bed.command(BINARY).args(args)),
            _ => Server::start_by(&self.bed, self.in_another_boot().arg(BINARY).args(args)),
        };
        self.link.point(Upstream::Tcp(server.tls.unwrap()));
        self.server = Some(server);
    }

    /// Runs what follows where the kernel seems to have been started anew.
    fn in_another_boot(&self) -> Command {
        let id = self.bed.path("boot_id");
        let text = format!("00000000-0000-4000-8000-{:012}\n", self.boots);
        std::fs::write(&id, text).unwrap();
        let script = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#;
        let mut command = self.bed.command("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(id);
        command
    }

    /// Ends the server the hard way.
    pub fn kill_server(&mut self) {
        self.link.point(Upstream::Nowhere);
        let server = self.server.take().unwrap();
        server.signal(Signal::SIGKILL);
        server.wait();
        self.link.cut();
    }

    /// The machine of the target goes down: its server is gone, its devices are attached anew, its boot is another.
    pub fn reboot(&mut self) {
        self.kill_server();
        self.detach();
        self.attach();
        self.boots += 1;
    }

    /// Takes the device away.
    pub fn detach(&mut self) {
        if let Some(device) = self.device.take() {
            device.detach();
        }
    }

    /// Makes it again, as another one.
    pub fn attach(&mut self) {
        if self.plan.on_device {
            self.device = Some(Loop::attach(&self.backing, &[]).unwrap());
        }
    }

    /// Serves again, after the kernel was started anew.
    pub fn start_in_next_boot(&mut self) {
        self.boots += 1;
        self.serve();
    }

    /// The command line of the copy.
    pub fn copy_args(&self, more: &[&str]) -> Vec<String> {
        let target = format!(
            "mk://127.0.0.1:{}/disk?tls-certificates=pki",
            self.link.port()
        );
        let connections = self.plan.connections.to_string();
        let fixed = ["copy", "source", &target, "--connections", &connections];
        let fixed = [&fixed[..], &COPY_FLAGS, more].concat();
        let mut args: Vec<String> = fixed.into_iter().map(str::to_owned).collect();
        if let Some(integrity) = self.plan.integrity {
            args.extend(["--integrity".to_owned(), integrity.to_owned()]);
        }
        args
    }

    /// Begins the copy and waits until the chosen byte has passed. It is slow enough for several checkpoints, which
    /// follow each other by fifths of a second.
    pub fn copy_up_to_the_point(&self, more: &[&str]) -> Copy {
        self.link.arm(self.plan.at_bytes, self.plan.holds);
        let slowly = [more, &["--rate-limit", "32M"]].concat();
        let copy = Copy::start(&self.bed, &self.copy_args(&slowly));
        assert!(self.link.wait(), "not that far: {}", copy.told());
        copy
    }

    /// Bytes that were written to the target so far, as the kernel counts them.
    pub fn written_bytes(&self) -> u64 {
        match (&self.device, &self.server) {
            (Some(device), _) => device.written_bytes(),
            (None, Some(server)) => {
                let text = std::fs::read_to_string(format!("/proc/{}/io", server.pid())).unwrap();
                let is_ours = |line: &str| line.strip_prefix("write_bytes: ").map(str::to_owned);
                text.lines().find_map(is_ours).unwrap().parse().unwrap()
            }
            (None, None) => 0,
        }
    }
}

/// Small checkpoints, and an answer for programs.
pub const COPY_FLAGS: [&str; 10] = [
    "--journal",
    "journal",
    "--set",
    "checkpoint_bytes=4M",
    "--request-timeout",
    "30",
    "--output",
    "json",
    "--progress",
    "json",
];

/// A copy under way, killed when dropped.
pub struct Copy {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Copy {
    pub fn start(bed: &Bed, args: &[String]) -> Self {
        let (out, err) = (bed.path("copy.out"), bed.path("copy.err"));
        let child = bed
            .command(BINARY)
            .args(args)
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .spawn()
            .unwrap();
        Self { child, out, err }
    }

    /// What it has told so far.
    pub fn told(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap_or_default()
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Run {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "it does not end: {}",
                self.told()
            );
            // There is no event for the end of a child with a time-out.
            std::thread::park_timeout(Duration::from_millis(2));
        };
        Run {
            code: status.code().unwrap_or(-1),
            stdout: std::fs::read_to_string(&self.out).unwrap(),
            stderr: self.told(),
        }
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A number of the result.
pub fn number(result: &Value, key: &str) -> u64 {
    result[key]
        .as_u64()
        .unwrap_or_else(|| panic!("{key} in {result}"))
}
