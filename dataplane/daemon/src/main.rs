//! `migratekit-dataplane`: the data plane's server and its command line.
#![forbid(unsafe_code)]

mod cli;
mod copy;
mod credentials;
mod endpoint;
mod exit;
mod helper;
mod info;
mod mkdata;
mod pki;
mod probe;
mod report;
mod serve;
mod signals;
mod size;
mod tls_stream;
mod uri;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Verb};
use crate::exit::Exit;

/// Small, fast, and the same on every libc; the data path itself does not allocate.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    report::install_panic_line();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return report::clap_message(&error, std::env::args_os().skip(1)),
    };
    match &cli.verb {
        Verb::Serve(args) => serve::log::install(args.log_format),
        _ => report::install_log(),
    }
    let (verb, output) = (cli.verb.name(), cli.verb.output());
    let outcome = match cli.verb {
        Verb::Serve(args) => serve::run(&args),
        Verb::Copy(args) => copy::run(&args),
        Verb::Info(args) => info::run(&args),
        Verb::Probe(args) => probe::run(&args),
        Verb::Pki(args) => pki::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::from(Exit::Done.code()),
        Err(failure) => report::failure(verb, output, &failure),
    }
}
