//! Every limit of the protocol core, with its reason.
//!
//! The peer chooses lengths and counts; these numbers are where its choice ends. The relations the
//! code relies on are asserted at the bottom, so a careless change does not build.

/// Longest header either role sends or receives in one piece, bytes: the extended chunk header (32)
/// with the offset of OFFSET_DATA (8) or the fixed part of an error chunk (6) and a short text.
pub const HEADER_BYTES_MAX: usize = 64;

/// Longest payload of one WRITE or READ, bytes. The protocol calls 2^25 the size that every server
/// should take ("Block size constraints"); a longer WRITE ends the connection, because skipping it
/// would mean reading gigabytes for a peer that ignores the rules.
pub const PAYLOAD_BYTES_MAX: u32 = 32 * 1024 * 1024;

/// Longest export name, context name, query or text, bytes ("Conventions": strings are at most 4096).
pub const STRING_BYTES_MAX: usize = 4096;

/// Longest option data a server takes, bytes. Room for a name and hundreds of context queries; a peer
/// that announces more is told ERR_TOO_BIG and disconnected before a byte of it is read.
pub const OPTION_BYTES_MAX: u32 = 64 * 1024;

/// Options one client may send per handshake phase (before TLS, and again after it). A complete
/// negotiation needs six; every option costs the server an answer.
pub const OPTIONS_MAX: u32 = 32;

/// Longest option reply a client takes, bytes: a name and a description at their limits with room
/// to spare. Checked before anything is stored.
pub const OPTION_REPLY_BYTES_MAX: u32 = 64 * 1024;

/// Replies to one option, LIST excepted, that a client reads before it gives up.
pub const OPTION_REPLIES_MAX: u32 = 64;

/// Exports a client accepts in one listing.
pub const LIST_EXPORTS_MAX: usize = 4096;

/// Bytes of names and descriptions a client keeps from one listing.
pub const LIST_BYTES_MAX: usize = 1024 * 1024;

/// Bytes of REP_SERVER replies a server sends for one LIST. With [`OPTIONS_MAX`] this bounds the
/// output of a client that asks again and again and never reads.
pub const LIST_REPLY_BYTES_MAX: usize = 256 * 1024;

/// Bytes of an error text that a client hands on to people.
pub const REFUSAL_TEXT_BYTES_MAX: usize = 512;

/// Meta contexts one client connection may have; the answered ones are kept as bits of a `u32`.
pub const CONTEXTS_MAX: usize = 32;

/// Extents in one block status chunk ("Structured reply types": at most 2^20 descriptors).
pub const EXTENTS_MAX: u32 = 1 << 20;

/// Longest error chunk a client takes, bytes: text and trailing fields of an error kind not yet
/// invented included.
pub const ERROR_CHUNK_BYTES_MAX: u32 = 64 * 1024;

/// Separate pieces of one READ that may be outstanding out of order. Pieces that touch are merged, so
/// a server that answers in order never uses more than one; a fixed number keeps the request table
/// free of allocation.
pub const READ_SPANS_MAX: usize = 32;

/// Most requests one client connection may have in flight.
pub const IN_FLIGHT_MAX: usize = 1 << 16;

/// Largest export, bytes. Sizes are signed 64-bit on most systems; a larger value would turn
/// negative there (CVE-2023-5215).
pub const EXPORT_BYTES_MAX: u64 = i64::MAX as u64;

/// Longest read that a server must answer in one chunk when DF is set, bytes ("NBD_CMD_READ").
pub const DF_BYTES_MIN: u32 = 65_536;

/// Largest minimum block size, bytes ("Block size constraints").
pub const BLOCK_MIN_BYTES_MAX: u32 = 65_536;

// A header with its longest fixed body, and the text of every error we send, fits in one piece.
const _: () = assert!(HEADER_BYTES_MAX >= 32 + 8);
const _: () = assert!(HEADER_BYTES_MAX >= 32 + 6 + 16);
const _: () = assert!(HEADER_BYTES_MAX <= u8::MAX as usize);
// An option holds a name at its limit with the fixed fields around it, and so does a reply.
const _: () = assert!(OPTION_BYTES_MAX as usize >= STRING_BYTES_MAX + 4 + 2 + 2 * 4);
const _: () = assert!(OPTION_REPLY_BYTES_MAX as usize >= 2 * STRING_BYTES_MAX + 4);
// Texts for people are protocol strings.
const _: () = assert!(REFUSAL_TEXT_BYTES_MAX <= STRING_BYTES_MAX);
// A listing the server sends is one that the client takes.
const _: () = assert!(LIST_REPLY_BYTES_MAX <= LIST_BYTES_MAX);
const _: () = assert!(LIST_REPLY_BYTES_MAX >= 20 + 4 + 2 * STRING_BYTES_MAX);
// Chunk lengths of the structured mode are 32 bits wide; payload and extents stay below.
const _: () = assert!(PAYLOAD_BYTES_MAX as u64 + 8 <= u32::MAX as u64);
const _: () = assert!(8 + 16 * (EXTENTS_MAX as u64) <= u32::MAX as u64);
// A read that must not be fragmented always fits in one payload.
const _: () = assert!(DF_BYTES_MIN <= PAYLOAD_BYTES_MAX);
const _: () = assert!(CONTEXTS_MAX <= u32::BITS as usize);
// Slots fit the low half of a cookie, span counts fit a byte.
const _: () = assert!(IN_FLIGHT_MAX <= u32::MAX as usize);
const _: () = assert!(READ_SPANS_MAX <= u8::MAX as usize);
