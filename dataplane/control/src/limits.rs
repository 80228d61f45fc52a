//! Every bound of the control sockets, with its reason.

/// Longest export name, bytes. NBD allows 4096; a name also stands in a path of the control socket, in
/// metrics and in log lines, and 255 is what a file name may have.
pub const EXPORT_NAME_BYTES_MAX: usize = 255;
/// Longest name of a hold, bytes; same reasons.
pub const HOLD_NAME_BYTES_MAX: usize = 255;
/// Longest transfer id, bytes: a UUID with a prefix fits twice.
pub const TRANSFER_ID_BYTES_MAX: usize = 128;
/// Longest serial number, bytes. virtio-blk carries 20, SCSI pages up to 252.
pub const SERIAL_BYTES_MAX: usize = 252;
/// Longest device path, bytes (PATH_MAX without its final zero).
pub const DEVICE_PATH_BYTES_MAX: usize = 4095;
/// Most client certificates one export names. One per source appliance, old and new while they change.
pub const CLIENT_FINGERPRINTS_MAX: usize = 256;
/// Hexadecimal digits of a SHA-256.
pub const FINGERPRINT_DIGITS: usize = 64;
/// Most exports: a CloudStack VM takes 31 data volumes; sixteen times that for labs.
pub const EXPORTS_MAX: usize = 512;
/// Most devices held at once; every export may have one.
pub const HOLDS_MAX: usize = EXPORTS_MAX;
/// Names whose last fence is remembered after their export is gone.
pub const FENCES_REMEMBERED_MAX: usize = 8 * EXPORTS_MAX;
/// Transfers running at once: the disks of one appliance.
pub const TRANSFERS_RUNNING_MAX: usize = 32;
/// Ended transfers that are remembered, so that a late repeat of a request finds its result.
pub const TRANSFERS_ENDED_KEPT_MAX: usize = 256;
/// Events kept of one transfer for clients that come back: four minutes of progress.
pub const EVENTS_KEPT_MAX: usize = 256;
/// Connections one transfer may ask for.
pub const TRANSFER_CONNECTIONS_MAX: u32 = 64;
/// Ranges one request may list. More changes than that are better told as a few larger ranges.
pub const TRANSFER_EXTENTS_MAX: usize = 262_144;
/// Longest URI or path of a transfer, bytes.
pub const URI_BYTES_MAX: usize = 16_384;
/// Longest in-flight deadline a transfer may ask for, seconds.
pub const IN_FLIGHT_DEADLINE_S_MAX: u64 = 3_600;
/// Longest lease of a trial of tunables, seconds: whoever tunes looks at its figures more often.
pub const TRIAL_LEASE_S_MAX: u64 = 3_600;
/// Largest body of `POST /v1/transfers`, bytes: the ranges at their limit.
pub const TRANSFER_BODY_BYTES_MAX: usize = 16 << 20;
/// Largest body of any other request, bytes: fingerprints at their limit.
pub const BODY_BYTES_MAX: usize = 64 << 10;

// A body with everything at its limit is a body that is read: 256 fingerprints of 95 characters with
// colons, quotes and commas; ranges of two 20-digit numbers with their keys.
const _: () = assert!(CLIENT_FINGERPRINTS_MAX * 100 + DEVICE_PATH_BYTES_MAX * 6 <= BODY_BYTES_MAX);
const _: () = assert!(TRANSFER_EXTENTS_MAX * 64 <= TRANSFER_BODY_BYTES_MAX);
const _: () = assert!(FENCES_REMEMBERED_MAX > EXPORTS_MAX);
const _: () = assert!(TRANSFERS_ENDED_KEPT_MAX >= TRANSFERS_RUNNING_MAX);

/// Name of a source's state, bytes.
pub const SOURCE_ID_BYTES_MAX: usize = 255;
