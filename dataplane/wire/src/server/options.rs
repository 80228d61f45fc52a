//! Option data in, option replies out.

use crate::limits::STRING_BYTES_MAX;
use crate::proto::{
    BASE_ALLOCATION, EXPORT_NAME_PADDING_BYTES, ExportInfo, InfoKind, OPTION_REPLY_MAGIC,
    OptionCode, ReplyCode,
};
use crate::reader::{Reader, truncate};

/// Data of INFO and GO.
#[derive(Debug)]
pub(super) struct ExportRequest {
    pub(super) name: String,
    pub(super) wants_name: bool,
    pub(super) wants_description: bool,
    pub(super) wants_block_size: bool,
}

impl ExportRequest {
    /// u32 length, name, u16 count, count × u16 kinds; nothing may be left over.
    pub(super) fn parse(data: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        let name_len = reader.u32()?;
        let name = reader.text(name_len)?.to_owned();
        let count = reader.u16()?;
        let kinds = reader.rest();
        if kinds.len() != usize::from(count) * 2 {
            return None;
        }
        // Kinds without a name here are to be ignored.
        let wants = |kind: InfoKind| {
            kinds
                .chunks_exact(2)
                .any(|pair| pair == kind.0.to_be_bytes())
        };
        Some(Self {
            wants_name: wants(InfoKind::NAME),
            wants_description: wants(InfoKind::DESCRIPTION),
            wants_block_size: wants(InfoKind::BLOCK_SIZE),
            name,
        })
    }
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
#[derive(Debug)]
pub(super) struct ContextRequest {
    pub(super) name: String,
    /// One of the queries selects base:allocation.
    pub(super) base_allocation: bool,
}

impl ContextRequest {
    /// u32 length, name, u32 count, count × (u32 length, query); nothing may be left over.
    pub(super) fn parse(option: OptionCode, data: &[u8]) -> Option<Self> {
        let is_list = option == OptionCode::LIST_META_CONTEXT;
        let mut reader = Reader::new(data);
        let name_len = reader.u32()?;
        let name = reader.text(name_len)?.to_owned();
        let count = reader.u32()?;
        // LIST without a query asks for every context.
        let mut base_allocation = is_list && count == 0;
        // `count` is the peer's word, but every query takes bytes, and those run out.
        for _ in 0..count {
            let query_len = reader.u32()?;
            let query = reader.text(query_len)?;
            let (namespace, _) = query.split_once(':')?;
            if namespace.is_empty() {
                return None;
            }
            // "base:" alone is a wildcard in LIST and selects nothing in SET; other namespaces
            // are ignored without comment.
            base_allocation |= query == BASE_ALLOCATION || (is_list && query == "base:");
        }
        reader.rest().is_empty().then_some(Self {
            name,
            base_allocation,
        })
    }
}

/// Collects what the handshake has to send.
#[derive(Debug, Default)]
pub(super) struct OptionWriter {
    bytes: Vec<u8>,
}

impl OptionWriter {
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn ack(&mut self, option: OptionCode) {
        self.reply(option, ReplyCode::ACK, &[]);
    }

    pub(super) fn error(&mut self, option: OptionCode, code: ReplyCode, text: &str) {
        self.reply(option, code, &[text.as_bytes()]);
    }

    /// Size of one REP_SERVER reply.
    pub(super) fn server_bytes(&self, name: &str, description: &str) -> usize {
        20 + 4 + name.len() + truncate(description, STRING_BYTES_MAX).len()
    }

    /// One export of a listing; `name` is a valid protocol string.
    pub(super) fn server(&mut self, name: &str, description: &str) {
        let description = truncate(description, STRING_BYTES_MAX);
        let name_len = wire_len(name.len()).to_be_bytes();
        let parts = [&name_len, name.as_bytes(), description.as_bytes()];
        self.reply(OptionCode::LIST, ReplyCode::SERVER, &parts);
    }

    pub(super) fn base_allocation(&mut self, option: OptionCode, id: u32) {
        let parts = [&id.to_be_bytes()[..], BASE_ALLOCATION.as_bytes()];
        self.reply(option, ReplyCode::META_CONTEXT, &parts);
    }

    /// The answer to INFO or GO: the export, always its block sizes, what else was asked, ACK.
    pub(super) fn export(
        &mut self,
        option: OptionCode,
        request: &ExportRequest,
        info: &ExportInfo,
    ) {
        let size = info.size_bytes.to_be_bytes();
        self.fact(
            option,
            InfoKind::EXPORT,
            &[&size, &info.flags.0.to_be_bytes()],
        );
        let block = info.block;
        let sizes = [block.min, block.preferred, block.payload_max].map(u32::to_be_bytes);
        self.fact(
            option,
            InfoKind::BLOCK_SIZE,
            &[&sizes[0], &sizes[1], &sizes[2]],
        );
        if request.wants_name {
            self.fact(option, InfoKind::NAME, &[request.name.as_bytes()]);
        }
        if request.wants_description && !info.description.is_empty() {
            let description = truncate(&info.description, STRING_BYTES_MAX);
            self.fact(option, InfoKind::DESCRIPTION, &[description.as_bytes()]);
        }
        self.ack(option);
    }

    /// The answer to EXPORT_NAME, which has no reply header.
    pub(super) fn export_name(&mut self, info: &ExportInfo, no_zeroes: bool) {
        self.raw(&info.size_bytes.to_be_bytes());
        self.raw(&info.flags.0.to_be_bytes());
        if !no_zeroes {
            self.raw(&[0; EXPORT_NAME_PADDING_BYTES]);
        }
    }

    fn fact(&mut self, option: OptionCode, kind: InfoKind, parts: &[&[u8]]) {
        let kind = kind.0.to_be_bytes();
        let mut with_kind: [&[u8]; 4] = [&kind, &[], &[], &[]];
        for (slot, part) in with_kind[1..].iter_mut().zip(parts) {
            *slot = part;
        }
        self.reply(option, ReplyCode::INFO, &with_kind);
    }

    fn reply(&mut self, option: OptionCode, code: ReplyCode, parts: &[&[u8]]) {
        let len = parts.iter().map(|part| part.len()).sum();
        self.raw(&OPTION_REPLY_MAGIC.to_be_bytes());
        self.raw(&option.0.to_be_bytes());
        self.raw(&code.0.to_be_bytes());
        self.raw(&wire_len(len).to_be_bytes());
        for part in parts {
            self.raw(part);
        }
    }
}

/// A length for a 32-bit field; everything we send is far below the limit.
fn wire_len(len: usize) -> u32 {
    u32::try_from(len).expect("replies are bounded by limits")
}
