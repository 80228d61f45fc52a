//! Names for the numbers of the protocol, and the layout of its headers.

mod chunk;
mod command;
mod export;
mod flags;
mod header;
mod negotiation;

pub use chunk::{ChunkKind, NbdError};
pub use command::{Command, Cookie, Mode};
pub use export::{BlockSizes, ExportInfo, Extent};
pub use flags::{CommandFlags, TransmissionFlags};
pub use header::HeaderBuf;
pub use negotiation::{InfoKind, OptionCode, ReplyCode};

pub(crate) use flags::HandshakeFlags;
pub(crate) use header::{
    ChunkHeader, EXTENDED_CHUNK_BYTES, EXTENDED_REPLY_MAGIC, RequestHeader, SIMPLE_REPLY_BYTES,
    SIMPLE_REPLY_MAGIC, STRUCTURED_CHUNK_BYTES, STRUCTURED_REPLY_MAGIC, SimpleReply, check_magic,
};
pub(crate) use negotiation::{GREETING_MAGIC, OLDSTYLE_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC};

/// Chunk flag: this is the last chunk of the reply ("Structured reply flags", bit 0).
pub(crate) const CHUNK_DONE: u16 = 1;

/// Zeroes after the answer to EXPORT_NAME when the client did not ask to leave them out, bytes.
pub(crate) const EXPORT_NAME_PADDING_BYTES: usize = 124;

/// The one meta context the protocol itself defines ("Metadata contexts").
pub const BASE_ALLOCATION: &str = "base:allocation";
