//! From a URI to something the engine can open.

use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::{Address, Endpoint, NbdEndpoint, TlsMode};

use crate::credentials::{self, ALPN_NBD};
use crate::exit::Failure;
use crate::uri::{NbdUri, TlsPeer, Transport, Uri};

/// What connections have in common, beside their URIs.
#[derive(Debug, Clone)]
pub(crate) struct ConnectOptions {
    /// `--tls-dir`; a URI may name its own.
    pub(crate) tls_dir: Option<PathBuf>,
    /// IANA name of the suite to offer first; `None` lets the CPU decide.
    pub(crate) suite: Option<&'static str>,
    /// Limit for connecting and for each step of the handshakes.
    pub(crate) connect_timeout: Duration,
}

/// The endpoint of a URI; reads certificates, connects nowhere.
pub(crate) fn endpoint(uri: &Uri, options: &ConnectOptions) -> Result<Endpoint, Failure> {
    match uri {
        Uri::Path(path) => Ok(Endpoint::Path(path.clone())),
        Uri::Null { size_bytes } => Ok(Endpoint::Null {
            size_bytes: *size_bytes,
        }),
        Uri::Nbd(nbd) => Ok(Endpoint::Nbd(nbd_endpoint(nbd, options)?)),
    }
}

/// The endpoint of an NBD URI.
pub(crate) fn nbd_endpoint(uri: &NbdUri, options: &ConnectOptions) -> Result<NbdEndpoint, Failure> {
    let tcp = |host: &crate::uri::Host, port| Address::Tcp {
        host: host.bare(),
        port,
    };
    let (address, tls) = match &uri.transport {
        Transport::Unix { socket } => (Address::Unix(socket.clone()), TlsMode::None),
        Transport::Plain { host, port } => (tcp(host, *port), TlsMode::None),
        Transport::StartTls(peer) => {
            let config = client_config(uri, peer, &[], options)?;
            let server_name = peer.certificate_name();
            (
                tcp(&peer.host, peer.port),
                TlsMode::StartTls {
                    config,
                    server_name,
                },
            )
        }
        Transport::TlsFirst(peer) => {
            let config = client_config(uri, peer, &[ALPN_NBD], options)?;
            let server_name = peer.certificate_name();
            (
                tcp(&peer.host, peer.port),
                TlsMode::First {
                    config,
                    server_name,
                },
            )
        }
    };
    Ok(NbdEndpoint {
        address,
        tls,
        export: uri.export.clone(),
        connect_timeout: options.connect_timeout,
        uri: uri.to_string(),
    })
}

fn client_config(
    uri: &NbdUri,
    peer: &TlsPeer,
    alpn: &[&[u8]],
    options: &ConnectOptions,
) -> Result<std::sync::Arc<rustls::ClientConfig>, Failure> {
    let dir: &Path = peer
        .certificates
        .as_deref()
        .or(options.tls_dir.as_deref())
        .ok_or_else(|| {
            Failure::usage(
                "no certificates are given",
                uri.to_string(),
                "add --tls-dir DIR, or ?tls-certificates=DIR to the uri",
            )
        })?;
    credentials::client_config(dir, alpn, options.suite)
}
