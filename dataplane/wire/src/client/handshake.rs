//! The client's handshake machine: one option at a time until the goal is reached or refused.

use super::replies::{
    Facts, REPLY_HEADER_BYTES, ReplyHeader, bounded, context_request, export_request,
    parse_context, parse_server, refusal_text, write_option,
};
use super::{ClientGoal, ClientHandshakeConfig, ClientHandshakeEvent, ClientParams};
use crate::WireError;
use crate::gather::Gather;
use crate::limits::{
    CONTEXTS_MAX, LIST_BYTES_MAX, LIST_EXPORTS_MAX, OPTION_REPLIES_MAX, OPTION_REPLY_BYTES_MAX,
};
use crate::proto::{
    EXPORT_NAME_PADDING_BYTES, GREETING_MAGIC, HandshakeFlags, Mode, OLDSTYLE_MAGIC, OPTION_MAGIC,
    OptionCode, ReplyCode,
};
use crate::reader::Reader;

/// Greeting: two magic numbers and the handshake flags.
const GREETING_BYTES: usize = 18;

/// What the machine waits for. `option` is the one that was sent last.
#[derive(Debug, Clone, Copy)]
enum State {
    Greeting,
    ReplyHeader {
        option: OptionCode,
    },
    ReplyData {
        header: ReplyHeader,
    },
    /// The answer to EXPORT_NAME, which is no option reply.
    ExportName {
        len: usize,
    },
    Tls,
    Ended,
    Failed(WireError),
}

/// The client's half of fixed newstyle negotiation.
///
/// Input: [`handle_input`](Self::handle_input); facts: [`poll_event`](Self::poll_event); bytes to
/// send: [`take_output`](Self::take_output). Options go out in the order STARTTLS,
/// EXTENDED_HEADERS, STRUCTURED_REPLY (when the former is refused), SET_META_CONTEXT, then GO, INFO
/// or LIST. Nothing is asked before STARTTLS is answered, and nothing after it is refused.
#[derive(Debug)]
pub struct ClientHandshake {
    config: ClientHandshakeConfig,
    state: State,
    gather: Gather,
    output: Vec<u8>,
    event: Option<ClientHandshakeEvent>,
    no_zeroes: bool,
    mode: Mode,
    contexts: Vec<(u32, String)>,
    facts: Facts,
    exports: Vec<(String, String)>,
    exports_bytes: usize,
    /// Replies to the current option.
    replies: u32,
}

impl ClientHandshake {
    /// Starts a handshake; nothing is sent before the greeting has come. Strings longer than the
    /// protocol carries are cut (the export will then be unknown to the server).
    #[must_use]
    pub fn new(config: ClientHandshakeConfig) -> Self {
        Self {
            config: bounded(config),
            state: State::Greeting,
            gather: Gather::default(),
            output: Vec::new(),
            event: None,
            no_zeroes: false,
            mode: Mode::Simple,
            contexts: Vec::new(),
            facts: Facts::default(),
            exports: Vec::new(),
            exports_bytes: 0,
            replies: 0,
        }
    }

    /// Takes bytes; returns how many were consumed. Stops at an event; after Done what is left
    /// belongs to the transmission phase.
    ///
    /// # Errors
    /// When the server broke the protocol; the connection is to be dropped.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<usize, WireError> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let len = match self.state {
                State::Failed(error) => return Err(error),
                // The server has nothing to say between its ACK and our ClientHello.
                State::Tls if !rest.is_empty() => {
                    return Err(self.fail(WireError::SurplusBeforeTls { found: rest.len() }));
                }
                State::Tls | State::Ended => return Ok(used),
                State::Greeting => GREETING_BYTES,
                State::ReplyHeader { .. } => REPLY_HEADER_BYTES,
                State::ReplyData { header } => header.len as usize,
                State::ExportName { len } => len,
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

    /// The next fact.
    pub fn poll_event(&mut self) -> Option<ClientHandshakeEvent> {
        self.event.take()
    }

    /// Bytes to send, if any; bounded, because every option waits for its reply.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// TLS is up. `surplus`: bytes that were received after the ACK and before TLS; must be 0.
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
        self.gather = Gather::default();
        self.event = None;
        self.negotiate();
        Ok(())
    }

    fn handle_unit(&mut self, unit: &[u8]) -> Result<(), WireError> {
        match self.state {
            State::Greeting => self.handle_greeting(unit),
            State::ReplyHeader { option } => self.handle_reply_header(option, unit),
            State::ReplyData { header } => {
                self.state = State::ReplyHeader {
                    option: header.option,
                };
                self.handle_reply(&header, unit)
            }
            State::ExportName { .. } => self.handle_export_name(unit),
            State::Tls | State::Ended | State::Failed(_) => Ok(()),
        }
    }

    fn handle_greeting(&mut self, unit: &[u8]) -> Result<(), WireError> {
        let mut reader = Reader::new(unit);
        for expected in [GREETING_MAGIC, OPTION_MAGIC] {
            let found = reader.u64().unwrap_or(0);
            if expected == OPTION_MAGIC && found == OLDSTYLE_MAGIC {
                return Err(WireError::OldstyleServer);
            }
            if found != expected {
                return Err(WireError::BadMagic { found, expected });
            }
        }
        let flags = reader.u16().unwrap_or(0);
        if flags & HandshakeFlags::FIXED_NEWSTYLE == 0 {
            return Err(WireError::NotFixedNewstyle { found: flags });
        }
        // We answer with the flags we know; a flag we do not know is not ours to confirm.
        let confirmed = flags & (HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES);
        self.no_zeroes = flags & HandshakeFlags::NO_ZEROES != 0;
        self.output
            .extend_from_slice(&u32::from(confirmed).to_be_bytes());
        if self.config.starttls {
            self.send(OptionCode::STARTTLS, &[]);
        } else {
            self.negotiate();
        }
        Ok(())
    }

    fn handle_reply_header(&mut self, option: OptionCode, unit: &[u8]) -> Result<(), WireError> {
        let header = ReplyHeader::parse(unit)?;
        let found = header.option;
        if found != option {
            return Err(WireError::ReplyForOtherOption {
                found,
                expected: option,
            });
        }
        let (reply, max) = (header.reply, OPTION_REPLY_BYTES_MAX);
        if header.len > max {
            return Err(WireError::ReplyTooLong {
                reply,
                found: header.len,
                max,
            });
        }
        self.replies += 1;
        if option != OptionCode::LIST && self.replies > OPTION_REPLIES_MAX {
            return Err(WireError::TooManyReplies {
                option,
                max: OPTION_REPLIES_MAX,
            });
        }
        self.state = State::ReplyData { header };
        Ok(())
    }

    /// A complete option reply.
    fn handle_reply(&mut self, header: &ReplyHeader, data: &[u8]) -> Result<(), WireError> {
        if header.reply.is_error() {
            self.handle_refusal(header, data);
            return Ok(());
        }
        if header.reply == ReplyCode::ACK && !data.is_empty() {
            return Err(header.malformed());
        }
        match (header.option, header.reply) {
            (OptionCode::STARTTLS, ReplyCode::ACK) => {
                self.state = State::Tls;
                self.event = Some(ClientHandshakeEvent::StartTls);
                Ok(())
            }
            (OptionCode::EXTENDED_HEADERS, ReplyCode::ACK) => {
                self.mode = Mode::Extended;
                self.after_mode();
                Ok(())
            }
            (OptionCode::STRUCTURED_REPLY, ReplyCode::ACK) => {
                self.mode = Mode::Structured;
                self.after_mode();
                Ok(())
            }
            (OptionCode::SET_META_CONTEXT, ReplyCode::ACK) => {
                self.ask_export();
                Ok(())
            }
            (OptionCode::SET_META_CONTEXT, ReplyCode::META_CONTEXT) => {
                let context = parse_context(data).ok_or_else(|| header.malformed())?;
                self.add_context(context)
            }
            (OptionCode::GO | OptionCode::INFO, ReplyCode::INFO) => self.facts.add(header, data),
            (OptionCode::GO | OptionCode::INFO, ReplyCode::ACK) => self.finish(),
            (OptionCode::LIST, ReplyCode::SERVER) => {
                let export = parse_server(data).ok_or_else(|| header.malformed())?;
                self.add_export(export)
            }
            (OptionCode::LIST, ReplyCode::ACK) => {
                let exports = std::mem::take(&mut self.exports);
                self.end(ClientHandshakeEvent::Exports(exports), true);
                Ok(())
            }
            _ => Err(header.unexpected()),
        }
    }

    /// An error reply: there may be another way.
    fn handle_refusal(&mut self, header: &ReplyHeader, data: &[u8]) {
        let (option, code) = (header.option, header.reply);
        // These two say that every other option would fare the same.
        let is_final = matches!(code, ReplyCode::ERR_TLS_REQD | ReplyCode::ERR_SHUTDOWN);
        match option {
            OptionCode::EXTENDED_HEADERS if !is_final => self.ask_structured(),
            OptionCode::STRUCTURED_REPLY if !is_final => self.after_mode(),
            OptionCode::SET_META_CONTEXT if !is_final => {
                self.contexts.clear();
                self.ask_export();
            }
            // A server older than GO. With extended headers on there is always GO.
            OptionCode::GO if code == ReplyCode::ERR_UNSUP && self.mode != Mode::Extended => {
                self.send(
                    OptionCode::EXPORT_NAME,
                    &self.config.export_name.clone().into_bytes(),
                );
                let padding = if self.no_zeroes {
                    0
                } else {
                    EXPORT_NAME_PADDING_BYTES
                };
                self.state = State::ExportName { len: 10 + padding };
            }
            // STARTTLS above all: going on without TLS is the downgrade of CVE-2019-14842.
            _ => {
                let text = refusal_text(data);
                let event = ClientHandshakeEvent::Refused {
                    option: option.0,
                    code: code.0,
                    text,
                };
                self.end(event, true);
            }
        }
    }

    fn handle_export_name(&mut self, unit: &[u8]) -> Result<(), WireError> {
        let mut reader = Reader::new(unit);
        let size_bytes = reader.u64().unwrap_or(0);
        let flags = reader.u16().unwrap_or(0);
        self.facts = Facts::from_export(size_bytes, flags)?;
        self.finish()
    }

    fn add_context(&mut self, context: (u32, String)) -> Result<(), WireError> {
        if self.contexts.iter().any(|(id, _)| *id == context.0) {
            return Err(WireError::ContextRepeated { id: context.0 });
        }
        if self.contexts.len() == CONTEXTS_MAX {
            return Err(WireError::TooManyContexts { max: CONTEXTS_MAX });
        }
        self.contexts.push(context);
        Ok(())
    }

    fn add_export(&mut self, export: (String, String)) -> Result<(), WireError> {
        self.exports_bytes += export.0.len() + export.1.len();
        if self.exports.len() == LIST_EXPORTS_MAX || self.exports_bytes > LIST_BYTES_MAX {
            let (exports_max, bytes_max) = (LIST_EXPORTS_MAX, LIST_BYTES_MAX);
            return Err(WireError::ListTooLong {
                exports_max,
                bytes_max,
            });
        }
        self.exports.push(export);
        Ok(())
    }

    /// The first option inside the final transport.
    fn negotiate(&mut self) {
        if self.config.goal == ClientGoal::List {
            self.send(OptionCode::LIST, &[]);
        } else if self.config.extended_headers {
            self.send(OptionCode::EXTENDED_HEADERS, &[]);
        } else {
            self.ask_structured();
        }
    }

    fn ask_structured(&mut self) {
        if self.config.structured_replies {
            self.send(OptionCode::STRUCTURED_REPLY, &[]);
        } else {
            self.after_mode();
        }
    }

    fn after_mode(&mut self) {
        if self.mode == Mode::Simple || self.config.contexts.is_empty() {
            self.ask_export();
        } else {
            self.send(OptionCode::SET_META_CONTEXT, &context_request(&self.config));
        }
    }

    fn ask_export(&mut self) {
        let is_info = self.config.goal == ClientGoal::Info;
        let option = if is_info {
            OptionCode::INFO
        } else {
            OptionCode::GO
        };
        self.send(option, &export_request(&self.config));
    }

    fn send(&mut self, option: OptionCode, data: &[u8]) {
        write_option(&mut self.output, option, data);
        self.replies = 0;
        self.state = State::ReplyHeader { option };
    }

    fn finish(&mut self) -> Result<(), WireError> {
        let facts = std::mem::take(&mut self.facts);
        let params = ClientParams {
            block_sizes_stated: facts.block.is_some(),
            info: facts.into_info()?,
            mode: self.mode,
            contexts: std::mem::take(&mut self.contexts),
        };
        let is_info = self.config.goal == ClientGoal::Info;
        self.end(ClientHandshakeEvent::Done(params), is_info);
        Ok(())
    }

    /// Ends the handshake; with ABORT when the connection is not used any further.
    fn end(&mut self, event: ClientHandshakeEvent, abort: bool) {
        if abort {
            write_option(&mut self.output, OptionCode::ABORT, &[]);
        }
        self.state = State::Ended;
        self.event = Some(event);
    }

    fn fail(&mut self, error: WireError) -> WireError {
        self.state = State::Failed(error);
        self.event = None;
        error
    }
}
