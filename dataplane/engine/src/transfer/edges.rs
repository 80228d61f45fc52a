//! The odd ends of a copy: bytes that are no whole block of the target.

use super::{
    TransferSpec,
    ends::{Opened, Source, Target},
    reader::SourceReader,
};
use crate::{
    EngineError,
    dial::{NbdClient, Role},
    error::{Blame, ErrorKind},
};
use std::ops::Range;
use wire::TransmissionFlags;

/// Ends of ranges that are no whole blocks of the target: read the block, put the bytes in, write it back. Nobody
/// else writes the target meanwhile. The next flush of the transfer covers these writes as well.
pub(super) fn write_edges(
    edges: &[Range<u64>],
    spec: &TransferSpec,
    source: &Source,
    target: &Target,
) -> Result<(), EngineError> {
    let Opened::Nbd { endpoint, .. } = &target.end else {
        return Ok(());
    };
    if edges.is_empty() {
        return Ok(());
    }
    let mut writer = NbdClient::connect_as(endpoint, Role::Target)?;
    let mut reader = SourceReader::open(&spec.source, &source.end)?;
    for edge in edges {
        let block_start = edge.start / target.block * target.block;
        let block_end = edge.end.next_multiple_of(target.block);
        if block_end > writer.params().info.size_bytes {
            return Err(EngineError::new(
                ErrorKind::TargetConnect,
                Blame::Operator,
                format!(
                    "the last {} bytes of the source end inside a block that reaches past the target",
                    edge.end - edge.start
                ),
                endpoint.uri.clone(),
            )
            .remedy(format!("use a target of at least {block_end} bytes")));
        }
        let mut block = vec![0; usize::try_from(block_end - block_start).unwrap_or(0)];
        writer.read(block_start, &mut block)?;
        let from = usize::try_from(edge.start - block_start).unwrap_or(0);
        let to = usize::try_from(edge.end - block_start).unwrap_or(0);
        reader.read(edge.start, &mut block[from..to])?;
        writer.write(block_start, &block)?;
    }
    if target.end.has_flag(TransmissionFlags::SEND_FLUSH) {
        writer.flush()?;
    }
    writer.disconnect();
    reader.end();
    Ok(())
}
