//! The figures as a table and as JSON.

use crate::{
    machine::Machine,
    process::Run,
    rounds::{Measured, Plan},
};
use serde_json::{Value, json};
use std::fmt::Write;

const GIB: f64 = (1_u64 << 30) as f64;

/// Least, middle and greatest.
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    let last = values.len().saturating_sub(1);
    let median = f64::midpoint(at(last / 2), at(values.len() / 2));
    Spread {
        min: at(0),
        median,
        max: at(last),
    }
}

/// Figures of one side.
struct Side {
    rate: Spread,
    sender: f64,
    target: f64,
}

fn side(bytes: u64, runs: &[Run]) -> Side {
    let gib = bytes as f64 / GIB;
    Side {
        rate: spread(runs.iter().map(|run| gib / run.seconds).collect()),
        sender: spread(runs.iter().map(|run| run.sender_cpu / gib).collect()).median,
        target: spread(runs.iter().map(|run| run.target_cpu / gib).collect()).median,
    }
}

/// The table for people.
pub(crate) fn render(machine: &Machine, results: &[Measured]) -> String {
    let mut text = String::new();
    let Machine {
        cpu,
        cpus,
        kernel,
        ours,
        tier,
        nbdkit,
        nbdcopy,
        commit,
        load_before,
        ..
    } = machine;
    let _infallible = writeln!(
        text,
        "{cpu}, {cpus} CPUs, Linux {kernel}, load {load_before}"
    );
    let _infallible = writeln!(
        text,
        "{ours} ({commit}, tier {tier}); {nbdkit}; {nbdcopy}\n"
    );
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
pub(crate) fn document(machine: &Machine, plan: &Plan, results: &[Measured]) -> Value {
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
        "machine": machine,
        "bytes_per_run": plan.bytes,
        "rounds": plan.rounds,
        "scenarios": scenarios,
    })
}
