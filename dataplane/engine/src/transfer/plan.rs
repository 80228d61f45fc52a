//! What a transfer does with each byte: the source's map, cut into units of work.

use crate::{
    EngineError, ExtentSet,
    dial::NbdClient,
    error::{Blame, ErrorKind},
    limits::WORK_UNIT_BYTES,
    transfer::shared::{Work, WorkKind},
};
use std::{collections::VecDeque, ops::Range, sync::Arc};
use sys::DeviceFile;
use wire::Extent;

/// base:allocation flag: reads as zeroes. A hole without it has undefined content and is data.
const ZERO: u64 = 2;
/// Bytes one block status question covers at most: fits the compact form's 32 bits.
const STATUS_BYTES_MAX: u64 = 1 << 30;
/// Extents held in memory when a source allows only one connection: 64 MiB of them.
const MAP_EXTENTS_MAX: usize = 4 * 1024 * 1024;

/// Where the planner learns which ranges are zeroes.
pub(crate) enum SourceMap {
    /// Nothing is known: everything is data.
    Opaque,
    /// Everything is zeroes (a null source).
    Zeroes,
    /// The file system tells.
    File(Arc<DeviceFile>),
    /// The server tells, over a connection of its own.
    Nbd {
        client: Box<NbdClient>,
        ahead: VecDeque<(u64, Extent)>,
    },
    /// The server told before: (offset, extent), in order.
    Known(VecDeque<(u64, Extent)>),
}

impl SourceMap {
    /// Asks for the whole map at once: the source lets nobody in beside the copying connection.
    pub(crate) fn read_whole(mut client: NbdClient, size: u64) -> Result<Self, EngineError> {
        let mut known = VecDeque::new();
        let mut at = 0;
        while at < size {
            let extents = client.block_status(at, (size - at).min(STATUS_BYTES_MAX))?;
            if extents.is_empty() || known.len() > MAP_EXTENTS_MAX {
                client.disconnect();
                return Ok(Self::Opaque);
            }
            for extent in extents {
                known.push_back((at, extent));
                at = at.saturating_add(extent.len);
            }
        }
        client.disconnect();
        Ok(Self::Known(known))
    }

    /// How far from `offset` the content is of one kind, and whether it is zeroes; at most up to `end`.
    fn run_at(&mut self, offset: u64, end: u64) -> Result<(u64, bool), EngineError> {
        match self {
            Self::Opaque => Ok((end, false)),
            Self::Zeroes => Ok((end, true)),
            Self::File(device) => file_run(device, offset, end),
            Self::Known(known) => Ok(known_run(known, offset, end)),
            Self::Nbd { client, ahead } => {
                if covered(ahead, offset).is_none() {
                    ahead.clear();
                    let mut at = offset;
                    for extent in
                        client.block_status(offset, (end - offset).min(STATUS_BYTES_MAX))?
                    {
                        ahead.push_back((at, extent));
                        at = at.saturating_add(extent.len);
                    }
                }
                Ok(known_run(ahead, offset, end))
            }
        }
    }
}

/// Drops extents before `offset`; the extent that holds it.
fn covered(known: &mut VecDeque<(u64, Extent)>, offset: u64) -> Option<(u64, Extent)> {
    while let Some(&(at, extent)) = known.front() {
        if at.saturating_add(extent.len) > offset {
            return (at <= offset).then_some((at, extent));
        }
        known.pop_front();
    }
    None
}

fn known_run(known: &mut VecDeque<(u64, Extent)>, offset: u64, end: u64) -> (u64, bool) {
    match covered(known, offset) {
        Some((at, extent)) => (
            at.saturating_add(extent.len).min(end),
            extent.flags & ZERO != 0,
        ),
        // Unknown is data, up to where knowledge begins again.
        None => (
            known
                .front()
                .map_or(end, |(at, _)| (*at).clamp(offset + 1, end)),
            false,
        ),
    }
}

fn file_run(device: &DeviceFile, offset: u64, end: u64) -> Result<(u64, bool), EngineError> {
    let next = device.next_data(offset).map_err(|cause| {
        EngineError::new(
            ErrorKind::SourceIo,
            Blame::Environment,
            "cannot ask for the next data",
            device.path().display().to_string(),
        )
        .remedy("check the file system of the source")
        .cause(cause)
    })?;
    Ok(match next {
        Some((start, _)) if start > offset => (start.min(end), true),
        Some((_, data_end)) => (data_end.clamp(offset + 1, end), false),
        None => (end, true),
    })
}

/// Turns ranges and the map into work.
pub(crate) struct Planner {
    map: SourceMap,
    ranges: VecDeque<Range<u64>>,
    /// The rest of a run: data is handed out unit by unit.
    run: Option<Work>,
}

/// Ranges whose ends a block-aligned target cannot take, and the aligned rest.
pub(crate) struct Aligned {
    pub inner: Vec<Range<u64>>,
    /// Less than a block each.
    pub edges: Vec<Range<u64>>,
}

/// Splits ranges at the target's blocks.
pub(crate) fn split_edges(ranges: impl Iterator<Item = Range<u64>>, block: u64) -> Aligned {
    let mut aligned = Aligned {
        inner: Vec::new(),
        edges: Vec::new(),
    };
    for range in ranges {
        let start = range.start.next_multiple_of(block).min(range.end);
        let end = (range.end / block * block).max(start);
        for edge in [range.start..start, end..range.end] {
            if !edge.is_empty() {
                aligned.edges.push(edge);
            }
        }
        if start < end {
            aligned.inner.push(start..end);
        }
    }
    aligned
}

/// The ranges a transfer covers.
pub(crate) fn ranges_of(extents: Option<&ExtentSet>, size: u64) -> Vec<Range<u64>> {
    match extents {
        Some(extents) => extents.within(0..size).collect(),
        None if size > 0 => std::iter::once(0..size).collect(),
        None => Vec::new(),
    }
}

impl Planner {
    pub(crate) fn new(map: SourceMap, ranges: Vec<Range<u64>>) -> Self {
        Self {
            map,
            ranges: ranges.into(),
            run: None,
        }
    }

    /// Says good-bye to the server that told the map: one that is left without a word logs an error.
    pub(crate) fn end(self) {
        if let SourceMap::Nbd { client, .. } = self.map {
            client.disconnect();
        }
    }

    /// The next unit; `None` at the end.
    pub(crate) fn next_work(&mut self) -> Result<Option<Work>, EngineError> {
        if self.run.is_none() {
            let Some(range) = self.ranges.front_mut() else {
                return Ok(None);
            };
            let (end, zero) = self.map.run_at(range.start, range.end)?;
            let kind = if zero { WorkKind::Zero } else { WorkKind::Data };
            self.run = Some(Work {
                offset: range.start,
                len: end - range.start,
                kind,
            });
            range.start = end;
            if range.is_empty() {
                self.ranges.pop_front();
            }
        }
        let Some(run) = &mut self.run else {
            return Ok(None);
        };
        let mut work = *run;
        if work.kind == WorkKind::Data {
            // Units end at multiples of their size, so that requests inside are aligned.
            let to_boundary = WORK_UNIT_BYTES - work.offset % WORK_UNIT_BYTES;
            work.len = work.len.min(to_boundary);
        }
        run.offset += work.len;
        run.len -= work.len;
        if run.len == 0 {
            self.run = None;
        }
        Ok(Some(work))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(mut planner: Planner) -> Vec<Work> {
        let mut works = Vec::new();
        while let Some(work) = planner.next_work().expect("no I/O in this map") {
            works.push(work);
        }
        works
    }

    #[test]
    fn a_hole_that_is_not_zero_is_data() {
        const HOLE: u64 = 1;
        let extents = [
            (
                0,
                Extent {
                    len: 4096,
                    flags: HOLE,
                },
            ),
            (
                4096,
                Extent {
                    len: 4096,
                    flags: HOLE | ZERO,
                },
            ),
        ];
        let works = all(Planner::new(
            SourceMap::Known(extents.into()),
            std::iter::once(0..8192).collect(),
        ));
        let kinds: Vec<_> = works
            .iter()
            .map(|work| (work.offset, work.len, work.kind))
            .collect();
        assert_eq!(
            kinds,
            [(0, 4096, WorkKind::Data), (4096, 4096, WorkKind::Zero)]
        );
    }

    #[test]
    fn what_a_map_leaves_out_is_data() {
        let extents = [(
            4096,
            Extent {
                len: 4096,
                flags: ZERO,
            },
        )];
        let works = all(Planner::new(
            SourceMap::Known(extents.into()),
            std::iter::once(0..16384).collect(),
        ));
        assert_eq!(
            works[0],
            Work {
                offset: 0,
                len: 4096,
                kind: WorkKind::Data
            }
        );
        assert_eq!(
            works[1],
            Work {
                offset: 4096,
                len: 4096,
                kind: WorkKind::Zero
            }
        );
        assert_eq!(
            works[2],
            Work {
                offset: 8192,
                len: 8192,
                kind: WorkKind::Data
            }
        );
    }

    proptest! {
        #[test]
        fn the_plan_covers_each_byte_once_with_its_kind(
            lens in prop::collection::vec((1u64..40, 0u64..4), 1..30),
            picks in prop::collection::vec((0u64..1200, 1u64..90), 0..8),
        ) {
            const BLOCK: u64 = 512 * 1024;
            let mut at = 0;
            let mut known = VecDeque::new();
            for (len, flags) in lens {
                known.push_back((at, Extent { len: len * BLOCK, flags }));
                at += len * BLOCK;
            }
            let size = at;
            let zero_at = |byte: u64| known.iter().any(|(start, extent)| {
                (*start..*start + extent.len).contains(&byte) && extent.flags & ZERO != 0
            });
            let wanted: ExtentSet = ExtentSet::from_unsorted(
                picks.iter().map(|(start, len)| start * BLOCK..(start + len) * BLOCK).collect(),
            );
            let ranges = ranges_of((!picks.is_empty()).then_some(&wanted), size);
            let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            let works = all(Planner::new(SourceMap::Known(known.clone()), ranges.clone()));
            let mut end = 0;
            let mut sum = 0;
            for work in works {
                prop_assert!(work.offset >= end && work.len > 0);
                end = work.offset + work.len;
                sum += work.len;
                prop_assert_eq!(work.kind == WorkKind::Zero, zero_at(work.offset));
                prop_assert_eq!(work.kind == WorkKind::Zero, zero_at(end - 1));
                prop_assert!(ranges.iter().any(|r| r.start <= work.offset && end <= r.end));
            }
            prop_assert_eq!(sum, total);
        }

        #[test]
        fn edges_and_inner_ranges_are_the_range(
            start in 0u64..100_000, len in 0u64..100_000, shift in 0u32..7,
        ) {
            let block = 512u64 << shift;
            let split = split_edges(std::iter::once(start..start + len), block);
            let mut parts: Vec<_> = split.inner.iter().chain(&split.edges).cloned().collect();
            parts.sort_by_key(|range| range.start);
            let mut at = start;
            for part in &parts {
                prop_assert_eq!(part.start, at);
                at = part.end;
            }
            prop_assert_eq!(at, start + len);
            prop_assert!(split.inner.iter().all(|r| r.start % block == 0 && r.end % block == 0));
            prop_assert!(split.edges.iter().all(|r| r.end - r.start < block));
        }
    }
}
