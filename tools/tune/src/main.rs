//! `migratekit-tune`: what of a machine, and which tunables, make the data plane fast.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool prints its table"
)]

mod check;
mod explain;
mod peer;
mod plan;
mod run;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use control::Exit;

/// Tells what makes transfers fast on this machine, and what does not
#[derive(Debug, Parser)]
#[command(name = "migratekit-tune", version, disable_help_subcommand = true)]
struct Cli {
    /// What to do.
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tell what a tunable does, and what it may be
    Explain(explain::Args),
    /// Find better settings for a target by copying to it
    Run(Box<run::Args>),
    /// Look at what of this machine matters, and say what to do about it
    Check(check::Args),
}

/// How a result is written to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Output {
    /// For people
    #[default]
    Text,
    /// One object with "schema": 1
    Json,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Explain(args) => explain::run(&args),
        Verb::Check(args) => check::run(&args),
        Verb::Run(args) => run::run(&args),
    };
    match outcome {
        Ok(text) => {
            println!("{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("migratekit-tune: {error:#}");
            let exit = error
                .downcast_ref::<Ended>()
                .map_or(Exit::Usage, |ended| ended.exit);
            ExitCode::from(exit.code())
        }
    }
}

/// An end that is not a mistake in the arguments.
#[derive(Debug)]
struct Ended {
    exit: Exit,
    what: String,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(&self.what)
    }
}

impl std::error::Error for Ended {}

/// An error with the exit code that goes with it.
fn ended(exit: Exit, what: impl Into<String>) -> anyhow::Error {
    let what = what.into();
    anyhow::Error::new(Ended { exit, what })
}

/// The data plane's program: the one that was named, the one beside this, or that of PATH.
fn program(given: Option<&Path>) -> PathBuf {
    let name = "migratekit-dataplane";
    let beside = std::env::current_exe()
        .ok()
        .map(|own| own.with_file_name(name));
    given
        .map(Path::to_owned)
        .or_else(|| beside.filter(|path| path.is_file()))
        .unwrap_or_else(|| PathBuf::from(name))
}
