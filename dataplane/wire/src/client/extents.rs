//! Reads the extents of a block status chunk as they arrive.

use super::requests::Pending;
use crate::WireError;
use crate::limits::EXTENTS_MAX;
use crate::proto::{ChunkHeader, ChunkKind, CommandFlags, Cookie, Extent, Mode};
use crate::reader::Reader;

/// Extents reserved before any has arrived; the rest is reserved as it comes.
const EXTENTS_RESERVED: usize = 64;
/// Bytes of the longest unit: an extended extent, or the fixed part.
const UNIT_BYTES_MAX: usize = 16;

/// A chunk being read. Every extent is checked when it is complete, so the peer never makes us hold
/// more than what it has sent.
#[derive(Debug)]
pub(super) struct ExtentReader {
    pub(super) cookie: Cookie,
    pub(super) done: bool,
    is_extended: bool,
    /// Length of the request, bytes.
    request_len: u64,
    /// Bytes from the request's offset to the end of the export.
    export_left: u64,
    is_one: bool,
    /// Bytes of the chunk that have not arrived.
    left: usize,
    unit: [u8; UNIT_BYTES_MAX],
    filled: usize,
    context: Option<u32>,
    /// Extents that the chunk's length announces.
    count: u32,
    covered: u64,
    extents: Vec<Extent>,
}

impl ExtentReader {
    /// Checks what the header and the request say before anything is read or reserved.
    pub(super) fn new(
        header: &ChunkHeader,
        pending: &Pending,
        size_bytes: u64,
        mode: Mode,
    ) -> Result<Self, WireError> {
        let is_extended = mode == Mode::Extended;
        let (fixed, each) = if is_extended { (8, 16) } else { (4, 8) };
        let bad_length = WireError::BadChunkLength {
            kind: header.kind,
            found: header.len,
        };
        let body = header.len.checked_sub(fixed).ok_or(bad_length)?;
        if body == 0 || !body.is_multiple_of(each) {
            return Err(bad_length);
        }
        let is_one = pending.flags.contains(CommandFlags::REQ_ONE);
        let max = if is_one { 1 } else { EXTENTS_MAX };
        let found = body / each;
        let count = match u32::try_from(found) {
            Ok(count) if count <= max => count,
            _ => return Err(WireError::TooManyExtents { found, max }),
        };
        Ok(Self {
            cookie: header.cookie,
            done: header.is_done(),
            is_extended,
            request_len: pending.len,
            export_left: size_bytes.saturating_sub(pending.offset),
            is_one,
            left: usize::try_from(header.len).map_err(|_| bad_length)?,
            unit: [0; UNIT_BYTES_MAX],
            filled: 0,
            context: None,
            count,
            covered: 0,
            extents: Vec::with_capacity(EXTENTS_RESERVED.min(count as usize)),
        })
    }

    /// The kind of chunk that belongs to a mode.
    pub(super) const fn kind(mode: Mode) -> ChunkKind {
        match mode {
            Mode::Simple | Mode::Structured => ChunkKind::BLOCK_STATUS,
            Mode::Extended => ChunkKind::BLOCK_STATUS_EXT,
        }
    }

    /// Bytes of the chunk that have not arrived.
    pub(super) const fn left(&self) -> usize {
        self.left
    }

    /// Takes bytes of the chunk; returns how many.
    pub(super) fn handle_input(&mut self, input: &[u8]) -> Result<usize, WireError> {
        let mut used = 0;
        while self.left > 0 && used < input.len() {
            let unit_bytes = self.unit_bytes();
            let taken = (unit_bytes - self.filled).min(input.len() - used);
            let room = &mut self.unit[self.filled..self.filled + taken];
            room.copy_from_slice(&input[used..used + taken]);
            self.filled += taken;
            self.left = self.left.saturating_sub(taken);
            used += taken;
            if self.filled == unit_bytes {
                self.filled = 0;
                self.handle_unit()?;
            }
        }
        Ok(used)
    }

    /// Context and extents, once everything has arrived.
    pub(super) fn finish(self) -> (u32, Vec<Extent>) {
        (self.context.unwrap_or(0), self.extents)
    }

    fn unit_bytes(&self) -> usize {
        match (self.context, self.is_extended) {
            (None, false) => 4,
            (None, true) | (Some(_), false) => 8,
            (Some(_), true) => 16,
        }
    }

    fn handle_unit(&mut self) -> Result<(), WireError> {
        let mut reader = Reader::new(&self.unit);
        if self.context.is_none() {
            self.context = reader.u32();
            let stated = reader.u32().unwrap_or(0);
            if self.is_extended && stated != self.count {
                return Err(WireError::BadExtentCount {
                    found: stated,
                    expected: self.count,
                });
            }
            return Ok(());
        }
        let (len, flags) = if self.is_extended {
            (reader.u64().unwrap_or(0), reader.u64().unwrap_or(0))
        } else {
            let len = reader.u32().unwrap_or(0);
            (u64::from(len), u64::from(reader.u32().unwrap_or(0)))
        };
        self.add(len, flags)
    }

    /// "all extents except the last sum to less than the request; the last may reach beyond it
    /// unless REQ_ONE": so an extent may start only where the request is not yet covered.
    fn add(&mut self, len: u64, flags: u64) -> Result<(), WireError> {
        let too_long = WireError::ExtentsTooLong {
            max: self.request_len,
        };
        if len == 0 {
            return Err(WireError::EmptyExtent);
        }
        if self.covered >= self.request_len || (self.is_one && len > self.request_len) {
            return Err(too_long);
        }
        let end = self.covered.checked_add(len).ok_or(too_long)?;
        // A server may round its last extent up beyond the end of the export; nothing is there.
        let len = end.min(self.export_left).saturating_sub(self.covered);
        if len > 0 {
            self.extents.push(Extent { len, flags });
        }
        self.covered = end;
        Ok(())
    }
}
