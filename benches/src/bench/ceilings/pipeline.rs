//! The bare pipeline in every combination. The best of them is the ceiling that a copy is measured by.

use super::{
    Plan,
    bare::{self, Cell},
    device::Device,
    memory::Memory,
    meter::{Figures, interleaved},
};
use anyhow::Result;
use serde::Serialize;
use std::time::SystemTime;
use tls::LoopbackSite;

/// Where the bytes end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum End {
    /// They are thrown away.
    Null,
    /// They are written with direct I/O and flushed.
    Device,
}

impl End {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Null => "into null",
            Self::Device => "into the device",
        }
    }
}

/// One combination.
#[derive(Debug, Serialize)]
pub(super) struct Pipeline {
    pub end: End,
    #[serde(flatten)]
    pub cell: Cell,
    pub suite: &'static str,
    #[serde(flatten)]
    pub figures: Figures,
}

/// Every combination, round by round.
pub(super) fn measure(
    plan: &Plan,
    memory: &Memory,
    device: Option<&Device>,
) -> Result<Vec<Pipeline>> {
    let site = LoopbackSite::make(SystemTime::now())?;
    let suite = site.connect(None)?.client.suite_name();
    let ends = [Some(End::Null), device.map(|_| End::Device)];
    let cells: Vec<(End, Cell)> = ends
        .into_iter()
        .flatten()
        .flat_map(|end| Cell::all().map(move |cell| (end, cell)))
        .collect();
    let runs = interleaved(plan.rounds, &cells, |&(end, cell)| {
        let device = device.filter(|_| end == End::Device);
        bare::run(&site, memory, device, plan.bytes, cell)
    })?;
    let cells = cells
        .iter()
        .zip(&runs)
        .map(|(&(end, cell), runs)| Pipeline {
            end,
            cell,
            suite,
            figures: Figures::of(cell.bytes_of(plan.bytes), runs),
        });
    Ok(cells.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ceilings::sockets::{BATCHES, CONNECTIONS};

    #[test]
    fn every_byte_goes_through_and_arrives_at_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("target");
        let plan = Plan {
            bytes: 8 << 20,
            rounds: 1,
        };
        let memory = Memory::larger_than(0).unwrap();
        let device = Device::open(&path, plan.bytes as u64, false).unwrap();
        let cells = measure(&plan, &memory, Some(&device)).unwrap();
        assert_eq!(cells.len(), 2 * CONNECTIONS.len() * BATCHES.len());
        assert!(cells.iter().all(|cell| cell.figures.gib_per_s.median > 0.0));
        // Whatever the combination, the target is the beginning of the source.
        assert!(std::fs::read(path).unwrap() == memory.batch(0, plan.bytes));
    }
}
