//! Every limit of the engine, with its reason and how it relates to its neighbours.

use sys::LeaseClass;
use wire::limits::{HEADER_BYTES_MAX, PAYLOAD_BYTES_MAX};

/// Commands one turn takes from its queue: enough for a burst of connects, few enough that the
/// data path is served again soon.
pub const COMMANDS_PER_TURN_MAX: usize = 16;
/// Completions one turn reaps before it advances the lanes.
pub const COMPLETIONS_PER_TURN_MAX: usize = 256;
/// Commands that may wait for one shard; more is back-pressure on the door.
pub const COMMANDS_QUEUED_MAX: usize = 1_024;
/// Lanes of one shard: what the lane field of a token can name is far more, memory is the bound.
pub const LANES_PER_SHARD_MAX: usize = 512;

/// Requests one server connection may have unanswered. QEMU sends 16, nbdcopy 64; beyond it the
/// connection is not read until one is answered.
pub const SERVER_REQUESTS_PER_LANE_MAX: usize = 64;
/// Requests one client connection may have in flight.
pub const CLIENT_REQUESTS_PER_LANE_MAX: usize = 128;
/// Device operations of one READ or explicit WRITE_ZEROES request at a time.
pub const PIECES_PER_REQUEST_MAX: u32 = 4;
/// Plaintext one lane may take from its socket in a turn before the others have theirs.
pub const RECEIVED_PER_TURN_MAX: usize = 1024 * 1024;

/// Bytes of one device operation of bulk data: a large lease.
pub const PIECE_BYTES: usize = LeaseClass::Large.nominal_bytes();
/// Bytes up to which a request uses a small lease.
pub const SMALL_BYTES: usize = LeaseClass::Small.nominal_bytes();
/// Leases one request of a transfer may span.
pub const PAYLOAD_LEASES_MAX: usize = 16;
/// Longest data request a transfer sends.
pub const TRANSFER_REQUEST_BYTES_MAX: usize = PIECE_BYTES * PAYLOAD_LEASES_MAX;
/// Longest WRITE_ZEROES a transfer sends: a server that has to write the zeroes itself still answers
/// within a second or so.
pub const ZERO_REQUEST_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Data one shard takes from the plan at a time: small, so that the last connections end together.
pub const WORK_UNIT_BYTES: u64 = 4 * 1024 * 1024;
/// Acknowledgements of one mover that may be outstanding: each piece has up to three parts at the target.
pub const ACKS_PER_MOVER_MAX: usize = 3 * CLIENT_REQUESTS_PER_LANE_MAX;
/// Acknowledgements that may wait for a coordinator, at least: at 256 KiB each it may be busy for a
/// second of full speed. 384 KiB of memory.
pub const ACKS_QUEUED_MIN: usize = 16_384;
/// Digests that may wait for a coordinator: those of 1 GiB, in 640 KiB of memory.
pub const HASHED_QUEUED_MAX: usize = 4_096;
/// Units of work that may wait for the shards.
pub const WORK_QUEUED_MAX: usize = 256;

/// Replies that may wait for one socket. A request has at most `PIECES_PER_REQUEST_MAX` of them and
/// a connection that reaches the limit is not read.
pub const TX_ITEMS_MAX: usize = 512;
/// Reply data that may wait for one socket before no further read is started for it.
pub const TX_QUEUED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Sends below this size are copied also when zero-copy is on by itself (`send_zc=auto`): pinning pages and a second
/// completion cost about as much as copying 16 KiB, and far more on some network cards.
pub const ZERO_COPY_BYTES_MIN: usize = 64 * 1024;
/// Extents in one block status answer; a client asks again from where it ended.
pub const STATUS_EXTENTS_MAX: usize = 1_000;
/// Longest silence in the middle of a message, after which the peer is taken for dead, milliseconds.
pub const MESSAGE_STALL_MS_MAX: u64 = 120_000;
/// How often a shard that holds lanes looks at deadlines, milliseconds.
pub const HOUSEKEEPING_MS: u64 = 500;
/// Time for the answer to a FLUSH, at least, seconds: 4 GiB of a checkpoint in a server's page cache before a disk of
/// 50 MB/s take 86 s, and the disk may be that of many. As long a flush off the shards waits for the syncs it overlapped.
pub const FLUSH_SECONDS_MAX: u64 = 600;
/// How long a shard waits before it asks again for a gate that another shard holds, microseconds.
pub const GATE_RETRY_US: u64 = 500;
/// How long a connection that was told to go may take to say good-bye, milliseconds.
pub const LINGER_MS_MAX: u64 = 5_000;

const _: () = assert!(FLUSH_SECONDS_MAX * 1_000 > MESSAGE_STALL_MS_MAX);
const _: () = assert!(TRANSFER_REQUEST_BYTES_MAX <= PAYLOAD_BYTES_MAX as usize);
const _: () = assert!(WORK_UNIT_BYTES >= TRANSFER_REQUEST_BYTES_MAX as u64);
const _: () =
    assert!(TX_ITEMS_MAX >= SERVER_REQUESTS_PER_LANE_MAX * PIECES_PER_REQUEST_MAX as usize);
const _: () = assert!(TX_ITEMS_MAX >= CLIENT_REQUESTS_PER_LANE_MAX);
// A sealed piece with its header record fits one large lease, slack included.
const _: () = assert!(
    tls::Session::sealed_len(PIECE_BYTES) + tls::Session::sealed_len(HEADER_BYTES_MAX)
        <= LeaseClass::Large.stride_bytes()
);
// One record of any peer fits a small lease (the scratch of a connection).
const _: () = assert!(tls::session::RECORD_WIRE_MAX <= LeaseClass::Small.stride_bytes());
// Extents of a block status answer fit a small lease in the extended form.
const _: () = assert!(STATUS_EXTENTS_MAX * 16 + HEADER_BYTES_MAX <= SMALL_BYTES + 4096);
