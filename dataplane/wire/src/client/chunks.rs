//! What replies and chunks mean: every check of the server's word against the request it answers.

use super::ClientEvent;
use super::coverage::Refused;
use super::extents::ExtentReader;
use super::requests::Pending;
use super::transmission::{ClientConn, State};
use crate::WireError;
use crate::limits::{ERROR_CHUNK_BYTES_MAX, READ_SPANS_MAX};
use crate::proto::{
    ChunkHeader, ChunkKind, Command, CommandFlags, Cookie, Mode, NbdError, SimpleReply,
};
use crate::reader::Reader;

/// Fixed parts of chunks, bytes.
const DATA_FIXED_BYTES: u64 = 8;
const HOLE_BYTES: u64 = 12;
const ERROR_FIXED_BYTES: u64 = 6;
const ERROR_OFFSET_BYTES: u64 = 8;

impl ClientConn {
    pub(super) fn handle_simple(
        &mut self,
        reply: SimpleReply,
    ) -> Result<Option<ClientEvent>, WireError> {
        let cookie = reply.cookie;
        let mode = self.mode;
        let pending = self.pending(cookie)?;
        let command = pending.command;
        let error = NbdError::from_code(reply.error);
        // Only what carries no payload may be answered simply once structured replies are on; a
        // failed BLOCK_STATUS carries none.
        let is_forbidden = match command {
            Command::Read => mode != Mode::Simple,
            Command::BlockStatus => error.is_none(),
            _ => false,
        };
        if is_forbidden || pending.is_answered {
            return Err(WireError::SimpleReplyForbidden { command });
        }
        if let (Command::Read, None, Ok(len)) = (command, error, u32::try_from(pending.len))
            && len > 0
        {
            self.state = State::Payload {
                cookie,
                offset: 0,
                len,
                done: true,
            };
            return Ok(None);
        }
        self.requests.remove(cookie);
        Ok(Some(ClientEvent::Completed {
            cookie,
            result: error.map_or(Ok(()), Err),
        }))
    }

    /// A chunk header: everything that can be judged is, before the body is asked for.
    pub(super) fn handle_chunk(
        &mut self,
        header: &ChunkHeader,
    ) -> Result<Option<ClientEvent>, WireError> {
        let (mode, size_bytes) = (self.mode, self.size_bytes);
        let kind = header.kind;
        let pending = self.pending(header.cookie)?;
        pending.is_answered = true;
        let command = pending.command;
        if mode == Mode::Extended && header.offset != pending.offset {
            let expected = pending.offset;
            return Err(WireError::BadOffsetEcho {
                found: header.offset,
                expected,
            });
        }
        let bad_length = WireError::BadChunkLength {
            kind,
            found: header.len,
        };
        let needed_by = match kind {
            ChunkKind::OFFSET_DATA | ChunkKind::OFFSET_HOLE => Some(Command::Read),
            _ if kind == ExtentReader::kind(mode) => Some(Command::BlockStatus),
            _ => None,
        };
        if needed_by.is_some_and(|needed| needed != command) {
            return Err(WireError::ChunkForbidden { kind, command });
        }
        match kind {
            ChunkKind::NONE if header.len != 0 => Err(bad_length),
            ChunkKind::NONE if !header.is_done() => Err(WireError::DoneMissing),
            ChunkKind::NONE => self.end_chunk(header),
            ChunkKind::OFFSET_DATA => {
                // More than the request still lacks is an overlap or an overrun, whatever offset
                // follows. Checked now, so that an absurd length is never waited for.
                let lacking = pending
                    .len
                    .saturating_sub(u64::from(pending.coverage.covered()));
                let len = header.len.checked_sub(DATA_FIXED_BYTES).ok_or(bad_length)?;
                if len == 0 || len > lacking {
                    return Err(bad_length);
                }
                self.want_body(header, DATA_FIXED_BYTES)
            }
            ChunkKind::OFFSET_HOLE if header.len != HOLE_BYTES => Err(bad_length),
            ChunkKind::OFFSET_HOLE => self.want_body(header, HOLE_BYTES),
            _ if kind == ExtentReader::kind(mode) => {
                let reader = ExtentReader::new(header, pending, size_bytes, mode)?;
                self.state = State::Extents(Box::new(reader));
                Ok(None)
            }
            _ if kind.is_error() => {
                let is_offset = kind == ChunkKind::ERROR_OFFSET;
                let least = ERROR_FIXED_BYTES + if is_offset { ERROR_OFFSET_BYTES } else { 0 };
                if header.len < least || header.len > u64::from(ERROR_CHUNK_BYTES_MAX) {
                    return Err(bad_length);
                }
                self.want_body(header, ERROR_FIXED_BYTES)
            }
            _ => Err(WireError::UnknownChunk { kind }),
        }
    }

    fn want_body(
        &mut self,
        header: &ChunkHeader,
        len: u64,
    ) -> Result<Option<ClientEvent>, WireError> {
        self.state = State::Body {
            header: *header,
            len: usize::try_from(len).unwrap_or(0),
        };
        Ok(None)
    }

    /// The fixed part of a content or error chunk.
    pub(super) fn handle_body(
        &mut self,
        header: &ChunkHeader,
        body: &[u8],
    ) -> Result<Option<ClientEvent>, WireError> {
        let mut reader = Reader::new(body);
        match header.kind {
            ChunkKind::OFFSET_DATA => {
                let offset = reader.u64().unwrap_or(0);
                let len = header.len.saturating_sub(DATA_FIXED_BYTES);
                self.handle_data(header, offset, len)
            }
            ChunkKind::OFFSET_HOLE => {
                let offset = reader.u64().unwrap_or(0);
                let len = u64::from(reader.u32().unwrap_or(0));
                self.handle_hole(header, offset, len)
            }
            _ => {
                let code = reader.u32().unwrap_or(0);
                let text_bytes = u64::from(reader.u16().unwrap_or(0));
                self.handle_error(header, code, text_bytes)
            }
        }
    }

    fn handle_data(
        &mut self,
        header: &ChunkHeader,
        offset: u64,
        len: u64,
    ) -> Result<Option<ClientEvent>, WireError> {
        let (start, len) = self.cover(header, offset, len)?;
        let (cookie, done) = (header.cookie, header.is_done());
        self.state = State::Payload {
            cookie,
            offset: start,
            len,
            done,
        };
        Ok(None)
    }

    fn handle_hole(
        &mut self,
        header: &ChunkHeader,
        offset: u64,
        len: u64,
    ) -> Result<Option<ClientEvent>, WireError> {
        if len == 0 {
            return Err(WireError::BadChunkLength {
                kind: header.kind,
                found: 0,
            });
        }
        let (offset, len) = self.cover(header, offset, len)?;
        let cookie = header.cookie;
        let end = self.end_chunk(header)?;
        Ok(Some(match end {
            // A failed read has no content, so its holes are not worth telling.
            Some(ClientEvent::Completed {
                cookie,
                result: Err(error),
            }) => ClientEvent::Completed {
                cookie,
                result: Err(error),
            },
            end => ClientEvent::Hole {
                cookie,
                offset,
                len,
                done: end.is_some(),
            },
        }))
    }

    /// Marks a piece of a READ as answered; returns it relative to the request. This is what makes
    /// it safe for the driver to put the bytes there.
    fn cover(
        &mut self,
        header: &ChunkHeader,
        offset: u64,
        len: u64,
    ) -> Result<(u32, u32), WireError> {
        let done = header.is_done();
        let pending = self.pending(header.cookie)?;
        let outside = WireError::ChunkOutsideRequest { offset, len };
        let start = offset.checked_sub(pending.offset).ok_or(outside)?;
        let end = start
            .checked_add(len)
            .filter(|end| *end <= pending.len)
            .ok_or(outside)?;
        let start = u32::try_from(start).map_err(|_| outside)?;
        let end = u32::try_from(end).map_err(|_| outside)?;
        if pending.has_content && pending.flags.contains(CommandFlags::DF) {
            return Err(WireError::Fragmented);
        }
        pending.has_content = true;
        pending
            .coverage
            .add(start, end)
            .map_err(|refused| match refused {
                Refused::Overlap => WireError::ChunkOverlap { offset, len },
                Refused::Fragmented => WireError::TooFragmented {
                    max: READ_SPANS_MAX,
                },
            })?;
        if done {
            check_complete(pending)?;
        }
        Ok((start, end - start))
    }

    fn handle_error(
        &mut self,
        header: &ChunkHeader,
        code: u32,
        text_bytes: u64,
    ) -> Result<Option<ClientEvent>, WireError> {
        let error = NbdError::from_code(code).ok_or(WireError::ErrorMissing)?;
        let tail = header.len.saturating_sub(ERROR_FIXED_BYTES);
        let is_consistent = match header.kind {
            ChunkKind::ERROR_OFFSET => text_bytes + ERROR_OFFSET_BYTES == tail,
            // Other kinds may have fields of their own behind the text.
            _ => text_bytes <= tail,
        };
        if !is_consistent {
            return Err(WireError::BadChunkLength {
                kind: header.kind,
                found: header.len,
            });
        }
        self.pending(header.cookie)?.error.get_or_insert(error);
        if tail == 0 {
            return self.end_chunk(header);
        }
        self.state = State::ErrorTail {
            header: *header,
            left: tail,
            last: 0,
        };
        Ok(None)
    }

    /// The end of an error chunk; `last` holds its last eight bytes. The offset of ERROR_OFFSET is
    /// checked but not used: a failed request is repeated as a whole.
    pub(super) fn end_error(
        &mut self,
        header: &ChunkHeader,
        last: u64,
    ) -> Result<Option<ClientEvent>, WireError> {
        if header.kind == ChunkKind::ERROR_OFFSET {
            let pending = self.pending(header.cookie)?;
            let distance = last.checked_sub(pending.offset);
            if distance.is_none_or(|distance| distance >= pending.len) {
                return Err(WireError::ChunkOutsideRequest {
                    offset: last,
                    len: 0,
                });
            }
        }
        self.end_chunk(header)
    }

    pub(super) fn handle_extents(&mut self) -> Result<Option<ClientEvent>, WireError> {
        let State::Extents(reader) = std::mem::replace(&mut self.state, State::Reply) else {
            return Ok(None);
        };
        let (cookie, done) = (reader.cookie, reader.done);
        let (context, extents) = reader.finish();
        let position = self.contexts.iter().position(|id| *id == context);
        let bit = 1_u32 << position.ok_or(WireError::ContextUnknown { id: context })?;
        let contexts_expected = self.contexts.len();
        let pending = self.pending(cookie)?;
        if pending.contexts & bit != 0 {
            return Err(WireError::ContextRepeated { id: context });
        }
        pending.contexts |= bit;
        if !done {
            return Ok(Some(ClientEvent::Extents {
                cookie,
                context,
                extents,
                done,
            }));
        }
        check_contexts(pending, contexts_expected)?;
        let result = outcome_of(pending);
        self.requests.remove(cookie);
        Ok(Some(match result {
            Ok(()) => ClientEvent::Extents {
                cookie,
                context,
                extents,
                done,
            },
            Err(_) => ClientEvent::Completed { cookie, result },
        }))
    }

    /// The end of a chunk without payload: with DONE, the end of its request.
    fn end_chunk(&mut self, header: &ChunkHeader) -> Result<Option<ClientEvent>, WireError> {
        self.state = State::Reply;
        if !header.is_done() {
            return Ok(None);
        }
        let contexts_expected = self.contexts.len();
        let pending = self.pending(header.cookie)?;
        check_complete(pending)?;
        check_contexts(pending, contexts_expected)?;
        let result = outcome_of(pending);
        self.requests.remove(header.cookie);
        Ok(Some(ClientEvent::Completed {
            cookie: header.cookie,
            result,
        }))
    }

    fn pending(&mut self, cookie: Cookie) -> Result<&mut Pending, WireError> {
        self.requests
            .get_mut(cookie)
            .ok_or(WireError::UnknownCookie { cookie })
    }
}

pub(super) fn outcome_of(pending: &Pending) -> Result<(), NbdError> {
    pending.error.map_or(Ok(()), Err)
}

/// A READ may only succeed with every byte.
fn check_complete(pending: &Pending) -> Result<(), WireError> {
    let found = u64::from(pending.coverage.covered());
    if pending.command != Command::Read || pending.error.is_some() || found == pending.len {
        return Ok(());
    }
    Err(WireError::ReadIncomplete {
        found,
        expected: pending.len,
    })
}

/// A BLOCK_STATUS may only succeed with every context.
fn check_contexts(pending: &Pending, contexts: usize) -> Result<(), WireError> {
    let found = pending.contexts.count_ones();
    let is_status = pending.command == Command::BlockStatus && pending.error.is_none();
    if !is_status || found as usize == contexts {
        return Ok(());
    }
    let expected = u32::try_from(contexts).unwrap_or(u32::MAX);
    Err(WireError::ContextMissing { found, expected })
}
