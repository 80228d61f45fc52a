//! The host and port of a URI.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use super::UriError;

/// Longest DNS name in text form (RFC 1035 section 2.3.4 without the root label).
const DNS_NAME_LEN_MAX: usize = 253;

/// A host: an address, or a name to be resolved when connecting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// A literal address.
    Ip(IpAddr),
    /// A DNS name, in lower case.
    Name(String),
}

impl Host {
    /// True when bytes to this host cannot leave the machine. A name other than `localhost` may resolve
    /// to anything at any time, so none counts.
    pub(crate) fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(address) => address.to_canonical().is_loopback(),
            Self::Name(name) => name == "localhost",
        }
    }

    /// Without the brackets of an IPv6 address: for resolving and for certificates.
    pub(crate) fn bare(&self) -> String {
        match self {
            Self::Ip(address) => address.to_string(),
            Self::Name(name) => name.clone(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Ip(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT`.
pub(super) fn parse(authority: &str, default_port: u16) -> Result<(Host, u16), UriError> {
    if authority.is_empty() {
        return Err(UriError::NoHost);
    }
    if authority.contains('@') {
        return Err(UriError::UserInfo);
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => bracketed(authority, rest)?,
        None => {
            let (host, port) = match authority.split_once(':') {
                Some((_, port)) if port.contains(':') => {
                    return Err(UriError::BareV6 {
                        host: authority.to_owned(),
                    });
                }
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            };
            (parse_bare(host)?, port)
        }
    };
    let port = match port {
        None => default_port,
        Some(port) => parse_port(port)?,
    };
    Ok((host, port))
}

fn bracketed<'a>(authority: &str, rest: &'a str) -> Result<(Host, Option<&'a str>), UriError> {
    let bad = || UriError::BadHost {
        host: authority.to_owned(),
    };
    let (inside, behind) = rest.split_once(']').ok_or_else(bad)?;
    let address: Ipv6Addr = inside.parse().map_err(|_| bad())?;
    let port = match behind {
        "" => None,
        _ => Some(behind.strip_prefix(':').ok_or_else(bad)?),
    };
    Ok((Host::Ip(IpAddr::V6(address)), port))
}

fn parse_port(text: &str) -> Result<u16, UriError> {
    match text.parse::<u16>() {
        Ok(port) if port != 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(UriError::BadPort {
            port: text.to_owned(),
        }),
    }
}

/// A DNS name or an address without brackets.
pub(super) fn parse_bare(text: &str) -> Result<Host, UriError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Host::Ip(address));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let legal_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    // A name whose last label is a number is a mistyped IPv4 address, which resolvers read in
    // surprising ways ("10.1" is 10.0.0.1).
    let numeric_end = name
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    if name.len() > DNS_NAME_LEN_MAX || !name.split('.').all(legal_label) || numeric_end {
        return Err(UriError::BadHost {
            host: text.to_owned(),
        });
    }
    Ok(Host::Name(name.to_ascii_lowercase()))
}
