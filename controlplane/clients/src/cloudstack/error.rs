//! What can go wrong between us and CloudStack, whose turn it is, and whether the thing may have been done all the same.

use control::{Blame, Retry};
use std::fmt;

/// The kinds of failure, for code to branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientErrorKind {
    /// The settings cannot make a client.
    Settings,
    /// No connection: name, route, refused.
    Unreachable,
    /// The TLS handshake failed.
    Tls,
    /// The request may have arrived; the answer did not.
    LostReply,
    /// Keys, signature, clock, role or unknown command: CloudStack answers all of them 401.
    Unauthorized,
    /// Too many calls.
    RateLimited,
    /// The parameters or the state of an object do not allow it (430, 431).
    Refused,
    /// No room: capacity or quota (533, 534, 535).
    Capacity,
    /// The management server failed (5xx).
    Server,
    /// The answer is not one of CloudStack's.
    Malformed,
}

/// A failed call, in one line with the remedy.
#[derive(Debug, thiserror::Error)]
pub struct ClientError {
    /// For code.
    pub kind: ClientErrorKind,
    /// Whose turn it is.
    pub blame: Blame,
    /// Whether the same call can succeed later.
    pub retry: Retry,
    /// The command.
    pub command: &'static str,
    /// CloudStack's `errorcode`, or the HTTP status.
    pub code: Option<i64>,
    /// CloudStack's `cserrorcode`.
    pub cs_code: Option<i64>,
    /// CloudStack's text or the cause, verbatim.
    pub text: String,
    /// True when the server may have done what was asked: look at the job or the object before anything else.
    pub maybe_done: bool,
}

impl fmt::Display for ClientError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "CloudStack {}: {}", self.command, self.what())?;
        if let Some(code) = self.code {
            write!(out, " ({code})")?;
        }
        let text = self.text.replace(['\n', '\r'], " ");
        write!(out, ": {text}; {}", self.remedy())
    }
}

impl ClientError {
    pub(super) fn new(
        kind: ClientErrorKind,
        command: &'static str,
        code: Option<i64>,
        text: impl Into<String>,
    ) -> Self {
        use ClientErrorKind as Kind;
        let (blame, retry) = match kind {
            Kind::Settings | Kind::Tls | Kind::Unauthorized | Kind::Refused => {
                (Blame::Operator, Retry::Never)
            }
            Kind::Unreachable => (Blame::Environment, Retry::AfterMs(5_000)),
            Kind::LostReply => (Blame::Environment, Retry::Never),
            Kind::RateLimited => (Blame::Environment, Retry::AfterMs(1_000)),
            Kind::Capacity if code == Some(535) => (Blame::Operator, Retry::Never),
            Kind::Capacity => (Blame::Environment, Retry::AfterMs(30_000)),
            Kind::Server if code == Some(503) => (Blame::Peer, Retry::AfterMs(10_000)),
            Kind::Server | Kind::Malformed => (Blame::Peer, Retry::Never),
        };
        let maybe_done = match kind {
            Kind::LostReply | Kind::Malformed => true,
            Kind::Server => code != Some(503),
            _ => false,
        };
        Self {
            kind,
            blame,
            retry,
            command,
            code,
            cs_code: None,
            text: text.into(),
            maybe_done,
        }
    }

    /// The failure that CloudStack reports with `code`.
    pub(super) fn reported(
        command: &'static str,
        code: i64,
        cs_code: Option<i64>,
        text: &str,
    ) -> Self {
        use ClientErrorKind as Kind;
        let kind = match code {
            401 | 403 | 511 | 531 => Kind::Unauthorized,
            429 => Kind::RateLimited,
            533..=535 => Kind::Capacity,
            400..=499 => Kind::Refused,
            500..=599 => Kind::Server,
            _ => Kind::Malformed,
        };
        let mut error = Self::new(kind, command, Some(code), text);
        error.cs_code = cs_code;
        if kind == Kind::RateLimited
            && let Some(wait) = wait_in(text)
        {
            error.retry = Retry::AfterMs(wait);
        }
        error
    }

    fn what(&self) -> &'static str {
        use ClientErrorKind as Kind;
        match self.kind {
            Kind::Settings => "the settings are no good",
            Kind::Unreachable => "cannot reach the endpoint",
            Kind::Tls => "the TLS handshake failed",
            Kind::LostReply => "the request went out and no answer came back",
            Kind::Unauthorized => "the server does not accept this caller",
            Kind::RateLimited => "too many calls",
            Kind::Refused => "refused",
            Kind::Capacity => "no room",
            Kind::Server => "the management server failed",
            Kind::Malformed => "the answer is not CloudStack's",
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        use ClientErrorKind as Kind;
        match self.kind {
            Kind::Settings => "correct the endpoint, the keys or the certificate authority",
            Kind::Unreachable => {
                "check the endpoint's address, the route to it and that the server runs"
            }
            Kind::Tls => {
                "give the authority that signed the server's certificate, and check its host name"
            }
            Kind::LostReply => {
                "it may have been done: query the job, then the object, before doing it again"
            }
            Kind::Unauthorized => {
                "check this host's clock first, then API key and secret, then the role of the user"
            }
            Kind::RateLimited => "call less often, or raise the limit for this account",
            Kind::Refused => "change the parameters or wait for the state that the text names",
            Kind::Capacity => "free capacity, or raise the quota of the account",
            Kind::Server => "look at the object's state and the management server's log",
            Kind::Malformed => "check that the endpoint ends in /client/api and no proxy answers",
        }
    }
}

/// The milliseconds that a refusal for too many calls names in its text.
fn wait_in(text: &str) -> Option<u64> {
    let words: Vec<_> = text
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    words
        .iter()
        .enumerate()
        .rev()
        .find_map(|(place, word)| match word.strip_suffix("ms") {
            Some("") => words.get(place.checked_sub(1)?)?.parse().ok(),
            Some(digits) => digits.parse().ok(),
            None => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_of_a_rate_limit_is_read_from_its_text() {
        let error = ClientError::reported(
            "listZones",
            429,
            None,
            "The given user has reached his/her account api limit, please retry after 734 ms.",
        );
        assert_eq!(error.kind, ClientErrorKind::RateLimited);
        assert_eq!(error.retry, Retry::AfterMs(734));
        assert!(!error.maybe_done);
    }

    #[test]
    fn codes_become_kinds() {
        use ClientErrorKind as Kind;
        for (code, kind, maybe_done) in [
            (401, Kind::Unauthorized, false),
            (431, Kind::Refused, false),
            (503, Kind::Server, false),
            (530, Kind::Server, true),
            (533, Kind::Capacity, false),
            (535, Kind::Capacity, false),
        ] {
            let error = ClientError::reported("x", code, None, "t\nu");
            assert_eq!((error.kind, error.maybe_done), (kind, maybe_done), "{code}");
            let line = error.to_string();
            assert!(!line.contains('\n') && line.contains("; "), "{line}");
        }
    }
}
