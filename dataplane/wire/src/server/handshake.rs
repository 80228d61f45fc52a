//! The server's handshake machine: greeting, client flags, options until one opens an export.

use super::options::{ContextRequest, ExportRequest, OptionWriter};
use super::{ExportRefusal, ServerHandshakeConfig, ServerHandshakeEvent};
use crate::WireError;
use crate::gather::Gather;
use crate::limits::{LIST_REPLY_BYTES_MAX, OPTION_BYTES_MAX, OPTIONS_MAX};
use crate::proto::{
    ExportInfo, GREETING_MAGIC, HandshakeFlags, Mode, OPTION_MAGIC, OptionCode, ReplyCode,
};
use crate::reader::{Reader, text};

/// Id under which base:allocation is handed out.
pub(super) const BASE_ALLOCATION_ID: u32 = 1;
/// Option header: magic, option, length.
const OPTION_HEADER_BYTES: usize = 16;

/// What the machine waits for.
#[derive(Debug)]
pub(super) enum State {
    ClientFlags,
    OptionHeader,
    OptionData { option: OptionCode, len: usize },
    ExportAnswer(Asked),
    ListAnswer,
    Tls,
    Ended,
    Failed(WireError),
}

/// What the driver was asked about an export, and what its answer is needed for.
#[derive(Debug)]
pub(super) enum Asked {
    /// INFO or GO.
    Export {
        option: OptionCode,
        request: ExportRequest,
    },
    ExportName(String),
    Contexts {
        option: OptionCode,
        request: ContextRequest,
    },
}

/// What options have achieved. STARTTLS voids all of it (CVE-2021-3716).
#[derive(Debug)]
pub(super) struct Negotiated {
    pub(super) mode: Mode,
    /// Export for which base:allocation was selected.
    pub(super) base_allocation: Option<String>,
    pub(super) options: u32,
}

impl Negotiated {
    const fn new() -> Self {
        Self {
            mode: Mode::Simple,
            base_allocation: None,
            options: 0,
        }
    }
}

/// The server's half of fixed newstyle negotiation.
///
/// Input: [`handle_input`](Self::handle_input) and the `answer_*` functions; facts and questions:
/// [`poll_event`](Self::poll_event); bytes to send: [`take_output`](Self::take_output). Input is not
/// taken while an event waits to be polled or answered. An answer nobody asked for changes nothing.
#[derive(Debug)]
pub struct ServerHandshake {
    pub(super) config: ServerHandshakeConfig,
    pub(super) state: State,
    gather: Gather,
    pub(super) negotiated: Negotiated,
    /// Inside TLS that this handshake started.
    pub(super) tls_up: bool,
    pub(super) client_flags: u32,
    pub(super) event: Option<ServerHandshakeEvent>,
    pub(super) out: OptionWriter,
}

impl ServerHandshake {
    /// Starts a handshake; the greeting is in the output.
    #[must_use]
    pub fn new(config: ServerHandshakeConfig) -> Self {
        let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
        let mut out = OptionWriter::default();
        out.raw(&GREETING_MAGIC.to_be_bytes());
        out.raw(&OPTION_MAGIC.to_be_bytes());
        out.raw(&flags.to_be_bytes());
        Self {
            config,
            state: State::ClientFlags,
            gather: Gather::default(),
            negotiated: Negotiated::new(),
            tls_up: false,
            client_flags: 0,
            event: None,
            out,
        }
    }

    /// Takes bytes; returns how many were consumed. Stops while an event waits for an answer and
    /// after the end: what is left then belongs to the transmission phase.
    ///
    /// # Errors
    /// When the connection is to be dropped without a further word.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<usize, WireError> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let len = match &self.state {
                State::Failed(error) => return Err(*error),
                // The client may only answer our ACK with a ClientHello, and that is not for us. A
                // byte here was sent in the clear to be believed later.
                State::Tls if !rest.is_empty() => {
                    return Err(self.fail(WireError::SurplusBeforeTls { found: rest.len() }));
                }
                _ if self.event.is_some() => return Ok(used),
                State::ClientFlags => 4,
                State::OptionHeader => OPTION_HEADER_BYTES,
                State::OptionData { len, .. } => *len,
                State::ExportAnswer(_) | State::ListAnswer | State::Tls | State::Ended => {
                    return Ok(used);
                }
            };
            used += self.gather.fill(rest, len);
            let Some(unit) = self.gather.take_full(len) else {
                return Ok(used);
            };
            if let Err(error) = self.handle_unit(&unit) {
                return Err(self.fail(error));
            }
        }
    }

    /// The next fact or question.
    pub fn poll_event(&mut self) -> Option<ServerHandshakeEvent> {
        self.event.take()
    }

    /// Bytes to send, if any. Bounded by `limits::OPTIONS_MAX` replies of bounded length even when
    /// it is never called.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.out.take()
    }

    /// More input is wanted: no event waits, no answer is due.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        let is_reading = matches!(
            self.state,
            State::ClientFlags | State::OptionHeader | State::OptionData { .. }
        );
        is_reading && self.event.is_none()
    }

    /// Answers [`ServerHandshakeEvent::ExportQuery`].
    pub fn answer_export(&mut self, answer: Result<ExportInfo, ExportRefusal>) {
        if !matches!(self.state, State::ExportAnswer(_)) {
            return;
        }
        let State::ExportAnswer(asked) = std::mem::replace(&mut self.state, State::OptionHeader)
        else {
            return;
        };
        let answer = answer.and_then(|info| self.state_info(info));
        match (asked, answer) {
            (Asked::Export { option, .. } | Asked::Contexts { option, .. }, Err(refusal)) => {
                self.refuse(option, refusal);
            }
            (Asked::ExportName(_), Err(refusal)) => {
                self.terminate(WireError::ExportRefused { refusal });
            }
            (Asked::Export { option, request }, Ok(info)) => {
                self.out.export(option, &request, &info);
                if option == OptionCode::GO {
                    self.finish(request.name, info, request.wants_block_size);
                }
            }
            (Asked::ExportName(name), Ok(info)) => {
                let no_zeroes = self.client_flags & u32::from(HandshakeFlags::NO_ZEROES) != 0;
                self.out.export_name(&info, no_zeroes);
                self.finish(name, info, false);
            }
            (Asked::Contexts { option, request }, Ok(_)) => {
                self.select_contexts(option, request);
            }
        }
    }

    /// Answers [`ServerHandshakeEvent::ListQuery`] with (name, description) pairs. A listing too
    /// long for `limits::LIST_REPLY_BYTES_MAX` ends with ERR_TOO_BIG instead of an ACK, so that it
    /// is not mistaken for a complete one.
    pub fn answer_list(&mut self, answer: Result<&[(String, String)], ExportRefusal>) {
        if !matches!(self.state, State::ListAnswer) {
            return;
        }
        self.state = State::OptionHeader;
        let exports = match answer {
            Ok(exports) => exports,
            Err(refusal) => return self.refuse(OptionCode::LIST, refusal),
        };
        let mut bytes = 0;
        for (name, description) in exports {
            // A name that no client could ask for is not worth listing.
            if text(name.as_bytes()).is_none() {
                continue;
            }
            bytes += self.out.server_bytes(name, description);
            if bytes > LIST_REPLY_BYTES_MAX {
                let code = ReplyCode::ERR_TOO_BIG;
                return self
                    .out
                    .error(OptionCode::LIST, code, "too many exports to list");
            }
            self.out.server(name, description);
        }
        self.out.ack(OptionCode::LIST);
    }

    /// TLS is up. `surplus`: bytes that were received after STARTTLS and before TLS; must be 0.
    /// Everything negotiated in the clear is forgotten.
    ///
    /// # Errors
    /// [`WireError::SurplusBeforeTls`], or [`WireError::TlsOutOfTurn`].
    pub fn tls_established(&mut self, surplus: usize) -> Result<(), WireError> {
        match self.state {
            State::Failed(error) => return Err(error),
            State::Tls if surplus == 0 => {}
            State::Tls => {
                return Err(self.fail(WireError::SurplusBeforeTls { found: surplus }));
            }
            _ => return Err(self.fail(WireError::TlsOutOfTurn)),
        }
        self.tls_up = true;
        self.negotiated = Negotiated::new();
        self.gather = Gather::default();
        self.event = None;
        self.state = State::OptionHeader;
        Ok(())
    }

    fn handle_unit(&mut self, unit: &[u8]) -> Result<(), WireError> {
        match self.state {
            State::ClientFlags => self.handle_client_flags(unit),
            State::OptionHeader => self.handle_option_header(unit),
            State::OptionData { option, .. } => {
                self.state = State::OptionHeader;
                self.handle_option(option, unit);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn handle_client_flags(&mut self, unit: &[u8]) -> Result<(), WireError> {
        let found = Reader::new(unit).u32().unwrap_or(0);
        let offered = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
        if found & !u32::from(offered) != 0 {
            return Err(WireError::UnknownClientFlags { found });
        }
        self.client_flags = found;
        self.state = State::OptionHeader;
        Ok(())
    }

    fn handle_option_header(&mut self, unit: &[u8]) -> Result<(), WireError> {
        let mut reader = Reader::new(unit);
        let magic = reader.u64().unwrap_or(0);
        let option = OptionCode(reader.u32().unwrap_or(0));
        let len = reader.u32().unwrap_or(0);
        if magic != OPTION_MAGIC {
            return Err(WireError::BadMagic {
                found: magic,
                expected: OPTION_MAGIC,
            });
        }
        self.negotiated.options += 1;
        // EXPORT_NAME has no error replies; its client would take one for an export.
        let can_answer = option != OptionCode::EXPORT_NAME;
        if self.negotiated.options > OPTIONS_MAX {
            if can_answer {
                self.out
                    .error(option, ReplyCode::ERR_POLICY, "too many options");
            }
            self.terminate(WireError::TooManyOptions { max: OPTIONS_MAX });
        } else if len > OPTION_BYTES_MAX {
            if can_answer {
                self.out
                    .error(option, ReplyCode::ERR_TOO_BIG, "option too long");
            }
            let max = OPTION_BYTES_MAX;
            self.terminate(WireError::OptionTooLong {
                option,
                found: len,
                max,
            });
        } else {
            self.state = State::OptionData {
                option,
                len: len as usize,
            };
        }
        Ok(())
    }
}
