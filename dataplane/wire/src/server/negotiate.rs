//! What each option does: decisions and answers, once its data is complete.

use super::handshake::{Asked, BASE_ALLOCATION_ID, State};
use super::options::{ContextRequest, ExportRequest};
use super::{ExportRefusal, Query, ServerHandshake, ServerHandshakeEvent, ServerParams, TlsPolicy};
use crate::WireError;
use crate::limits::DF_BYTES_MIN;
use crate::proto::{ExportInfo, HandshakeFlags, Mode, OptionCode, ReplyCode};
use crate::reader::text;

impl ServerHandshake {
    /// A complete option.
    pub(super) fn handle_option(&mut self, option: OptionCode, data: &[u8]) {
        if self.client_flags & u32::from(HandshakeFlags::FIXED_NEWSTYLE) == 0
            && option != OptionCode::EXPORT_NAME
        {
            // Such a client does not expect replies, and TLS is out of reach for it.
            return self.terminate(WireError::OptionForbidden { option });
        }
        let is_clear = self.config.tls == TlsPolicy::Forced && !self.tls_up;
        match option {
            OptionCode::ABORT => {
                self.out.ack(option);
                self.end(ServerHandshakeEvent::Aborted);
            }
            OptionCode::STARTTLS => self.handle_starttls(data),
            OptionCode::EXPORT_NAME if is_clear => {
                self.terminate(WireError::TlsRequired { option });
            }
            _ if is_clear => {
                self.out
                    .error(option, ReplyCode::ERR_TLS_REQD, "TLS comes first");
            }
            OptionCode::EXPORT_NAME => self.handle_export_name(data),
            OptionCode::LIST => self.handle_list(data),
            OptionCode::INFO | OptionCode::GO => self.handle_export_query(option, data),
            OptionCode::STRUCTURED_REPLY => self.handle_structured_reply(data),
            OptionCode::EXTENDED_HEADERS => self.handle_extended_headers(data),
            OptionCode::LIST_META_CONTEXT | OptionCode::SET_META_CONTEXT => {
                self.handle_contexts(option, data);
            }
            _ => self
                .out
                .error(option, ReplyCode::ERR_UNSUP, "unknown option"),
        }
    }

    fn handle_starttls(&mut self, data: &[u8]) {
        let option = OptionCode::STARTTLS;
        if self.config.tls == TlsPolicy::NotOffered {
            self.out
                .error(option, ReplyCode::ERR_POLICY, "TLS is not offered here");
        } else if self.tls_up {
            self.out
                .error(option, ReplyCode::ERR_INVALID, "TLS is already up");
        } else if !data.is_empty() {
            self.out
                .error(option, ReplyCode::ERR_INVALID, "no data allowed");
        } else {
            self.out.ack(option);
            self.state = State::Tls;
            self.event = Some(ServerHandshakeEvent::StartTls);
        }
    }

    fn handle_export_name(&mut self, data: &[u8]) {
        let option = OptionCode::EXPORT_NAME;
        if self.negotiated.mode == Mode::Extended {
            return self.terminate(WireError::OptionForbidden { option });
        }
        match text(data) {
            Some(name) => self.ask(name.to_owned(), Query::ExportName, Asked::ExportName),
            None => self.terminate(WireError::BadName {
                option,
                found: data.len(),
            }),
        }
    }

    fn handle_list(&mut self, data: &[u8]) {
        let option = OptionCode::LIST;
        if !data.is_empty() {
            self.out
                .error(option, ReplyCode::ERR_INVALID, "no data allowed");
        } else if !self.config.list {
            self.out
                .error(option, ReplyCode::ERR_POLICY, "listing is off");
        } else {
            self.state = State::ListAnswer;
            self.event = Some(ServerHandshakeEvent::ListQuery);
        }
    }

    fn handle_export_query(&mut self, option: OptionCode, data: &[u8]) {
        let query = if option == OptionCode::GO {
            Query::Go
        } else {
            Query::Info
        };
        match ExportRequest::parse(data) {
            Some(request) => {
                let name = request.name.clone();
                self.ask(name, query, |_| Asked::Export { option, request });
            }
            None => self.out.error(option, ReplyCode::ERR_INVALID, "malformed"),
        }
    }

    fn handle_structured_reply(&mut self, data: &[u8]) {
        let option = OptionCode::STRUCTURED_REPLY;
        if !data.is_empty() {
            self.out
                .error(option, ReplyCode::ERR_INVALID, "no data allowed");
        } else if self.negotiated.mode == Mode::Extended {
            let code = ReplyCode::ERR_EXT_HEADER_REQD;
            self.out
                .error(option, code, "extended headers are already on");
        } else {
            self.negotiated.mode = Mode::Structured;
            self.out.ack(option);
        }
    }

    fn handle_extended_headers(&mut self, data: &[u8]) {
        let option = OptionCode::EXTENDED_HEADERS;
        if !self.config.extended_headers {
            self.out
                .error(option, ReplyCode::ERR_UNSUP, "unknown option");
        } else if !data.is_empty() {
            self.out
                .error(option, ReplyCode::ERR_INVALID, "no data allowed");
        } else {
            self.negotiated.mode = Mode::Extended;
            self.out.ack(option);
        }
    }

    fn handle_contexts(&mut self, option: OptionCode, data: &[u8]) {
        if option == OptionCode::SET_META_CONTEXT {
            // "replaces all previously-set metadata contexts", also when it fails.
            self.negotiated.base_allocation = None;
        }
        if self.negotiated.mode == Mode::Simple {
            let text = "structured replies come first";
            return self.out.error(option, ReplyCode::ERR_INVALID, text);
        }
        match ContextRequest::parse(option, data) {
            Some(request) => {
                let name = request.name.clone();
                self.ask(name, Query::MetaContext, |_| Asked::Contexts {
                    option,
                    request,
                });
            }
            None => self.out.error(option, ReplyCode::ERR_INVALID, "malformed"),
        }
    }

    pub(super) fn select_contexts(&mut self, option: OptionCode, request: ContextRequest) {
        if request.base_allocation {
            // Ids mean something in SET only; in LIST they "SHOULD be set to zero".
            let is_set = option == OptionCode::SET_META_CONTEXT;
            self.out
                .base_allocation(option, if is_set { BASE_ALLOCATION_ID } else { 0 });
            if is_set {
                self.negotiated.base_allocation = Some(request.name);
            }
        }
        self.out.ack(option);
    }

    /// Asks the driver about `name`; `asked` says what the answer is for.
    fn ask(&mut self, name: String, query: Query, asked: impl FnOnce(String) -> Asked) {
        self.state = State::ExportAnswer(asked(name.clone()));
        self.event = Some(ServerHandshakeEvent::ExportQuery { name, query });
    }

    /// What the client will be told of the driver's answer. Facts that the protocol cannot say
    /// make the export unusable rather than the client confused.
    pub(super) fn state_info(&self, mut info: ExportInfo) -> Result<ExportInfo, ExportRefusal> {
        let is_sound =
            ExportInfo::check_size(info.size_bytes).is_ok() && info.block.check().is_ok();
        if !is_sound {
            return Err(ExportRefusal::Platform);
        }
        // DF promises that reads of up to 64 KiB come in one piece.
        let is_df_kept = info.block.payload_bytes_max() >= DF_BYTES_MIN;
        let is_structured = self.negotiated.mode != Mode::Simple;
        info.flags = info.flags.stated(is_structured && is_df_kept);
        Ok(info)
    }

    pub(super) fn finish(
        &mut self,
        export_name: String,
        info: ExportInfo,
        block_sizes_negotiated: bool,
    ) {
        // Contexts hold for the export they were selected for and no other.
        let is_selected = self.negotiated.base_allocation.as_ref() == Some(&export_name);
        self.end(ServerHandshakeEvent::Done(ServerParams {
            export_name,
            info,
            mode: self.negotiated.mode,
            base_allocation: is_selected.then_some(BASE_ALLOCATION_ID),
            block_sizes_negotiated,
        }));
    }

    pub(super) fn refuse(&mut self, option: OptionCode, refusal: ExportRefusal) {
        let code = match refusal {
            ExportRefusal::Unknown => ReplyCode::ERR_UNKNOWN,
            ExportRefusal::Policy => ReplyCode::ERR_POLICY,
            ExportRefusal::Shutdown => ReplyCode::ERR_SHUTDOWN,
            ExportRefusal::Platform => ReplyCode::ERR_PLATFORM,
        };
        self.out.error(option, code, &refusal.to_string());
    }

    pub(super) fn terminate(&mut self, error: WireError) {
        self.end(ServerHandshakeEvent::Terminate(error));
    }

    fn end(&mut self, event: ServerHandshakeEvent) {
        self.state = State::Ended;
        self.event = Some(event);
    }

    pub(super) fn fail(&mut self, error: WireError) -> WireError {
        self.state = State::Failed(error);
        self.event = None;
        error
    }
}
