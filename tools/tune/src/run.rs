//! `run`: the best settings for a pair of hosts and a device, found by copying.

mod bench;
mod undo;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use control::knob::Tunable;
use control::{Exit, ExportFacts, Status, TunableList, TunableValue};
use serde::Serialize;

use crate::peer::{Peer, Place};
use crate::plan::{Found, Settings, Tried, ladders, search};
use crate::{Ended, Output, ended};
use bench::Bench;

/// Read by the program that sends: each copy of a trial gets its own.
const OF_SENDER: [&str; 4] = [
    "connections",
    "request_bytes",
    "window_bytes_max",
    "send_batch_bytes",
];
/// Read by the server: tried by lease.
const OF_TARGET: [&str; 2] = ["recv_buffer_bytes", "device_depth"];
/// Fewer do not tell noise from gain.
const PAIRS_MIN: u64 = 5;

/// What to tune, and for how long.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A scratch or null export of the server to tune for: what it holds is overwritten
    #[arg(long, value_name = "mk://HOST/EXPORT")]
    target: String,
    /// Folder with ca-cert.pem, client-cert.pem and client-key.pem
    #[arg(long, value_name = "DIR")]
    tls_dir: Option<PathBuf>,
    /// Disk to copy from, only read [default: random bytes in memory]
    #[arg(long, value_name = "PATH")]
    source: Option<PathBuf>,
    /// Random bytes to copy, MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=65_536), conflicts_with = "source")]
    mib: u64,
    /// End after this time, like 90s or 5m, with what was found until then
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_time)]
    budget: Duration,
    /// Copies with each of two settings in one comparison
    #[arg(long, value_name = "N", default_value_t = PAIRS_MIN)]
    #[arg(value_parser = clap::value_parser!(u64).range(PAIRS_MIN..=100))]
    pairs: u64,
    /// Tune only these [default: all of them that the certificate may change]
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    knobs: Vec<String>,
    /// Begin with this value; may be repeated
    #[arg(long = "start", value_name = "NAME=VALUE")]
    starts: Vec<String>,
    /// Measure although other transfers run, or may run
    #[arg(long)]
    beside_live: bool,
    /// Leave what was found for the target in force there until its process ends
    #[arg(long)]
    apply: bool,
    /// Measure nothing: put back what was in force before --apply
    #[arg(long, conflicts_with = "apply")]
    revert: bool,
    /// Where --apply writes down what was in force before
    #[arg(long, value_name = "FILE", default_value = "migratekit-tune.undo.json")]
    undo: PathBuf,
    /// The data plane's program [default: the one beside this, or of PATH]
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// How the result is written
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    command: &'static str,
    complete: bool,
    start: &'a Settings,
    best: &'a Settings,
    tried: &'a [Tried],
    toml: &'a str,
}

pub(super) fn run(args: &Args) -> Result<String> {
    let place = Place::parse(&args.target)?;
    let mut peer = Peer::connect(&place, args.tls_dir.as_deref())?;
    if args.revert {
        return undo::revert(&mut peer, &args.target, &args.undo);
    }
    check_export(&mut peer, &place)?;
    let is_tuner = check_quiet(&mut peer, args.beside_live)?;
    if args.apply && !is_tuner {
        let what = "--apply needs a certificate that the server lists under tuners";
        return Err(ended(Exit::Tls, what));
    }
    let in_force: TunableList = peer.get("/v1/tunables")?;
    let start = start(args, &in_force, is_tuner)?;
    let mut bench = Bench::new(args, &place, peer)?;
    bench.warm_up(&start)?;
    let deadline = Instant::now() + args.budget;
    let mut measure = |a: &Settings, b: &Settings| bench.pairs(a, b, args.pairs, deadline);
    let found = search(start.clone(), &ladders(&start), &mut measure)?;
    if args.apply {
        // On the connection of the trial: what it changed must not fall back.
        let values = changed(&start, &found.best, &OF_TARGET);
        undo::apply(
            &mut bench.peer,
            &args.target,
            &args.undo,
            &values,
            &in_force,
        )?;
    }
    let toml = toml(&start, &found.best);
    match args.output {
        Output::Text => Ok(table(&found, &toml)),
        Output::Json => Ok(serde_json::to_string(&Report {
            schema: 1,
            command: "run",
            complete: found.complete,
            start: &start,
            best: &found.best,
            tried: &found.tried,
            toml: &toml,
        })?),
    }
}

/// Only what is worth nothing may be overwritten.
fn check_export(peer: &mut Peer, place: &Place) -> Result<()> {
    let facts: ExportFacts = peer.get(&format!("/v1/exports/{}", place.export))?;
    if facts.scratch || facts.discarded {
        return Ok(());
    }
    let what = format!(
        "export {} holds data, and this would overwrite it; serve --export NAME=scratch:PATH or NAME=null:SIZE",
        place.export
    );
    Err(ended(Exit::Refused, what))
}

/// Refuses beside other transfers; whether the server lets us see and tune.
fn check_quiet(peer: &mut Peer, beside_live: bool) -> Result<bool> {
    let busy = match peer.get::<Status>("/v1/status") {
        Ok(status) => {
            let n = status.connections.served + status.transfers_running;
            (
                true,
                (n > 0).then(|| "the server has other connections".to_owned()),
            )
        }
        Err(error) if is_forbidden(&error) => {
            let what = format!("whether the server is at work cannot be seen: {error:#}");
            (false, Some(what))
        }
        Err(error) => return Err(error),
    };
    let busy = match busy {
        (is_tuner, None) if copies_here() => (
            is_tuner,
            Some("another copy runs on this machine".to_owned()),
        ),
        busy => busy,
    };
    match busy {
        (_, Some(why)) if !beside_live => {
            let what = format!(
                "{why}; both would be slowed and nothing learnt. --beside-live does it all the same"
            );
            Err(ended(Exit::Refused, what))
        }
        (is_tuner, _) => Ok(is_tuner),
    }
}

fn is_forbidden(error: &anyhow::Error) -> bool {
    let ended = error.downcast_ref::<Ended>();
    ended.is_some_and(|ended| ended.exit == Exit::Tls)
}

/// Another `migratekit-dataplane copy`, as far as `/proc` shows others.
fn copies_here() -> bool {
    let Ok(found) = std::fs::read_dir("/proc") else {
        return false;
    };
    found.flatten().any(|one| {
        let words = std::fs::read(one.path().join("cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        let program = words.next().unwrap_or_default();
        program.ends_with(b"migratekit-dataplane") && words.next() == Some(b"copy")
    })
}

/// Where the search begins: what the server has, our defaults, and what was asked for.
fn start(args: &Args, in_force: &TunableList, is_tuner: bool) -> Result<Settings> {
    let mut start = Settings::new();
    let all = OF_SENDER
        .iter()
        .chain(OF_TARGET.iter().filter(|_| is_tuner));
    for name in all {
        let row = Tunable::by_name(name).with_context(|| format!("{name} is gone"))?;
        let theirs = in_force.tunables.iter().find(|one| one.name == *name);
        let value = match theirs.map(|one| &one.value) {
            Some(TunableValue::Number(value)) if OF_TARGET.contains(name) => *value,
            _ => row.default,
        };
        start.insert(row.name, value);
    }
    for knob in &args.knobs {
        if !start.contains_key(knob.as_str()) {
            let names: Vec<&str> = start.keys().copied().collect();
            bail!(
                "{knob} cannot be tuned here; these can: {}",
                names.join(", ")
            );
        }
    }
    for assignment in &args.starts {
        let parsed = assignment.split_once('=').and_then(|(name, text)| {
            let row = Tunable::by_name(name)?;
            Some((row, row.clamp(row.parse(text)?).0))
        });
        let place = parsed.and_then(|(row, value)| Some((start.get_mut(row.name)?, value)));
        let (place, value) = place.with_context(|| {
            format!("--start {assignment} is no value of a tunable that is tuned here")
        })?;
        *place = value;
    }
    if !args.knobs.is_empty() {
        // What was given a start value counts although it is not tuned.
        start.retain(|name, _| {
            let begins = |one: &String| one.split('=').next() == Some(*name);
            args.knobs.iter().any(|knob| knob == name) || args.starts.iter().any(begins)
        });
    }
    Ok(start)
}

/// Those of `names` that are not what they were.
fn changed(start: &Settings, best: &Settings, names: &[&str]) -> Settings {
    let differs = |(name, value): &(&&'static str, &u64)| {
        names.contains(name) && start.get(*name) != Some(*value)
    };
    best.iter()
        .filter(differs)
        .map(|(name, value)| (*name, *value))
        .collect()
}

fn text_of(name: &str, value: u64) -> String {
    Tunable::by_name(name).map_or_else(|| value.to_string(), |row| row.format(value))
}

/// A fragment for the configuration of each side.
fn toml(start: &Settings, best: &Settings) -> String {
    let mut text = String::new();
    let sides = [
        ("the sending side", &OF_SENDER[..]),
        ("the target", &OF_TARGET[..]),
    ];
    for (side, names) in sides {
        let values = changed(start, best, names);
        if values.is_empty() {
            let _ = writeln!(text, "# {side}: stays as it is");
            continue;
        }
        let _ = writeln!(text, "# {side}\n[tunables]");
        for (name, value) in values {
            let _ = writeln!(text, "{name} = \"{}\"", text_of(name, value));
        }
    }
    text
}

fn table(found: &Found, toml: &str) -> String {
    let mut text = format!(
        "{:>7} {:>7} {:>8} {:>7} {:>5}\n",
        "GiB/s", "GiB/s", "gain", "MAD", "pairs"
    );
    for one in &found.tried {
        let changes = one.changes.iter().map(|change| {
            let [from, to] = [change.from, change.to].map(|value| text_of(change.knob, value));
            format!("{} {from} -> {to}", change.knob)
        });
        let _ = writeln!(
            text,
            "{:>7.3} {:>7.3} {:>+7.1}% {:>6.1}% {:>5} {} {}",
            one.rate_from,
            one.rate_to,
            one.gain * 100.0,
            one.mad * 100.0,
            one.pairs,
            if one.kept { "kept" } else { "    " },
            changes.collect::<Vec<_>>().join(", ")
        );
    }
    let end = if found.complete {
        "No step from here is better."
    } else {
        "The budget ended before all steps were tried; begin from here with --start."
    };
    let _ = write!(text, "\n{end}\n\n{toml}");
    text
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix('m') {
        Some(number) => (number, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    seconds
        .filter(|seconds| (1..=86_400).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| "write seconds or minutes, like 90s or 5m, at most a day".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fragment_has_what_changed_for_each_side() {
        let start: Settings = [("connections", 4), ("device_depth", 64)].into();
        let best: Settings = [("connections", 2), ("device_depth", 64)].into();
        let text = toml(&start, &best);
        assert_eq!(
            text,
            "# the sending side\n[tunables]\nconnections = \"2\"\n# the target: stays as it is\n"
        );
    }

    #[test]
    fn times_are_seconds_or_minutes() {
        assert_eq!(parse_time("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_time("90s"), Ok(Duration::from_secs(90)));
        for wrong in ["", "0", "m", "-1s", "2h"] {
            assert!(parse_time(wrong).is_err(), "{wrong}");
        }
    }
}
