//! What this machine could do at best, to know how far from it the engine is.
//!
//! ```text
//! migratekit-bench ceilings --target /dev/loop0 --overwrite
//! ```
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints its table"
)]

mod ceilings;

use clap::{Parser, Subcommand};
use control::Exit;
use std::process::ExitCode;

/// Measures a machine and the data plane on it.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The best that ciphers, memory, sockets and a device do here, and all of them in a row without NBD and engine
    Ceilings(ceilings::Args),
}

fn main() -> ExitCode {
    let outcome = match Args::parse().what {
        What::Ceilings(args) => ceilings::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("migratekit-bench: {error:#}");
            // Nothing was measured: a tool, a setting or the machine is not as it has to be.
            ExitCode::from(Exit::Usage.code())
        }
    }
}
