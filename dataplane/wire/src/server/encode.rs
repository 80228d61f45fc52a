//! Replies out: simple, structured and extended.

use super::{EncodedStatus, Request, ServerConn};
use crate::limits::EXTENTS_MAX;
use crate::proto::{
    CHUNK_DONE, ChunkHeader, ChunkKind, Command, CommandFlags, Extent, HeaderBuf, Mode, NbdError,
    SimpleReply,
};
use crate::reader::truncate;

/// Fixed part of an error chunk: u32 error, u16 length of the text.
const ERROR_FIXED_BYTES: usize = 6;
/// Fixed part of OFFSET_DATA: the offset.
const DATA_FIXED_BYTES: u64 = 8;
/// OFFSET_HOLE: offset and length.
const HOLE_BYTES: u64 = 12;

impl ServerConn {
    /// Success without payload. Replaces the content of `out`, as every `encode_*` does.
    pub fn encode_done(&self, request: &Request, out: &mut HeaderBuf) {
        out.clear();
        if self.is_simple_allowed(request) {
            SimpleReply {
                error: 0,
                cookie: request.cookie,
            }
            .encode(out);
        } else {
            self.chunk(request, ChunkKind::NONE, true, 0)
                .encode(self.mode(), out);
        }
    }

    /// Failure, with a standard text where the mode has room for one. See
    /// [`encode_error_text`](Self::encode_error_text).
    pub fn encode_error(&self, request: &Request, error: NbdError, out: &mut HeaderBuf) {
        self.encode_error_text(request, error, error.text(), out);
    }

    /// Failure, with a text for people. The text is cut to what fits; simple replies drop it. An
    /// error that the protocol does not allow for this request is sent as EINVAL.
    pub fn encode_error_text(
        &self,
        request: &Request,
        error: NbdError,
        text: &str,
        out: &mut HeaderBuf,
    ) {
        out.clear();
        let code = allowed_error(request, error).code();
        if self.mode() == Mode::Simple {
            SimpleReply {
                error: code,
                cookie: request.cookie,
            }
            .encode(out);
            return;
        }
        let header_bytes = if self.mode() == Mode::Extended {
            32
        } else {
            20
        };
        let room = out.room() - header_bytes - ERROR_FIXED_BYTES;
        let text = truncate(text, room);
        let len = (ERROR_FIXED_BYTES + text.len()) as u64;
        self.chunk(request, ChunkKind::ERROR, true, len)
            .encode(self.mode(), out);
        out.put(&code.to_be_bytes());
        #[expect(clippy::cast_possible_truncation, reason = "text fits in a HeaderBuf")]
        out.put(&(text.len() as u16).to_be_bytes());
        out.put(text.as_bytes());
    }

    /// Header before `len` bytes of read data at `offset` (absolute). Simple mode: once per request,
    /// covering all of it. `done` marks the last chunk of the reply.
    ///
    /// # Panics
    /// When the range is empty or outside of the request, or partial in simple mode: the peer would
    /// take data for headers. The request was validated, so only a fault of the caller gets here.
    pub fn encode_data(
        &self,
        request: &Request,
        offset: u64,
        len: u32,
        done: bool,
        out: &mut HeaderBuf,
    ) {
        out.clear();
        assert_inside(request, offset, len);
        if self.mode() == Mode::Simple {
            assert!(
                u64::from(len) == request.len && done,
                "a simple reply holds all data at once"
            );
            SimpleReply {
                error: 0,
                cookie: request.cookie,
            }
            .encode(out);
            return;
        }
        let body = u64::from(len) + DATA_FIXED_BYTES;
        self.chunk(request, ChunkKind::OFFSET_DATA, done, body)
            .encode(self.mode(), out);
        out.put(&offset.to_be_bytes());
    }

    /// A hole in a structured or extended read: `len` bytes at `offset` (absolute) read as zeroes.
    ///
    /// # Panics
    /// In simple mode, which has no holes, and when the range is empty or outside of the request.
    pub fn encode_hole(
        &self,
        request: &Request,
        offset: u64,
        len: u32,
        done: bool,
        out: &mut HeaderBuf,
    ) {
        out.clear();
        assert_inside(request, offset, len);
        assert!(self.mode() != Mode::Simple, "simple replies have no holes");
        self.chunk(request, ChunkKind::OFFSET_HOLE, done, HOLE_BYTES)
            .encode(self.mode(), out);
        out.put(&offset.to_be_bytes());
        out.put(&len.to_be_bytes());
    }

    /// A whole block status reply, header and extents, written to the start of `out`.
    ///
    /// `extents` start at the request's offset. The rules of the protocol are applied here: one
    /// extent for REQ_ONE, at most 2^20, nothing after the request is covered, nothing past the end
    /// of the export, 32-bit lengths unless headers are extended, no empty extents. `None` when not
    /// even one extent can be said, or base:allocation was not negotiated: answer an error instead.
    pub fn encode_block_status(
        &self,
        request: &Request,
        extents: &[Extent],
        out: &mut [u8],
    ) -> Option<EncodedStatus> {
        let context = self
            .rules
            .base_allocation
            .filter(|_| self.mode() != Mode::Simple)?;
        let layout = StatusLayout::new(self.mode());
        let start = layout.header_bytes + layout.fixed_bytes;
        let mut cursor = start;
        let mut used = 0;
        let mut count: u32 = 0;
        let mut covered: u64 = 0;
        let count_max = if request.flags.contains(CommandFlags::REQ_ONE) {
            1
        } else {
            EXTENTS_MAX
        };
        for extent in extents {
            if count == count_max || covered >= request.len {
                break;
            }
            let len = self.clamp_extent(request, covered, extent.len);
            if len > 0 {
                let Some(room) = out.get_mut(cursor..cursor + layout.extent_bytes) else {
                    break;
                };
                layout.write_extent(
                    Extent {
                        len,
                        flags: extent.flags,
                    },
                    room,
                );
                cursor += layout.extent_bytes;
                count += 1;
                covered = covered.saturating_add(len);
            }
            used += 1;
        }
        if count == 0 {
            return None;
        }
        let kind = layout.kind;
        let body = (cursor - layout.header_bytes) as u64;
        let mut header = HeaderBuf::new();
        self.chunk(request, kind, true, body)
            .encode(self.mode(), &mut header);
        header.put(&context.to_be_bytes());
        if self.mode() == Mode::Extended {
            header.put(&count.to_be_bytes());
        }
        out[..start].copy_from_slice(header.as_bytes());
        Some(EncodedStatus {
            len_bytes: cursor,
            extents: used,
        })
    }

    /// How much of an extent may be said when `covered` bytes of the request are behind us.
    fn clamp_extent(&self, request: &Request, covered: u64, len: u64) -> u64 {
        let wanted = request.len.saturating_sub(covered);
        let position = request.offset.saturating_add(covered);
        let len = len.min(self.rules.size_bytes.saturating_sub(position));
        let is_one = request.flags.contains(CommandFlags::REQ_ONE);
        let is_too_wide = self.mode() != Mode::Extended && len > u64::from(u32::MAX);
        // The last extent may go on behind the request, except where REQ_ONE forbids it or a 32-bit
        // field cannot say it. The end of the request always can be said, and it is as aligned as
        // the client wanted it; rounding 2^32 - 1 down instead is how others went wrong.
        if is_one || is_too_wide {
            len.min(wanted)
        } else {
            len
        }
    }

    /// Simple replies stay legal without payload; they are shorter than an empty chunk.
    fn is_simple_allowed(&self, request: &Request) -> bool {
        let has_payload = matches!(request.command, Command::Read | Command::BlockStatus);
        match self.mode() {
            Mode::Simple => true,
            Mode::Structured => !has_payload,
            Mode::Extended => false,
        }
    }

    fn chunk(&self, request: &Request, kind: ChunkKind, done: bool, len: u64) -> ChunkHeader {
        ChunkHeader {
            flags: if done { CHUNK_DONE } else { 0 },
            kind,
            cookie: request.cookie,
            offset: request.offset,
            len,
        }
    }
}

/// Field widths of a block status chunk.
struct StatusLayout {
    kind: ChunkKind,
    header_bytes: usize,
    /// Context id, and the count in extended chunks.
    fixed_bytes: usize,
    extent_bytes: usize,
}

impl StatusLayout {
    const fn new(mode: Mode) -> Self {
        match mode {
            Mode::Simple | Mode::Structured => Self {
                kind: ChunkKind::BLOCK_STATUS,
                header_bytes: 20,
                fixed_bytes: 4,
                extent_bytes: 8,
            },
            Mode::Extended => Self {
                kind: ChunkKind::BLOCK_STATUS_EXT,
                header_bytes: 32,
                fixed_bytes: 8,
                extent_bytes: 16,
            },
        }
    }

    /// Writes length and flags, each half of `room`; narrow fields keep the low bits, which is all
    /// that base:allocation uses.
    fn write_extent(&self, extent: Extent, room: &mut [u8]) {
        let half = self.extent_bytes / 2;
        let (len, flags) = room.split_at_mut(half);
        len.copy_from_slice(&extent.len.to_be_bytes()[8 - half..]);
        flags.copy_from_slice(&extent.flags.to_be_bytes()[8 - half..]);
    }
}

/// The error that may be sent for this request ("Error values"): ENOTSUP belongs to FAST_ZERO alone,
/// EOVERFLOW to reads with DF and to commands whose length is an effect, WRITE_ZEROES excepted.
fn allowed_error(request: &Request, error: NbdError) -> NbdError {
    let has = |flag| request.flags.contains(flag);
    let is_allowed = match error {
        NbdError::NotSup => request.command == Command::WriteZeroes && has(CommandFlags::FAST_ZERO),
        NbdError::Overflow => match request.command {
            Command::Read => has(CommandFlags::DF),
            Command::Trim | Command::Cache | Command::BlockStatus => true,
            _ => false,
        },
        _ => true,
    };
    if is_allowed { error } else { NbdError::Inval }
}

fn assert_inside(request: &Request, offset: u64, len: u32) {
    let is_inside = offset
        .checked_sub(request.offset)
        .and_then(|start| start.checked_add(u64::from(len)))
        .is_some_and(|end| end <= request.len);
    assert!(is_inside && len > 0, "content chunk outside of its request");
}
