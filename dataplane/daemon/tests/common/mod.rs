//! The real binary, run as people run it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses its own part"
)]
#![allow(
    clippy::print_stderr,
    reason = "skips are told where the runner looks for them"
)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_migratekit-dataplane");

/// What a run came to.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// The only object on standard output.
    pub fn object(&self) -> serde_json::Value {
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts success.
    #[track_caller]
    pub fn done(self) -> Self {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// The first line of the error, after asserting the code.
    #[track_caller]
    pub fn refused(&self, code: i32) -> &str {
        assert_eq!(self.code, code, "{self:#?}");
        let line = self.stderr.lines().find(|line| line.starts_with("error: "));
        line.unwrap_or_else(|| panic!("no error line: {self:#?}"))
    }
}

/// A private folder; also the `TMPDIR` of what runs in it, so that leftovers are seen.
pub struct Bed {
    /// There until the bed goes.
    dir: Option<tempfile::TempDir>,
}

impl Drop for Bed {
    /// A test that leaves something mounted or held here would fill the disk of its machine, run by run.
    fn drop(&mut self) {
        let Some(Err(error)) = self.dir.take().map(tempfile::TempDir::close) else {
            return;
        };
        assert!(std::thread::panicking(), "the bed stays: {error}");
    }
}

impl Bed {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("mk").tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tmp")).unwrap();
        Self { dir: Some(dir) }
    }

    pub fn dir(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// A command in this folder.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.dir())
            .env("TMPDIR", self.path("tmp"))
            .env_remove("RUST_LOG")
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null());
        command
    }

    /// Runs the program under test in this folder.
    pub fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Run {
        finish(self.command(BINARY).args(args))
    }

    /// Runs another tool, which must succeed.
    #[track_caller]
    pub fn tool<S: AsRef<OsStr>>(&self, program: &str, args: &[S]) -> Run {
        finish(self.command(program).args(args)).done()
    }

    /// Runs `script` while nbdkit serves; `$uri` is the place of the export, `$BIN` the program under test.
    pub fn under_nbdkit(&self, nbdkit_args: &[&str], script: &str) -> Run {
        finish(
            self.command("nbdkit")
                .env("BIN", BINARY)
                .args(["--exit-with-parent", "-U", "-"])
                .args(nbdkit_args)
                .args(["--run", script]),
        )
    }

    /// Nothing may be left where helpers work.
    #[track_caller]
    pub fn assert_no_leftovers(&self) {
        let left: Vec<_> = std::fs::read_dir(self.path("tmp"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }

    /// A file with data and holes that tells every place apart.
    pub fn disk(&self, name: &str, size_bytes: u64) -> PathBuf {
        let path = self.path(name);
        let file = File::create_new(&path).unwrap();
        file.set_len(size_bytes).unwrap();
        // A third of data, a third of hole, and data again up to the end.
        let third = size_bytes / 3 / 4096 * 4096;
        write_pattern(&file, 0, third);
        write_pattern(&file, 2 * third, size_bytes - 2 * third);
        path
    }
}

/// Runs to the end.
pub fn finish(command: &mut Command) -> Run {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    Run {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Bytes that repeat only after a long time, and never with the period of a block.
pub fn write_pattern(file: &File, offset: u64, len: u64) {
    let end = offset + len;
    let mut at = offset;
    while at < end {
        let chunk = (end - at).min(1 << 20);
        let data: Vec<u8> = (at..at + chunk).map(pattern_byte).collect();
        file.write_all_at(&data, at).unwrap();
        at += chunk;
    }
}

fn pattern_byte(at: u64) -> u8 {
    let word = (at / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    word[(at % 8) as usize] | 1
}

/// Asserts that two files have the same bytes.
#[track_caller]
pub fn assert_same(a: &Path, b: &Path) {
    let (left, right) = (std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    assert_eq!(left.len(), right.len(), "sizes of {a:?} and {b:?}");
    let differs = left.iter().zip(&right).position(|(x, y)| x != y);
    assert_eq!(differs, None, "{a:?} and {b:?} differ there");
}

/// True when a tool is there. Otherwise says that the test is skipped; with `CI` set that is a failure.
pub fn have(tool: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|dir| dir.join(tool).is_file()));
    if !found {
        skip(&format!("{tool} is not installed"));
        assert!(std::env::var_os("CI").is_none(), "{tool} is needed in CI");
    }
    found
}

/// Tiers that this machine has; the others are said to be skipped.
pub fn tiers(bed: &Bed) -> Vec<&'static str> {
    let works = |tier: &&str| {
        let run = bed.run(&["copy", "null:1M", "null:", "--runtime", tier]);
        if run.code != 0 {
            skip(&format!("kernel has no {tier} tier"));
        }
        run.code == 0
    };
    ["rich", "plain", "epoll"]
        .into_iter()
        .filter(works)
        .collect()
}

/// Runs a command under a filter that forbids io_uring with `errno`; see the example of the system layer.
pub fn without_io_uring(bed: &Bed, errno: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let profile = tests.parent().and_then(Path::parent).unwrap();
    let program = profile.join("examples/deny_io_uring");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sys/examples/deny_io_uring.rs");
    let changed = |path: &Path| {
        std::fs::metadata(path)
            .and_then(|file| file.modified())
            .ok()
    };
    if changed(&program) < changed(&source) {
        // Tests of the whole workspace have built it; those of this crate alone have not.
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--locked", "--offline", "--package", "sys"]);
        build.args(["--example", "deny_io_uring", "--target-dir"]);
        build.arg(profile.parent().unwrap());
        finish(build.current_dir(env!("CARGO_MANIFEST_DIR"))).done();
    }
    let mut command = bed.command(program);
    command.args([errno, "--"]);
    command
}

/// Says that something was left out; the runner counts it.
pub fn skip(why: &str) {
    eprintln!("SKIP: {why}");
}
