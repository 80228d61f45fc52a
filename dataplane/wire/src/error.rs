//! What the peer did wrong.

use crate::proto::{ChunkKind, Command, Cookie, OptionCode, ReplyCode};
use crate::server::ExportRefusal;

/// A fault of the peer's bytes that ends the connection. `Copy`, no allocation.
///
/// Faults that the protocol lets us answer (a request past the end, an unknown option) are not here:
/// they become replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A magic number is wrong: the peer does not speak NBD, or the stream lost its framing.
    #[error("bad magic {found:#x}, expected {expected:#x}")]
    BadMagic {
        /// What came.
        found: u64,
        /// What the state of the connection called for.
        expected: u64,
    },
    /// The server greets with the oldstyle handshake, which has no options and so no TLS.
    #[error("server speaks oldstyle negotiation, which is obsolete")]
    OldstyleServer,
    /// The server's handshake flags lack FIXED_NEWSTYLE.
    #[error("server does not offer fixed newstyle negotiation (handshake flags {found:#x})")]
    NotFixedNewstyle {
        /// The handshake flags.
        found: u16,
    },
    /// The client set a flag that does not exist or was not offered.
    #[error("client set unknown handshake flags {found:#x}")]
    UnknownClientFlags {
        /// The client flags.
        found: u32,
    },
    /// An option announces more data than the server takes.
    #[error("option {option} announces {found} bytes, at most {max} are taken")]
    OptionTooLong {
        /// The option.
        option: OptionCode,
        /// Announced length, bytes.
        found: u32,
        /// The limit, bytes.
        max: u32,
    },
    /// The client goes on sending options.
    #[error("more than {max} options in one handshake")]
    TooManyOptions {
        /// The limit.
        max: u32,
    },
    /// An option that may not come in this state and has no error reply.
    #[error("option {option} is not allowed in this state")]
    OptionForbidden {
        /// The option.
        option: OptionCode,
    },
    /// EXPORT_NAME before TLS although TLS is mandatory; it has no error reply.
    #[error("option {option} before TLS, which this server requires")]
    TlsRequired {
        /// The option.
        option: OptionCode,
    },
    /// Plain bytes between STARTTLS and the TLS handshake: an attempt to inject, or a peer that
    /// pipelines options. Nothing received in the clear may survive the upgrade.
    #[error("{found} surplus bytes between STARTTLS and the TLS handshake")]
    SurplusBeforeTls {
        /// How many.
        found: usize,
    },
    /// The driver reports TLS in a state that did not ask for it.
    #[error("TLS was established out of turn")]
    TlsOutOfTurn,
    /// The export asked for by EXPORT_NAME is refused; the option has no error reply.
    #[error("export refused: {refusal}")]
    ExportRefused {
        /// Why.
        refusal: ExportRefusal,
    },
    /// A name that is not UTF-8, holds a NUL, or is too long, where no error reply exists.
    #[error("option {option} carries a name of {found} bytes that is not a valid string")]
    BadName {
        /// The option.
        option: OptionCode,
        /// Length of the name, bytes.
        found: usize,
    },
    /// A reply names another option than the one asked.
    #[error("reply is for option {found}, expected {expected}")]
    ReplyForOtherOption {
        /// Option in the reply.
        found: OptionCode,
        /// Option that was sent.
        expected: OptionCode,
    },
    /// An option reply announces more data than the client takes.
    #[error("reply {reply} announces {found} bytes, at most {max} are taken")]
    ReplyTooLong {
        /// The reply.
        reply: ReplyCode,
        /// Announced length, bytes.
        found: u32,
        /// The limit, bytes.
        max: u32,
    },
    /// The fields of an option reply do not fit its length, or a string in it is none.
    #[error("reply {reply} to option {option} is malformed")]
    ReplyMalformed {
        /// The option that was asked.
        option: OptionCode,
        /// The reply.
        reply: ReplyCode,
    },
    /// A reply of a kind that this option never gets.
    #[error("unexpected reply {reply} to option {option}")]
    UnexpectedReply {
        /// The option that was asked.
        option: OptionCode,
        /// The reply.
        reply: ReplyCode,
    },
    /// The server goes on replying to one option.
    #[error("more than {max} replies to option {option}")]
    TooManyReplies {
        /// The option that was asked.
        option: OptionCode,
        /// The limit.
        max: u32,
    },
    /// The listing is longer than the client keeps.
    #[error("export list exceeds {exports_max} names or {bytes_max} bytes")]
    ListTooLong {
        /// Limit on exports.
        exports_max: usize,
        /// Limit on the bytes of all names and descriptions.
        bytes_max: usize,
    },
    /// GO or INFO was acknowledged without the mandatory INFO_EXPORT.
    #[error("server acknowledged the export without describing it")]
    ExportInfoMissing,
    /// The export's size does not fit a signed 64-bit number.
    #[error("export size {found} exceeds {max}")]
    ExportTooLarge {
        /// Stated size, bytes.
        found: u64,
        /// The limit, bytes.
        max: u64,
    },
    /// The block sizes contradict the rules of "Block size constraints".
    #[error(
        "invalid block sizes: minimum {min}, preferred {preferred}, maximum payload {payload_max}"
    )]
    BadBlockSizes {
        /// Stated minimum, bytes.
        min: u32,
        /// Stated preferred size, bytes.
        preferred: u32,
        /// Stated largest payload, bytes.
        payload_max: u32,
    },
    /// More meta contexts than a connection keeps.
    #[error("server selected more than {max} meta contexts")]
    TooManyContexts {
        /// The limit.
        max: usize,
    },
    /// A meta context id was given or answered twice.
    #[error("meta context id {id} repeated")]
    ContextRepeated {
        /// The id.
        id: u32,
    },
    /// Block status for a context that was never negotiated.
    #[error("meta context id {id} was not negotiated")]
    ContextUnknown {
        /// The id.
        id: u32,
    },
    /// Block status ended successfully without an answer for every negotiated context.
    #[error("block status answered {found} of {expected} meta contexts")]
    ContextMissing {
        /// Contexts answered.
        found: u32,
        /// Contexts negotiated.
        expected: u32,
    },
    /// A request carries more payload than may be skipped.
    #[error("request announces {found} bytes of payload, at most {max} are taken")]
    PayloadTooLong {
        /// Announced length, bytes.
        found: u64,
        /// The limit, bytes.
        max: u32,
    },
    /// A reply to a request that is not in flight: unknown, stale or answered twice.
    #[error("reply to {cookie}, which is not in flight")]
    UnknownCookie {
        /// The cookie in the reply.
        cookie: Cookie,
    },
    /// A simple reply where only chunks are allowed.
    #[error("simple reply to {command} where a structured one is required")]
    SimpleReplyForbidden {
        /// Command of the request.
        command: Command,
    },
    /// A chunk kind that we do not know and that is not an error, or that this mode does not have.
    #[error("unknown chunk kind {kind}")]
    UnknownChunk {
        /// The kind.
        kind: ChunkKind,
    },
    /// A chunk kind that never answers this command.
    #[error("chunk {kind} in reply to {command}")]
    ChunkForbidden {
        /// The kind.
        kind: ChunkKind,
        /// Command of the request.
        command: Command,
    },
    /// A chunk whose length contradicts its kind, its fields or its request.
    #[error("chunk {kind} has an impossible length of {found} bytes")]
    BadChunkLength {
        /// The kind.
        kind: ChunkKind,
        /// Announced length, bytes.
        found: u64,
    },
    /// A chunk speaks about bytes that were not asked for.
    #[error("chunk covers {len} bytes at {offset}, outside of its request")]
    ChunkOutsideRequest {
        /// Absolute offset, bytes.
        offset: u64,
        /// Length, bytes.
        len: u64,
    },
    /// Two chunks of one READ cover the same bytes.
    #[error("chunk of {len} bytes at {offset} overlaps an earlier one")]
    ChunkOverlap {
        /// Absolute offset, bytes.
        offset: u64,
        /// Length, bytes.
        len: u64,
    },
    /// The chunks of one READ leave more gaps at once than are tracked.
    #[error("read answered in more than {max} separate pieces at a time")]
    TooFragmented {
        /// The limit.
        max: usize,
    },
    /// More than one content chunk although DF was set.
    #[error("read with DF was fragmented")]
    Fragmented,
    /// A NONE chunk without the DONE flag.
    #[error("chunk NONE without the DONE flag")]
    DoneMissing,
    /// A READ ended successfully without all of its bytes.
    #[error("read ended after {found} of {expected} bytes")]
    ReadIncomplete {
        /// Bytes received or declared as holes.
        found: u64,
        /// Bytes asked for.
        expected: u64,
    },
    /// An extended chunk that does not echo the offset of its request.
    #[error("extended chunk echoes offset {found}, expected {expected}")]
    BadOffsetEcho {
        /// Offset in the chunk, bytes.
        found: u64,
        /// Offset of the request, bytes.
        expected: u64,
    },
    /// An error chunk with error number zero.
    #[error("error chunk without an error")]
    ErrorMissing,
    /// A block status chunk with more extents than allowed.
    #[error("block status with {found} extents, at most {max} are allowed")]
    TooManyExtents {
        /// Announced extents.
        found: u64,
        /// The limit.
        max: u32,
    },
    /// The count in an extended block status chunk contradicts its length.
    #[error("block status counts {found} extents, its length says {expected}")]
    BadExtentCount {
        /// Stated count.
        found: u32,
        /// Count that follows from the length.
        expected: u32,
    },
    /// An extent of no bytes: a client that follows it would never advance.
    #[error("block status with an extent of zero length")]
    EmptyExtent,
    /// Extents that go on after the request is covered, or overflow.
    #[error("block status extents exceed the {max} bytes of the request")]
    ExtentsTooLong {
        /// Length of the request, bytes.
        max: u64,
    },
}
