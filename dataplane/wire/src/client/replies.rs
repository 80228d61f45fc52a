//! Options out, option replies in: building and parsing, without decisions.

use super::ClientHandshakeConfig;
use crate::WireError;
use crate::limits::{CONTEXTS_MAX, OPTION_BYTES_MAX, REFUSAL_TEXT_BYTES_MAX, STRING_BYTES_MAX};
use crate::proto::{
    BlockSizes, ExportInfo, InfoKind, OPTION_MAGIC, OPTION_REPLY_MAGIC, OptionCode, ReplyCode,
    TransmissionFlags,
};
use crate::reader::{Reader, text, truncate};

/// Header of an option reply: magic, option, reply, length.
pub(super) const REPLY_HEADER_BYTES: usize = 20;

/// Appends an option.
pub(super) fn write_option(out: &mut Vec<u8>, option: OptionCode, data: &[u8]) {
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.0.to_be_bytes());
    out.extend_from_slice(&wire_len(data.len()).to_be_bytes());
    out.extend_from_slice(data);
}

/// Data of INFO and GO: the name, and the facts we have use for. Asking for block sizes in GO is
/// also the promise to obey them.
pub(super) fn export_request(config: &ClientHandshakeConfig) -> Vec<u8> {
    let kinds = [InfoKind::BLOCK_SIZE, InfoKind::DESCRIPTION];
    let mut data = prefixed(&config.export_name);
    data.extend_from_slice(&2_u16.to_be_bytes());
    for kind in kinds {
        data.extend_from_slice(&kind.0.to_be_bytes());
    }
    data
}

/// Data of SET_META_CONTEXT.
pub(super) fn context_request(config: &ClientHandshakeConfig) -> Vec<u8> {
    let mut data = prefixed(&config.export_name);
    data.extend_from_slice(&wire_len(config.contexts.len()).to_be_bytes());
    for context in &config.contexts {
        data.extend_from_slice(&prefixed(context));
    }
    data
}

/// A string with its 32-bit length before it.
fn prefixed(string: &str) -> Vec<u8> {
    let mut data = wire_len(string.len()).to_be_bytes().to_vec();
    data.extend_from_slice(string.as_bytes());
    data
}

/// A length for a 32-bit field. Strings are cut when the handshake is made, so this holds.
fn wire_len(len: usize) -> u32 {
    u32::try_from(len).expect("options are bounded by limits")
}

/// The configuration cut to what the protocol can carry, so that no option can overflow. Contexts
/// that no longer fit into one option of [`OPTION_BYTES_MAX`] are left out, as a server would.
pub(super) fn bounded(mut config: ClientHandshakeConfig) -> ClientHandshakeConfig {
    config
        .export_name
        .truncate(truncate(&config.export_name, STRING_BYTES_MAX).len());
    let mut room = OPTION_BYTES_MAX as usize - STRING_BYTES_MAX - 8;
    config.contexts.truncate(CONTEXTS_MAX);
    config.contexts.retain(|context| {
        let bytes = context.len() + 4;
        let fits = context.len() <= STRING_BYTES_MAX && bytes <= room;
        room -= if fits { bytes } else { 0 };
        fits
    });
    config
}

/// Header of an option reply.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReplyHeader {
    pub(super) option: OptionCode,
    pub(super) reply: ReplyCode,
    pub(super) len: u32,
}

impl ReplyHeader {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let magic = reader.u64().unwrap_or(0);
        if magic != OPTION_REPLY_MAGIC {
            return Err(WireError::BadMagic {
                found: magic,
                expected: OPTION_REPLY_MAGIC,
            });
        }
        Ok(Self {
            option: OptionCode(reader.u32().unwrap_or(0)),
            reply: ReplyCode(reader.u32().unwrap_or(0)),
            len: reader.u32().unwrap_or(0),
        })
    }

    /// The error for a reply that does not parse.
    pub(super) const fn malformed(&self) -> WireError {
        WireError::ReplyMalformed {
            option: self.option,
            reply: self.reply,
        }
    }

    /// The error for a reply that does not belong to its option.
    pub(super) const fn unexpected(&self) -> WireError {
        WireError::UnexpectedReply {
            option: self.option,
            reply: self.reply,
        }
    }
}

/// REP_SERVER: u32 length, name; the rest is a description.
pub(super) fn parse_server(data: &[u8]) -> Option<(String, String)> {
    let mut reader = Reader::new(data);
    let name_len = reader.u32()?;
    let name = reader.text(name_len)?;
    Some((name.to_owned(), printable(reader.rest(), STRING_BYTES_MAX)))
}

/// REP_META_CONTEXT: u32 id, name.
pub(super) fn parse_context(data: &[u8]) -> Option<(u32, String)> {
    let mut reader = Reader::new(data);
    let id = reader.u32()?;
    text(reader.rest()).map(|name| (id, name.to_owned()))
}

/// What INFO replies have said so far.
#[derive(Debug, Default)]
pub(super) struct Facts {
    export: Option<(u64, TransmissionFlags)>,
    pub(super) block: Option<BlockSizes>,
    description: String,
}

impl Facts {
    /// What EXPORT_NAME says.
    pub(super) fn from_export(size_bytes: u64, flags: u16) -> Result<Self, WireError> {
        let size_bytes = ExportInfo::check_size(size_bytes)?;
        Ok(Self {
            export: Some((size_bytes, TransmissionFlags(flags))),
            ..Self::default()
        })
    }

    /// Takes one REP_INFO; unknown kinds are ignored.
    pub(super) fn add(&mut self, header: &ReplyHeader, data: &[u8]) -> Result<(), WireError> {
        let malformed = header.malformed();
        let mut reader = Reader::new(data);
        let kind = InfoKind(reader.u16().ok_or(malformed)?);
        match kind {
            InfoKind::EXPORT => {
                let size_bytes = reader.u64().ok_or(malformed)?;
                let flags = TransmissionFlags(reader.u16().ok_or(malformed)?);
                self.export = Some((ExportInfo::check_size(size_bytes)?, flags));
            }
            InfoKind::BLOCK_SIZE => {
                let block = BlockSizes {
                    min: reader.u32().ok_or(malformed)?,
                    preferred: reader.u32().ok_or(malformed)?,
                    payload_max: reader.u32().ok_or(malformed)?,
                };
                self.block = Some(block.check()?);
            }
            InfoKind::DESCRIPTION => {
                self.description = printable(reader.rest(), STRING_BYTES_MAX);
                return Ok(());
            }
            _ => return Ok(()),
        }
        if reader.rest().is_empty() {
            Ok(())
        } else {
            Err(malformed)
        }
    }

    /// The export, once it has been described.
    pub(super) fn into_info(self) -> Result<ExportInfo, WireError> {
        let (size_bytes, flags) = self.export.ok_or(WireError::ExportInfoMissing)?;
        Ok(ExportInfo {
            size_bytes,
            flags,
            block: self.block.unwrap_or(BlockSizes::DEFAULT),
            description: self.description,
        })
    }
}

/// The text of an error reply.
pub(super) fn refusal_text(data: &[u8]) -> String {
    printable(data, REFUSAL_TEXT_BYTES_MAX)
}

/// Text from the peer for people: never longer than `len_max` bytes, never a control character
/// that could rewrite a terminal or a log.
fn printable(data: &[u8], len_max: usize) -> String {
    let data = &data[..data.len().min(len_max)];
    let clean: String = String::from_utf8_lossy(data)
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect();
    // Replacement characters are longer than the bytes they stand for.
    truncate(&clean, len_max).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_the_peer_is_cut_and_cleaned() {
        assert_eq!(refusal_text(b"no\x1b[2J\n"), "no [2J ");
        assert!(refusal_text(&[0xff; 100_000]).len() <= REFUSAL_TEXT_BYTES_MAX);
    }

    #[test]
    fn a_listing_entry_with_an_overlong_name_is_refused() {
        assert_eq!(
            parse_server(b"\0\0\0\x01adesc"),
            Some(("a".to_owned(), "desc".to_owned()))
        );
        assert_eq!(
            parse_server(b"\0\0\0\x05adesc"),
            Some(("adesc".to_owned(), String::new()))
        );
        assert_eq!(parse_server(b"\0\0\0\x06adesc"), None);
        assert_eq!(parse_server(b"\xff\xff\xff\xffadesc"), None);
        assert_eq!(parse_server(b"\0\0"), None);
    }
}
