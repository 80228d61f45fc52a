//! A small certificate authority for one site, and the identity of certificates.
//!
//! Keys are ECDSA P-256. Leaf certificates carry digitalSignature and keyEncipherment, which qemu
//! insists on, and one purpose each. rcgen draws serial numbers and keys from the crypto library.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::error::TlsError;
use crate::limits::{AUTHORITY_DAYS_VALID_MIN, DAYS_VALID_MAX};

/// The clocks of two sites may differ by this much.
const CLOCK_SKEW: Duration = Duration::from_secs(3_600);
const SECONDS_PER_DAY: u64 = 86_400;
/// Common name of a new site's first client.
const CLIENT_NAME: &str = "migratekit-client";

/// A certificate and its key as PEM text.
#[derive(Clone)]
pub struct Issued {
    /// The certificate; public.
    pub cert_pem: String,
    /// The private key (PKCS#8); secret.
    pub key_pem: String,
}

/// From when, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Validity {
    /// The present time; certificates start an hour before it.
    pub now: SystemTime,
    /// Days after `now`, 1 to 36500.
    pub days: u32,
}

impl Validity {
    fn apply(self, params: &mut CertificateParams) -> Result<(), TlsError> {
        let out_of_range = TlsError::BadValidity { days: self.days };
        let Ok(now) = self.now.duration_since(UNIX_EPOCH) else {
            return Err(out_of_range);
        };
        if !(1..=DAYS_VALID_MAX).contains(&self.days) {
            return Err(out_of_range);
        }
        let epoch = date_time_ymd(1970, 1, 1);
        let lifetime = Duration::from_secs(u64::from(self.days) * SECONDS_PER_DAY);
        params.not_before = epoch + now.saturating_sub(CLOCK_SKEW);
        params.not_after = epoch + (now + lifetime);
        Ok(())
    }
}

/// The files of a folder as (name, PEM, secret); the caller writes them (0600 when secret).
///
/// One authority, one server certificate for `hosts` (DNS names and IP addresses) and one client
/// certificate, valid from an hour before `now` until `days_valid` days after it; the authority at
/// least ten years.
pub fn new_site(
    hosts: &[String],
    days_valid: u32,
    now: SystemTime,
) -> Result<Vec<(&'static str, String, bool)>, TlsError> {
    let validity = Validity {
        now,
        days: days_valid,
    };
    let authority = new_authority(validity)?;
    let server = issue_server(&authority, hosts, validity)?;
    let purpose = ExtendedKeyUsagePurpose::ClientAuth;
    let client = issue_leaf(&authority, CLIENT_NAME, &[], purpose, validity)?;
    Ok(vec![
        ("ca-cert.pem", authority.cert_pem, false),
        ("ca-key.pem", authority.key_pem, true),
        ("server-cert.pem", server.cert_pem, false),
        ("server-key.pem", server.key_pem, true),
        ("client-cert.pem", client.cert_pem, false),
        ("client-key.pem", client.key_pem, true),
    ])
}

/// One more client certificate of an existing authority, for `days` days after `now`.
pub fn issue_client(
    ca_cert_pem: &str,
    ca_key_pem: &str,
    common_name: &str,
    days: u32,
    now: SystemTime,
) -> Result<Issued, TlsError> {
    let authority = Issued {
        cert_pem: ca_cert_pem.to_owned(),
        key_pem: ca_key_pem.to_owned(),
    };
    let purpose = ExtendedKeyUsagePurpose::ClientAuth;
    issue_leaf(
        &authority,
        common_name,
        &[],
        purpose,
        Validity { now, days },
    )
}

/// One more server certificate of an existing authority for `hosts`, DNS names and IP addresses.
pub fn issue_server(
    authority: &Issued,
    hosts: &[String],
    validity: Validity,
) -> Result<Issued, TlsError> {
    let common_name = hosts.first().ok_or(TlsError::Missing {
        what: "name of the server",
    })?;
    let purpose = ExtendedKeyUsagePurpose::ServerAuth;
    issue_leaf(authority, common_name, hosts, purpose, validity)
}

/// A new authority, self-signed.
pub fn new_authority(validity: Validity) -> Result<Issued, TlsError> {
    let failed = |source| TlsError::Issue {
        what: "certificate of the authority",
        source,
    };
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::default();
    let days = validity.days.max(AUTHORITY_DAYS_VALID_MIN);
    Validity { days, ..validity }.apply(&mut params)?;
    // Two sites with one name for their authorities would fail with "bad signature" instead of
    // "unknown authority", so the name is unique.
    let id = hex(&digest(&SHA256, &key.subject_public_key_info()).as_ref()[..4]);
    params.distinguished_name = distinguished_name(&format!("migratekit ca {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(Issued {
        cert_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    })
}

fn issue_leaf(
    authority: &Issued,
    common_name: &str,
    hosts: &[String],
    purpose: ExtendedKeyUsagePurpose,
    validity: Validity,
) -> Result<Issued, TlsError> {
    let failed = |source| TlsError::Issue {
        what: "certificate",
        source,
    };
    let bad_authority = |source| TlsError::Issue {
        what: "certificate by this authority",
        source,
    };
    let ca_key = KeyPair::from_pem(&authority.key_pem).map_err(bad_authority)?;
    let issuer = Issuer::from_ca_cert_pem(&authority.cert_pem, ca_key).map_err(bad_authority)?;
    let mut params = CertificateParams::new(check_hosts(hosts)?).map_err(failed)?;
    validity.apply(&mut params)?;
    params.distinguished_name = distinguished_name(common_name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
    Ok(Issued {
        cert_pem: certificate.pem(),
        key_pem: key.serialize_pem(),
    })
}

fn check_hosts(hosts: &[String]) -> Result<Vec<String>, TlsError> {
    for host in hosts {
        if rustls_pki_types::ServerName::try_from(host.as_str()).is_err() {
            return Err(TlsError::BadName { name: host.clone() });
        }
    }
    Ok(hosts.to_vec())
}

fn distinguished_name(common_name: &str) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// SHA-256 over the DER of a certificate given as DER, or as PEM text (the first one counts).
pub fn fingerprint(certificate: &[u8]) -> Result<[u8; 32], TlsError> {
    // DER starts with the tag of a SEQUENCE.
    if certificate.first() == Some(&0x30) {
        return Ok(fingerprint_der(certificate));
    }
    CertificateDer::from_pem_slice(certificate)
        .map(|der| fingerprint_der(&der))
        .map_err(|source| TlsError::BadPem {
            what: "certificate",
            source: Some(source),
        })
}

pub(crate) fn fingerprint_der(der: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, der).as_ref());
    out
}

/// Subject common name, for messages.
pub(crate) fn common_name(der: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let name = certificate
        .subject()
        .iter_common_name()
        .next()?
        .as_str()
        .ok()?;
    Some(name.to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
