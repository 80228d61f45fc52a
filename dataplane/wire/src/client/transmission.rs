//! Requests out, replies in: the client's transmission phase.

use super::chunks::outcome_of;
use super::extents::ExtentReader;
use super::requests::{Pending, RequestTable, slot_of};
use super::{ClientEvent, ClientParams, ClientWant};
use crate::WireError;
use crate::gather::HeaderGather;
use crate::limits::{CONTEXTS_MAX, PAYLOAD_BYTES_MAX};
use crate::proto::{
    ChunkHeader, Command, CommandFlags, Cookie, EXTENDED_CHUNK_BYTES, EXTENDED_REPLY_MAGIC,
    HeaderBuf, Mode, RequestHeader, SIMPLE_REPLY_BYTES, SIMPLE_REPLY_MAGIC, STRUCTURED_CHUNK_BYTES,
    STRUCTURED_REPLY_MAGIC, SimpleReply, check_magic,
};

/// Where the machine stands in the byte stream.
#[derive(Debug)]
pub(super) enum State {
    /// A reply header.
    Reply,
    /// The fixed part of a content or error chunk.
    Body {
        header: ChunkHeader,
        len: usize,
    },
    /// The text of an error chunk and what follows it. Only the last eight bytes are kept: the
    /// offset, where the kind has one.
    ErrorTail {
        header: ChunkHeader,
        left: u64,
        last: u64,
    },
    Extents(Box<ExtentReader>),
    Payload {
        cookie: Cookie,
        offset: u32,
        len: u32,
        done: bool,
    },
    Failed(WireError),
}

/// The client's transmission phase.
///
/// Commands: [`start`](Self::start), [`encode_disconnect`](Self::encode_disconnect); input:
/// [`handle_header`](Self::handle_header), [`handle_payload`](Self::handle_payload); needs:
/// [`want`](Self::want). Facts come back from the two input functions, at most one per call. Reads,
/// writes, flushes, trims and zeroes allocate nothing after `new`.
#[derive(Debug)]
pub struct ClientConn {
    pub(super) mode: Mode,
    pub(super) size_bytes: u64,
    /// Ids of the negotiated contexts.
    pub(super) contexts: Vec<u32>,
    pub(super) requests: RequestTable,
    gather: HeaderGather,
    pub(super) state: State,
    is_disconnecting: bool,
}

impl ClientConn {
    /// Starts the phase with the outcome of a [`ClientHandshake`](super::ClientHandshake).
    /// `in_flight_max`: capacity of the request table, fixed; brought into 1 to
    /// `limits::IN_FLIGHT_MAX`.
    #[must_use]
    pub fn new(params: &ClientParams, in_flight_max: usize) -> Self {
        Self {
            mode: params.mode,
            size_bytes: params.info.size_bytes,
            contexts: params
                .contexts
                .iter()
                .take(CONTEXTS_MAX)
                .map(|(id, _)| *id)
                .collect(),
            requests: RequestTable::new(in_flight_max),
            gather: HeaderGather::new(),
            state: State::Reply,
            is_disconnecting: false,
        }
    }

    /// Registers a request and encodes its header (for WRITE the payload follows it on the wire).
    /// Adds PAYLOAD_LEN itself where the mode demands it. `None` when the table is full, or after
    /// [`encode_disconnect`](Self::encode_disconnect): then `out` is empty.
    ///
    /// # Panics
    /// When the request cannot be said: DISC or an unknown command, a length above
    /// [`len_max`](Self::len_max), BLOCK_STATUS without contexts. Only the caller decides these.
    pub fn start(
        &mut self,
        command: Command,
        flags: CommandFlags,
        offset: u64,
        len: u64,
        out: &mut HeaderBuf,
    ) -> Option<Cookie> {
        out.clear();
        assert!(
            !matches!(command, Command::Disconnect | Command::Unknown(_)),
            "{command} is not a request that gets a reply"
        );
        assert!(
            command != Command::BlockStatus || !self.contexts.is_empty(),
            "block status without a negotiated context"
        );
        assert!(
            len <= self.len_max(command),
            "{command} of {len} bytes cannot be said"
        );
        if self.is_disconnecting {
            return None;
        }
        let cookie = self
            .requests
            .insert(Pending::new(command, flags, offset, len))?;
        let is_flagged = self.mode == Mode::Extended && command == Command::Write;
        let framing = if is_flagged {
            CommandFlags::PAYLOAD_LEN
        } else {
            CommandFlags::NONE
        };
        let flags = flags.without(CommandFlags::PAYLOAD_LEN).union(framing);
        RequestHeader {
            flags,
            command,
            cookie,
            offset,
            len,
        }
        .encode(self.mode, out);
        Some(cookie)
    }

    /// DISC; no reply comes. Outstanding replies are still read, then [`want`](Self::want) says
    /// Closed.
    pub fn encode_disconnect(&mut self, out: &mut HeaderBuf) {
        out.clear();
        self.is_disconnecting = true;
        let header = RequestHeader {
            flags: CommandFlags::NONE,
            command: Command::Disconnect,
            cookie: Cookie(u64::MAX),
            offset: 0,
            len: 0,
        };
        header.encode(self.mode, out);
    }

    /// What comes next in the byte stream.
    #[must_use]
    pub fn want(&self) -> ClientWant {
        match &self.state {
            State::Reply if self.is_disconnecting && self.requests.in_flight() == 0 => {
                ClientWant::Closed
            }
            State::Reply => ClientWant::Header {
                len: self.gather.missing(self.reply_bytes()),
            },
            State::Body { len, .. } => ClientWant::Header {
                len: self.gather.missing(*len),
            },
            State::ErrorTail { left, .. } => ClientWant::Header {
                len: usize::try_from(*left).unwrap_or(usize::MAX),
            },
            State::Extents(reader) => ClientWant::Header { len: reader.left() },
            State::Payload {
                cookie,
                offset,
                len,
                ..
            } => ClientWant::Payload {
                cookie: *cookie,
                offset: *offset,
                len: *len,
            },
            State::Failed(_) => ClientWant::Closed,
        }
    }

    /// Feeds header bytes (also block status and error bodies); takes at most what `want` says and
    /// returns how many that were, with the fact they completed. Takes nothing while payload is
    /// wanted or after the end.
    ///
    /// # Errors
    /// When the server broke the protocol; no request in flight can be trusted any more.
    pub fn handle_header(
        &mut self,
        input: &[u8],
    ) -> Result<(usize, Option<ClientEvent>), WireError> {
        let outcome = self.advance(input);
        if let Err(error) = &outcome {
            self.state = State::Failed(*error);
        }
        outcome
    }

    /// `len` bytes of the wanted payload were taken (more than wanted counts as all of it).
    pub fn handle_payload(&mut self, len: u32) -> Option<ClientEvent> {
        let State::Payload {
            cookie,
            offset,
            len: wanted,
            done,
        } = &mut self.state
        else {
            return None;
        };
        let taken = len.min(*wanted);
        *wanted -= taken;
        *offset += taken;
        if *wanted > 0 {
            return None;
        }
        let (cookie, done) = (*cookie, *done);
        self.state = State::Reply;
        if !done {
            return None;
        }
        // Coverage was checked before the payload was asked for.
        let pending = self.requests.remove(cookie)?;
        Some(ClientEvent::Completed {
            cookie,
            result: outcome_of(&pending),
        })
    }

    /// How requests and replies are framed.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Requests without a complete reply.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.requests.in_flight()
    }

    /// Longest length that [`start`](Self::start) takes for a command, bytes: payload is bounded by
    /// `limits::PAYLOAD_BYTES_MAX`, effects by what the header can say.
    #[must_use]
    pub fn len_max(&self, command: Command) -> u64 {
        match command {
            Command::Read | Command::Write => u64::from(PAYLOAD_BYTES_MAX),
            _ => RequestHeader::len_max(self.mode),
        }
    }

    /// Slot index of a cookie, below `in_flight_max`: lets the driver keep a side table.
    #[must_use]
    pub fn slot_of(cookie: Cookie) -> usize {
        slot_of(cookie)
    }

    /// One step through the byte stream.
    fn advance(&mut self, input: &[u8]) -> Result<(usize, Option<ClientEvent>), WireError> {
        match &mut self.state {
            State::Failed(error) => Err(*error),
            State::Payload { .. } => Ok((0, None)),
            State::Reply => {
                if self.is_disconnecting && self.requests.in_flight() == 0 {
                    return Ok((0, None));
                }
                let taken = self.gather.fill(input, self.reply_bytes());
                Ok((taken, self.poll_reply()?))
            }
            State::Body { header, len } => {
                let (header, len) = (*header, *len);
                let taken = self.gather.fill(input, len);
                if self.gather.missing(len) > 0 {
                    return Ok((taken, None));
                }
                let body = self.gather;
                self.gather.clear();
                Ok((taken, self.handle_body(&header, body.as_bytes())?))
            }
            State::ErrorTail { header, left, last } => {
                let taken = input
                    .len()
                    .min(usize::try_from(*left).unwrap_or(input.len()));
                *left = left.saturating_sub(taken as u64);
                for byte in &input[taken.saturating_sub(8)..taken] {
                    *last = *last << 8 | u64::from(*byte);
                }
                if *left > 0 {
                    return Ok((taken, None));
                }
                let (header, last) = (*header, *last);
                Ok((taken, self.end_error(&header, last)?))
            }
            State::Extents(reader) => {
                let taken = reader.handle_input(input)?;
                if reader.left() > 0 {
                    return Ok((taken, None));
                }
                Ok((taken, self.handle_extents()?))
            }
        }
    }

    /// Size of the reply header that the gathered bytes begin.
    fn reply_bytes(&self) -> usize {
        match self.mode {
            Mode::Simple => SIMPLE_REPLY_BYTES,
            Mode::Extended => EXTENDED_CHUNK_BYTES,
            // Both kinds may come; the shorter one is asked for until the magic is known.
            Mode::Structured if self.gather.magic() == Some(STRUCTURED_REPLY_MAGIC) => {
                STRUCTURED_CHUNK_BYTES
            }
            Mode::Structured => SIMPLE_REPLY_BYTES,
        }
    }

    fn poll_reply(&mut self) -> Result<Option<ClientEvent>, WireError> {
        let Some(magic) = self.gather.magic() else {
            return Ok(None);
        };
        let expected = match self.mode {
            Mode::Simple => SIMPLE_REPLY_MAGIC,
            Mode::Structured if magic == SIMPLE_REPLY_MAGIC => SIMPLE_REPLY_MAGIC,
            Mode::Structured => STRUCTURED_REPLY_MAGIC,
            Mode::Extended => EXTENDED_REPLY_MAGIC,
        };
        check_magic(magic, expected)?;
        if self.gather.missing(self.reply_bytes()) > 0 {
            return Ok(None);
        }
        let header = self.gather;
        self.gather.clear();
        if let Some(reply) = SimpleReply::decode(header.as_bytes()) {
            return self.handle_simple(reply);
        }
        match ChunkHeader::decode(header.as_bytes(), self.mode) {
            Some(chunk) => self.handle_chunk(&chunk),
            None => Ok(None),
        }
    }
}
