//! rustls configurations from PEM text: TLS 1.3 only, no resumption, secrets for the record layer.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, Error as RustlsError, RootCertStore, ServerConfig, SupportedCipherSuite,
};
use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::TlsError;
use crate::record::Suite;

/// PEM texts of one folder; the caller reads the files. The names are those of qemu, nbdkit and
/// libnbd: `ca-cert.pem`, and `server-cert.pem`, `server-key.pem` or `client-cert.pem`,
/// `client-key.pem`.
#[derive(Clone, Default)]
pub struct Credentials {
    /// Authorities we accept certificates from.
    pub ca_pem: Vec<u8>,
    /// Our certificate, followed by intermediates if there are any.
    pub cert_pem: Option<Vec<u8>>,
    /// Its key: PKCS#8, SEC1 or PKCS#1, not encrypted.
    pub key_pem: Option<Vec<u8>>,
}

/// What a configuration allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsPolicy {
    /// ALPN to offer (client) or accept (server), best first. A client that offers none is
    /// accepted; one that offers only others is refused.
    pub alpn: Vec<Vec<u8>>,
    /// Server: a client certificate is required.
    pub client_certificate_required: bool,
    /// Cipher suites by IANA name (`TLS_AES_128_GCM_SHA256`), best first; `None` = by CPU.
    pub suites: Option<Vec<&'static str>>,
}

/// A server's configuration. Needs certificate and key.
pub fn server_config(
    credentials: &Credentials,
    policy: &TlsPolicy,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider(policy)?;
    let (chain, key) = own_certificate(credentials)?.ok_or(TlsError::Missing {
        what: "certificate and key of the server",
    })?;
    let refused = |source| TlsError::BadCredentials {
        what: "the server's certificate",
        source: Box::new(source),
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(refuse_provider)?;
    let builder = if policy.client_certificate_required {
        let roots = Arc::new(authorities(credentials)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
            .build()
            .map_err(TlsError::BadAuthority)?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder.with_single_cert(chain, key).map_err(refused)?;
    config.alpn_protocols.clone_from(&policy.alpn);
    config.enable_secret_extraction = true;
    // The cost of a suite is paid by our CPU, so our order decides.
    config.ignore_client_order = true;
    // A transfer lasts hours; one handshake more is nothing, and tickets would be records that
    // clients have to skip.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// A client's configuration. Without certificate and key it connects anonymously.
pub fn client_config(
    credentials: &Credentials,
    policy: &TlsPolicy,
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider(policy)?)
        .with_protocol_versions(&[&TLS13])
        .map_err(refuse_provider)?
        .with_root_certificates(authorities(credentials)?);
    let mut config = match own_certificate(credentials)? {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|source| TlsError::BadCredentials {
                what: "the client's certificate",
                source: Box::new(source),
            })?,
    };
    config.alpn_protocols.clone_from(&policy.alpn);
    config.enable_secret_extraction = true;
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn refuse_provider(source: RustlsError) -> TlsError {
    TlsError::Library {
        what: "setting up tls 1.3",
        source: Box::new(source),
    }
}

/// rustls' provider with our suites in our order. Its key exchange groups stay: X25519 first, the
/// hybrid with ML-KEM accepted.
fn provider(policy: &TlsPolicy) -> Result<Arc<CryptoProvider>, TlsError> {
    let suites = match &policy.suites {
        None => suites_by_cpu(has_aes()).to_vec(),
        Some(names) => names
            .iter()
            .map(|name| suite_by_name(name))
            .collect::<Result<_, _>>()?,
    };
    if suites.is_empty() {
        return Err(TlsError::Missing {
            what: "list of cipher suites",
        });
    }
    let cipher_suites = suites.into_iter().map(rustls_suite).collect();
    Ok(Arc::new(CryptoProvider {
        cipher_suites,
        ..aws_lc_rs::default_provider()
    }))
}

/// AES-128 costs 10 to 15 % less than AES-256 where the CPU has AES, and both cost several times
/// ChaCha20 where it has not.
const fn suites_by_cpu(has_aes: bool) -> [Suite; 3] {
    if has_aes {
        [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305]
    } else {
        [Suite::ChaCha20Poly1305, Suite::Aes128Gcm, Suite::Aes256Gcm]
    }
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

fn suite_by_name(name: &str) -> Result<Suite, TlsError> {
    Suite::ALL
        .into_iter()
        .find(|suite| suite.name().eq_ignore_ascii_case(name))
        .ok_or_else(|| TlsError::UnknownSuite {
            name: name.to_owned(),
        })
}

fn rustls_suite(suite: Suite) -> SupportedCipherSuite {
    match suite {
        Suite::Aes128Gcm => aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        Suite::Aes256Gcm => aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        Suite::ChaCha20Poly1305 => aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    }
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, PemError>>()
        .map_err(|source| TlsError::BadPem {
            what,
            source: Some(source),
        })?;
    if found.is_empty() {
        return Err(TlsError::BadPem { what, source: None });
    }
    Ok(found)
}

fn authorities(credentials: &Credentials) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&credentials.ca_pem, "ca-cert.pem")? {
        roots
            .add(certificate)
            .map_err(|source| TlsError::BadCredentials {
                what: "ca-cert.pem",
                source: Box::new(source),
            })?;
    }
    Ok(roots)
}

type OwnCertificate = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn own_certificate(credentials: &Credentials) -> Result<Option<OwnCertificate>, TlsError> {
    match (&credentials.cert_pem, &credentials.key_pem) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(TlsError::Missing {
            what: "private key of the certificate",
        }),
        (None, Some(_)) => Err(TlsError::Missing {
            what: "certificate of the private key",
        }),
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate, "certificate")?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| TlsError::BadPem {
                what: "private key",
                source: Some(source),
            })?;
            Ok(Some((chain, key)))
        }
    }
}
