//! Every bound of `serve`, with its reason.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Connections held before they have authenticated, when nobody says otherwise. A handshake takes
/// milliseconds, so hundreds at once mean thousands of new clients a second.
pub(super) const PREAUTH_CONNECTIONS_MAX_DEFAULT: usize = 512;
/// What `preauth_connections_max` may be: one client must get in, and each takes a descriptor.
pub(super) const PREAUTH_CONNECTIONS_RANGE: RangeInclusive<usize> = 1..=16_384;
/// Connections that have authenticated and are still negotiating. They come from holders of our
/// certificates, so this only bounds a defect at their end.
pub(super) const NEGOTIATING_CONNECTIONS_MAX: usize = 1_024;
/// Time for each phase of a handshake: ClientHello, TLS, negotiation.
pub(super) const HANDSHAKE_DEADLINE_S_DEFAULT: u64 = 10;
/// What the handshake deadline may be, seconds.
pub(super) const HANDSHAKE_DEADLINE_S_RANGE: RangeInclusive<u64> = 1..=300;
/// Time that clients have to finish when the process ends.
pub(super) const DRAIN_TIMEOUT_S_DEFAULT: u64 = 30;
/// What the drain timeout may be, seconds.
pub(super) const DRAIN_TIMEOUT_S_RANGE: RangeInclusive<u64> = 0..=3_600;
/// Shards: more than any machine has CPUs is a typing error.
pub(super) const SHARDS_RANGE: RangeInclusive<usize> = 1..=256;
/// Connections the kernel may hold for us before we accept them; it takes less if
/// `net.core.somaxconn` is less.
pub(super) const LISTEN_BACKLOG: u32 = 4_096;
/// Bytes read from a socket at once during handshakes; a ClientHello and a GO are shorter.
pub(super) const RECEIVE_BYTES: usize = 4_096;
/// Ciphertext or plaintext of one negotiation that waits to be understood. The longest option has
/// 64 KiB, and a record 16; a client sends one option and waits for its answer.
pub(super) const NEGOTIATION_BYTES_MAX: usize = 128 << 10;
/// Time a client has to read the alert that tells why it was refused.
pub(super) const GOOD_BYE_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of a refused client that are read and thrown away, so that our alert is not lost to a reset.
pub(super) const GOOD_BYE_BYTES_MAX: usize = 64 << 10;
/// Connections of one control socket at once; each has few clients, and their streams are long-lived.
pub(super) const CONTROL_CONNECTIONS_MAX: usize = 128;
/// Time that the requests in flight of closed connections may take to come back from the device.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time that a device which we have just closed may count as busy.
pub(super) const REOPEN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a busy device is tried again meanwhile.
pub(super) const REOPEN_INTERVAL: Duration = Duration::from_millis(20);
/// Largest configuration file.
pub(super) const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// What a request to try again later says, milliseconds.
pub(super) const RETRY_AFTER_MS: u64 = 1_000;
/// How often connections closed before authentication are told in the log.
pub(super) const SHED_REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Progress events of a transfer: one a second at most.
pub(super) const PROGRESS_EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// Comment lines that keep an event stream alive.
pub(super) const EVENTS_KEEPALIVE: Duration = Duration::from_secs(15);
/// How long `DELETE /v1/transfers/{id}` waits for the end before it answers `cancelling`.
pub(super) const CANCEL_WAIT: Duration = Duration::from_secs(30);
/// Connect and handshake limit of transfers that were asked for over the socket.
pub(super) const TRANSFER_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// In-flight deadline of transfers that name none.
pub(super) const TRANSFER_IN_FLIGHT_DEADLINE: Duration = Duration::from_secs(60);
/// Connections of `mk-data/1` at once. A transfer has one or two; they come from holders of our certificates.
pub(super) const DATA_CONNECTIONS_MAX: usize = 512;
/// Those of one certificate: two for each transfer that an appliance may run, and some that linger.
pub(super) const DATA_CONNECTIONS_PER_CERTIFICATE_MAX: usize = 128;
/// Silence between two requests of `mk-data/1`: a transfer asks at each checkpoint.
pub(super) const DATA_IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// Time from the first byte of a request to the end of its head.
pub(super) const DATA_HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the body of a request.
pub(super) const DATA_BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Time in which a client takes nothing of its answer, after which it is given up.
pub(super) const DATA_WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Headers of a request.
pub(super) const DATA_HEADERS_MAX: usize = 64;
/// What one connection buffers of heads and answers; a name of 255 bytes, percent-encoded, is 765.
pub(super) const DATA_BUFFER_BYTES: usize = 64 << 10;
/// Streams of one connection; a session asks for that of its own export.
pub(super) const DATA_STREAMS_MAX: usize = 64;
/// Chunks or grains in one answer about a stream: 2 MiB.
pub(super) const DATA_STREAM_ENTRIES_MAX: u64 = 65_536;
/// Media read at once for hashes, whatever the number of CPUs: each takes a blocking thread.
pub(super) const MEDIUM_READERS_MAX: usize = 8;
/// How long a request waits for its turn to read a medium before it is told to come again.
pub(super) const MEDIUM_WAIT: Duration = Duration::from_secs(2);
/// How long a transfer makes a lost connection anew: a peer that restarts needs less.
pub(super) const TRANSFER_RECONNECT_FOR: Duration = Duration::from_secs(300);

const _: () =
    assert!(NEGOTIATION_BYTES_MAX > wire::limits::OPTION_BYTES_MAX as usize + 16 + 16_640);
const _: () = assert!(*PREAUTH_CONNECTIONS_RANGE.end() >= PREAUTH_CONNECTIONS_MAX_DEFAULT);
const _: () = assert!(PREAUTH_CONNECTIONS_MAX_DEFAULT < LISTEN_BACKLOG as usize);
const _: () =
    assert!(DATA_CONNECTIONS_PER_CERTIFICATE_MAX >= 2 * control::limits::TRANSFERS_RUNNING_MAX);
const _: () = assert!(DATA_CONNECTIONS_PER_CERTIFICATE_MAX < DATA_CONNECTIONS_MAX);
