//! Repository checks that need no build of the product.
//!
//! `cargo xtask floors` asks who may depend on whom; `cargo xtask tidy` asks whether the tree is
//! fit to be read and released. Both print every finding as `file:line: what` with its remedy,
//! and end with 0 (nothing found), 1 (findings) or 2 (wrong usage).
//!
//! `cargo xtask teeth` does build: it seeds defects and asks whether the tests find them.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the report of a command-line tool is its output"
)]

mod finding;
mod floors;
mod rust_text;
mod teeth;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use cargo_metadata::{CargoOpt, Metadata, MetadataCommand};

use finding::{Finding, Severity};

const USAGE: &str = "usage: cargo xtask floors | tidy | teeth [WORD...]\n\
    floors  the dependency table of docs/architecture/README.md, and the purity of floor 0\n\
    tidy    versions, unsafe, sizes, words, docs, metrics, licences, shell scripts\n\
    teeth   seeds the defects of tools/xtask/teeth.toml (those named like a WORD) and runs their tests";

/// The product runs on Linux only, so dependencies of other systems are not looked at.
const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["floors"] => run("floors", floors::check_workspace),
        ["tidy"] => run("tidy", tidy::check_workspace),
        ["teeth", ref words @ ..] => seed_defects(words),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

fn seed_defects(words: &[&str]) -> Result<ExitCode> {
    let metadata = metadata()?;
    let root = metadata.workspace_root.as_std_path();
    teeth::run(root, metadata.target_directory.as_std_path(), words)
}

fn run(name: &str, check: fn(&Metadata) -> Result<Vec<Finding>>) -> Result<ExitCode> {
    let findings = check(&metadata()?)?;
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings
        .iter()
        .filter(|f| f.severity == Severity::Error)
        .count();
    let warnings = findings.len() - errors;
    println!("{name}: {errors} errors, {warnings} warnings");
    Ok(if errors == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What cargo knows of the workspace, with every feature on so that optional edges count too.
fn metadata() -> Result<Metadata> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    MetadataCommand::new()
        .manifest_path(manifest)
        .features(CargoOpt::AllFeatures)
        .other_options(["--locked", "--filter-platform", TARGET].map(String::from))
        .exec()
        .context("cargo metadata failed; is Cargo.lock up to date?")
}
