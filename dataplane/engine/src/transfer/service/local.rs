//! Targets of this machine: they are read by ourselves.

use super::{TargetFacts, TargetSession, VerifiedBy};
use crate::{
    EngineError, Export, ExportSpec, Store,
    digest::{Cv, Digest},
    error::{Blame, ErrorKind},
    export::MediumError,
};
use std::{ops::Range, sync::Arc};
use sys::{DeviceFile, DeviceKind};

/// A file or device that this process has open.
pub(crate) struct LocalTarget {
    device: Arc<DeviceFile>,
    /// It is read like an export of ours; nobody else knows of this one.
    export: Arc<Export>,
}

impl LocalTarget {
    pub(crate) fn new(device: Arc<DeviceFile>) -> Self {
        let export = Export::new(ExportSpec {
            name: "target".into(),
            store: Store::Device(Arc::clone(&device)),
            read_only: true,
            scratch: false,
        });
        Self { device, export }
    }

    fn failed(&self, cause: MediumError) -> EngineError {
        let on = self.device.path().display().to_string();
        let what = "reading the target back failed";
        EngineError::new(ErrorKind::TargetIo, Blame::Environment, what, on)
            .remedy("check the target device and the kernel log")
            .cause(cause)
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
            born_ns: identity.born_ns,
            boot_id: boot_id()?,
            discarded: false,
        })
    }

    fn hashes(&mut self, range: Range<u64>, chunk_bytes: u64) -> Result<Vec<Digest>, EngineError> {
        self.export
            .hash_medium(range, chunk_bytes)
            .map_err(|cause| self.failed(cause))
    }

    fn start_stream(&mut self) -> Result<(), EngineError> {
        Ok(())
    }

    /// Nothing travels, so there is nothing to compare in flight.
    fn stream(&mut self, _: u64, count: u64) -> Result<Vec<Option<Digest>>, EngineError> {
        Ok(vec![None; usize::try_from(count).unwrap_or(0)])
    }

    fn grains(&mut self, range: Range<u64>) -> Result<Vec<Cv>, EngineError> {
        self.export
            .grains_medium(range)
            .map_err(|cause| self.failed(cause))
    }

    fn name(&self) -> VerifiedBy {
        VerifiedBy::Local
    }
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
