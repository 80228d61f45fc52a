//! Why a text is no place for a disk, and what to write instead.

use std::path::PathBuf;

use engine::Blame;

use crate::exit::{Exit, Failure};
use crate::size::SizeError;

/// One variant per mistake; the remedy is told apart, by [`UriError::remedy`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UriError {
    /// Nothing at all.
    #[error("the place of a disk is empty")]
    Empty,
    /// More than any legal URI can have.
    #[error("uri of {len_bytes} bytes is longer than {len_bytes_max}")]
    TooLong {
        /// What was given.
        len_bytes: usize,
        /// The bound.
        len_bytes_max: usize,
    },
    /// A zero byte, plain or as `%00`.
    #[error("a zero byte has no place in a path or uri")]
    ZeroByte,
    /// Looks like an option.
    #[error("{text:?} looks like an option")]
    LeadingDash {
        /// As given.
        text: String,
    },
    /// `word:` with a word we do not know.
    #[error("unknown scheme {scheme:?}")]
    UnknownScheme {
        /// The word.
        scheme: String,
        /// As given.
        text: String,
    },
    /// `nbds:host` without the slashes.
    #[error("{scheme}: needs // and a host")]
    NoAuthority {
        /// The scheme.
        scheme: String,
    },
    /// `mk:///export`.
    #[error("the uri names no host")]
    NoHost,
    /// A name with illegal characters, an odd address, junk behind the bracket.
    #[error("{host:?} is neither a dns name nor an ip address")]
    BadHost {
        /// As given.
        host: String,
    },
    /// An IPv6 address without brackets.
    #[error("{host:?} looks like an ipv6 address without brackets")]
    BareV6 {
        /// As given.
        host: String,
    },
    /// Not a number from 1 to 65535.
    #[error("{port:?} is not a port")]
    BadPort {
        /// As given.
        port: String,
    },
    /// `user@host`.
    #[error("a uri of ours carries no user name")]
    UserInfo,
    /// `#` in the text.
    #[error("a uri of ours has no fragment")]
    Fragment,
    /// `%` without two hexadecimal digits.
    #[error("{text:?} has a % without two hexadecimal digits")]
    BadPercent {
        /// The part.
        text: String,
    },
    /// Decoded bytes that are no text.
    #[error("the export name is not utf-8")]
    ExportNotUtf8,
    /// Longer than NBD allows.
    #[error("the export name is longer than {len_bytes_max} bytes")]
    ExportTooLong {
        /// The bound.
        len_bytes_max: usize,
    },
    /// A key behind `?` that this scheme does not have.
    #[error("unknown key {key:?} in the {scheme} uri")]
    UnknownKey {
        /// The key.
        key: String,
        /// The scheme.
        scheme: String,
    },
    /// The same key twice.
    #[error("key {key:?} is given twice")]
    KeyTwice {
        /// The key.
        key: String,
    },
    /// A key that needs a value.
    #[error("key {key:?} has no value")]
    EmptyValue {
        /// The key.
        key: String,
    },
    /// `nbd+unix` without its socket.
    #[error("an nbd+unix uri needs its socket")]
    NoSocket,
    /// `nbd+unix://host/...`.
    #[error("an nbd+unix uri has no host, found {host:?}")]
    HostWithSocket {
        /// As given.
        host: String,
    },
    /// The kernel's limit.
    #[error("socket path {path:?} is longer than {len_bytes_max} bytes")]
    SocketPathTooLong {
        /// As given.
        path: PathBuf,
        /// The bound.
        len_bytes_max: usize,
    },
    /// Plain NBD to a network address.
    #[error("plain nbd to {host} is refused: the disk would travel readable and unprotected")]
    PlainToNetwork {
        /// As given.
        host: String,
    },
    /// `null:` with a bad size.
    #[error("the size of the null device is wrong")]
    NullSize(#[source] SizeError),
}

impl UriError {
    /// What to write instead.
    fn remedy(&self) -> String {
        match self {
            Self::Empty => "give a path or a uri".to_owned(),
            Self::TooLong { .. } | Self::ExportTooLong { .. } => "shorten it".to_owned(),
            Self::ZeroByte => "leave it out".to_owned(),
            Self::LeadingDash { text } => format!("write ./{text} for a file of that name"),
            Self::UnknownScheme { text, .. } => format!(
                "use a path, nbd+unix:, nbd:, nbds:, mk: or null:, or write ./{text} for a file of that name"
            ),
            Self::NoAuthority { scheme } => format!("write {scheme}://HOST/EXPORT"),
            Self::NoHost => "write the host behind //".to_owned(),
            Self::BadHost { .. } => {
                "write a dns name, an ipv4 address, or an ipv6 address in brackets".to_owned()
            }
            Self::BareV6 { .. } => "write [ADDRESS] or [ADDRESS]:PORT".to_owned(),
            Self::BadPort { .. } => "write a number from 1 to 65535".to_owned(),
            Self::UserInfo => {
                "leave out what stands before @; client certificates tell who we are".to_owned()
            }
            Self::Fragment => "write # as %23".to_owned(),
            Self::BadPercent { .. } => "write % itself as %25".to_owned(),
            Self::ExportNotUtf8 => "check the percent-encoding".to_owned(),
            Self::UnknownKey { scheme, .. } => known_keys(scheme).to_owned(),
            Self::KeyTwice { .. } => "give it once".to_owned(),
            Self::EmptyValue { key } => format!("write {key}=VALUE"),
            Self::NoSocket => "write nbd+unix:///EXPORT?socket=PATH".to_owned(),
            Self::HostWithSocket { .. } => {
                "write three slashes: nbd+unix:///EXPORT?socket=PATH".to_owned()
            }
            Self::SocketPathTooLong { .. } => "use a shorter path, or a relative one".to_owned(),
            Self::PlainToNetwork { host } => {
                format!("use mk://{host}/EXPORT, or nbds:// for a server with STARTTLS")
            }
            Self::NullSize(_) => "write null:10G, or null: as a target".to_owned(),
        }
    }

    /// The failure to end with; `given` is the whole argument.
    pub(crate) fn into_failure(self, given: &str) -> Failure {
        let exit = match self {
            Self::PlainToNetwork { .. } => Exit::Refused,
            _ => Exit::Usage,
        };
        let failure = Failure::new(
            exit,
            Blame::Operator,
            self.to_string(),
            given,
            self.remedy(),
        );
        match &self {
            Self::NullSize(cause) => failure.caused_by(cause),
            _ => failure,
        }
    }
}

fn known_keys(scheme: &str) -> &'static str {
    match scheme {
        "nbd+unix" => "the only key is socket",
        "nbd" => "it has no keys",
        _ => "the keys are tls-certificates and tls-hostname",
    }
}
