//! Time, and what it cost the process and the machine.

use anyhow::Result;
use benches::{
    machine_time::MachineTime,
    spread::{GIB, Spread},
};
use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;
use std::time::{Duration, Instant};

/// One run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub seconds: f64,
    /// Of this process, all threads.
    pub cpu_seconds: f64,
    /// Of all CPUs, what was not idle.
    pub machine_busy_seconds: f64,
    /// What another machine took away meanwhile.
    pub steal_seconds: f64,
}

/// What runs of the same bytes say together.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    pub gib_per_s: Spread,
    pub cpu_s_per_gib: f64,
    pub machine_busy_s_per_gib: f64,
    pub steal_s_per_gib: f64,
}

impl Figures {
    pub(super) fn of(bytes: usize, runs: &[Run]) -> Self {
        let gib = bytes as f64 / GIB;
        let median = |value: fn(&Run) -> f64| Spread::of(runs.iter().map(value)).median / gib;
        Self {
            gib_per_s: Spread::of(runs.iter().map(|run| gib / run.seconds)),
            cpu_s_per_gib: median(|run| run.cpu_seconds),
            machine_busy_s_per_gib: median(|run| run.machine_busy_seconds),
            steal_s_per_gib: median(|run| run.steal_seconds),
        }
    }
}

/// Runs once.
pub(super) fn timed(work: impl FnOnce() -> Result<()>) -> Result<Run> {
    let (cpu, machine) = (process_cpu()?, MachineTime::now()?);
    let begun = Instant::now();
    work()?;
    let seconds = begun.elapsed().as_secs_f64();
    let after = MachineTime::now()?;
    Ok(Run {
        seconds,
        cpu_seconds: process_cpu()? - cpu,
        machine_busy_seconds: after.busy - machine.busy,
        steal_seconds: after.steal - machine.steal,
    })
}

/// Several things in turn, round by round, so that a slow minute hurts them all.
pub(super) fn interleaved<T>(
    rounds: u32,
    things: &[T],
    mut run: impl FnMut(&T) -> Result<Run>,
) -> Result<Vec<Vec<Run>>> {
    let mut runs: Vec<Vec<Run>> = things.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds as usize {
        // Who begins changes from round to round.
        for step in 0..things.len() {
            let index = (round + step) % things.len();
            runs[index].push(run(&things[index])?);
        }
    }
    Ok(runs)
}

fn process_cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| {
        Duration::from_secs(time.tv_sec().unsigned_abs()).as_secs_f64()
            + Duration::from_micros(time.tv_usec().unsigned_abs()).as_secs_f64()
    };
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_begins_a_round_once() {
        let mut order = Vec::new();
        let run = Run {
            seconds: 1.0,
            cpu_seconds: 0.0,
            machine_busy_seconds: 0.0,
            steal_seconds: 0.0,
        };
        let runs = interleaved(2, &['a', 'b'], |name| {
            order.push(*name);
            Ok(run)
        });
        assert_eq!(
            runs.unwrap().iter().map(Vec::len).collect::<Vec<_>>(),
            [2, 2]
        );
        assert_eq!(order, ['a', 'b', 'b', 'a']);
    }
}
