//! Requests in: the receiving half of the server's transmission phase.

use super::validate::Rules;
use super::{Incoming, ServerParams, ServerWant};
use crate::WireError;
use crate::gather::HeaderGather;
use crate::proto::{Command, Mode, RequestHeader, check_magic};

/// Where the machine stands in the byte stream.
#[derive(Debug, Clone, Copy)]
enum State {
    Header,
    Payload { len: u32, discard: bool },
    Disconnected,
    Failed(WireError),
}

/// The server's transmission phase.
///
/// Input: [`handle_header`](Self::handle_header), [`handle_payload`](Self::handle_payload); needs:
/// [`want`](Self::want); replies: the `encode_*` functions, which keep no state, so replies may be
/// sent in any order.
#[derive(Debug)]
pub struct ServerConn {
    pub(super) rules: Rules,
    gather: HeaderGather,
    state: State,
}

impl ServerConn {
    /// Starts the phase with the outcome of a [`ServerHandshake`](super::ServerHandshake).
    #[must_use]
    pub fn new(params: &ServerParams) -> Self {
        Self {
            rules: Rules::new(params),
            gather: HeaderGather::new(),
            state: State::Header,
        }
    }

    /// What comes next in the byte stream.
    #[must_use]
    pub fn want(&self) -> ServerWant {
        match self.state {
            State::Header => ServerWant::Header {
                len: self.gather.missing(self.header_bytes()),
            },
            State::Payload { len, discard } => ServerWant::Payload { len, discard },
            State::Disconnected | State::Failed(_) => ServerWant::Closed,
        }
    }

    /// Feeds header bytes; takes at most what `want` says and returns how many that were, with the
    /// request they completed. Takes nothing while payload is wanted or after the end.
    ///
    /// # Errors
    /// When the stream cannot be followed any further; the connection is to be dropped.
    pub fn handle_header(&mut self, input: &[u8]) -> Result<(usize, Option<Incoming>), WireError> {
        match self.state {
            State::Header => {}
            State::Failed(error) => return Err(error),
            State::Payload { .. } | State::Disconnected => return Ok((0, None)),
        }
        let taken = self.gather.fill(input, self.header_bytes());
        let incoming = self.poll_request();
        if let Err(error) = incoming {
            self.state = State::Failed(error);
        }
        incoming.map(|incoming| (taken, incoming))
    }

    /// `len` bytes of the wanted payload were taken (more than wanted counts as all of it).
    pub fn handle_payload(&mut self, len: u32) {
        if let State::Payload { len: wanted, .. } = &mut self.state {
            *wanted = wanted.saturating_sub(len);
            if *wanted == 0 {
                self.state = State::Header;
            }
        }
    }

    /// How requests and replies are framed.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.rules.mode
    }

    fn header_bytes(&self) -> usize {
        RequestHeader::bytes(self.rules.mode)
    }

    /// Interprets what has been gathered.
    fn poll_request(&mut self) -> Result<Option<Incoming>, WireError> {
        let expected = RequestHeader::magic(self.rules.mode);
        if let Some(found) = self.gather.magic() {
            check_magic(found, expected)?;
        }
        let Some(header) = RequestHeader::decode(self.gather.as_bytes(), self.rules.mode) else {
            return Ok(None);
        };
        self.gather.clear();
        if header.command == Command::Disconnect {
            self.state = State::Disconnected;
            return Ok(Some(Incoming::Disconnect));
        }
        let judged = self.rules.judge(&header)?;
        if judged.payload_len > 0 {
            self.state = State::Payload {
                len: judged.payload_len,
                discard: judged.verdict.is_err(),
            };
        }
        Ok(Some(match judged.verdict {
            Ok(()) => Incoming::Request(judged.request),
            Err(error) => Incoming::Invalid {
                request: judged.request,
                error,
            },
        }))
    }
}
