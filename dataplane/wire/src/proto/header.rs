//! Layout of the headers of the transmission phase ("Transmission"; all fields big-endian).

use super::{CHUNK_DONE, ChunkKind, Command, CommandFlags, Cookie, Mode};
use crate::WireError;
use crate::limits::HEADER_BYTES_MAX;
use crate::reader::Reader;

/// Starts a compact request.
const COMPACT_REQUEST_MAGIC: u32 = 0x2560_9513;
/// Starts an extended request.
const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Starts a simple reply.
pub(crate) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Starts a structured chunk.
pub(crate) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Starts an extended chunk.
pub(crate) const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

/// Sizes of the fixed headers, bytes.
const COMPACT_REQUEST_BYTES: usize = 28;
const EXTENDED_REQUEST_BYTES: usize = 32;
pub(crate) const SIMPLE_REPLY_BYTES: usize = 16;
pub(crate) const STRUCTURED_CHUNK_BYTES: usize = 20;
pub(crate) const EXTENDED_CHUNK_BYTES: usize = 32;

/// A small fixed buffer that holds one encoded header.
#[derive(Clone, Copy, Debug)]
pub struct HeaderBuf {
    bytes: [u8; HEADER_BYTES_MAX],
    len: u8,
}

impl Default for HeaderBuf {
    fn default() -> Self {
        Self::new()
    }
}

impl HeaderBuf {
    /// An empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; HEADER_BYTES_MAX],
            len: 0,
        }
    }

    /// The encoded bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Bytes that still fit.
    pub(crate) fn room(&self) -> usize {
        HEADER_BYTES_MAX - usize::from(self.len)
    }

    /// Appends bytes. What the crate encodes fits by the relations in `limits`; were that ever
    /// wrong, the index would stop the process rather than send half a header.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        let end = start + bytes.len();
        self.bytes[start..end].copy_from_slice(bytes);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "HEADER_BYTES_MAX fits in u8 (limits)"
        )]
        {
            self.len = end as u8;
        }
    }
}

/// The header of a request, as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestHeader {
    pub(crate) flags: CommandFlags,
    pub(crate) command: Command,
    pub(crate) cookie: Cookie,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl RequestHeader {
    /// Size of a request header in this mode, bytes.
    pub(crate) const fn bytes(mode: Mode) -> usize {
        match mode {
            Mode::Simple | Mode::Structured => COMPACT_REQUEST_BYTES,
            Mode::Extended => EXTENDED_REQUEST_BYTES,
        }
    }

    /// The magic that a request must start with in this mode.
    pub(crate) const fn magic(mode: Mode) -> u32 {
        match mode {
            Mode::Simple | Mode::Structured => COMPACT_REQUEST_MAGIC,
            Mode::Extended => EXTENDED_REQUEST_MAGIC,
        }
    }

    /// Longest length that the header can say, bytes.
    pub(crate) const fn len_max(mode: Mode) -> u64 {
        match mode {
            Mode::Simple | Mode::Structured => u32::MAX as u64,
            Mode::Extended => u64::MAX,
        }
    }

    /// Appends the header. `len` must fit the mode ([`Self::len_max`]).
    pub(crate) fn encode(&self, mode: Mode, out: &mut HeaderBuf) {
        out.put(&Self::magic(mode).to_be_bytes());
        out.put(&self.flags.0.to_be_bytes());
        out.put(&self.command.code().to_be_bytes());
        out.put(&self.cookie.0.to_be_bytes());
        out.put(&self.offset.to_be_bytes());
        let len = self.len.to_be_bytes();
        match mode {
            Mode::Simple | Mode::Structured => out.put(&len[4..]),
            Mode::Extended => out.put(&len),
        }
    }

    /// Reads a header of this mode; `None` when bytes are missing or the magic is another.
    pub(crate) fn decode(bytes: &[u8], mode: Mode) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.u32()? != Self::magic(mode) {
            return None;
        }
        Some(Self {
            flags: CommandFlags(reader.u16()?),
            command: Command::from_code(reader.u16()?),
            cookie: Cookie(reader.u64()?),
            offset: reader.u64()?,
            len: match mode {
                Mode::Simple | Mode::Structured => u64::from(reader.u32()?),
                Mode::Extended => reader.u64()?,
            },
        })
    }
}

/// A simple reply without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SimpleReply {
    pub(crate) error: u32,
    pub(crate) cookie: Cookie,
}

impl SimpleReply {
    pub(crate) fn encode(&self, out: &mut HeaderBuf) {
        out.put(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        out.put(&self.error.to_be_bytes());
        out.put(&self.cookie.0.to_be_bytes());
    }

    /// `None` when bytes are missing or the magic is another.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        if reader.u32()? != SIMPLE_REPLY_MAGIC {
            return None;
        }
        Some(Self {
            error: reader.u32()?,
            cookie: Cookie(reader.u64()?),
        })
    }
}

/// The header of a structured or extended chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkHeader {
    pub(crate) flags: u16,
    pub(crate) kind: ChunkKind,
    pub(crate) cookie: Cookie,
    /// Offset of the request (extended headers echo it; zero in structured chunks).
    pub(crate) offset: u64,
    /// Bytes of the chunk after this header.
    pub(crate) len: u64,
}

impl ChunkHeader {
    pub(crate) const fn is_done(&self) -> bool {
        self.flags & CHUNK_DONE != 0
    }

    /// Appends the header in extended form when `mode` says so, else in structured form, whose
    /// length is 32 bits wide (all chunks we build are shorter, see `limits`).
    pub(crate) fn encode(&self, mode: Mode, out: &mut HeaderBuf) {
        let extended = mode == Mode::Extended;
        let magic = if extended {
            EXTENDED_REPLY_MAGIC
        } else {
            STRUCTURED_REPLY_MAGIC
        };
        out.put(&magic.to_be_bytes());
        out.put(&self.flags.to_be_bytes());
        out.put(&self.kind.0.to_be_bytes());
        out.put(&self.cookie.0.to_be_bytes());
        let len = self.len.to_be_bytes();
        if extended {
            out.put(&self.offset.to_be_bytes());
            out.put(&len);
        } else {
            out.put(&len[4..]);
        }
    }

    /// Reads a chunk header; `None` when bytes are missing or the magic is another.
    pub(crate) fn decode(bytes: &[u8], mode: Mode) -> Option<Self> {
        let extended = mode == Mode::Extended;
        let mut reader = Reader::new(bytes);
        let magic = if extended {
            EXTENDED_REPLY_MAGIC
        } else {
            STRUCTURED_REPLY_MAGIC
        };
        if reader.u32()? != magic {
            return None;
        }
        Some(Self {
            flags: reader.u16()?,
            kind: ChunkKind(reader.u16()?),
            cookie: Cookie(reader.u64()?),
            offset: if extended { reader.u64()? } else { 0 },
            len: if extended {
                reader.u64()?
            } else {
                u64::from(reader.u32()?)
            },
        })
    }
}

/// The error for a magic that does not belong here.
pub(crate) fn check_magic(found: u32, expected: u32) -> Result<(), WireError> {
    if found == expected {
        return Ok(());
    }
    Err(WireError::BadMagic {
        found: u64::from(found),
        expected: u64::from(expected),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_those_of_the_protocol() {
        let mut out = HeaderBuf::new();
        let header = RequestHeader {
            flags: CommandFlags::FUA,
            command: Command::Write,
            cookie: Cookie(0x0102_0304_0506_0708),
            offset: 512,
            len: 4096,
        };
        header.encode(Mode::Simple, &mut out);
        assert_eq!(
            out.as_bytes(),
            [
                0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 2, 0,
                0, 0, 0x10, 0
            ]
        );
        out.clear();
        header.encode(Mode::Extended, &mut out);
        assert_eq!(out.as_bytes().len(), EXTENDED_REQUEST_BYTES);
        out.clear();
        SimpleReply {
            error: 0,
            cookie: Cookie(1),
        }
        .encode(&mut out);
        assert_eq!(out.as_bytes().len(), SIMPLE_REPLY_BYTES);
    }

    proptest! {
        #[test]
        fn request_headers_survive_the_round_trip(
            flags: u16, command: u16, cookie: u64, offset: u64, len: u64, extended: bool
        ) {
            let mode = if extended { Mode::Extended } else { Mode::Structured };
            let header = RequestHeader {
                flags: CommandFlags(flags),
                command: Command::from_code(command),
                cookie: Cookie(cookie),
                offset,
                len: len & RequestHeader::len_max(mode),
            };
            let mut out = HeaderBuf::new();
            header.encode(mode, &mut out);
            prop_assert_eq!(out.as_bytes().len(), RequestHeader::bytes(mode));
            prop_assert_eq!(RequestHeader::decode(out.as_bytes(), mode), Some(header));
        }

        #[test]
        fn chunk_headers_survive_the_round_trip(
            flags: u16, kind: u16, cookie: u64, offset: u64, len: u64, extended: bool
        ) {
            let mode = if extended { Mode::Extended } else { Mode::Structured };
            let header = ChunkHeader {
                flags,
                kind: ChunkKind(kind),
                cookie: Cookie(cookie),
                offset: if extended { offset } else { 0 },
                len: len & RequestHeader::len_max(mode),
            };
            let mut out = HeaderBuf::new();
            header.encode(mode, &mut out);
            prop_assert_eq!(ChunkHeader::decode(out.as_bytes(), mode), Some(header));
            prop_assert_eq!(header.is_done(), flags & 1 == 1);
        }
    }
}
