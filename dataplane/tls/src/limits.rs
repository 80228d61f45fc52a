//! Every bound of this crate, with its reason. Sizes are in bytes unless the name says otherwise.

/// Record header: content type, legacy version, length (RFC 8446 section 5.1).
pub const RECORD_HEADER_LEN: usize = 5;
/// Authentication tag of all three AEADs of TLS 1.3 (RFC 5116, RFC 8439).
pub const TAG_LEN: usize = 16;
/// Most plaintext one record carries: 2^14 (RFC 8446 section 5.1).
pub const RECORD_PLAINTEXT_MAX: usize = 16_384;
/// What one record of ours adds to its plaintext: header, content type byte, tag.
pub const RECORD_OVERHEAD: usize = RECORD_HEADER_LEN + 1 + TAG_LEN;
/// Largest length field RFC 8446 section 5.2 allows for a protected record: 2^14 + 256.
///
/// With a 16-byte tag the stricter rule of section 5.4 (data, type and padding together at most
/// 2^14 + 1) is reached first; [`Session::frame`](crate::Session::frame) enforces both.
pub const RECORD_CIPHERTEXT_MAX: usize = RECORD_PLAINTEXT_MAX + 256;
/// Room that holds any record a peer may send, header included.
pub const RECORD_WIRE_MAX: usize = RECORD_HEADER_LEN + RECORD_CIPHERTEXT_MAX;
/// Largest inner plaintext: 2^14 bytes of content, its type byte, or padding instead of content.
pub const RECORD_INNER_MAX: usize = RECORD_PLAINTEXT_MAX + 1;
/// Smallest buffer [`Session::poll_control`](crate::Session::poll_control) accepts. The largest
/// control record is a KeyUpdate: 5 bytes of message and 22 of overhead.
pub const CONTROL_RECORD_MAX: usize = 64;

/// A ClientHello with everything around it. Real ones take 0.3 to 2 KiB; certificates are not in it.
pub const CLIENT_HELLO_BYTES_MAX: usize = 65_536;
/// Bytes a handshake may hold while it waits for more: one full record and a long certificate chain.
pub const HANDSHAKE_HELD_BYTES_MAX: usize = 131_072;
/// Bytes a whole handshake may take from the peer. Four times what a chain of 64 KiB needs.
pub const HANDSHAKE_BYTES_MAX: usize = 262_144;

/// Longest message after the handshake. A ticket, the longest legal one, stays below 2^16 + 1 KiB
/// in theory and below 2 KiB in practice.
pub const POST_HANDSHAKE_MESSAGE_MAX: usize = 65_536;
/// Records in a row that bring no application data (empty ones, tickets, fragments, KeyUpdates).
/// Twice what the longest message needs in fragments of 512 bytes, the smallest size in real use.
pub const RECORDS_WITHOUT_DATA_MAX: u16 = 256;
/// KeyUpdates in a row without application data between them; rustls draws the line here, too.
pub const KEY_UPDATES_WITHOUT_DATA_MAX: u16 = 32;
/// A KeyUpdate is *early* when fewer data records than this came since the one before it. The
/// smallest record limit in use is the 64 of the tests, so a peer that re-keys by count is never early.
pub const RECORDS_BETWEEN_KEY_UPDATES_MIN: u64 = 16;
/// Early KeyUpdates accepted per second. gnutls cuts a peer off after 8 a second, so no peer that
/// talks to the world comes near; deriving 128 keys costs less than a millisecond.
pub const EARLY_KEY_UPDATES_PER_SECOND_MAX: u32 = 128;
/// `user_canceled` warnings accepted on one connection; one is enough for any purpose.
pub const WARNINGS_MAX: u8 = 4;

/// Records sealed under one key before we send a KeyUpdate: half of what AES-GCM bears.
pub const RECORDS_PER_KEY_DEFAULT: u64 = 1 << 23;
/// Records under one AES-GCM key: 2^24 keeps below the 2^24.5 of RFC 8446 section 5.5. Some are
/// kept back for the KeyUpdate and the alerts that end a connection.
pub const RECORDS_PER_KEY_HARD_MAX: u64 = (1 << 24) - CONTROL_RECORDS_RESERVED;
/// Records kept back below the cipher's limit for control records.
pub const CONTROL_RECORDS_RESERVED: u64 = 64;
/// KeyUpdates we send per second. gnutls ends a connection that sends more than 8.
pub const KEY_UPDATES_PER_SECOND_DEFAULT: u32 = 8;
/// The same towards a gnutls peer, whose window need not start where ours does.
pub const KEY_UPDATES_PER_SECOND_GNUTLS: u32 = 6;

/// Longest validity of a certificate we issue, in days.
pub const DAYS_VALID_MAX: u32 = 36_500;
/// Validity of a new site's authority, in days, unless its certificates outlive it.
pub const AUTHORITY_DAYS_VALID_MIN: u32 = 3_650;

const _: () = assert!(RECORD_OVERHEAD == 22 && RECORD_WIRE_MAX == 16_645);
const _: () = assert!(RECORD_INNER_MAX + TAG_LEN <= RECORD_CIPHERTEXT_MAX);
const _: () = assert!(RECORDS_PER_KEY_DEFAULT < RECORDS_PER_KEY_HARD_MAX);
const _: () = assert!(RECORDS_BETWEEN_KEY_UPDATES_MIN < 64);
const _: () = assert!(RECORDS_WITHOUT_DATA_MAX as usize >= 2 * POST_HANDSHAKE_MESSAGE_MAX / 512);
const _: () = assert!(KEY_UPDATES_WITHOUT_DATA_MAX < RECORDS_WITHOUT_DATA_MAX);
const _: () = assert!((KEY_UPDATES_WITHOUT_DATA_MAX as u32) < EARLY_KEY_UPDATES_PER_SECOND_MAX);
const _: () = assert!(KEY_UPDATES_PER_SECOND_GNUTLS <= KEY_UPDATES_PER_SECOND_DEFAULT);
const _: () = assert!(CLIENT_HELLO_BYTES_MAX + RECORD_WIRE_MAX <= HANDSHAKE_HELD_BYTES_MAX);
const _: () = assert!(HANDSHAKE_HELD_BYTES_MAX <= HANDSHAKE_BYTES_MAX);
