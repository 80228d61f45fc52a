//! The data plane against everything else that moves disks over NBD, and against the ceiling of the machine.
//!
//! All contestants of a scenario take turns, round by round, with the same bytes and the same durability. Each of the
//! others runs with the best of its settings, found by a sweep before the rounds.

mod assertions;
mod ceiling;
mod compare;
mod contestants;
mod delay;
mod ground;
mod page;
mod report;
mod scenario;
mod two_hosts;

use anyhow::{Context, Result, bail};
use benches::{machine, nbdkit, ours};
use control::Exit;
use report::Report;
use scenario::{Place, Scenario};
use std::{path::PathBuf, process::ExitCode};

/// What to measure, and how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The data plane's binary [default: beside this one, or $MIGRATEKIT_DATAPLANE]
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Under two minutes: 3 rounds of 512 MiB, and a short sweep of the others' settings
    #[arg(long)]
    quick: bool,
    /// MiB of each run [default: 1024]
    #[arg(long, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    mib: Option<u64>,
    /// Rounds; the median counts [default: 7]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Only these scenarios [default: all that need no disk; with --quick, delay is left out, too]
    #[arg(long, value_enum)]
    only: Vec<Scenario>,
    /// A folder on a disk: adds the scenario `write-disk` there
    #[arg(long)]
    disk: Option<PathBuf>,
    /// Write the figures as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// Write the figures as a page with plots that needs no other file
    #[arg(long)]
    html: Option<PathBuf>,
    /// Measure only to this export of another machine, null or scratch: `mk://HOST/EXPORT`
    #[arg(long, value_name = "URI", conflicts_with_all = ["only", "disk", "json", "html", "assert"])]
    target: Option<String>,
    /// Certificates for --target
    #[arg(long, requires = "target")]
    tls_dir: Option<PathBuf>,
    /// What --target must reach, like 3.2GiB/s, else exit code 10
    #[arg(long, requires = "target", value_parser = two_hosts::parse_need)]
    need: Option<f64>,
    /// Ratios that must be reached, else exit code 10; a TOML file, see docs/PERFORMANCE.md
    #[arg(long)]
    assert: Option<PathBuf>,
    /// Measure nothing: compare two results of --json
    #[arg(long, num_args = 2, value_names = ["A.json", "B.json"], exclusive = true)]
    compare: Option<Vec<PathBuf>>,
}

/// What every scenario is told.
struct Plan {
    binary: PathBuf,
    bytes: u64,
    rounds: u32,
    quick: bool,
    disk: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Some([before, after]) = args.compare.as_deref() {
        println!("{}", compare::compare(before, after)?);
        return Ok(ExitCode::SUCCESS);
    }
    // Before the minutes of measuring, not after them.
    let wanted = args.assert.as_deref().map(assertions::read).transpose()?;
    let (mib, rounds) = if args.quick { (512, 3) } else { (1024, 7) };
    let plan = Plan {
        binary: ours::find_binary(args.binary.as_deref())?,
        bytes: args.mib.unwrap_or(mib) << 20,
        rounds: args.rounds.unwrap_or(rounds),
        quick: args.quick,
        disk: args.disk.clone(),
    };
    if let Some(uri) = &args.target {
        let site = two_hosts::Site {
            uri,
            tls_dir: args.tls_dir.as_deref(),
            need: args.need,
        };
        return two_hosts::measure(&plan, &site);
    }
    if let Some(missing) = contestants::missing_tool() {
        bail!(
            "{missing} is not installed, and a result without it would be another one; tools/setup installs it"
        );
    }
    let mut report = Report {
        schema: 1,
        machine: machine::describe()?,
        versions: contestants::versions(&plan.binary)?,
        bytes_per_run: plan.bytes,
        rounds: plan.rounds,
        quick: plan.quick,
        scenarios: Vec::new(),
        skipped: Vec::new(),
    };
    for scenario in chosen(args)? {
        match scenario::measure(&plan, scenario).with_context(|| scenario.name())? {
            scenario::Outcome::Measured(measured) => report.scenarios.push(measured),
            scenario::Outcome::Impossible(reason) => {
                eprintln!("SKIP: {}: {reason}", scenario.name());
                report
                    .skipped
                    .push(format!("{}: {reason}", scenario.name()));
            }
        }
    }
    println!("{}", report.to_text());
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &args.html {
        let text = page::page(&serde_json::to_value(&report)?);
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    let Some(wanted) = wanted else {
        return Ok(ExitCode::SUCCESS);
    };
    let verdict = wanted.check(&report);
    println!("{}", verdict.text);
    Ok(match verdict.failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(Exit::AssertionFailed.code()),
    })
}

fn chosen(args: &Args) -> Result<Vec<Scenario>> {
    let needs_disk = |scenario: &Scenario| scenario.place() == Place::Disk;
    if args.only.iter().any(needs_disk) && args.disk.is_none() {
        bail!("this scenario needs a folder on a disk: name one with --disk");
    }
    if !args.only.is_empty() {
        return Ok(args.only.clone());
    }
    let all = Scenario::ALL.into_iter();
    Ok(all
        .filter(|scenario| args.disk.is_some() || !needs_disk(scenario))
        .filter(|scenario| !args.quick || *scenario != Scenario::Delay)
        .collect())
}

/// A tool that a contestant is made of.
fn has(tool: &str) -> bool {
    nbdkit::version(tool).is_ok()
}
