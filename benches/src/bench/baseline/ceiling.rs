//! The bare pipeline as a contestant: what the machine could do at best, in the same rounds.

use super::{Plan, scenario::Side};
use crate::ceilings::{bare, meter};
use anyhow::Result;
use benches::process::Run;
use std::path::Path;

/// The name under which it takes part.
pub(super) const BARE: &str = "bare pipeline";

/// The bare pipeline, at its best combination.
pub(super) struct Ceiling {
    pump: bare::Pump,
    cell: bare::Cell,
    runs: Vec<Run>,
}

impl Ceiling {
    /// Looks for its best combination, as for all others before the rounds.
    pub(super) fn find(plan: &Plan, target: Option<&Path>) -> Result<Self> {
        let pump = bare::Pump::new(plan.bytes, target)?;
        let mut best = (f64::INFINITY, bare::Cell::DEFAULT);
        for cell in bare::Cell::all() {
            for _ in 0..if plan.quick { 1 } else { 2 } {
                let seconds = pump.run(cell)?.seconds;
                if seconds < best.0 {
                    best = (seconds, cell);
                }
            }
        }
        Ok(Self {
            pump,
            cell: best.1,
            runs: Vec::new(),
        })
    }

    pub(super) fn run(&mut self) -> Result<()> {
        let meter::Run {
            seconds,
            cpu_seconds,
            machine_busy_seconds,
            steal_seconds,
        } = self.pump.run(self.cell)?;
        self.runs.push(Run {
            seconds,
            // Both ends are threads of one process.
            sender_cpu: cpu_seconds,
            target_cpu: 0.0,
            machine_busy: machine_busy_seconds,
            steal: steal_seconds,
        });
        Ok(())
    }

    pub(super) fn into_side(self) -> Side {
        Side {
            name: BARE,
            settings: format!("{}, CPU of both ends together", self.cell),
            runs: self.runs,
            peak_memory_bytes: 0,
        }
    }
}
