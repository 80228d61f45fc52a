//! A qcow2 or vmdk image as an NBD export: qemu-nbd on a Unix socket in a private folder.
//!
//! qemu-nbd is started without `--persistent`, so it ends with its last connection. We hold one connection
//! ourselves for as long as the image is in use: the transfer may come and go with its own, and if this process
//! dies in any way the kernel closes ours and qemu-nbd ends too.

use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use engine::journal::Source;
use engine::transfer::SourceFiles;
use engine::{Address, Blame, Cancel, Endpoint, NbdClient, NbdEndpoint, TlsMode};

use super::image::{check_references, first_line, plain_path, tool_missing};
use crate::cli::SourceFormat;
use crate::exit::{Exit, Failure, Side};
use crate::helper::Workspace;

/// Longest time until qemu-nbd listens. It opens the image before, which may lie on a slow share.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How often we look whether it listens.
const LISTEN_POLL: Duration = Duration::from_millis(5);
/// What we keep of what it says.
const SAID_BYTES_MAX: usize = 4096;

/// A running qemu-nbd with its image. Dropping it ends both.
pub(crate) struct ImageServer {
    endpoint: NbdEndpoint,
    size_bytes: u64,
    format: SourceFormat,
    files: SourceFiles,
    unseen: Option<String>,
    words: Words,
    /// Before `workspace`: qemu-nbd may see our good-bye before it is killed.
    _keeper: NbdClient,
    workspace: Workspace,
}

impl ImageServer {
    /// Checks the image, starts qemu-nbd and waits until it listens.
    pub(crate) fn start(
        path: &Path,
        format: SourceFormat,
        options: &ImageOptions<'_>,
    ) -> Result<Self, Failure> {
        let image = plain_path(path)?;
        let unseen = check_references(&image, format, options.allow_backing)?;
        let workspace = Workspace::create().map_err(|error| {
            let place = std::env::temp_dir().display().to_string();
            let remedy = "set TMPDIR to a writable folder";
            Failure::new(
                Exit::Source,
                Blame::Environment,
                "no private folder can be made",
                place,
                remedy,
            )
            .caused_by(&error)
        })?;
        let socket = workspace.path().join("nbd.sock");
        let mut child = command(&image, format, &socket, options.connections)
            .spawn()
            .map_err(|error| tool_missing("qemu-nbd", path, &error))?;
        let words = Words::collect(child.stderr.take());
        let id = child.id();
        workspace.adopt(child);
        let endpoint = NbdEndpoint {
            address: Address::Unix(socket.clone()),
            tls: TlsMode::None,
            export: String::new(),
            connect_timeout: options.connect_timeout,
            uri: path.display().to_string(),
        };
        if let Err(why) = wait_until_it_listens(&socket, &workspace, options.cancel) {
            return Err(why.into_failure(path, words));
        }
        let keeper =
            NbdClient::connect(&endpoint).map_err(|error| Failure::engine(Side::Source, &error))?;
        let size_bytes = keeper.params().info.size_bytes;
        let others = opened_by(id).map_err(|error| {
            let what = "the files that qemu-nbd reads cannot be listed";
            let on = path.display().to_string();
            let remedy = "mount /proc, and let this process see its children there";
            Failure::new(Exit::Source, Blame::Environment, what, on, remedy).caused_by(&error)
        })?;
        let files = SourceFiles::stamp(&image, &others)
            .map_err(|error| Failure::engine(Side::Source, &error))?;
        Ok(Self {
            endpoint,
            size_bytes,
            format,
            files,
            unseen,
            words,
            _keeper: keeper,
            workspace,
        })
    }

    /// For the engine.
    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::Nbd(self.endpoint.clone())
    }

    /// Size of the disk in the image.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// What qemu-nbd reads of this machine, as it was before the first byte was read for the copy.
    pub(crate) fn files(&self) -> &SourceFiles {
        &self.files
    }

    /// Something that the image stands on and that is no file of this machine.
    pub(crate) fn unseen(&self) -> Option<&str> {
        self.unseen.as_deref()
    }

    /// What a journal knows the source by; `None` when a part of it may change unseen.
    pub(crate) fn journal_source(&self) -> Option<Source> {
        let source = || self.files.journal_source(self.format.name());
        self.unseen.is_none().then(source)
    }

    /// Ends the server; adds what qemu-nbd said to a failure of the transfer if it had ended by itself.
    pub(crate) fn explain(self, failure: Failure) -> Failure {
        match self.workspace.ended_child() {
            None => failure,
            Some(status) => failure.caused_by(&EndedEarly {
                status: status.to_string(),
                said: self.words.all(),
            }),
        }
    }
}

/// The files and block devices that a process has open, which for qemu-nbd are those it reads the disk from: however
/// they refer to each other, none is missed. See proc_pid_fd(5).
fn opened_by(id: u32) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{id}/fd"))? {
        let entry = entry?.path();
        let metadata = match std::fs::metadata(&entry) {
            Ok(metadata) => metadata,
            // It closed one of its own between the listing and the look; what it reads the disk from it keeps open.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if metadata.is_file() || metadata.file_type().is_block_device() {
            found.push(std::fs::read_link(&entry)?);
        }
    }
    Ok(found)
}

/// What the caller decides about an image.
pub(crate) struct ImageOptions<'a> {
    /// Other files that the image names are trusted.
    pub(crate) allow_backing: bool,
    /// Connections the transfer will make.
    pub(crate) connections: usize,
    /// For our own connection.
    pub(crate) connect_timeout: Duration,
    /// Ends the waiting.
    pub(crate) cancel: &'a Cancel,
}

#[derive(Debug, thiserror::Error)]
#[error("qemu-nbd ended with {status} and said: {said}")]
struct EndedEarly {
    status: String,
    said: String,
}

/// `image` is absolute and canonical, so it can be neither an option nor `protocol:...`.
fn command(image: &Path, format: SourceFormat, socket: &Path, connections: usize) -> Command {
    let mut command = Command::new("qemu-nbd");
    command
        .arg(format!("--format={}", format.name()))
        .arg("--read-only")
        // Ours, and those the engine makes to look at the disk before and beside its own.
        .arg(format!("--shared={}", connections + 4))
        .arg("--socket")
        .arg(socket)
        .arg("--")
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // Ctrl-C goes to the whole group of the terminal; we still read from it while we drain.
        .process_group(0);
    command
}

/// What the child says on standard error.
struct Words {
    thread: Option<JoinHandle<Vec<u8>>>,
}

impl Words {
    /// Keeps the front, and reads on so that the child never blocks.
    fn collect(stderr: Option<ChildStderr>) -> Self {
        let read = |mut stderr: ChildStderr| {
            let mut kept = Vec::new();
            let mut buffer = [0; 512];
            while let Ok(len @ 1..) = stderr.read(&mut buffer) {
                let room = SAID_BYTES_MAX - kept.len();
                kept.extend_from_slice(&buffer[..len.min(room)]);
            }
            kept
        };
        let name = "qemu-nbd-words".to_owned();
        // A failed spawn only loses the words.
        let thread = stderr.and_then(|it| {
            thread::Builder::new()
                .name(name)
                .spawn(move || read(it))
                .ok()
        });
        Self { thread }
    }

    /// The first line of them. To be called when the child has ended: it waits for the last word.
    fn all(self) -> String {
        let kept = self
            .thread
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        first_line(&kept)
    }
}

/// Why qemu-nbd does not listen.
enum NotListening {
    Ended(String),
    Silent,
    Cancelled,
}

impl NotListening {
    fn into_failure(self, path: &Path, words: Words) -> Failure {
        let on = path.display().to_string();
        match self {
            Self::Cancelled => interrupted(on),
            Self::Silent => Failure::new(
                Exit::Source,
                Blame::Environment,
                format!(
                    "qemu-nbd does not listen after {} s",
                    LISTEN_TIMEOUT.as_secs()
                ),
                on,
                "check that the storage of the image answers",
            ),
            Self::Ended(status) => Failure::new(
                Exit::Source,
                Blame::Operator,
                format!("qemu-nbd ended with {status}: {}", words.all()),
                on,
                "check the file and its format; an image in use by a virtual machine is locked",
            ),
        }
    }
}

/// The failure of a copy that was interrupted before it began.
pub(crate) fn interrupted(on: impl Into<String>) -> Failure {
    Failure::new(
        Exit::Interrupted,
        Blame::Operator,
        "interrupted before anything was copied",
        on,
        "start it again",
    )
}

/// The socket appears before it listens, so we try. A connection that says nothing does not count for
/// qemu-nbd: it ends only after one that negotiated.
fn wait_until_it_listens(
    socket: &Path,
    workspace: &Workspace,
    cancel: &Cancel,
) -> Result<(), NotListening> {
    let deadline = Instant::now() + LISTEN_TIMEOUT;
    while Instant::now() < deadline {
        if let Some(status) = workspace.ended_child() {
            return Err(NotListening::Ended(status.to_string()));
        }
        if cancel.is_cancelled() {
            return Err(NotListening::Cancelled);
        }
        if UnixStream::connect(socket).is_ok() {
            return Ok(());
        }
        thread::sleep(LISTEN_POLL);
    }
    Err(NotListening::Silent)
}
