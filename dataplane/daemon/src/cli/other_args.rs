//! Flags of `info`, `probe` and `pki`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::OutputFormat;

/// What to look at.
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// A path or a URI
    pub(crate) uri: OsString,
    /// Also show which ranges hold data, and which are holes or zeroes
    #[arg(long, conflicts_with = "list")]
    pub(crate) map: bool,
    /// List the exports of the server instead
    #[arg(long)]
    pub(crate) list: bool,
    /// Folder with ca-cert.pem, client-cert.pem and client-key.pem
    #[arg(long, value_name = "DIR")]
    pub(crate) tls_dir: Option<PathBuf>,
    /// Longest time to connect and negotiate
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) connect_timeout: u64,
    /// Result on standard output
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) output: OutputFormat,
}

/// What to try on this machine.
#[derive(Debug, Args)]
pub(crate) struct ProbeArgs {
    /// Also copy a test disk on every tier and compare, and seal and forge records
    #[arg(long)]
    pub(crate) self_test: bool,
    /// Result on standard output
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) output: OutputFormat,
}

/// Which certificates to make.
#[derive(Debug, Args)]
pub(crate) struct PkiArgs {
    /// What to make
    #[command(subcommand)]
    pub(crate) verb: PkiVerb,
}

impl PkiArgs {
    /// How the result is to be written.
    pub(crate) const fn output(&self) -> OutputFormat {
        match &self.verb {
            PkiVerb::Init(args) => args.output,
            PkiVerb::IssueClient(args) => args.output,
        }
    }
}

/// What `pki` makes.
#[derive(Debug, Subcommand)]
pub(crate) enum PkiVerb {
    /// Make an authority, a server certificate and a client certificate in one folder
    Init(PkiInitArgs),
    /// Make one more client certificate, in a folder of its own: DIR/clients/NAME
    IssueClient(PkiIssueArgs),
}

/// A new site.
#[derive(Debug, Args)]
pub(crate) struct PkiInitArgs {
    /// Folder to make or to fill; existing files are never overwritten
    pub(crate) dir: PathBuf,
    /// DNS name or IP address of the server; may be repeated
    #[arg(long = "host", value_name = "NAME", required = true, num_args = 1..)]
    pub(crate) hosts: Vec<String>,
    /// Days the server and client certificates are valid
    #[arg(long, value_name = "DAYS", default_value_t = 825)]
    pub(crate) days: u32,
    /// Result on standard output
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) output: OutputFormat,
}

/// One more client.
#[derive(Debug, Args)]
pub(crate) struct PkiIssueArgs {
    /// Folder that `pki init` made
    pub(crate) dir: PathBuf,
    /// Name of the client: letters, digits, dots, dashes, underscores
    pub(crate) name: String,
    /// Days the certificate is valid
    #[arg(long, value_name = "DAYS", default_value_t = 825)]
    pub(crate) days: u32,
    /// Result on standard output
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) output: OutputFormat,
}
