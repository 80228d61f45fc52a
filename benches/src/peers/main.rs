//! Our data plane against nbdcopy and nbdkit over TLS, in interleaved rounds on one machine.
//!
//! Both sides move the same incompressible bytes out of memory (a file on tmpfs), over TLS 1.3 with certificates on
//! both ends, and count the final flush. The peer runs with the best of a few settings, found by a sweep
//! before the rounds. Only ratios mean anything: both ends share the machine's CPUs.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a benchmark prints its table"
)]

mod integrity;
mod rounds;
mod table;
mod versions;

use anyhow::{Context, Result};
use benches::{nbdkit, ours};
use clap::Parser;
use control::Exit;
use rounds::{Plan, Scenario};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};
use versions::Versions;

/// Ratio below which the gate fails.
const GATE_RATIO: f64 = 1.2;

/// Compares with nbdcopy -> nbdkit over TLS.
#[derive(Debug, Parser)]
struct Args {
    /// The binary to measure [default: beside this one, or $MIGRATEKIT_DATAPLANE]
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Rounds of each pair
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// MiB per run
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Short form for tests: 3 pairs of 512 MiB into null, best of each side; below 1.2 x it is repeated once with 7
    /// pairs, then exit code 10
    #[arg(long)]
    gate: bool,
    /// What comparing costs: our own copies with each kind of integrity, no peer
    #[arg(long)]
    integrity: bool,
    /// With --integrity: a folder on a disk for source and target [default: memory, where the CPUs are the limit]
    #[arg(long, requires = "integrity")]
    on: Option<PathBuf>,
    /// Write the figures as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only this scenario
    #[arg(long, value_enum)]
    only: Option<Scenario>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("peers: {error:#}");
            // Nothing was measured: a tool, a setting or the machine is not as it has to be.
            ExitCode::from(Exit::Usage.code())
        }
    }
}

fn run(args: &Args) -> Result<ExitCode> {
    let binary = ours::find_binary(args.binary.as_deref())?;
    if args.integrity {
        let memory = || Path::new("/dev/shm");
        let folder = args.on.as_deref().unwrap_or_else(memory);
        let table = integrity::measure(&binary, folder, args.mib << 20, args.rounds)?;
        println!("{}\n{table}", Versions::of(&binary)?.line());
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(missing) = nbdkit::missing_tool() {
        eprintln!("SKIP: {missing} is not installed, there is nothing to compare with");
        let in_ci = std::env::var_os("CI").is_some();
        return Ok(if in_ci {
            ExitCode::from(Exit::Usage.code())
        } else {
            ExitCode::SUCCESS
        });
    }
    if args.gate {
        return gate(&binary);
    }
    let scenarios = args.only.map_or_else(Scenario::all, |only| vec![only]);
    let plan = Plan {
        binary,
        bytes: args.mib << 20,
        rounds: args.rounds,
        sweep: true,
    };
    let mut results = Vec::new();
    for scenario in scenarios {
        match rounds::measure(&plan, scenario).with_context(|| format!("scenario {scenario}"))? {
            rounds::Outcome::Measured(result) => results.push(result),
            rounds::Outcome::Impossible(reason) => eprintln!("SKIP: {scenario}: {reason}"),
        }
    }
    let versions = Versions::of(&plan.binary)?;
    println!("{}", table::render(&versions, &results));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&table::document(&versions, &plan, &results))?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Three pairs; a machine that was busy with something else gets a second, longer chance.
fn gate(binary: &Path) -> Result<ExitCode> {
    for (rounds, sweep) in [(3, false), (7, true)] {
        let plan = Plan {
            binary: binary.to_owned(),
            bytes: 512 << 20,
            rounds,
            sweep,
        };
        let rounds::Outcome::Measured(result) = rounds::measure(&plan, Scenario::Null)? else {
            anyhow::bail!("the null scenario needs nothing that could be missing");
        };
        let ratio = result.best_ratio();
        println!("{}", table::render(&Versions::of(binary)?, &[result]));
        println!(
            "gate: {ratio:.2} x the peer (best of {rounds} pairs), at least {GATE_RATIO} wanted"
        );
        if ratio >= GATE_RATIO {
            println!("1 passed, 0 failed");
            return Ok(ExitCode::SUCCESS);
        }
    }
    println!("0 passed, 1 failed");
    Ok(ExitCode::from(Exit::AssertionFailed.code()))
}
