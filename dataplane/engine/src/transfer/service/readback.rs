//! Targets that only speak NBD: their bytes travel back to be hashed here.

use super::{TargetFacts, TargetSession, VerifiedBy};
use crate::{
    EngineError,
    dial::{NbdClient, NbdEndpoint, Role},
    digest::{CHUNK_BYTES, Cv, Digest, GRAIN_BYTES, grain_cv},
    error::{Blame, ErrorKind},
};
use std::ops::Range;

/// A connection beside those that copy, or after them where the server allows one only: it is made when the first
/// byte is asked for.
pub(crate) struct Readback {
    client: Option<NbdClient>,
    endpoint: NbdEndpoint,
}

impl Readback {
    /// Connects when it has to.
    pub(crate) fn new(endpoint: &NbdEndpoint) -> Self {
        Self {
            client: None,
            endpoint: endpoint.clone(),
        }
    }

    fn read(
        &mut self,
        range: Range<u64>,
        step: u64,
        mut take: impl FnMut(u64, &[u8]),
    ) -> Result<(), EngineError> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(NbdClient::connect_as(&self.endpoint, Role::Target)?),
        };
        let block = u64::from(client.params().info.block.min.max(1));
        let size = client.params().info.size_bytes;
        let mut at = range.start;
        while at < range.end {
            let len = step.min(range.end - at);
            // The server takes whole blocks only.
            let start = at / block * block;
            let end = (at + len).next_multiple_of(block).min(size);
            let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0)];
            client.read(start, &mut bytes)?;
            let from = usize::try_from(at - start).unwrap_or(0);
            take(at, &bytes[from..from + usize::try_from(len).unwrap_or(0)]);
            at += len;
        }
        Ok(())
    }
}

impl Drop for Readback {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            client.disconnect();
        }
    }
}

impl TargetSession for Readback {
    fn facts(&mut self) -> Result<TargetFacts, EngineError> {
        let what = "the server cannot tell which device it writes";
        Err(EngineError::new(
            ErrorKind::Unsupported,
            Blame::Peer,
            what,
            self.endpoint.uri.clone(),
        ))
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

    fn stream(&mut self, _: u64, count: u64) -> Result<Vec<Option<Digest>>, EngineError> {
        Ok(vec![None; usize::try_from(count).unwrap_or(0)])
    }

    fn grains(&mut self, range: Range<u64>) -> Result<Vec<Cv>, EngineError> {
        let mut cvs = Vec::new();
        self.read(range, GRAIN_BYTES, |at, bytes| cvs.push(cv_at(at, bytes)))?;
        Ok(cvs)
    }

    fn name(&self) -> VerifiedBy {
        VerifiedBy::Readback
    }
}

/// The chaining value of the grain at `offset` of the device.
fn cv_at(offset: u64, bytes: &[u8]) -> Cv {
    let position = usize::try_from(offset % CHUNK_BYTES / GRAIN_BYTES).unwrap_or(0);
    grain_cv(position, std::iter::once(bytes))
}
