//! The certificates in force, replaced as a whole when the folder is read again.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use control::Fingerprint;
use rustls::ServerConfig;

use crate::credentials::{self, ALPN_DATA, ALPN_NBD, Role, suite_order};
use crate::exit::Failure;

/// TLS of the listeners. Connections keep the certificate with which they began.
pub(super) struct ServerTls(RwLock<Current>);

struct Current {
    /// For the NBD service: a client certificate is required.
    nbd: Arc<ServerConfig>,
    /// For `mk-data/1`: likewise.
    data: Arc<ServerConfig>,
    /// Of our own certificate.
    fingerprint: Fingerprint,
}

impl ServerTls {
    /// Reads the folder. `suite` goes first; `None` lets the CPU decide.
    pub(super) fn load(dir: &Path, suite: Option<&'static str>) -> Result<Self, Failure> {
        read(dir, suite).map(|current| Self(RwLock::new(current)))
    }

    /// Reads the folder again. On an error the certificates in force stay.
    pub(super) fn reload(&self, dir: &Path, suite: Option<&'static str>) -> Result<(), Failure> {
        let fresh = read(dir, suite)?;
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// For connections that begin now.
    pub(super) fn nbd_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).nbd)
    }

    /// The same for `mk-data/1`.
    pub(super) fn data_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).data)
    }

    /// Of our own certificate.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .fingerprint
    }
}

fn read(dir: &Path, suite: Option<&'static str>) -> Result<Current, Failure> {
    let on = || dir.display().to_string();
    let credentials = credentials::load(dir, Role::Server)?;
    let config = |alpn: &[u8]| {
        let policy = tls::TlsPolicy {
            alpn: vec![alpn.to_vec()],
            client_certificate_required: true,
            suites: suite_order(suite),
        };
        tls::server_config(&credentials, &policy).map_err(|error| Failure::tls(on(), &error))
    };
    let (nbd, data) = (config(ALPN_NBD)?, config(ALPN_DATA)?);
    let certificate = credentials.cert_pem.as_deref().unwrap_or_default();
    let fingerprint =
        tls::pki::fingerprint(certificate).map_err(|error| Failure::tls(on(), &error))?;
    Ok(Current {
        nbd,
        data,
        fingerprint: Fingerprint(fingerprint),
    })
}
