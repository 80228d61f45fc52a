//! Targets of this machine: they are read by ourselves.

use super::{TargetFacts, TargetSession, VerifiedBy};
use crate::{
    EngineError,
    digest::{CHUNK_BYTES, Cv, Digest, GRAIN_BYTES, grain_cv},
    error::{Blame, ErrorKind},
};
use std::{ops::Range, sync::Arc};
use sys::{DeviceFile, DeviceKind};

/// A file or device that this process has open.
pub(crate) struct LocalTarget {
    device: Arc<DeviceFile>,
}

impl LocalTarget {
    pub(crate) fn new(device: Arc<DeviceFile>) -> Self {
        Self { device }
    }

    fn failed(&self, what: &str, cause: sys::SetupError) -> EngineError {
        let on = self.device.path().display().to_string();
        EngineError::new(ErrorKind::TargetIo, Blame::Environment, what, on)
            .remedy("check the target device and the kernel log")
            .cause(cause)
    }

    /// Gives each `step` of a range to `take`, as the medium has it.
    fn read(
        &self,
        range: Range<u64>,
        step: u64,
        mut take: impl FnMut(u64, &[u8]),
    ) -> Result<(), EngineError> {
        self.device.drop_page_cache().map_err(|cause| {
            self.failed("the page cache of the target cannot be dropped", cause)
        })?;
        let mut buf = vec![0; usize::try_from(step).unwrap_or(0)];
        let mut at = range.start;
        while at < range.end {
            let len = usize::try_from(step.min(range.end - at)).unwrap_or(0);
            let read = self
                .device
                .read_at(&mut buf[..len], at)
                .map_err(|cause| self.failed("reading the target back failed", cause))?;
            if read < len {
                let what = "the target ended before its size";
                let on = self.device.path().display().to_string();
                return Err(EngineError::new(
                    ErrorKind::TargetIo,
                    Blame::Environment,
                    what,
                    on,
                ));
            }
            take(at, &buf[..len]);
            at += len as u64;
        }
        Ok(())
    }
}

impl TargetSession for LocalTarget {
    fn facts(&mut self) -> Result<TargetFacts, EngineError> {
        let identity = self.device.identity();
        Ok(TargetFacts {
            is_file: identity.kind == DeviceKind::Regular,
            size_bytes: identity.size_bytes,
            logical_block: identity.logical_block,
            serial: identity.serial.clone(),
            wwid: identity.wwid.clone(),
            diskseq: identity.diskseq,
            dev: identity.dev,
            inode: identity.inode,
            boot_id: boot_id()?,
            discarded: false,
        })
    }

    fn hashes(&mut self, range: Range<u64>, chunk_bytes: u64) -> Result<Vec<Digest>, EngineError> {
        let mut digests = Vec::new();
        self.read(range, chunk_bytes, |_, bytes| {
            digests.push(Digest::of(bytes));
        })?;
        Ok(digests)
    }

    fn start_stream(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Nothing travels, so there is nothing to compare in flight.
    fn stream(&mut self, _: u64, count: u64) -> Result<Vec<Option<Digest>>, EngineError> {
        Ok(vec![None; usize::try_from(count).unwrap_or(0)])
    }

    fn grains(&mut self, range: Range<u64>) -> Result<Vec<Cv>, EngineError> {
        let mut cvs = Vec::new();
        self.read(range, GRAIN_BYTES, |at, bytes| cvs.push(cv_at(at, bytes)))?;
        Ok(cvs)
    }

    fn name(&self) -> VerifiedBy {
        VerifiedBy::Local
    }
}

/// The chaining value of the grain at `offset` of the device.
pub(super) fn cv_at(offset: u64, bytes: &[u8]) -> Cv {
    let position = usize::try_from(offset % CHUNK_BYTES / GRAIN_BYTES).unwrap_or(0);
    grain_cv(position, std::iter::once(bytes))
}

/// The run of this machine's kernel (random(4), `/proc/sys/kernel/random/boot_id`).
pub(crate) fn boot_id() -> Result<String, EngineError> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(PATH)
        .map(|text| text.trim().to_owned())
        .map_err(|cause| {
            let what = "the kernel does not tell its boot id";
            EngineError::new(ErrorKind::Config, Blame::Environment, what, PATH)
                .remedy("mount /proc")
                .cause(cause)
        })
}
