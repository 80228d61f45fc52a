//! How a command ends: one exit code, one line for people, one object for programs.

use std::error::Error;
use std::fmt;

pub(crate) use control::Exit;
use engine::{Blame, EngineError, ErrorKind};
use serde::Serialize;
use sys::SetupError;
use sys::fault::SetupErrorKind;

/// Causes shown below the first line; a longer chain is a loop or no help.
const CAUSES_MAX: usize = 16;

/// Which end of a copy a fault belongs to; decides between exit codes 4 and 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// What is read.
    Source,
    /// What is written.
    Target,
    /// Neither: the machine, the runtime, a configuration file.
    Local,
}

/// Why a command did not succeed. Printed once, where it ends.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    blame: Blame,
    what: String,
    on: String,
    remedy: String,
    causes: Vec<String>,
}

impl Failure {
    /// `what` failed, on what thing, and what to do about it.
    pub(crate) fn new(
        exit: Exit,
        blame: Blame,
        what: impl Into<String>,
        on: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            exit,
            blame,
            what: what.into(),
            on: on.into(),
            remedy: remedy.into(),
            causes: Vec::new(),
        }
    }

    /// Wrong arguments or configuration: exit 2, the operator's turn.
    pub(crate) fn usage(
        what: impl Into<String>,
        on: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(Exit::Usage, Blame::Operator, what, on, remedy)
    }

    /// Refused for safety: exit 9, the operator's turn.
    pub(crate) fn refused(
        what: impl Into<String>,
        on: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(Exit::Refused, Blame::Operator, what, on, remedy)
    }

    /// Something that cannot happen did: exit 1.
    pub(crate) fn bug(what: impl Into<String>, on: impl Into<String>) -> Self {
        Self::new(
            Exit::Bug,
            Blame::Bug,
            what,
            on,
            "please report this, with the line above",
        )
    }

    /// Adds a cause and everything below it.
    #[must_use]
    pub(crate) fn caused_by(mut self, cause: &dyn Error) -> Self {
        let mut next = Some(cause);
        while let Some(error) = next {
            if self.causes.len() == CAUSES_MAX {
                break;
            }
            self.causes.push(one_line(&error.to_string()));
            next = error.source();
        }
        self
    }

    /// A device, a ring or a limit that could not be set up, on one side of a copy or on neither.
    pub(crate) fn setup(side: Side, error: &SetupError) -> Self {
        let exit = match (error.kind(), side) {
            (SetupErrorKind::Busy | SetupErrorKind::Refused, _) => Exit::Refused,
            (_, Side::Source) => Exit::Source,
            (_, Side::Target) => Exit::Target,
            (_, Side::Local) => Exit::Usage,
        };
        let blame = match error.blame() {
            sys::fault::Blame::Peer => Blame::Peer,
            sys::fault::Blame::Operator => Blame::Operator,
            sys::fault::Blame::Environment => Blame::Environment,
            sys::fault::Blame::Bug => Blame::Bug,
        };
        let failure = Self::new(
            exit,
            blame,
            problem_of(error),
            error.subject(),
            remedy_of(error),
        );
        match error.source() {
            Some(cause) => failure.caused_by(cause),
            None => failure,
        }
    }

    /// A failure of the TLS crate: wrong files are configuration, everything else is exit 3.
    pub(crate) fn tls(on: impl Into<String>, error: &tls::TlsError) -> Self {
        let blame = match error.blame() {
            tls::error::Blame::Peer => Blame::Peer,
            tls::error::Blame::Operator => Blame::Operator,
            tls::error::Blame::Environment => Blame::Environment,
            tls::error::Blame::Bug => Blame::Bug,
        };
        let exit = if blame == Blame::Bug {
            Exit::Bug
        } else {
            Exit::Tls
        };
        let failure = Self::new(exit, blame, error.to_string(), on, "");
        match error.source() {
            Some(cause) => failure.caused_by(cause),
            None => failure,
        }
    }

    /// A failure of the engine. `side` says whose protocol a peer broke when the error does not.
    pub(crate) fn engine(side: Side, error: &EngineError) -> Self {
        let exit = match error.kind {
            ErrorKind::Config => Exit::Usage,
            ErrorKind::Tls | ErrorKind::Authorisation => Exit::Tls,
            ErrorKind::SourceConnect | ErrorKind::SourceIo => Exit::Source,
            ErrorKind::TargetConnect | ErrorKind::TargetIo | ErrorKind::OutOfSpace => Exit::Target,
            ErrorKind::ConnectionLost => Exit::ConnectionLost,
            ErrorKind::Verify => Exit::Differs,
            // Without its journal a copy stops in order, and can go on from what the journal has.
            ErrorKind::Cancelled | ErrorKind::Journal => Exit::Interrupted,
            ErrorKind::Refused => Exit::Refused,
            ErrorKind::Protocol | ErrorKind::Unsupported => match side {
                Side::Source => Exit::Source,
                Side::Target => Exit::Target,
                Side::Local => Exit::ConnectionLost,
            },
            ErrorKind::Bug => Exit::Bug,
        };
        // A device says best itself what is wrong with it; the engine only knows what it was for.
        if let Some(setup) = error
            .source
            .as_deref()
            .and_then(|s| s.downcast_ref::<SetupError>())
        {
            let told = Self::setup(side, setup);
            let (what, on) = (
                format!("{}, it {}", error.what, told.what),
                error.on.clone(),
            );
            return Self {
                exit,
                what,
                on,
                ..told
            };
        }
        let failure = Self::new(
            exit,
            error.blame,
            error.what.as_str(),
            error.on.as_str(),
            error.remedy.as_str(),
        );
        match error.source() {
            Some(cause) => failure.caused_by(cause),
            None => failure,
        }
    }

    /// Puts `place` (a file, a URI) in front of what the error names itself (a line, a field).
    #[must_use]
    pub(crate) fn inside(mut self, place: &str) -> Self {
        self.on = if self.on.is_empty() {
            place.to_owned()
        } else {
            format!("{place}, {}", self.on)
        };
        self
    }

    /// Replaces the remedy by one that names what this command offers.
    #[must_use]
    pub(crate) fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// What the process ends with.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// Who has to act.
    pub(crate) fn blame(&self) -> Blame {
        self.blame
    }

    /// What to do about it.
    pub(crate) fn remedy(&self) -> &str {
        &self.remedy
    }

    /// What failed, on what, and why, in one line.
    pub(crate) fn problem(&self) -> String {
        let mut text = one_line(&self.what);
        let on = Some(one_line(&self.on)).filter(|on| !on.is_empty());
        for part in on.iter().chain(&self.causes) {
            text.push_str(": ");
            text.push_str(part);
        }
        text
    }

    /// The failure as one object for `--output json`.
    pub(crate) fn to_object(&self) -> FailureObject<'_> {
        FailureObject {
            kind: self.exit.name(),
            exit_code: self.exit.code(),
            what: &self.what,
            on: &self.on,
            blame: blame_name(self.blame),
            remedy: &self.remedy,
            causes: &self.causes,
        }
    }
}

/// `what: on (fault: who); remedy`, then one line for each cause.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.what))?;
        if !self.on.is_empty() {
            write!(f, ": {}", one_line(&self.on))?;
        }
        write!(f, " (fault: {})", blame_name(self.blame))?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", one_line(&self.remedy))?;
        }
        for cause in &self.causes {
            write!(f, "\n  caused by: {cause}")?;
        }
        Ok(())
    }
}

impl Error for Failure {}

/// The shape of a failure in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct FailureObject<'a> {
    kind: &'static str,
    exit_code: u8,
    what: &'a str,
    on: &'a str,
    blame: &'static str,
    remedy: &'a str,
    causes: &'a [String],
}

/// The word for who has to act.
pub(crate) const fn blame_name(blame: Blame) -> &'static str {
    match blame {
        Blame::Peer => "peer",
        Blame::Operator => "operator",
        Blame::Environment => "environment",
        Blame::Bug => "bug",
    }
}

/// The text of a setup error without its subject and remedy, which are shown apart.
fn problem_of(error: &SetupError) -> String {
    let text = error.to_string();
    let text = text
        .strip_prefix(error.subject())
        .map_or(text.as_str(), |rest| {
            rest.strip_prefix(": ").unwrap_or(rest)
        });
    let text = match error.remedy() {
        "" => text,
        remedy => text
            .strip_suffix(remedy)
            .and_then(|t| t.strip_suffix("; "))
            .unwrap_or(text),
    };
    text.to_owned()
}

/// What the error advises, else what its kind does.
fn remedy_of(error: &SetupError) -> &str {
    match (error.remedy(), error.kind()) {
        ("", SetupErrorKind::NotFound) => "check the path",
        ("", SetupErrorKind::Permission) => "check owner and mode, or run with more rights",
        ("", SetupErrorKind::Resource) => "raise the limit, or use less of it",
        ("", SetupErrorKind::Io) => "check the device and the kernel log",
        (remedy, _) => remedy,
    }
}

/// Names from disks, peers and shells may hold anything; a message stays one line of visible text.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine_error(kind: ErrorKind) -> EngineError {
        EngineError {
            kind,
            blame: Blame::Peer,
            what: "request failed".into(),
            on: "mk://h/e".into(),
            remedy: "look at its log".into(),
            source: None,
        }
    }

    #[test]
    fn every_kind_has_its_exit_code() {
        let codes = [
            (ErrorKind::Bug, 1),
            (ErrorKind::Config, 2),
            (ErrorKind::Tls, 3),
            (ErrorKind::Authorisation, 3),
            (ErrorKind::SourceConnect, 4),
            (ErrorKind::SourceIo, 4),
            (ErrorKind::TargetConnect, 5),
            (ErrorKind::TargetIo, 5),
            (ErrorKind::OutOfSpace, 5),
            (ErrorKind::ConnectionLost, 6),
            (ErrorKind::Verify, 7),
            (ErrorKind::Cancelled, 8),
            (ErrorKind::Journal, 8),
            (ErrorKind::Refused, 9),
        ];
        for (kind, code) in codes {
            let failure = Failure::engine(Side::Target, &engine_error(kind));
            assert_eq!(failure.exit().code(), code, "{kind:?}");
        }
    }

    #[test]
    fn a_broken_protocol_belongs_to_the_side_that_broke_it() {
        for (side, code) in [(Side::Source, 4), (Side::Target, 5), (Side::Local, 6)] {
            let failure = Failure::engine(side, &engine_error(ErrorKind::Protocol));
            assert_eq!(failure.exit().code(), code);
        }
    }

    #[test]
    fn a_failure_is_one_line_with_thing_fault_and_remedy() {
        let failure = Failure::engine(Side::Source, &engine_error(ErrorKind::SourceIo));
        assert_eq!(
            failure.to_string(),
            "request failed: mk://h/e (fault: peer); look at its log"
        );
    }

    #[test]
    fn causes_follow_below_each_on_its_line() {
        let mut error = engine_error(ErrorKind::SourceIo);
        error.source = Some(Box::new(engine_error(ErrorKind::Bug)));
        let text = Failure::engine(Side::Source, &error).to_string();
        assert_eq!(
            text.lines().nth(1),
            Some("  caused by: request failed: mk://h/e")
        );
    }

    #[test]
    fn line_breaks_of_foreign_names_do_not_reach_the_terminal() {
        let failure = Failure::usage("cannot be opened", "a\nb\u{1b}[31m", "");
        assert_eq!(
            failure.to_string(),
            r"cannot be opened: a\nb\u{1b}[31m (fault: operator)"
        );
    }

    #[test]
    fn a_setup_error_is_told_in_parts_and_not_twice() {
        let error = SetupError::new(SetupErrorKind::Busy, "/dev/x", "is mounted")
            .with_remedy("unmount it first");
        let failure = Failure::setup(Side::Target, &error);
        assert_eq!(failure.exit(), Exit::Refused);
        assert_eq!(
            failure.to_string(),
            "is mounted: /dev/x (fault: operator); unmount it first"
        );
    }

    #[test]
    fn a_setup_error_below_the_engine_is_told_in_its_own_words() {
        let mut error = engine_error(ErrorKind::TargetConnect);
        let setup = SetupError::new(SetupErrorKind::NotFound, "/dev/x", "cannot be found");
        error.source = Some(Box::new(setup));
        assert_eq!(
            Failure::engine(Side::Target, &error).to_string(),
            "request failed, it cannot be found: mk://h/e (fault: operator); check the path"
        );
    }

    #[test]
    fn a_missing_device_is_the_fault_of_its_side() {
        let error = SetupError::new(SetupErrorKind::NotFound, "/dev/x", "does not exist");
        for (side, exit) in [
            (Side::Source, Exit::Source),
            (Side::Target, Exit::Target),
            (Side::Local, Exit::Usage),
        ] {
            assert_eq!(Failure::setup(side, &error).exit(), exit);
        }
    }
}
