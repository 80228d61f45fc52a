//! Certificates from a folder, with the file names that libvirt, QEMU and nbdkit use.
//!
//! One folder may serve both sides. Only the files a role needs are read; the key never leaves the
//! memory of this process.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use engine::Blame;

use crate::exit::{Exit, Failure};

/// Certificate of the authority.
pub(crate) const CA_CERT: &str = "ca-cert.pem";
/// Largest PEM file we read; a bundle of every public authority has a quarter of it.
const PEM_BYTES_MAX: u64 = 1 << 20;
/// The application protocol of identities, hashes and tunables.
pub(crate) const ALPN_DATA: &[u8] = b"mk-data/1";
pub(crate) use tls::ALPN_NBD;

/// Whose certificate is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// We listen: certificate and key are needed.
    Server,
    /// We connect: certificate and key may both be missing; then only the peer proves itself.
    Client,
}

impl Role {
    /// Names of the certificate and key file.
    const fn file_names(self) -> (&'static str, &'static str) {
        match self {
            Self::Server => ("server-cert.pem", "server-key.pem"),
            Self::Client => ("client-cert.pem", "client-key.pem"),
        }
    }
}

/// Reads what `role` needs from `dir`.
pub(crate) fn load(dir: &Path, role: Role) -> Result<tls::Credentials, Failure> {
    let (cert_name, key_name) = role.file_names();
    let (cert_path, key_path) = (dir.join(cert_name), dir.join(key_name));
    let ca_pem = required(&dir.join(CA_CERT), dir)?;
    let (cert_pem, key_pem) = match role {
        Role::Server => (
            Some(required(&cert_path, dir)?),
            Some(required(&key_path, dir)?),
        ),
        Role::Client => (optional(&cert_path)?, optional(&key_path)?),
    };
    match (&cert_pem, &key_pem) {
        (Some(_), None) => return Err(half(&key_path, cert_name)),
        (None, Some(_)) => return Err(half(&cert_path, key_name)),
        _ => {}
    }
    Ok(tls::Credentials {
        ca_pem,
        cert_pem,
        key_pem,
    })
}

/// Every suite we speak, by IANA name. A preferred one moves to the front and the others stay behind it.
pub(crate) const SUITES: [&str; 3] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
];

/// The order of suites with `preferred` in front; `None` lets the CPU decide.
pub(crate) fn suite_order(preferred: Option<&'static str>) -> Option<Vec<&'static str>> {
    let preferred = preferred?;
    let rest = SUITES.into_iter().filter(|suite| *suite != preferred);
    Some(std::iter::once(preferred).chain(rest).collect())
}

/// The rustls configuration of a client that speaks NBD; `alpn` is empty for STARTTLS, where no other
/// protocol could be meant.
pub(crate) fn client_config(
    dir: &Path,
    alpn: &[&[u8]],
    preferred_suite: Option<&'static str>,
) -> Result<Arc<rustls::ClientConfig>, Failure> {
    let credentials = load(dir, Role::Client)?;
    let policy = tls::TlsPolicy {
        alpn: alpn.iter().map(|name| name.to_vec()).collect(),
        client_certificate_required: false,
        suites: suite_order(preferred_suite),
    };
    tls::client_config(&credentials, &policy)
        .map_err(|error| Failure::tls(dir.display().to_string(), &error))
}

fn required(path: &Path, dir: &Path) -> Result<Vec<u8>, Failure> {
    optional(path)?.ok_or_else(|| {
        Failure::new(
            Exit::Tls,
            Blame::Operator,
            "a certificate file is missing",
            path.display().to_string(),
            format!(
                "make one with: migratekit-dataplane pki init {} --host NAME",
                dir.display()
            ),
        )
    })
}

fn half(missing: &Path, present: &str) -> Failure {
    Failure::new(
        Exit::Tls,
        Blame::Operator,
        format!("there is a {present} but its other half is missing"),
        missing.display().to_string(),
        "a certificate and its key come together",
    )
}

/// `None` when the file does not exist.
fn optional(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let cannot_read = |error: std::io::Error| {
        let name = path.display().to_string();
        let remedy = "check the owner and mode of the file and its folder";
        Failure::new(
            Exit::Tls,
            Blame::Operator,
            "a certificate file cannot be read",
            name,
            remedy,
        )
        .caused_by(&error)
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cannot_read(error)),
    };
    let metadata = file.metadata().map_err(cannot_read)?;
    let is_key = path
        .file_name()
        .is_some_and(|name| name.to_string_lossy().contains("key"));
    if is_key && metadata.mode() & 0o007 != 0 {
        // Not refused: the folders of other tools come with such modes, and refusing would push people
        // to worse remedies. Said each time, so that it does not stay.
        tracing::warn!(file = %path.display(), "a private key is open to every user; chmod 600 it");
    }
    let mut text = Vec::new();
    file.take(PEM_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(cannot_read)?;
    if text.len() as u64 > PEM_BYTES_MAX {
        return Err(Failure::new(
            Exit::Tls,
            Blame::Operator,
            format!("a certificate file has more than {PEM_BYTES_MAX} bytes"),
            path.display().to_string(),
            "point to a folder with PEM files",
        ));
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in files {
            fs::write(dir.path().join(name), name.as_bytes()).unwrap();
        }
        dir
    }

    #[test]
    fn a_client_may_come_without_a_certificate() {
        let dir = folder(&["ca-cert.pem"]);
        let credentials = load(dir.path(), Role::Client).unwrap();
        assert_eq!(credentials.ca_pem, b"ca-cert.pem");
        assert!(credentials.cert_pem.is_none() && credentials.key_pem.is_none());
    }

    #[test]
    fn one_folder_serves_both_sides() {
        let dir = folder(&[
            "ca-cert.pem",
            "server-cert.pem",
            "server-key.pem",
            "client-cert.pem",
            "client-key.pem",
        ]);
        let server = load(dir.path(), Role::Server).unwrap();
        let client = load(dir.path(), Role::Client).unwrap();
        assert_eq!(server.key_pem.unwrap(), b"server-key.pem");
        assert_eq!(client.cert_pem.unwrap(), b"client-cert.pem");
    }

    #[test]
    fn what_is_missing_is_named_and_ends_with_the_tls_code() {
        let cases: [(&[&str], Role, &str); 4] = [
            (&[], Role::Client, "ca-cert.pem"),
            (&["ca-cert.pem"], Role::Server, "server-cert.pem"),
            (
                &["ca-cert.pem", "client-cert.pem"],
                Role::Client,
                "client-key.pem",
            ),
            (
                &["ca-cert.pem", "client-key.pem"],
                Role::Client,
                "client-cert.pem",
            ),
        ];
        for (files, role, missing) in cases {
            let dir = folder(files);
            let failure = load(dir.path(), role).err().unwrap();
            assert_eq!(failure.exit(), Exit::Tls);
            assert!(failure.to_string().contains(missing), "{failure}");
        }
    }

    #[test]
    fn a_huge_file_is_not_read_whole() {
        let dir = folder(&[]);
        let file = File::create(dir.path().join(CA_CERT)).unwrap();
        file.set_len(1 << 40).unwrap();
        let failure = load(dir.path(), Role::Client).err().unwrap();
        assert!(failure.to_string().contains("1048576"), "{failure}");
    }
}
