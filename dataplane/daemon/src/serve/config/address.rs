//! Where to listen.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use crate::exit::Failure;

/// Where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::serve) enum Address {
    /// IP and port; `[::]` takes IPv4 as well.
    Tcp(SocketAddr),
    /// A socket in the file system, mode 0600.
    Unix(PathBuf),
}

impl Address {
    /// The only address of the product that faces a network.
    pub(super) const DEFAULT: Self =
        Self::Tcp(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 443));

    /// The TLS listener: any address.
    pub(super) fn parse_tls(text: &str) -> Result<Self, Failure> {
        parse(text, "listen")
    }

    /// The STARTTLS listener: its first bytes are plain NBD, so it must not face a network.
    pub(super) fn parse_nbds(text: &str) -> Result<Self, Failure> {
        match parse(text, "nbds_listen")? {
            Self::Tcp(address) if !address.ip().to_canonical().is_loopback() => {
                Err(Failure::refused(
                    "nbds_listen would face a network",
                    text,
                    "use 127.0.0.1, ::1 or the path of a Unix socket; networks reach exports through the \
                 TLS listener",
                ))
            }
            address => Ok(address),
        }
    }
}

fn parse(text: &str, key: &str) -> Result<Address, Failure> {
    if text.starts_with('/') {
        return Ok(Address::Unix(PathBuf::from(text)));
    }
    let with_name = text
        .strip_prefix("localhost:")
        .map(|port| format!("127.0.0.1:{port}"));
    with_name.as_deref().unwrap_or(text).parse().map(Address::Tcp).map_err(
        |error: std::net::AddrParseError| {
            Failure::usage(
                format!("{key} is no address"),
                text,
                "write ADDRESS:PORT with a numeric address, for example 0.0.0.0:443 or [::1]:8443, or \
                 the absolute path of a Unix socket",
            )
            .caused_by(&error)
        },
    )
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_numeric_or_absolute_paths() {
        assert_eq!(Address::parse_tls("[::]:443").unwrap(), Address::DEFAULT);
        for (text, shown) in [
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("localhost:8443", "127.0.0.1:8443"),
            ("/run/x.sock", "/run/x.sock"),
        ] {
            assert_eq!(Address::parse_tls(text).unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "443",
            ":443",
            "example.org:443",
            "::1:443",
            "x.sock",
            "1.2.3.4",
        ] {
            assert_eq!(
                Address::parse_tls(bad).unwrap_err().exit().code(),
                2,
                "{bad}"
            );
        }
    }

    #[test]
    fn starttls_never_faces_a_network() {
        for good in [
            "127.0.0.1:10809",
            "[::1]:10809",
            "[::ffff:127.0.0.1]:1",
            "/run/x",
        ] {
            assert!(Address::parse_nbds(good).is_ok(), "{good}");
        }
        for bad in ["0.0.0.0:10809", "[::]:10809", "192.0.2.1:10809"] {
            assert_eq!(
                Address::parse_nbds(bad).unwrap_err().exit().code(),
                9,
                "{bad}"
            );
        }
    }
}
