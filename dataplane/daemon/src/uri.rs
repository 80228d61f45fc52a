//! Where a disk is: a path, a null device, or an NBD export behind a URI.
//!
//! ```text
//! /dev/vdb  disk.qcow2                     a file or a block device
//! nbd+unix:///EXPORT?socket=PATH           plain NBD on a Unix socket
//! nbd://HOST[:10809]/EXPORT                plain NBD, this host only
//! nbds://HOST[:10809]/EXPORT               NBD that turns to TLS inside (STARTTLS)
//! mk://HOST[:443]/EXPORT                   TLS first, NBD inside
//! null:  null:10G                          zeroes out, nothing kept
//! ```
//!
//! The three network forms follow the NBD URI document where they share a scheme with it; `nbds://` and
//! `mk://` also take `tls-certificates=DIR` and `tls-hostname=NAME`.

mod error;
mod host;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

pub(crate) use error::UriError;
pub(crate) use host::Host;

use crate::size::parse_size;

/// The port IANA gives NBD.
pub(crate) const NBD_PORT: u16 = 10_809;
/// The one port of the product.
pub(crate) const MK_PORT: u16 = 443;
/// Longest export name (NBD protocol, "Values": strings of at most 4096 bytes).
const EXPORT_LEN_MAX: usize = 4096;
/// Longest URI: an export and a path, each byte written as three.
const URI_LEN_MAX: usize = 3 * (EXPORT_LEN_MAX + 4096) + 1024;
/// `sun_path` without its final zero byte.
const SOCKET_PATH_LEN_MAX: usize = 107;

/// Bytes written as they are in exports and paths: RFC 3986 "unreserved", and the slash.
const KEEP: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// One end of a copy, or what `info` looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Uri {
    /// A file or a block device.
    Path(PathBuf),
    /// Zeroes as a source, nothing kept as a target; for measuring.
    Null {
        /// Needed as a source; a target takes the size of its source.
        size_bytes: Option<u64>,
    },
    /// An NBD export.
    Nbd(NbdUri),
}

/// An NBD export and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NbdUri {
    /// How the bytes travel.
    pub(crate) transport: Transport,
    /// Its name; empty is the default export.
    pub(crate) export: String,
}

/// How the bytes of an NBD connection travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Transport {
    /// `nbd+unix`: in the clear, on this host.
    Unix {
        /// The socket.
        socket: PathBuf,
    },
    /// `nbd`: in the clear, to a loopback address.
    Plain {
        /// Always a loopback address or `localhost`.
        host: Host,
        /// TCP port.
        port: u16,
    },
    /// `nbds`: NBD's own STARTTLS.
    StartTls(TlsPeer),
    /// `mk`: TLS from the first byte.
    TlsFirst(TlsPeer),
}

/// A peer reached over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsPeer {
    /// Where to connect.
    pub(crate) host: Host,
    /// TCP port.
    pub(crate) port: u16,
    /// `tls-certificates`: the folder with our certificates, instead of `--tls-dir`.
    pub(crate) certificates: Option<PathBuf>,
    /// `tls-hostname`: the name its certificate must carry, instead of the host.
    pub(crate) hostname: Option<String>,
}

impl TlsPeer {
    /// The name that the certificate of the peer must carry.
    pub(crate) fn certificate_name(&self) -> String {
        self.hostname.clone().unwrap_or_else(|| self.host.bare())
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text.is_empty() {
            return Err(UriError::Empty);
        }
        if text.len() > URI_LEN_MAX {
            return Err(UriError::TooLong {
                len_bytes: text.len(),
                len_bytes_max: URI_LEN_MAX,
            });
        }
        if text.contains('\0') {
            return Err(UriError::ZeroByte);
        }
        if text.starts_with('-') {
            return Err(UriError::LeadingDash {
                text: text.to_owned(),
            });
        }
        let Some((scheme, rest)) = split_scheme(text) else {
            return Ok(Self::Path(PathBuf::from(text)));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "null" => parse_null(rest),
            "nbd" | "nbds" | "mk" | "nbd+unix" => parse_nbd(&scheme.to_ascii_lowercase(), rest),
            _ => Err(UriError::UnknownScheme {
                scheme: scheme.to_owned(),
                text: text.to_owned(),
            }),
        }
    }
}

impl Uri {
    /// A command-line argument: a path may be any bytes, a URI is text.
    pub(crate) fn from_os(text: &std::ffi::OsStr) -> Result<Self, UriError> {
        match text.to_str() {
            Some(text) => text.parse(),
            None if text.as_bytes().starts_with(b"-") => Err(UriError::LeadingDash {
                text: text.to_string_lossy().into_owned(),
            }),
            None => Ok(Self::Path(PathBuf::from(text))),
        }
    }
}

/// RFC 3986 section 3.1: a letter, then letters, digits, `+`, `-`, `.`, up to the first colon.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let mut bytes = scheme.bytes();
    let legal = bytes.next()?.is_ascii_alphabetic()
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    legal.then_some((scheme, rest))
}

fn parse_null(rest: &str) -> Result<Uri, UriError> {
    let size_bytes = match rest {
        "" => None,
        size => Some(parse_size(size).map_err(UriError::NullSize)?),
    };
    Ok(Uri::Null { size_bytes })
}

fn parse_nbd(scheme: &str, rest: &str) -> Result<Uri, UriError> {
    let rest = rest
        .strip_prefix("//")
        .ok_or_else(|| UriError::NoAuthority {
            scheme: scheme.to_owned(),
        })?;
    if rest.contains('#') {
        return Err(UriError::Fragment);
    }
    let (place, query) = match rest.split_once('?') {
        Some((place, query)) => (place, Some(query)),
        None => (rest, None),
    };
    let (authority, export) = place.split_once('/').unwrap_or((place, ""));
    let export = decode_export(export)?;
    let mut query = Query::parse(query)?;
    let transport = match scheme {
        "nbd+unix" => unix_transport(authority, &mut query)?,
        "nbd" => plain_transport(authority)?,
        "nbds" => Transport::StartTls(tls_peer(authority, NBD_PORT, &mut query)?),
        _ => Transport::TlsFirst(tls_peer(authority, MK_PORT, &mut query)?),
    };
    query.refuse_rest(scheme)?;
    Ok(Uri::Nbd(NbdUri { transport, export }))
}

fn unix_transport(authority: &str, query: &mut Query) -> Result<Transport, UriError> {
    if !authority.is_empty() {
        return Err(UriError::HostWithSocket {
            host: authority.to_owned(),
        });
    }
    let socket = query.take("socket").ok_or(UriError::NoSocket)?;
    if socket.is_empty() {
        return Err(UriError::NoSocket);
    }
    if socket.len() > SOCKET_PATH_LEN_MAX {
        return Err(UriError::SocketPathTooLong {
            path: PathBuf::from(socket),
            len_bytes_max: SOCKET_PATH_LEN_MAX,
        });
    }
    Ok(Transport::Unix {
        socket: PathBuf::from(socket),
    })
}

fn plain_transport(authority: &str) -> Result<Transport, UriError> {
    let (host, port) = host::parse(authority, NBD_PORT)?;
    if !host.is_loopback() {
        return Err(UriError::PlainToNetwork {
            host: host.to_string(),
        });
    }
    Ok(Transport::Plain { host, port })
}

fn tls_peer(authority: &str, default_port: u16, query: &mut Query) -> Result<TlsPeer, UriError> {
    let (host, port) = host::parse(authority, default_port)?;
    let certificates = match query.take("tls-certificates") {
        Some(dir) if dir.is_empty() => {
            return Err(UriError::EmptyValue {
                key: "tls-certificates".to_owned(),
            });
        }
        other => other.map(PathBuf::from),
    };
    let hostname = match query.take("tls-hostname") {
        None => None,
        Some(name) => Some(host::parse_bare(&name.to_string_lossy())?.bare()),
    };
    Ok(TlsPeer {
        host,
        port,
        certificates,
        hostname,
    })
}

fn decode_export(text: &str) -> Result<String, UriError> {
    let bytes = decode(text)?;
    if bytes.len() > EXPORT_LEN_MAX {
        return Err(UriError::ExportTooLong {
            len_bytes_max: EXPORT_LEN_MAX,
        });
    }
    String::from_utf8(bytes).map_err(|_| UriError::ExportNotUtf8)
}

/// Percent-decodes; a `%` without two hexadecimal digits and `%00` are errors, not text.
fn decode(text: &str) -> Result<Vec<u8>, UriError> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        let whole = after
            .as_bytes()
            .get(..2)
            .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        if !whole {
            return Err(UriError::BadPercent {
                text: text.to_owned(),
            });
        }
        rest = after;
    }
    let bytes: Vec<u8> = percent_decode_str(text).collect();
    if bytes.contains(&0) {
        return Err(UriError::ZeroByte);
    }
    Ok(bytes)
}

/// The part behind `?`: each key at most once, and all of them known to somebody.
#[derive(Debug, Default)]
struct Query {
    pairs: Vec<(String, OsString)>,
}

impl Query {
    fn parse(text: Option<&str>) -> Result<Self, UriError> {
        let mut pairs: Vec<(String, OsString)> = Vec::new();
        for pair in text
            .into_iter()
            .flat_map(|text| text.split('&'))
            .filter(|p| !p.is_empty())
        {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = String::from_utf8_lossy(&decode(key)?).into_owned();
            if pairs.iter().any(|(seen, _)| *seen == key) {
                return Err(UriError::KeyTwice { key });
            }
            pairs.push((key, OsString::from_vec(decode(value)?)));
        }
        Ok(Self { pairs })
    }

    fn take(&mut self, key: &str) -> Option<OsString> {
        let index = self.pairs.iter().position(|(name, _)| name == key)?;
        Some(self.pairs.swap_remove(index).1)
    }

    fn refuse_rest(&self, scheme: &str) -> Result<(), UriError> {
        match self.pairs.first() {
            None => Ok(()),
            Some((key, _)) => Err(UriError::UnknownKey {
                key: key.clone(),
                scheme: scheme.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Null { size_bytes: None } => f.write_str("null:"),
            Self::Null {
                size_bytes: Some(size),
            } => write!(f, "null:{size}"),
            Self::Nbd(nbd) => nbd.fmt(f),
        }
    }
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let export = percent_encode(self.export.as_bytes(), KEEP);
        match &self.transport {
            Transport::Unix { socket } => {
                write!(f, "nbd+unix:///{export}?socket={}", encode_path(socket))
            }
            Transport::Plain { host, port } => {
                write!(f, "nbd://{host}{}/{export}", port_suffix(*port, NBD_PORT))
            }
            Transport::StartTls(peer) => {
                write!(
                    f,
                    "nbds://{}{}/{export}",
                    peer.host,
                    port_suffix(peer.port, NBD_PORT)
                )?;
                peer.fmt_query(f)
            }
            Transport::TlsFirst(peer) => {
                write!(
                    f,
                    "mk://{}{}/{export}",
                    peer.host,
                    port_suffix(peer.port, MK_PORT)
                )?;
                peer.fmt_query(f)
            }
        }
    }
}

impl TlsPeer {
    fn fmt_query(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = '?';
        if let Some(dir) = &self.certificates {
            write!(f, "{separator}tls-certificates={}", encode_path(dir))?;
            separator = '&';
        }
        if let Some(name) = &self.hostname {
            write!(
                f,
                "{separator}tls-hostname={}",
                percent_encode(name.as_bytes(), KEEP)
            )?;
        }
        Ok(())
    }
}

fn encode_path(path: &Path) -> impl fmt::Display + '_ {
    percent_encode(path.as_os_str().as_bytes(), KEEP)
}

fn port_suffix(port: u16, default_port: u16) -> String {
    if port == default_port {
        String::new()
    } else {
        format!(":{port}")
    }
}
