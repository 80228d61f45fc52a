//! What the parts of a copy do at best, each alone, and then in a row: the ceiling of every copy on this machine.
//!
//! All figures are medians of interleaved rounds. Sources are larger than the last cache, as a disk is.

pub(crate) mod bare;
mod ciphers;
mod device;
mod memory;
pub(crate) mod meter;
mod pipeline;
mod report;
mod sockets;

use anyhow::{Context, Result, bail};
use benches::machine;
use device::Device;
use memory::Memory;
use report::Report;
use std::path::PathBuf;

/// What to measure, and how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A block device or a file to write into; its content is lost [default: nothing is written]
    #[arg(long)]
    target: Option<PathBuf>,
    /// The content of the target may be lost
    #[arg(long, requires = "target")]
    overwrite: bool,
    /// MiB of each run
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(16..=1 << 20))]
    mib: u64,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Write the figures as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What every measurement is told.
struct Plan {
    bytes: usize,
    rounds: u32,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let machine = machine::describe()?;
    let bytes = usize::try_from(args.mib << 20).context("more than the address space")?;
    let plan = Plan {
        bytes,
        rounds: args.rounds,
    };
    let memory = Memory::larger_than(machine.last_level_cache_bytes)?;
    let device = match &args.target {
        None => None,
        Some(path) => Some(Device::open(path, args.mib << 20, args.overwrite)?),
    };
    let report = Report {
        schema: 1,
        bytes_per_run: args.mib << 20,
        rounds: args.rounds,
        source_bytes: memory.len(),
        ciphers: ciphers::measure(&plan, &memory)?,
        memory: memory::measure(&plan, &memory),
        sockets: sockets::measure(&plan, &memory)?,
        device: match &device {
            Some(device) => device::measure(&plan, &memory, device)?,
            None => Vec::new(),
        },
        pipeline: pipeline::measure(&plan, &memory, device.as_ref())?,
        target: device.as_ref().map(Device::facts),
        machine,
    };
    if report.pipeline.is_empty() {
        bail!("nothing was measured");
    }
    println!("{}", report.to_text());
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    Ok(())
}
