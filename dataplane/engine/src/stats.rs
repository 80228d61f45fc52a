//! Counters: plain integers inside a turn, published to atomics at its end.

use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicU64, Ordering};

/// Totals of one export since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExportStats {
    /// Payload bytes read by clients.
    pub bytes_read: u64,
    /// Payload bytes written by clients and accepted by the device.
    pub bytes_written: u64,
    /// Bytes zeroed by WRITE_ZEROES.
    pub bytes_zeroed: u64,
    /// Bytes trimmed.
    pub bytes_trimmed: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Flushes that failed; each voids what was written since the last good one.
    pub flush_failures: u64,
    /// Requests answered with success.
    pub requests: u64,
    /// Requests answered with an error.
    pub requests_failed: u64,
}

/// The atomics behind `ExportStats`, shared by all shards.
#[derive(Debug, Default)]
pub(crate) struct ExportCounters {
    pub bytes_read: AtomicU64,
    pub bytes_written: AtomicU64,
    pub bytes_zeroed: AtomicU64,
    pub bytes_trimmed: AtomicU64,
    pub flushes: AtomicU64,
    pub flush_failures: AtomicU64,
    pub requests: AtomicU64,
    pub requests_failed: AtomicU64,
}

/// Adds to a counter; counters order nothing.
pub(crate) fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl ExportCounters {
    pub(crate) fn totals(&self) -> ExportStats {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ExportStats {
            bytes_read: value(&self.bytes_read),
            bytes_written: value(&self.bytes_written),
            bytes_zeroed: value(&self.bytes_zeroed),
            bytes_trimmed: value(&self.bytes_trimmed),
            flushes: value(&self.flushes),
            flush_failures: value(&self.flush_failures),
            requests: value(&self.requests),
            requests_failed: value(&self.requests_failed),
        }
    }
}

/// Totals of one shard since it started.
#[derive(Debug, Clone, Default)]
pub struct ShardStats {
    /// Its number.
    pub shard: usize,
    /// Turns of its loop.
    pub turns: u64,
    /// Connections it holds now.
    pub connections: u64,
    /// Bytes received from sockets.
    pub bytes_received: u64,
    /// Bytes handed to sockets and taken by them.
    pub bytes_sent: u64,
    /// Payload moved by the CPU after decryption or before sealing: the counted slow path.
    pub plaintext_copied_bytes: u64,
    /// Ciphertext of records that straddled two receive buffers and had to be joined. The
    /// mirrored receive ring makes every record contiguous, so this stays 0 with it.
    pub ciphertext_joined_bytes: u64,
    /// Payload bytes received and sent.
    pub payload_bytes: u64,
    /// KeyUpdates sent.
    pub key_updates_sent: u64,
    /// KeyUpdates received.
    pub key_updates_received: u64,
    /// Times a lane found no lease and had to wait.
    pub stalls_for_memory: u64,
    /// Bytes that left from our memory without a copy in the kernel (`send_zc`).
    pub zero_copy_bytes: u64,
    /// Bytes that should have, and that the kernel copied after all.
    pub zero_copy_copied_bytes: u64,
    /// Operations in flight now.
    pub in_flight_ops: u64,
    /// Those of them that are with files and devices.
    pub device_ops: u64,
    /// Batches handed to sockets.
    pub sends: u64,
    /// Request latency in microseconds: p50, p99, p99.9, longest.
    pub latency_us: [u64; 4],
}

/// A shard's counters during its turns. Nobody else sees them until they are published.
pub(crate) struct LocalStats {
    pub turns: u64,
    pub connections: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub sends: u64,
    pub plaintext_copied_bytes: u64,
    pub ciphertext_joined_bytes: u64,
    pub payload_bytes: u64,
    pub key_updates_sent: u64,
    pub key_updates_received: u64,
    pub stalls_for_memory: u64,
    pub zero_copy_bytes: u64,
    pub zero_copy_copied_bytes: u64,
    /// Operations of files and devices with the kernel now.
    pub device_ops: u64,
    /// Lanes that have such operations, or want some.
    pub device_lanes: u64,
    pub latency: Histogram<u64>,
}

/// Longest latency the histogram tells apart, microseconds (one hour).
const LATENCY_US_MAX: u64 = 3_600_000_000;

impl LocalStats {
    pub(crate) fn new() -> Self {
        Self {
            turns: 0,
            connections: 0,
            bytes_received: 0,
            bytes_sent: 0,
            sends: 0,
            plaintext_copied_bytes: 0,
            ciphertext_joined_bytes: 0,
            payload_bytes: 0,
            key_updates_sent: 0,
            key_updates_received: 0,
            stalls_for_memory: 0,
            zero_copy_bytes: 0,
            zero_copy_copied_bytes: 0,
            device_ops: 0,
            device_lanes: 0,
            // Fixed bounds: recording never allocates. Two digits are enough for percentiles.
            latency: Histogram::new_with_bounds(1, LATENCY_US_MAX, 2)
                .expect("the bounds are constants that the histogram accepts"),
        }
    }

    /// A zero-copy send is over.
    pub(crate) fn count_zero_copy(&mut self, op: &sys::Op, copied: bool) {
        if let sys::Op::Send { parts, .. } = op {
            let counter = if copied {
                &mut self.zero_copy_copied_bytes
            } else {
                &mut self.zero_copy_bytes
            };
            *counter += parts.len_bytes() as u64;
        }
    }

    pub(crate) fn record_latency(&mut self, elapsed: std::time::Duration) {
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(LATENCY_US_MAX);
        self.latency.saturating_record(us.clamp(1, LATENCY_US_MAX));
    }
}

/// Where the percentiles begin among the published values.
const LATENCY_AT: usize = 15;

/// What a shard publishes; one writer, many readers.
#[derive(Debug, Default)]
pub(crate) struct SharedStats {
    values: [AtomicU64; LATENCY_AT + 4],
}

impl SharedStats {
    /// Copies the local counters out (end of a turn).
    pub(crate) fn publish(&self, local: &LocalStats, in_flight_ops: u64) {
        let values = [
            local.turns,
            local.connections,
            local.bytes_received,
            local.bytes_sent,
            local.plaintext_copied_bytes,
            local.ciphertext_joined_bytes,
            local.payload_bytes,
            local.key_updates_sent,
            local.key_updates_received,
            local.stalls_for_memory,
            in_flight_ops,
            local.zero_copy_bytes,
            local.zero_copy_copied_bytes,
            local.device_ops,
            local.sends,
        ];
        debug_assert_eq!(
            values.len(),
            LATENCY_AT,
            "the percentiles stand behind them"
        );
        for (slot, value) in self.values.iter().zip(values) {
            slot.store(value, Ordering::Relaxed);
        }
    }

    /// Copies the percentiles out (housekeeping; walking the histogram costs some microseconds).
    pub(crate) fn publish_latency(&self, local: &LocalStats) {
        let latency = &local.latency;
        let values = [
            latency.value_at_quantile(0.5),
            latency.value_at_quantile(0.99),
            latency.value_at_quantile(0.999),
            latency.max(),
        ];
        for (slot, value) in self.values[LATENCY_AT..].iter().zip(values) {
            slot.store(value, Ordering::Relaxed);
        }
    }

    /// Lanes the shard holds.
    pub(crate) fn connections(&self) -> u64 {
        self.values[1].load(Ordering::Relaxed)
    }

    pub(crate) fn totals(&self, shard: usize) -> ShardStats {
        let value = |index: usize| self.values[index].load(Ordering::Relaxed);
        ShardStats {
            shard,
            turns: value(0),
            connections: value(1),
            bytes_received: value(2),
            bytes_sent: value(3),
            plaintext_copied_bytes: value(4),
            ciphertext_joined_bytes: value(5),
            payload_bytes: value(6),
            key_updates_sent: value(7),
            key_updates_received: value(8),
            stalls_for_memory: value(9),
            in_flight_ops: value(10),
            zero_copy_bytes: value(11),
            zero_copy_copied_bytes: value(12),
            device_ops: value(13),
            sends: value(14),
            latency_us: std::array::from_fn(|at| value(LATENCY_AT + at)),
        }
    }
}
