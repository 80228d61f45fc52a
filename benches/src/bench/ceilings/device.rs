//! What the chosen device takes with direct I/O, the flush inside the time.

use super::{
    Plan,
    memory::{Aligned, Memory},
    meter::{Figures, interleaved, timed},
    sockets::{BATCHES, join},
};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::{path::Path, thread};
use sys::{DeviceFile, OpenIntent, OpenOptions};

/// Threads that write side by side.
const WRITERS: [usize; 3] = [1, 2, 4];

/// What is written into.
pub(super) struct Device {
    file: DeviceFile,
    size_bytes: u64,
}

/// Which device it was.
#[derive(Debug, Serialize)]
pub(super) struct Facts {
    pub path: String,
    pub size_bytes: u64,
    pub direct: bool,
    pub logical_block: u32,
}

impl Device {
    /// Opens it by the rules of every target: what is mounted, held, or holds something is refused.
    pub(super) fn open(path: &Path, bytes: u64, overwrite: bool) -> Result<Self> {
        let options = OpenOptions {
            create_size_bytes: Some(bytes),
            overwrite,
            ..OpenOptions::default()
        };
        let name = || path.display().to_string();
        let file = DeviceFile::open(path, OpenIntent::Target, &options).with_context(name)?;
        let size_bytes = file.size_bytes();
        if size_bytes < bytes {
            bail!(
                "{} has {size_bytes} bytes, and a run writes {bytes}: choose a smaller --mib",
                name()
            );
        }
        Ok(Self { file, size_bytes })
    }

    pub(super) fn facts(&self) -> Facts {
        Facts {
            path: self.file.path().display().to_string(),
            size_bytes: self.size_bytes,
            direct: self.file.is_direct(),
            logical_block: self.file.logical_block(),
        }
    }

    /// Writes one batch.
    pub(super) fn write(&self, bytes: &[u8], offset: usize) -> Result<()> {
        Ok(self.file.write_all_at(bytes, offset as u64)?)
    }

    pub(super) fn flush(&self) -> Result<()> {
        Ok(self.file.flush_blocking()?)
    }
}

/// One combination.
#[derive(Debug, Serialize)]
pub(super) struct Writing {
    pub writers: usize,
    pub batch_bytes: usize,
    #[serde(flatten)]
    pub figures: Figures,
}

/// Every combination, round by round.
pub(super) fn measure(plan: &Plan, memory: &Memory, device: &Device) -> Result<Vec<Writing>> {
    let mut cells = Vec::new();
    for writers in WRITERS {
        cells.extend(BATCHES.map(|batch| (writers, batch)));
    }
    // The first touch allocates what is behind it.
    fill(device, plan.bytes)?;
    let runs = interleaved(plan.rounds, &cells, |&(writers, batch)| {
        timed(|| {
            thread::scope(|scope| {
                let write = |writer: usize| {
                    move || -> Result<()> {
                        for index in (writer..plan.bytes / batch).step_by(writers) {
                            device.write(memory.batch(index, batch), index * batch)?;
                        }
                        Ok(())
                    }
                };
                join(
                    (0..writers)
                        .map(|writer| scope.spawn(write(writer)))
                        .collect(),
                )
            })?;
            device.flush()
        })
    })?;
    let cells = cells
        .iter()
        .zip(&runs)
        .map(|(&(writers, batch), runs)| Writing {
            writers,
            batch_bytes: batch,
            figures: Figures::of(plan.bytes / batch * batch, runs),
        });
    Ok(cells.collect())
}

fn fill(device: &Device, bytes: usize) -> Result<()> {
    const BATCH: usize = 1 << 20;
    let zeroes = Aligned::zeroed(BATCH);
    for at in (0..bytes).step_by(BATCH) {
        device.write(zeroes.as_slice(), at)?;
    }
    device.flush()
}
