//! Foreign programs, and what all sides share: certificates, disks, loop devices.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{BINARY, Bed, finish, skip};
use crate::process::{Daemon, good};

/// The program under test: the release binary where one is named.
pub(crate) fn binary() -> OsString {
    std::env::var_os("MIGRATEKIT_DATAPLANE").unwrap_or_else(|| BINARY.into())
}

/// `site` for everybody; `foreign` of another authority, `mixed` with only its client certificate from
/// there, `bare` without any.
pub(crate) fn make_certificates(bed: &Bed) {
    for name in ["site", "foreign"] {
        let hosts = ["--host", "localhost", "--host", "127.0.0.1"];
        good(
            bed.command(binary())
                .args(["pki", "init", name])
                .args(hosts),
        )
        .unwrap();
    }
    let copy = |from: &str, to: &str, name: &str| {
        std::fs::create_dir_all(bed.path(to)).unwrap();
        std::fs::copy(bed.path(from).join(name), bed.path(to).join(name)).unwrap();
    };
    copy("site", "bare", "ca-cert.pem");
    copy("site", "mixed", "ca-cert.pem");
    copy("foreign", "mixed", "client-cert.pem");
    copy("foreign", "mixed", "client-key.pem");
}

/// Overwrites all of a disk in place, so that every byte of a copy must be written.
pub(crate) fn fill(path: &Path, len: u64) {
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap();
    file.write_all_at(&vec![0xee; usize::try_from(len).unwrap()], 0)
        .unwrap();
}

/// Compares two files byte by byte.
pub(crate) fn same(expected: &Path, found: &Path) -> Result<(), String> {
    same_bytes(&std::fs::read(expected).unwrap(), found)
}

/// Compares bytes with a file.
pub(crate) fn same_bytes(expected: &[u8], found: &Path) -> Result<(), String> {
    let bytes = std::fs::read(found).map_err(|error| format!("{}: {error}", found.display()))?;
    if bytes.len() != expected.len() {
        return Err(format!(
            "{} bytes instead of {}",
            bytes.len(),
            expected.len()
        ));
    }
    match expected.iter().zip(&bytes).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(at) => Err(format!("{} differs at byte {at}", found.display())),
    }
}

/// A loop device over a file; detached when dropped.
pub(crate) struct Loop {
    pub(crate) device: String,
}

impl Loop {
    /// `None`, and a skip, where there are none.
    pub(crate) fn make(file: &Path, sector: u32) -> Option<Self> {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--sector-size", &sector.to_string()]);
        let run = finish(command.arg(file));
        if run.code == 0 {
            let device = run.stdout.trim().to_owned();
            return Some(Self { device });
        }
        let is_root = nix::unistd::Uid::effective().is_root();
        let why = if is_root {
            "kernel gives no loop device"
        } else {
            "needs root for loop devices"
        };
        skip(&format!("{why}: {}", run.stderr.trim()));
        assert!(is_root || std::env::var_os("CI").is_none(), "{why}");
        None
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        finish(Command::new("losetup").args(["--detach", &self.device]));
    }
}

/// Starts a server that has to be told its port; a port may be gone before it is taken.
pub(crate) fn on_free_port(
    mut start: impl FnMut(u16) -> Result<Daemon, String>,
) -> Result<(Daemon, u16), String> {
    let mut last = String::new();
    for _ in 0..5 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        match start(port) {
            Ok(daemon) => return Ok((daemon, port)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Starts a peer that writes `NAME.pid` when it serves.
pub(crate) fn with_pid_file(
    bed: &Bed,
    name: &str,
    command: &mut Command,
) -> Result<Daemon, String> {
    let pid_file = pid_file(bed, name);
    let _ = std::fs::remove_file(&pid_file);
    let out = bed.path(&format!("{name}.out"));
    let is_ready = |_: &str| std::fs::metadata(&pid_file).is_ok_and(|file| file.len() > 0);
    Daemon::start(command, &out, is_ready)
}

/// Where such a peer writes it.
pub(crate) fn pid_file(bed: &Bed, name: &str) -> PathBuf {
    bed.path(&format!("{name}.pid"))
}

/// An unmodified stunnel between `accept` and `connect`, TLS 1.3 with certificates on both sides.
pub(crate) fn stunnel(
    bed: &Bed,
    name: &str,
    is_client: bool,
    accept: &str,
    connect: &str,
) -> Result<Daemon, String> {
    let (side, role) = if is_client {
        ("client", "client = yes\ncheckIP = 127.0.0.1")
    } else {
        ("server", "client = no\nrequireCert = yes")
    };
    let text = format!(
        "foreground = yes\npid = {pid}\nsyslog = no\n[nbd]\n{role}\naccept = {accept}\nconnect = {connect}\n\
         CAfile = {site}/ca-cert.pem\ncert = {site}/{side}-cert.pem\nkey = {site}/{side}-key.pem\n\
         verifyChain = yes\nsslVersionMin = TLSv1.3\n",
        pid = pid_file(bed, name).display(),
        site = bed.path("site").display(),
    );
    let config = bed.path(&format!("{name}.conf"));
    std::fs::write(&config, text).unwrap();
    with_pid_file(bed, name, bed.command("stunnel").arg(config))
}
