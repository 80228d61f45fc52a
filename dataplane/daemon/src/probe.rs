//! `probe`: what this machine can do for us, measured rather than guessed, and what to change.

mod advice;
mod ciphers;
mod machine;
mod self_test;

use std::fmt::Write as _;
use std::time::Duration;

use engine::engine::ARENA_BYTES;
use engine::{Engine, EngineConfig, Tunables};
use serde::Serialize;
use sys::{RuntimeChoice, RuntimeReport};

use crate::cli::{OutputFormat, ProbeArgs};
use crate::exit::{Failure, Side};
use crate::report::{self, SCHEMA};
use crate::size::format_size;
use ciphers::CipherSpeed;
use machine::Machine;
use self_test::TestOutcome;

/// The object of `probe --output json`.
#[derive(Debug, Serialize)]
struct ProbeResult {
    schema: u32,
    command: &'static str,
    version: &'static str,
    tier: &'static str,
    tier_reason: String,
    features: Vec<Feature>,
    registered_buffers: bool,
    notes: Vec<String>,
    ciphers: Vec<CipherSpeed>,
    machine: Machine,
    advice: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    self_test: Option<Vec<TestOutcome>>,
}

#[derive(Debug, Serialize)]
struct Feature {
    name: String,
    present: bool,
}

/// What would run here: not what works in a small trial, but at the size of a server.
fn what_runs() -> Result<RuntimeReport, Failure> {
    let runtime = sys::runtime::select(RuntimeChoice::Auto)
        .map_err(|error| Failure::setup(Side::Local, &error))?;
    let engine = Engine::start(EngineConfig {
        shards: sys::cpu::available(),
        runtime,
        arena_bytes: ARENA_BYTES,
        pin: false,
        tunables: Tunables::new(),
    })
    .map_err(|error| Failure::engine(Side::Local, &error))?;
    let runtime = engine.runtime().clone();
    engine
        .stop(Duration::ZERO)
        .map_err(|error| Failure::engine(Side::Local, &error))?;
    Ok(runtime)
}

/// Runs the verb.
pub(crate) fn run(args: &ProbeArgs) -> Result<(), Failure> {
    let runtime = what_runs()?;
    let ciphers = ciphers::measure()?;
    let machine = Machine::look();
    let advice = advice::lines(&runtime, &ciphers, &machine);
    let self_test = if args.self_test {
        Some(self_test::run()?)
    } else {
        None
    };
    let failed = self_test
        .iter()
        .flatten()
        .filter(|test| test.error.is_some())
        .count();
    let features = runtime
        .features
        .into_iter()
        .map(|(name, present)| Feature { name, present });
    let result = ProbeResult {
        schema: SCHEMA,
        command: "probe",
        version: env!("CARGO_PKG_VERSION"),
        tier: runtime.tier.name(),
        tier_reason: runtime.reason,
        features: features.collect(),
        registered_buffers: runtime.registered_buffers,
        notes: runtime.notes,
        ciphers,
        machine,
        advice,
        self_test,
    };
    match args.output {
        OutputFormat::Json => report::object(&result)?,
        OutputFormat::Text => report::text(&to_text(&result))?,
    }
    match failed {
        0 => Ok(()),
        count => Err(Failure::bug(
            format!("{count} parts of the self-test failed"),
            "this machine",
        )),
    }
}

fn to_text(result: &ProbeResult) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<9} {value}");
    };
    line("version", result.version.to_owned());
    line("tier", format!("{}: {}", result.tier, result.tier_reason));
    for feature in &result.features {
        let mark = if feature.present { "yes" } else { "no" };
        line("feature", format!("{mark:<3} {}", feature.name));
    }
    line(
        "buffers",
        if result.registered_buffers {
            "registered"
        } else {
            "not registered"
        }
        .into(),
    );
    for note in &result.notes {
        line("note", note.clone());
    }
    for speed in &result.ciphers {
        line("cipher", speed.to_text());
    }
    let machine = &result.machine;
    line("kernel", machine.kernel.clone());
    line("cpus", machine.cpus_text());
    let memlock = machine
        .memlock_bytes
        .map_or_else(|| "unlimited".to_owned(), format_size);
    line("memlock", memlock);
    for advice in &result.advice {
        line("advice", advice.clone());
    }
    for test in result.self_test.iter().flatten() {
        line("test", test.to_text());
    }
    text
}
