//! Faults: what the kernel answered, on what, whose fault it is.
//!
//! `IoFault` is the outcome of one operation: small, `Copy`, no allocation. `SetupError` is for people: it
//! names the thing, what is wrong with it and what to do. `RingError` means the backend itself broke.

use std::{fmt, io};

use nix::errno::Errno;

/// Which operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// Receiving from a socket.
    Recv,
    /// Sending to a socket.
    Send,
    /// Reading from a file or device.
    Read,
    /// Writing to a file or device.
    Write,
    /// Making written data durable.
    Flush,
    /// Zeroing a range.
    Zero,
    /// Opening a file or device.
    Open,
    /// Waiting for completions.
    Wait,
}

impl OpKind {
    /// The word used in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Recv => "receive",
            Self::Send => "send",
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Zero => "zero",
            Self::Open => "open",
            Self::Wait => "wait",
        }
    }
}

/// What an errno means to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// No room left, or beyond the end (ENOSPC, EDQUOT, EFBIG).
    OutOfSpace,
    /// The device went away (ENODEV, ENXIO, ENOMEDIUM).
    DeviceGone,
    /// The medium failed (EIO and the block layer's relatives).
    MediaError,
    /// The peer closed or reset the connection.
    PeerReset,
    /// Nothing came back in time.
    TimedOut,
    /// The kernel or the device cannot do this; another way must be taken.
    Unsupported,
    /// Writing is not allowed here.
    ReadOnly,
    /// The request was wrong: alignment, range, descriptor.
    Invalid,
    /// Given up before it was done.
    Cancelled,
    /// The kernel lacks memory or buffers.
    NoMemory,
    /// Everything else; the errno tells.
    Other,
}

/// A failed operation: which one, and its errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IoFault {
    /// The operation.
    pub op: OpKind,
    /// The positive errno.
    pub errno: i32,
}

impl IoFault {
    /// What the errno means to the engine.
    pub fn kind(&self) -> FaultKind {
        match self.errno {
            libc::ENOSPC | libc::EDQUOT | libc::EFBIG => FaultKind::OutOfSpace,
            libc::ENODEV | libc::ENXIO | libc::ENOMEDIUM | libc::ENOLINK => FaultKind::DeviceGone,
            libc::EIO | libc::EREMOTEIO | libc::EILSEQ | libc::ENODATA | libc::EBADE => {
                FaultKind::MediaError
            }
            libc::ECONNRESET
            | libc::EPIPE
            | libc::ECONNABORTED
            | libc::ENOTCONN
            | libc::ESHUTDOWN
            | libc::ENETRESET => FaultKind::PeerReset,
            libc::ETIMEDOUT | libc::ETIME | libc::EHOSTUNREACH | libc::ENETUNREACH => {
                FaultKind::TimedOut
            }
            libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS => FaultKind::Unsupported,
            libc::EROFS | libc::ETXTBSY => FaultKind::ReadOnly,
            // For a device this means that it was made read-only; for a socket a firewall may say it.
            libc::EPERM | libc::EACCES if self.is_on_file() => FaultKind::ReadOnly,
            libc::EINVAL | libc::EFAULT | libc::EBADF | libc::EOVERFLOW => FaultKind::Invalid,
            libc::ECANCELED => FaultKind::Cancelled,
            libc::ENOMEM | libc::ENOBUFS | libc::EAGAIN => FaultKind::NoMemory,
            _ => FaultKind::Other,
        }
    }
}

impl IoFault {
    fn is_on_file(&self) -> bool {
        !matches!(self.op, OpKind::Recv | OpKind::Send | OpKind::Wait)
    }
}

impl fmt::Display for IoFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}", self.op.name(), ErrnoText(self.errno))
    }
}

impl std::error::Error for IoFault {}

/// "I/O error (EIO)".
struct ErrnoText(i32);

impl fmt::Display for ErrnoText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Errno::from_raw(self.0) {
            Errno::UnknownErrno => write!(f, "errno {}", self.0),
            known => write!(f, "{} ({known:?})", known.desc()),
        }
    }
}

/// Why something could not be set up or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SetupErrorKind {
    /// It does not exist.
    NotFound,
    /// We may not.
    Permission,
    /// Somebody else uses it.
    Busy,
    /// Refused for safety: data would be lost.
    Refused,
    /// The kernel, file system or device cannot do this.
    Unsupported,
    /// Smaller than needed.
    TooSmall,
    /// The request itself makes no sense.
    Invalid,
    /// A limit was hit: memory, descriptors, table entries.
    Resource,
    /// The device or file system failed.
    Io,
}

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The other end of a connection.
    Peer,
    /// Whoever wrote the configuration or gave the command.
    Operator,
    /// The machine: kernel, limits, disks.
    Environment,
    /// Us.
    Bug,
}

/// A backend could not be set up, or a device could not be opened: what, on what, why, and the remedy.
#[derive(Debug)]
pub struct SetupError {
    kind: SetupErrorKind,
    subject: String,
    problem: String,
    remedy: String,
    source: Option<io::Error>,
}

impl SetupError {
    /// `subject` is the thing (a path, "io_uring"), `problem` what is wrong with it.
    pub fn new(
        kind: SetupErrorKind,
        subject: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        let (subject, problem) = (subject.into(), problem.into());
        Self {
            kind,
            subject,
            problem,
            remedy: String::new(),
            source: None,
        }
    }

    /// What the operator can do about it.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// The system's own answer.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<io::Error>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// A system call on `subject` failed; the kind follows from the errno.
    pub(crate) fn from_io(
        subject: impl Into<String>,
        problem: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Self {
        let source = source.into();
        let kind = kind_of_errno(source.raw_os_error().unwrap_or(0));
        Self::new(kind, subject, problem).with_source(source)
    }

    /// What class of problem this is.
    pub fn kind(&self) -> SetupErrorKind {
        self.kind
    }

    /// The thing that could not be set up.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// What to do, empty when there is no advice.
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// The errno behind it, if a system call failed.
    pub fn errno(&self) -> Option<i32> {
        self.source.as_ref().and_then(io::Error::raw_os_error)
    }

    /// Who has to act.
    pub fn blame(&self) -> Blame {
        match self.kind {
            SetupErrorKind::NotFound
            | SetupErrorKind::Permission
            | SetupErrorKind::Busy
            | SetupErrorKind::Refused
            | SetupErrorKind::TooSmall
            | SetupErrorKind::Invalid => Blame::Operator,
            SetupErrorKind::Unsupported | SetupErrorKind::Resource | SetupErrorKind::Io => {
                Blame::Environment
            }
        }
    }
}

fn kind_of_errno(errno: i32) -> SetupErrorKind {
    match errno {
        libc::ENOENT | libc::ENOTDIR | libc::ENODEV | libc::ENXIO => SetupErrorKind::NotFound,
        libc::EPERM | libc::EACCES | libc::EROFS => SetupErrorKind::Permission,
        libc::EBUSY | libc::ETXTBSY | libc::EWOULDBLOCK => SetupErrorKind::Busy,
        libc::EOPNOTSUPP | libc::ENOSYS | libc::ENOTTY => SetupErrorKind::Unsupported,
        libc::EINVAL | libc::EISDIR | libc::ELOOP | libc::ENAMETOOLONG => SetupErrorKind::Invalid,
        libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::ENOSPC | libc::EDQUOT => {
            SetupErrorKind::Resource
        }
        _ => SetupErrorKind::Io,
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.problem)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

impl std::error::Error for SetupError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

/// The shard's ring or poller itself broke, not one of its operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingError {
    /// The system call.
    pub call: &'static str,
    /// The positive errno.
    pub errno: i32,
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}", self.call, ErrnoText(self.errno))
    }
}

impl std::error::Error for RingError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn a_fault_reads_as_a_sentence() {
        let fault = IoFault {
            op: OpKind::Write,
            errno: libc::EIO,
        };
        assert_eq!(fault.to_string(), "write failed: I/O error (EIO)");
        assert_eq!(fault.kind(), FaultKind::MediaError);
    }

    #[test]
    fn not_permitted_means_read_only_on_files_alone() {
        let kind = |op| {
            IoFault {
                op,
                errno: libc::EPERM,
            }
            .kind()
        };
        assert_eq!(kind(OpKind::Write), FaultKind::ReadOnly);
        assert_eq!(kind(OpKind::Send), FaultKind::Other);
    }

    #[test]
    fn an_unknown_errno_keeps_its_number() {
        let fault = IoFault {
            op: OpKind::Read,
            errno: 9999,
        };
        assert_eq!(fault.to_string(), "read failed: errno 9999");
        assert_eq!(fault.kind(), FaultKind::Other);
    }

    #[test]
    fn a_setup_error_names_thing_problem_and_remedy_but_not_its_source() {
        let error = SetupError::from_io("/dev/x", "cannot be opened", Errno::EBUSY)
            .with_remedy("unmount it first");
        assert_eq!(
            error.to_string(),
            "/dev/x: cannot be opened; unmount it first"
        );
        assert_eq!(error.kind(), SetupErrorKind::Busy);
        assert_eq!(error.blame(), Blame::Operator);
        assert_eq!(error.errno(), Some(libc::EBUSY));
        assert!(error.source().is_some());
    }
}
