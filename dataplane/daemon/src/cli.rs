//! The command line: verbs and flags. Each verb's module turns its flags into types.

mod copy_args;
mod other_args;
#[cfg(test)]
mod tests;

use clap::{Parser, Subcommand, ValueEnum};

pub(crate) use copy_args::{CopyArgs, ProgressChoice, RuntimeArg, SourceFormat};
pub(crate) use other_args::{InfoArgs, PkiArgs, PkiInitArgs, PkiIssueArgs, PkiVerb, ProbeArgs};

const ABOUT: &str = "Moves disks over NBD and TLS 1.3 into files and block devices";

const LONG_ABOUT: &str = "\
Moves disks over NBD and TLS 1.3 into files and block devices.

A disk is a path or one of these:
  nbd+unix:///EXPORT?socket=PATH   plain NBD on a Unix socket
  nbd://HOST[:10809]/EXPORT        plain NBD, loopback addresses only
  nbds://HOST[:10809]/EXPORT       NBD with STARTTLS
  mk://HOST[:443]/EXPORT           TLS first, NBD inside
  null:  null:SIZE                 for measuring: zeroes out, nothing kept";

const EXIT_CODES: &str = "\
Exit codes:
  0  done and durable               6  connection lost; can be resumed
  1  a bug                          7  verification found a difference
  2  wrong usage or configuration   8  interrupted; can be resumed
  3  TLS or authorisation           9  refused for safety
  4  the source failed             10  a benchmark missed its mark
  5  the target failed";

/// Everything that can be asked of the program.
#[derive(Debug, Parser)]
#[command(name = "migratekit-dataplane", version, about = ABOUT, long_about = LONG_ABOUT)]
#[command(after_help = EXIT_CODES, max_term_width = 100, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Serve exports to NBD clients over TLS
    Serve(Box<crate::serve::ServeArgs>),
    /// Copy a disk
    Copy(Box<CopyArgs>),
    /// Show what an NBD server offers, or what a file or block device is
    Info(InfoArgs),
    /// Show what this machine can do: runtime tier, ciphers, limits
    Probe(ProbeArgs),
    /// Make certificates for both sides
    Pki(PkiArgs),
}

impl Verb {
    /// Its word on the command line.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Serve(_) => "serve",
            Self::Copy(_) => "copy",
            Self::Info(_) => "info",
            Self::Probe(_) => "probe",
            Self::Pki(_) => "pki",
        }
    }

    /// How its result, and its failure, are to be written.
    pub(crate) const fn output(&self) -> OutputFormat {
        match self {
            Self::Serve(_) => OutputFormat::Text,
            Self::Copy(args) => args.output,
            Self::Info(args) => args.output,
            Self::Probe(args) => args.output,
            Self::Pki(args) => args.output(),
        }
    }
}

/// How a result is written to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people
    #[default]
    Text,
    /// One object with "schema": 1
    Json,
}
