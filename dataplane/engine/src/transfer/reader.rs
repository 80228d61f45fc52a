//! Reads a source outside the shards, a few bytes or chunks at a time: odd ends, comparisons.

use super::ends::Opened;
use crate::{
    Endpoint, EngineError,
    dial::{NbdClient, Role},
    error::{Blame, ErrorKind},
};
use std::sync::Arc;
use sys::DeviceFile;

/// A second way into the source; blocks its caller.
pub(super) enum SourceReader {
    Device(Arc<DeviceFile>),
    Nbd(Box<NbdClient>),
    /// A source of zeroes.
    Null,
}

impl SourceReader {
    /// Opens what `end` was opened from once more. A server that allows one connection only must not be in use.
    ///
    /// # Errors
    /// As connecting to the source.
    pub(super) fn open(endpoint: &Endpoint, end: &Opened) -> Result<Self, EngineError> {
        Ok(match (endpoint, end) {
            (_, Opened::Device(device)) => Self::Device(Arc::clone(device)),
            (Endpoint::Nbd(endpoint), _) => {
                Self::Nbd(Box::new(NbdClient::connect_as(endpoint, Role::Source)?))
            }
            _ => Self::Null,
        })
    }

    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// The source's, or that it ends early.
    pub(super) fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), EngineError> {
        match self {
            Self::Nbd(client) => read_aligned(client, offset, buf),
            Self::Null => {
                buf.fill(0);
                Ok(())
            }
            Self::Device(device) => read_device(device, offset, buf),
        }
    }

    /// Says good-bye: a server that is left without a word logs an error.
    pub(super) fn end(self) {
        if let Self::Nbd(client) = self {
            client.disconnect();
        }
    }
}

fn read_device(device: &DeviceFile, offset: u64, buf: &mut [u8]) -> Result<(), EngineError> {
    let mut done = 0;
    let failed = |what: &str| {
        let on = device.path().display().to_string();
        EngineError::new(ErrorKind::SourceIo, Blame::Environment, what, on)
    };
    while done < buf.len() {
        match device.read_at(&mut buf[done..], offset + done as u64) {
            Ok(0) => return Err(failed("the source ended before its size")),
            Ok(len) => done += len,
            Err(cause) => return Err(failed("reading the source failed").cause(cause)),
        }
    }
    Ok(())
}

/// Reads a range of a source that may have a block size of its own.
fn read_aligned(client: &mut NbdClient, offset: u64, buf: &mut [u8]) -> Result<(), EngineError> {
    let (size, min) = (
        client.params().info.size_bytes,
        client.params().info.block.min,
    );
    let block = u64::from(min.max(1));
    let len = buf.len() as u64;
    if offset.is_multiple_of(block) && (len.is_multiple_of(block) || offset + len == size) {
        return client.read(offset, buf);
    }
    let start = offset / block * block;
    let end = (offset + len).next_multiple_of(block).min(size);
    let mut cover = vec![0; usize::try_from(end - start).unwrap_or(0)];
    client.read(start, &mut cover)?;
    let from = usize::try_from(offset - start).unwrap_or(0);
    buf.copy_from_slice(&cover[from..from + buf.len()]);
    Ok(())
}
