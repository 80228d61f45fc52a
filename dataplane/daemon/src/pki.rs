//! `pki init` and `pki issue-client`: certificates as files.
//!
//! Nothing is ever overwritten: a lost key cannot be made again, and every peer would have to be visited.

#[cfg(test)]
mod tests;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use engine::Blame;
use serde::Serialize;

use crate::cli::{OutputFormat, PkiArgs, PkiInitArgs, PkiIssueArgs, PkiVerb};
use crate::credentials::CA_CERT;
use crate::exit::{Exit, Failure};
use crate::report::{self, SCHEMA};

/// The authority's key, beside its certificate.
const CA_KEY: &str = "ca-key.pem";
/// Folder of the further clients.
const CLIENTS: &str = "clients";
/// Longest name of a client: X.509's upper bound of a common name (RFC 5280 appendix A.1).
const CLIENT_NAME_LEN_MAX: usize = 64;
/// Largest file of ours that is read back.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// One file to be made.
struct NewFile {
    name: &'static str,
    text: String,
    secret: bool,
}

/// The object of `--output json`.
#[derive(Debug, Serialize)]
struct PkiResult {
    schema: u32,
    command: &'static str,
    dir: PathBuf,
    files: Vec<PathBuf>,
    /// SHA-256 over the DER of each certificate, lower-case hexadecimal.
    fingerprints: Vec<Fingerprint>,
}

#[derive(Debug, Serialize)]
struct Fingerprint {
    file: &'static str,
    sha256: String,
}

/// Runs the verb.
pub(crate) fn run(args: &PkiArgs) -> Result<(), Failure> {
    let output = args.output();
    let result = match &args.verb {
        PkiVerb::Init(args) => init(args)?,
        PkiVerb::IssueClient(args) => issue_client(args)?,
    };
    match output {
        OutputFormat::Json => report::object(&result),
        OutputFormat::Text => report::text(&to_text(&result)),
    }
}

fn init(args: &PkiInitArgs) -> Result<PkiResult, Failure> {
    let site = tls::pki::new_site(&args.hosts, args.days, SystemTime::now())
        .map_err(|error| usage_of(&error, args.hosts.join(", ")))?;
    let files = site
        .into_iter()
        .map(|(name, text, secret)| NewFile { name, text, secret })
        .collect::<Vec<_>>();
    write_folder("pki init", &args.dir, &files)
}

fn issue_client(args: &PkiIssueArgs) -> Result<PkiResult, Failure> {
    check_client_name(&args.name)?;
    let ca_pem = read_authority(&args.dir, CA_CERT)?;
    let ca_key_pem = read_authority(&args.dir, CA_KEY)?;
    let issued = tls::pki::issue_client(
        &ca_pem,
        &ca_key_pem,
        &args.name,
        args.days,
        SystemTime::now(),
    )
    .map_err(|error| usage_of(&error, args.dir.display().to_string()))?;
    let files = [
        NewFile {
            name: CA_CERT,
            text: ca_pem,
            secret: false,
        },
        NewFile {
            name: "client-cert.pem",
            text: issued.cert_pem,
            secret: false,
        },
        NewFile {
            name: "client-key.pem",
            text: issued.key_pem,
            secret: true,
        },
    ];
    write_folder(
        "pki issue-client",
        &args.dir.join(CLIENTS).join(&args.name),
        &files,
    )
}

/// A name becomes a folder and a common name: no separators, nothing that looks like an option or hides.
fn check_client_name(name: &str) -> Result<(), Failure> {
    let legal = !name.is_empty()
        && name.len() <= CLIENT_NAME_LEN_MAX
        && !name.starts_with(['-', '.'])
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if legal {
        return Ok(());
    }
    Err(Failure::usage(
        "this is no name for a client",
        name,
        format!(
            "use letters, digits, dots, dashes and underscores, at most {CLIENT_NAME_LEN_MAX}, a \
             letter or digit first"
        ),
    ))
}

/// Wrong names and days are the command line's fault, and exit 2.
fn usage_of(error: &tls::TlsError, on: String) -> Failure {
    match error {
        tls::TlsError::BadName { .. } | tls::TlsError::BadValidity { .. } => {
            Failure::usage(error.to_string(), on, "see --help")
        }
        _ => Failure::tls(on, error),
    }
}

fn read_authority(dir: &Path, name: &str) -> Result<String, Failure> {
    let path = dir.join(name);
    let read = || {
        let mut text = String::new();
        io::Read::read_to_string(
            &mut io::Read::take(fs::File::open(&path)?, PEM_BYTES_MAX),
            &mut text,
        )?;
        Ok::<String, io::Error>(text)
    };
    read().map_err(|error| {
        Failure::new(
            Exit::Tls,
            Blame::Operator,
            "the authority cannot be read",
            path.display().to_string(),
            format!(
                "make one first: migratekit-dataplane pki init {} --host NAME",
                dir.display()
            ),
        )
        .caused_by(&error)
    })
}

/// All files or none: what was made before a failure is removed again.
fn write_folder(
    command: &'static str,
    dir: &Path,
    files: &[NewFile],
) -> Result<PkiResult, Failure> {
    if let Some(taken) = files
        .iter()
        .map(|file| dir.join(file.name))
        .find(|path| exists(path))
    {
        return Err(already_there(&taken));
    }
    fs::create_dir_all(dir).map_err(|error| cannot_write(dir, &error))?;
    let mut made = Vec::new();
    for file in files {
        let path = dir.join(file.name);
        if let Err(error) = write_new(&path, file) {
            made.iter().for_each(|path| drop(fs::remove_file(path)));
            return Err(match error.kind() {
                io::ErrorKind::AlreadyExists => already_there(&path),
                _ => cannot_write(&path, &error),
            });
        }
        made.push(path);
    }
    sync_folder(dir).map_err(|error| cannot_write(dir, &error))?;
    let certificates = files.iter().filter(|file| file.name.ends_with("-cert.pem"));
    let fingerprints = certificates.map(fingerprint_of).collect::<Result<_, _>>()?;
    Ok(PkiResult {
        schema: SCHEMA,
        command,
        dir: dir.to_owned(),
        files: made,
        fingerprints,
    })
}

/// A dangling link counts too: creating through it would make a file elsewhere.
fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn write_new(path: &Path, file: &NewFile) -> io::Result<()> {
    let mode = if file.secret { 0o600 } else { 0o644 };
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    let written = out
        .write_all(file.text.as_bytes())
        .and_then(|()| out.sync_all());
    if written.is_err() {
        // Half a key is worse than none.
        drop(fs::remove_file(path));
    }
    written
}

fn sync_folder(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
}

fn fingerprint_of(file: &NewFile) -> Result<Fingerprint, Failure> {
    let bytes = tls::pki::fingerprint(file.text.as_bytes())
        .map_err(|error| Failure::tls(file.name, &error))?;
    let sha256 = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Fingerprint {
        file: file.name,
        sha256,
    })
}

fn already_there(path: &Path) -> Failure {
    Failure::refused(
        "the file exists and is not overwritten",
        path.display().to_string(),
        "use another folder, or move the old files away if no peer needs them any more",
    )
}

fn cannot_write(path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        Exit::Usage,
        Blame::Operator,
        "cannot be written",
        path.display().to_string(),
        "check the owner and mode of the folder, and the room on its file system",
    )
    .caused_by(error)
}

fn to_text(result: &PkiResult) -> String {
    let mut text = String::new();
    for path in &result.files {
        text.push_str(&format!("made {}\n", path.display()));
    }
    for fingerprint in &result.fingerprints {
        text.push_str(&format!(
            "sha256 {} {}\n",
            fingerprint.sha256, fingerprint.file
        ));
    }
    text
}
