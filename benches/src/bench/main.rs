//! How fast the data plane is: beside everything else that moves disks over NBD, and beside what the machine could do.
//!
//! ```text
//! migratekit-bench baseline --quick
//! migratekit-bench ceilings --target /dev/loop0 --overwrite
//! ```
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints its table"
)]

mod baseline;
mod ceilings;
mod proxy;

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
    /// The data plane against everything else that moves disks over NBD, and against the bare pipeline
    Baseline(baseline::Args),
    /// Makes a line longer; baseline starts it by itself
    #[command(hide = true)]
    Proxy(proxy::Args),
}

fn main() -> ExitCode {
    let outcome = match Args::parse().what {
        What::Ceilings(args) => ceilings::run(&args).map(|()| ExitCode::SUCCESS),
        What::Baseline(args) => baseline::run(&args),
        What::Proxy(args) => proxy::run(&args).map(|()| ExitCode::SUCCESS),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("migratekit-bench: {error:#}");
            // Nothing was measured: a tool, a setting or the machine is not as it has to be.
            ExitCode::from(Exit::Usage.code())
        }
    }
}
