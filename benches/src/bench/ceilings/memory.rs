//! Memory: the source of all runs, and how fast it is copied.

use super::{
    Plan,
    meter::{Figures, timed},
};
use anyhow::{Context, Result};
use serde::Serialize;
use std::{fs::File, hint::black_box, io::Read};

/// What direct I/O wants of addresses, bytes; enough for every device.
const ALIGNMENT: usize = 4096;
/// The source is at least that large, whatever the cache.
const SOURCE_BYTES_MIN: u64 = 256 << 20;
/// A cache is not believed beyond that.
const SOURCE_BYTES_MAX: u64 = 2 << 30;

/// Bytes at an aligned address.
pub(super) struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub(super) fn zeroed(len: usize) -> Self {
        let bytes = vec![0_u8; len + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT);
        Self { bytes, start, len }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// Incompressible bytes, more than the caches hold.
pub(super) struct Memory(Aligned);

impl Memory {
    pub(super) fn larger_than(cache_bytes: u64) -> Result<Self> {
        let bytes = (cache_bytes * 4).clamp(SOURCE_BYTES_MIN, SOURCE_BYTES_MAX);
        let len = usize::try_from(bytes.next_multiple_of(1 << 20)).context("address space")?;
        let mut aligned = Aligned::zeroed(len);
        File::open("/dev/urandom")?.read_exact(aligned.as_mut_slice())?;
        Ok(Self(aligned))
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_slice().len()
    }

    /// `batch` bytes for the `index`th time; begins again when the end is reached. `batch` divides a MiB or is a few.
    pub(super) fn batch(&self, index: usize, batch: usize) -> &[u8] {
        let count = self.len() / batch;
        let at = index % count * batch;
        &self.0.as_slice()[at..at + batch]
    }
}

/// One way to copy.
#[derive(Debug, Serialize)]
pub(super) struct Copying {
    pub what: &'static str,
    #[serde(flatten)]
    pub figures: Figures,
}

/// Copies within the first cache, and from memory to memory.
pub(super) fn measure(plan: &Plan, memory: &Memory) -> Vec<Copying> {
    const SMALL: usize = 16 << 10;
    const LARGE: usize = 1 << 20;
    let mut far = Aligned::zeroed(memory.len());
    let mut near = [0_u8; SMALL];
    let mut cold = |plan: &Plan| {
        timed(|| {
            for index in 0..plan.bytes / LARGE {
                let at = index % (memory.len() / LARGE) * LARGE;
                let to = &mut far.as_mut_slice()[at..at + LARGE];
                to.copy_from_slice(memory.batch(index, LARGE));
                black_box(to);
            }
            Ok(())
        })
    };
    let mut hot = |plan: &Plan| {
        timed(|| {
            for _ in 0..plan.bytes / SMALL {
                near.copy_from_slice(black_box(memory.batch(0, SMALL)));
                black_box(&mut near);
            }
            Ok(())
        })
    };
    let (mut hot_runs, mut cold_runs) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        hot_runs.extend(hot(plan));
        cold_runs.extend(cold(plan));
    }
    [
        ("in the first cache", hot_runs),
        ("memory to memory", cold_runs),
    ]
    .into_iter()
    .map(|(what, runs)| Copying {
        what,
        figures: Figures::of(plan.bytes, &runs),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_go_round_and_are_aligned() {
        let memory = Memory::larger_than(0).unwrap();
        let batch = 1 << 20;
        let first = memory.batch(0, batch).as_ptr();
        assert_eq!(first.align_offset(ALIGNMENT), 0);
        assert_eq!(memory.batch(memory.len() / batch, batch).as_ptr(), first);
        assert_ne!(memory.batch(1, batch)[..64], memory.batch(0, batch)[..64]);
    }
}
