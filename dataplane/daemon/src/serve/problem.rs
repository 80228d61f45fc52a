//! Errors of the control sockets: from whatever failed to `{kind, what, blame, retry, remedy}`.

use std::error::Error;

use control::{Blame, ErrorBody, ErrorKind, Invalid, Retry};
use engine::EngineError;
use sys::SetupError;
use sys::fault::SetupErrorKind;

use crate::exit::{Exit, Failure};

use super::limits::RETRY_AFTER_MS;

/// The operator's turn: the request itself has to change.
pub(super) fn refuse(
    kind: ErrorKind,
    what: impl Into<String>,
    remedy: impl Into<String>,
) -> ErrorBody {
    ErrorBody {
        kind,
        what: what.into(),
        blame: Blame::Operator,
        retry: Retry::Never,
        remedy: remedy.into(),
    }
}

/// The same request may succeed in a moment.
pub(super) fn later(
    kind: ErrorKind,
    what: impl Into<String>,
    remedy: impl Into<String>,
) -> ErrorBody {
    ErrorBody {
        kind,
        what: what.into(),
        blame: Blame::Environment,
        retry: Retry::AfterMs(RETRY_AFTER_MS),
        remedy: remedy.into(),
    }
}

/// A defect of ours.
pub(super) fn bug(what: impl Into<String>) -> ErrorBody {
    ErrorBody {
        kind: ErrorKind::Bug,
        what: what.into(),
        blame: Blame::Bug,
        retry: Retry::Never,
        remedy: "please report this, with the log of the process".into(),
    }
}

/// A value that cannot be right.
pub(super) fn invalid(error: &Invalid) -> ErrorBody {
    let remedy = "docs/interfaces/control-socket.md lists what each field may be";
    refuse(ErrorKind::BadRequest, error.to_string(), remedy)
}

/// The process is ending.
pub(super) fn draining() -> ErrorBody {
    ErrorBody {
        kind: ErrorKind::Draining,
        what: "the process is ending and takes no new work".into(),
        blame: Blame::Environment,
        retry: Retry::OnReconnect,
        remedy: "ask again when boot_id has changed".into(),
    }
}

/// A device that could not be opened.
pub(super) fn setup(error: &SetupError) -> ErrorBody {
    let (kind, retry) = match error.kind() {
        SetupErrorKind::Busy => (ErrorKind::Busy, Retry::AfterMs(RETRY_AFTER_MS)),
        SetupErrorKind::Refused => (ErrorKind::Refused, Retry::Never),
        SetupErrorKind::TooSmall => (ErrorKind::IdentityMismatch, Retry::Never),
        SetupErrorKind::Invalid => (ErrorKind::BadRequest, Retry::Never),
        _ => (ErrorKind::Device, Retry::AfterMs(RETRY_AFTER_MS)),
    };
    let blame = match error.blame() {
        sys::fault::Blame::Peer => Blame::Peer,
        sys::fault::Blame::Operator => Blame::Operator,
        sys::fault::Blame::Environment => Blame::Environment,
        sys::fault::Blame::Bug => Blame::Bug,
    };
    let remedy = match error.remedy() {
        "" => "check that the device is attached and that nothing else uses it",
        remedy => remedy,
    };
    // The remedy has its own field; the causes have no other place.
    let what = error.to_string();
    let what = what
        .strip_suffix(error.remedy())
        .unwrap_or(&what)
        .trim_end_matches("; ");
    ErrorBody {
        kind,
        what: with_causes(what, error.source()),
        blame,
        retry,
        remedy: remedy.into(),
    }
}

/// A failure of the engine.
pub(super) fn engine(error: &EngineError) -> ErrorBody {
    use engine::ErrorKind as From;
    let (kind, retry) = match error.kind {
        From::Config => (ErrorKind::Config, Retry::Never),
        From::Tls | From::Authorisation => (ErrorKind::Tls, Retry::Never),
        From::SourceConnect => (ErrorKind::Source, Retry::AfterMs(RETRY_AFTER_MS)),
        From::SourceIo => (ErrorKind::Source, Retry::Now),
        From::TargetConnect => (ErrorKind::Target, Retry::AfterMs(RETRY_AFTER_MS)),
        From::TargetIo | From::OutOfSpace => (ErrorKind::Target, Retry::Never),
        From::ConnectionLost => (ErrorKind::ConnectionLost, Retry::OnReconnect),
        From::Verify => (ErrorKind::Verify, Retry::Never),
        // The disk that holds the journal, not the target's; nobody cancelled anything.
        From::Journal => (ErrorKind::Device, Retry::Never),
        From::Cancelled => (ErrorKind::Cancelled, Retry::Now),
        From::Refused => (ErrorKind::Refused, Retry::Never),
        From::Protocol | From::Unsupported => (ErrorKind::ConnectionLost, Retry::Never),
        From::Bug => (ErrorKind::Bug, Retry::Never),
    };
    ErrorBody {
        kind,
        what: with_causes(&error.to_string(), error.source()),
        blame: blame(error.blame),
        retry,
        remedy: error.remedy.clone(),
    }
}

/// A failure of a part that the command line uses as well.
pub(super) fn failure(failure: &Failure) -> ErrorBody {
    let kind = match failure.exit() {
        Exit::Usage => ErrorKind::BadRequest,
        Exit::Tls => ErrorKind::Tls,
        Exit::Source => ErrorKind::Source,
        Exit::Target => ErrorKind::Target,
        Exit::ConnectionLost => ErrorKind::ConnectionLost,
        Exit::Differs => ErrorKind::Verify,
        Exit::Interrupted => ErrorKind::Cancelled,
        Exit::Refused => ErrorKind::Refused,
        _ => ErrorKind::Bug,
    };
    ErrorBody {
        kind,
        what: failure.problem(),
        blame: blame(failure.blame()),
        retry: Retry::Never,
        remedy: failure.remedy().to_owned(),
    }
}

fn blame(blame: engine::Blame) -> Blame {
    match blame {
        engine::Blame::Peer => Blame::Peer,
        engine::Blame::Operator => Blame::Operator,
        engine::Blame::Environment => Blame::Environment,
        engine::Blame::Bug => Blame::Bug,
    }
}

fn with_causes(what: &str, mut cause: Option<&(dyn Error + 'static)>) -> String {
    let mut text = what.to_owned();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setup_error_is_told_in_parts() {
        let error = SetupError::new(SetupErrorKind::Busy, "/dev/x", "is mounted")
            .with_remedy("unmount it first");
        let body = setup(&error);
        assert_eq!(body.what, "/dev/x: is mounted");
        assert_eq!(body.remedy, "unmount it first");
        assert_eq!(body.kind, ErrorKind::Busy);
    }

    #[test]
    fn causes_are_part_of_what_failed() {
        let error = EngineError::bug("a", "b").cause(std::io::Error::other("deep"));
        assert_eq!(engine(&error).what, "a: b: deep");
    }
}
