//! The figures as a table and as JSON.

use crate::{
    rounds::{Measured, Plan},
    versions::Versions,
};
use benches::{
    process::Run,
    spread::{GIB, Spread},
};
use serde_json::{Value, json};
use std::fmt::Write;

/// Figures of one side.
struct Side {
    rate: Spread,
    sender: f64,
    target: f64,
}

fn side(bytes: u64, runs: &[Run]) -> Side {
    let gib = bytes as f64 / GIB;
    Side {
        rate: Spread::of(runs.iter().map(|run| gib / run.seconds)),
        sender: Spread::of(runs.iter().map(|run| run.sender_cpu / gib)).median,
        target: Spread::of(runs.iter().map(|run| run.target_cpu / gib)).median,
    }
}

/// The table for people.
pub(crate) fn render(versions: &Versions, results: &[Measured]) -> String {
    let mut text = String::new();
    let (nbdkit, nbdcopy) = (&versions.nbdkit, &versions.nbdcopy);
    let _infallible = writeln!(text, "{}; {nbdkit}; {nbdcopy}\n", versions.line());
    let _infallible = writeln!(
        text,
        "{:<30} {:<9} {:>22} {:>8} {:>12} {:>12}",
        "scenario", "", "GiB/s min/median/max", "ratio", "sender CPU", "target CPU"
    );
    for result in results {
        let (ours, peer) = (
            side(result.bytes, &result.ours),
            side(result.bytes, &result.peer),
        );
        let ratio = ours.rate.median / peer.rate.median;
        let scenario = result.scenario.to_string();
        for (name, who, ratio, side) in [
            (scenario.as_str(), "ours", format!("{ratio:.2}"), ours),
            ("", "peer", String::new(), peer),
        ] {
            let rate = format!(
                "{:.2} {:.2} {:.2}",
                side.rate.min, side.rate.median, side.rate.max
            );
            let _infallible = writeln!(
                text,
                "{name:<30} {who:<9} {rate:>22} {ratio:>8} {:>8.2} s/GiB {:>6.2} s/GiB",
                side.sender, side.target
            );
        }
        let _infallible = writeln!(text, "{:<30} peer at {}", "", result.settings);
    }
    text
}

fn side_json(bytes: u64, runs: &[Run]) -> Value {
    let figures = side(bytes, runs);
    json!({
        "gib_per_s": { "min": figures.rate.min, "median": figures.rate.median, "max": figures.rate.max },
        "sender_cpu_s_per_gib": figures.sender,
        "target_cpu_s_per_gib": figures.target,
        "seconds": runs.iter().map(|run| run.seconds).collect::<Vec<_>>(),
    })
}

/// The figures for programs.
pub(crate) fn document(versions: &Versions, plan: &Plan, results: &[Measured]) -> Value {
    let scenarios: Vec<Value> = results
        .iter()
        .map(|result| {
            let ours = side_json(result.bytes, &result.ours);
            let peer = side_json(result.bytes, &result.peer);
            let median = |side: &Value| side["gib_per_s"]["median"].as_f64().unwrap_or(f64::NAN);
            json!({
                "scenario": result.scenario.to_string(),
                "ratio_of_medians": median(&ours) / median(&peer),
                "peer_settings": result.settings.to_string(),
                "ours": ours,
                "peer": peer,
            })
        })
        .collect();
    json!({
        "schema": 1,
        "machine": versions,
        "bytes_per_run": plan.bytes,
        "rounds": plan.rounds,
        "scenarios": scenarios,
    })
}
