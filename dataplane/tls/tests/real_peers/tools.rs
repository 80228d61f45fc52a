//! Programs of other people: found or loudly skipped, started, listened to, and ended.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use crate::common::Site;

/// Longest wait for anything; only a broken test gets there.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// True when `program` is there. Otherwise says so, and fails where the `CI` variable is set.
pub fn is_installed(program: &str) -> bool {
    let found = Command::new(program)
        .arg(if program == "openssl" {
            "version"
        } else {
            "--version"
        })
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        assert!(
            std::env::var_os("CI").is_none(),
            "{program} is needed for this test"
        );
        eprintln!("SKIP: {program} is not installed");
    }
    found
}

/// A folder with a site's files, removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(site: &Site) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("site-{}-{count}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        for (name, pem, _) in &site.0 {
            std::fs::write(path.join(name), pem).unwrap();
        }
        Self(path)
    }

    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running program whose output is read all the time, so that it never waits for us.
pub struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    /// What was read and not yet asked for.
    unread: Vec<u8>,
}

impl Program {
    /// Standard output and standard error come as one stream of pieces.
    pub fn start(program: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, output) = channel();
        let streams: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for mut stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                let mut piece = [0; 65_536];
                while let Ok(len @ 1..) = stream.read(&mut piece) {
                    if sender.send(piece[..len].to_vec()).is_err() {
                        return;
                    }
                }
            });
        }
        let stdin = child.stdin.take();
        Self {
            child,
            stdin,
            output,
            unread: Vec::new(),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Types `text`.
    pub fn type_in(&mut self, text: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(text).unwrap();
        stdin.flush().unwrap();
    }

    /// Ends its input.
    pub fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Waits until `needle` was printed; returns everything before it and takes both away.
    pub fn wait_for(&mut self, needle: &[u8]) -> Vec<u8> {
        let deadline = Instant::now() + PATIENCE;
        let mut searched: usize = 0;
        loop {
            let from = searched.saturating_sub(needle.len());
            let found = self.unread[from..]
                .windows(needle.len())
                .position(|part| part == needle);
            if let Some(at) = found.map(|at| from + at) {
                let rest = self.unread.split_off(at + needle.len());
                let mut before = std::mem::replace(&mut self.unread, rest);
                before.truncate(at);
                return before;
            }
            searched = self.unread.len();
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(piece) => self.unread.extend(piece),
                Err(_) => panic!(
                    "{:?} did not come after: {}",
                    String::from_utf8_lossy(needle),
                    String::from_utf8_lossy(&self.unread)
                ),
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The IPv4 port a program of ours listens on, for those that do not print it.
pub fn listening_port(process: u32) -> u16 {
    let inodes: Vec<String> = std::fs::read_dir(format!("/proc/{process}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .filter_map(|link| {
            Some(
                link.to_str()?
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .to_owned(),
            )
        })
        .collect();
    // Columns: slot, local address:port in hex, remote, state (0A listens), ..., inode.
    let table = std::fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap();
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let columns: Vec<_> = line.split_whitespace().collect();
            let is_ours = columns[3] == "0A" && inodes.iter().any(|inode| inode == columns[9]);
            let (_, port) = columns[1].split_once(':')?;
            is_ours.then(|| u16::from_str_radix(port, 16).unwrap())
        })
        .next()
        .expect("the program listens")
}
