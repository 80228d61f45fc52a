//! Opening, in an order that never writes and never disturbs before everything was checked.
//!
//! 1. Resolve the path, look at what it is (a FIFO is not even opened).
//! 2. Target device: refuse when something is known to use it, naming the user; then claim it (O_EXCL).
//! 3. Compare what was opened with what was looked at.
//! 4. Second descriptor through /proc/self/fd, so that both hold the same inode whatever the path does.
//! 5. Lock, drop the page cache, look for signatures.

use std::{
    fs::{self, File, Metadata},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::{
    DeviceFile, DeviceKind, OpenIntent, OpenOptions, facts, facts::Geometry, identity, signature,
    usage,
};
use crate::{SetupError, SetupErrorKind};

/// How long a claim that somebody else has is tried again. The kernel takes the ring of a killed process down behind
/// its back: the process is gone and waited for, and for some milliseconds, or as long as its disk needs to answer,
/// its devices are still claimed and its files locked. Whoever starts it anew at once must not fail for that.
const CLAIM_WAIT: Duration = Duration::from_secs(3);
const CLAIM_EVERY: Duration = Duration::from_millis(10);

/// Tries until it is no longer `taken`, or the time is over.
fn patiently<T>(mut attempt: impl FnMut() -> T, taken: impl Fn(&T) -> bool) -> T {
    let deadline = Instant::now() + CLAIM_WAIT;
    loop {
        let outcome = attempt();
        if !taken(&outcome) || Instant::now() >= deadline {
            return outcome;
        }
        thread::sleep(CLAIM_EVERY);
    }
}

pub(super) fn open(
    path: &Path,
    intent: OpenIntent,
    options: &OpenOptions,
) -> Result<DeviceFile, SetupError> {
    let created = match (intent, options.create_size_bytes) {
        (OpenIntent::Target, Some(size)) => create_if_missing(path, size)?,
        _ => false,
    };
    let resolved = path
        .canonicalize()
        .map_err(|error| failed(path, "cannot be found", error))?;
    let seen =
        fs::metadata(&resolved).map_err(|error| failed(path, "cannot be examined", error))?;
    let kind = kind_of(path, &seen)?;
    let mut opening = Opening {
        path,
        resolved,
        kind,
        intent,
        options,
        notes: Vec::new(),
    };
    if intent == OpenIntent::Target {
        opening.refuse_used(&seen, created)?;
    }
    let (first, direct) = opening.open_first()?;
    opening.compare(&seen, &first)?;
    let (direct, buffered) = if direct {
        let buffered = opening.open_again(&first)?;
        opening.compare(&seen, &buffered)?;
        (Some(first), buffered)
    } else {
        (None, first)
    };
    let geometry = facts::geometry(&buffered, direct.as_ref(), kind)
        .map_err(|error| failed(path, "cannot be examined", error))?;
    // Opened with O_DIRECT, yet the file system says it cannot: let go of it before the lock is placed.
    let direct = direct.filter(|_| geometry.direct_align > 0);
    opening.lock(direct.as_ref().unwrap_or(&buffered))?;
    opening.finish(direct, buffered, geometry)
}

pub(super) fn in_memory(size_bytes: u64) -> Result<DeviceFile, SetupError> {
    let name = Path::new("memory");
    let failed = |error: io::Error| failed(name, "no file can be made in memory", error);
    let buffered = memfd_create(c"migratekit-trial", MFdFlags::MFD_CLOEXEC)
        .map(File::from)
        .map_err(|errno| failed(errno.into()))?;
    buffered.set_len(size_bytes).map_err(failed)?;
    let geometry = facts::geometry(&buffered, None, DeviceKind::Regular).map_err(failed)?;
    Ok(DeviceFile {
        identity: identity::identify(name, &buffered, DeviceKind::Regular)?,
        geometry,
        path: name.to_owned(),
        resolved: name.to_owned(),
        intent: OpenIntent::Target,
        direct: None,
        buffered,
        notes: Vec::new(),
    })
}

pub(super) fn in_memory_aligned(
    size_bytes: u64,
    direct_align: u32,
) -> Result<DeviceFile, SetupError> {
    let plain = in_memory(size_bytes)?;
    let direct = plain
        .buffered
        .try_clone()
        .map_err(|error| failed(&plain.path, "cannot be opened twice", error))?;
    Ok(DeviceFile {
        direct: Some(direct),
        geometry: Geometry {
            direct_align,
            ..plain.geometry
        },
        ..plain
    })
}

/// What all steps need.
struct Opening<'a> {
    path: &'a Path,
    resolved: PathBuf,
    kind: DeviceKind,
    intent: OpenIntent,
    options: &'a OpenOptions,
    notes: Vec<String>,
}

fn failed(path: &Path, problem: &str, error: impl Into<io::Error>) -> SetupError {
    SetupError::from_io(path.display().to_string(), problem, error)
}

fn refused(path: &Path, kind: SetupErrorKind, problem: impl Into<String>) -> SetupError {
    SetupError::new(kind, path.display().to_string(), problem)
}

fn kind_of(path: &Path, metadata: &Metadata) -> Result<DeviceKind, SetupError> {
    let file_type = metadata.file_type();
    let name = if file_type.is_block_device() {
        return Ok(DeviceKind::Block);
    } else if file_type.is_file() {
        return Ok(DeviceKind::Regular);
    } else if file_type.is_dir() {
        "a directory"
    } else if file_type.is_char_device() {
        "a character device"
    } else if file_type.is_fifo() {
        "a FIFO"
    } else if file_type.is_socket() {
        "a socket"
    } else {
        "of an unknown kind"
    };
    Err(refused(path, SetupErrorKind::Invalid, format!("is {name}"))
        .with_remedy("give a block device or a regular file"))
}

/// Creates the file with its size, durably: its name and length are there after a crash. False when the
/// name exists already.
fn create_if_missing(path: &Path, size_bytes: u64) -> Result<bool, SetupError> {
    // Looked at first: creating "through" a dangling link is not what anybody wants.
    if fs::symlink_metadata(path).is_ok() {
        return Ok(false);
    }
    let file = match fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
        Err(error) => return Err(failed(path, "cannot be created", error)),
    };
    let set_up = || -> io::Result<()> {
        file.set_len(size_bytes)?;
        file.sync_all()?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
    };
    set_up().map_err(|error| {
        // We made it a moment ago and it holds nothing.
        let _ = fs::remove_file(path);
        failed(
            path,
            &format!("cannot be created with {size_bytes} bytes"),
            error,
        )
    })?;
    Ok(true)
}

impl Opening<'_> {
    /// Before anything is opened for writing.
    fn refuse_used(&self, seen: &Metadata, created: bool) -> Result<(), SetupError> {
        match self.kind {
            DeviceKind::Block => {
                let users = usage::users_of_device(seen.rdev());
                if !users.is_empty() {
                    return Err(self.busy(&users));
                }
            }
            DeviceKind::Regular if !created => {
                if !self.options.overwrite && !self.options.skip_signature_check {
                    return Err(
                        refused(self.path, SetupErrorKind::Refused, "exists already")
                            .with_remedy("allow overwriting if its content may be lost"),
                    );
                }
                if let Some(wanted) = self.options.create_size_bytes
                    && seen.len() < wanted
                {
                    let problem = format!("has {} bytes, {wanted} bytes are needed", seen.len());
                    return Err(refused(self.path, SetupErrorKind::TooSmall, problem)
                        .with_remedy("remove it or make it larger"));
                }
            }
            DeviceKind::Regular => {}
        }
        Ok(())
    }

    fn busy(&self, users: &[String]) -> SetupError {
        refused(self.path, SetupErrorKind::Busy, users.join(", "))
            .with_remedy("release it first; nothing was written")
    }

    /// The claiming descriptor, and whether it is direct.
    fn open_first(&self) -> Result<(File, bool), SetupError> {
        let exclusive = match (self.kind, self.intent) {
            (DeviceKind::Block, OpenIntent::Target) => libc::O_EXCL,
            _ => 0,
        };
        if !self.options.buffered_only {
            match self.claim(exclusive | libc::O_DIRECT) {
                Ok(file) => return Ok((file, true)),
                // The file system knows no O_DIRECT.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => return Err(self.explain(&error)),
            }
        }
        let file = self
            .claim(exclusive)
            .map_err(|error| self.explain(&error))?;
        Ok((file, false))
    }

    /// Waits for a holder that nobody can name: it may be one that was killed.
    fn claim(&self, flags: i32) -> io::Result<File> {
        let is_taken = |outcome: &io::Result<File>| {
            let errno = outcome.as_ref().err().and_then(io::Error::raw_os_error);
            errno == Some(libc::EBUSY)
                && fs::metadata(&self.resolved)
                    .is_ok_and(|metadata| usage::users_of_device(metadata.rdev()).is_empty())
        };
        patiently(|| self.open_with(&self.resolved, flags), is_taken)
    }

    /// Same inode, no claim of its own (the claim belongs to one descriptor), page cache.
    fn open_again(&self, first: &File) -> Result<File, SetupError> {
        let proc_path = PathBuf::from(format!("/proc/self/fd/{}", first.as_raw_fd()));
        let path = if proc_path.exists() {
            &proc_path
        } else {
            &self.resolved
        };
        self.open_with(path, 0)
            .map_err(|error| self.explain(&error))
    }

    fn open_with(&self, path: &Path, flags: i32) -> io::Result<File> {
        fs::OpenOptions::new()
            .read(true)
            .write(self.intent == OpenIntent::Target)
            .custom_flags(flags | libc::O_CLOEXEC | libc::O_NOCTTY)
            .open(path)
    }

    fn explain(&self, error: &io::Error) -> SetupError {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        let source = io::Error::from_raw_os_error(errno);
        let at_path = |problem| failed(self.path, problem, source);
        match errno {
            libc::EBUSY => {
                let rdev = fs::metadata(&self.resolved).map_or(0, |metadata| metadata.rdev());
                let users = usage::users_of_device(rdev);
                let problem = if users.is_empty() {
                    "is in use: another process holds it exclusively".to_owned()
                } else {
                    users.join(", ")
                };
                at_path(&problem).with_remedy("release it first; nothing was written")
            }
            libc::EACCES | libc::EPERM if self.is_read_only_device() => {
                at_path("is a read-only device")
                    .with_remedy("make it writable (blockdev --setrw) or choose another")
            }
            libc::EACCES | libc::EPERM => at_path("may not be opened")
                .with_remedy("run as a user of its group, or check whether it is read-only"),
            libc::EROFS => {
                at_path("is read-only").with_remedy("make it writable or choose another")
            }
            libc::ETXTBSY => at_path("is in use as swap or as a running program"),
            libc::ENXIO | libc::ENODEV | libc::ENOMEDIUM => at_path("no device is behind it"),
            _ => at_path("cannot be opened"),
        }
    }

    fn is_read_only_device(&self) -> bool {
        let rdev = fs::metadata(&self.resolved).map_or(0, |metadata| metadata.rdev());
        fs::read_to_string(facts::sysfs_of(rdev).join("ro")).is_ok_and(|text| text.trim() == "1")
    }

    /// The path may have been pointed elsewhere between looking and opening.
    fn compare(&self, seen: &Metadata, file: &File) -> Result<(), SetupError> {
        let opened = file
            .metadata()
            .map_err(|error| failed(self.path, "cannot be examined", error))?;
        let same = opened.file_type() == seen.file_type()
            && match self.kind {
                DeviceKind::Block => opened.rdev() == seen.rdev(),
                DeviceKind::Regular => (opened.dev(), opened.ino()) == (seen.dev(), seen.ino()),
            };
        if same {
            return Ok(());
        }
        Err(refused(
            self.path,
            SetupErrorKind::Refused,
            "changed while it was being opened",
        )
        .with_remedy("start again"))
    }

    /// Advisory, against a second migration into the same file and against udev's probing. A claimed block
    /// device is ours anyway, so there a lock held by a probing udev is no reason to give up.
    fn lock(&mut self, file: &File) -> Result<(), SetupError> {
        if (self.kind, self.intent) == (DeviceKind::Block, OpenIntent::Source) {
            return Ok(());
        }
        let attempt = || match self.intent {
            OpenIntent::Target => file.try_lock(),
            OpenIntent::Source => file.try_lock_shared(),
        };
        let is_file = self.kind == DeviceKind::Regular;
        let result = patiently(attempt, |outcome| {
            is_file && matches!(outcome, Err(fs::TryLockError::WouldBlock))
        });
        match result {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) if self.kind == DeviceKind::Regular => {
                let problem = "is locked by another process";
                return Err(refused(self.path, SetupErrorKind::Busy, problem)
                    .with_remedy("wait for it or stop it"));
            }
            Err(fs::TryLockError::WouldBlock) => {
                self.notes
                    .push("another process holds a lock on the device".to_owned());
            }
            Err(fs::TryLockError::Error(error)) => {
                self.notes
                    .push(format!("the file cannot be locked: {error}"));
            }
        }
        Ok(())
    }

    fn finish(
        mut self,
        direct: Option<File>,
        buffered: File,
        geometry: Geometry,
    ) -> Result<DeviceFile, SetupError> {
        let mut identity = identity::identify(&self.resolved, &buffered, self.kind)?;
        identity.logical_block = geometry.logical_block;
        if direct.is_none() && !self.options.buffered_only {
            self.notes
                .push("direct I/O is not possible here, the page cache is used".to_owned());
        }
        if (self.kind, self.intent) == (DeviceKind::Block, OpenIntent::Target) {
            self.check_target_device(&buffered, identity.size_bytes)?;
        }
        Ok(DeviceFile {
            identity,
            geometry,
            path: self.path.to_owned(),
            resolved: self.resolved,
            intent: self.intent,
            direct,
            buffered,
            notes: self.notes,
        })
    }

    fn check_target_device(&mut self, file: &File, size_bytes: u64) -> Result<(), SetupError> {
        let examined = |error| failed(self.path, "cannot be examined", error);
        if facts::is_read_only(file).map_err(examined)? {
            return Err(refused(
                self.path,
                SetupErrorKind::Permission,
                "is a read-only device",
            )
            .with_remedy("make it writable (blockdev --setrw) or choose another"));
        }
        if let Err(error) = facts::drop_page_cache(file, DeviceKind::Block) {
            self.notes
                .push(format!("the page cache could not be dropped: {error}"));
        }
        if self.options.overwrite || self.options.skip_signature_check {
            return Ok(());
        }
        let unreadable = |error| failed(self.path, "cannot be checked for existing data", error);
        let Some(found) = signature::find(file, size_bytes).map_err(unreadable)? else {
            return Ok(());
        };
        let problem = format!("holds {} (at byte {})", found.name, found.offset);
        Err(refused(self.path, SetupErrorKind::Refused, problem)
            .with_remedy("allow overwriting if its content may be lost, or wipe it (wipefs -a)"))
    }
}
