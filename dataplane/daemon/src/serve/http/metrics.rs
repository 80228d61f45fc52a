//! `GET /metrics`: Prometheus text. Each name is explained in `docs/OPERATIONS.md`.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use control::TransferState;
use engine::stats::{ExportStats, ShardStats};

use crate::serve::context::Context;

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn show(State(context): State<Arc<Context>>) -> Response {
    ([(CONTENT_TYPE, TEXT)], render(&context)).into_response()
}

/// How a metric moves.
#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// The text, metric by metric.
#[derive(Default)]
struct Page(String);

impl Page {
    /// One metric with one sample for each set of labels.
    fn metric<'a, V: std::fmt::Display>(
        &mut self,
        name: &str,
        kind: Kind,
        samples: impl IntoIterator<Item = (Vec<(&'a str, String)>, V)>,
    ) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# TYPE {name} {kind}");
        for (labels, value) in samples {
            let labels: Vec<String> = labels
                .iter()
                .map(|(key, value)| format!("{key}=\"{}\"", escape(value)))
                .collect();
            let _ = match labels.is_empty() {
                true => writeln!(self.0, "{name} {value}"),
                false => writeln!(self.0, "{name}{{{}}} {value}", labels.join(",")),
            };
        }
    }

    /// One metric without labels.
    fn single(&mut self, name: &str, kind: Kind, value: impl std::fmt::Display) {
        self.metric(name, kind, [(Vec::new(), value)]);
    }
}

/// Label values: backslash, quote and line feed are escaped.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn render(context: &Context) -> String {
    let mut page = Page::default();
    process(&mut page, context);
    door(&mut page, context);
    shards(&mut page, &context.engine.stats());
    exports(&mut page, context);
    transfers(&mut page, context);
    page.0
}

fn process(page: &mut Page, context: &Context) {
    let runtime = context.engine.runtime();
    let labels = vec![
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("tier", runtime.tier.name().to_owned()),
        ("boot_id", context.boot_id.clone()),
    ];
    page.metric("migratekit_dataplane_info", Kind::Gauge, [(labels, 1)]);
    page.single(
        "migratekit_dataplane_uptime_seconds",
        Kind::Counter,
        context.uptime_s(),
    );
    let registered = u8::from(runtime.registered_buffers);
    page.single(
        "migratekit_dataplane_registered_buffers",
        Kind::Gauge,
        registered,
    );
    page.single(
        "migratekit_dataplane_draining",
        Kind::Gauge,
        u8::from(context.is_draining()),
    );
    let generation = context.generation();
    page.single(
        "migratekit_dataplane_config_generation",
        Kind::Gauge,
        generation,
    );
    let refused = u8::from(context.has_config_error());
    page.single("migratekit_dataplane_config_refused", Kind::Gauge, refused);
}

fn door(page: &mut Page, context: &Context) {
    let door = &context.door;
    let now = context.connections();
    let stage = |name: &str| vec![("stage", name.to_owned())];
    page.metric(
        "migratekit_dataplane_connections",
        Kind::Gauge,
        [
            (stage("preauth"), now.preauth),
            (stage("negotiating"), now.negotiating),
            (stage("served"), now.served),
            (stage("data"), now.data),
        ],
    );
    page.single(
        "migratekit_dataplane_accepted_total",
        Kind::Counter,
        door.accepted.get(),
    );
    page.single(
        "migratekit_dataplane_handshakes_total",
        Kind::Counter,
        door.handshakes.get(),
    );
    page.single(
        "migratekit_dataplane_served_total",
        Kind::Counter,
        door.served.get(),
    );
    page.single(
        "migratekit_dataplane_medium_hashed_bytes_total",
        Kind::Counter,
        door.medium_hashed.get(),
    );
    let why = |name: &str| vec![("why", name.to_owned())];
    page.metric(
        "migratekit_dataplane_turned_away_total",
        Kind::Counter,
        [
            (why("silent"), door.evicted_silent.get()),
            (why("greeted"), door.evicted_greeted.get()),
            (why("descriptors"), door.shed.get()),
        ],
    );
    let faults = door
        .faults()
        .map(|(reason, count)| (vec![("reason", reason.to_owned())], count));
    page.metric(
        "migratekit_dataplane_door_faults_total",
        Kind::Counter,
        faults,
    );
}

/// A counter of a shard: name, how it moves, value.
type ShardMetric = (&'static str, Kind, fn(&ShardStats) -> u64);

const SHARD_METRICS: [ShardMetric; 15] = [
    (
        "migratekit_dataplane_shard_turns_total",
        Kind::Counter,
        |one| one.turns,
    ),
    (
        "migratekit_dataplane_shard_connections",
        Kind::Gauge,
        |one| one.connections,
    ),
    (
        "migratekit_dataplane_shard_received_bytes_total",
        Kind::Counter,
        |one| one.bytes_received,
    ),
    (
        "migratekit_dataplane_shard_sent_bytes_total",
        Kind::Counter,
        |one| one.bytes_sent,
    ),
    (
        "migratekit_dataplane_shard_sends_total",
        Kind::Counter,
        |one| one.sends,
    ),
    (
        "migratekit_dataplane_shard_payload_bytes_total",
        Kind::Counter,
        |one| one.payload_bytes,
    ),
    (
        "migratekit_dataplane_plaintext_copied_bytes_total",
        Kind::Counter,
        |one| one.plaintext_copied_bytes,
    ),
    (
        "migratekit_dataplane_ciphertext_joined_bytes_total",
        Kind::Counter,
        |one| one.ciphertext_joined_bytes,
    ),
    (
        "migratekit_dataplane_key_updates_sent_total",
        Kind::Counter,
        |one| one.key_updates_sent,
    ),
    (
        "migratekit_dataplane_key_updates_received_total",
        Kind::Counter,
        |one| one.key_updates_received,
    ),
    (
        "migratekit_dataplane_memory_stalls_total",
        Kind::Counter,
        |one| one.stalls_for_memory,
    ),
    (
        "migratekit_dataplane_zero_copy_bytes_total",
        Kind::Counter,
        |one| one.zero_copy_bytes,
    ),
    (
        "migratekit_dataplane_zero_copy_copied_bytes_total",
        Kind::Counter,
        |one| one.zero_copy_copied_bytes,
    ),
    ("migratekit_dataplane_in_flight_ops", Kind::Gauge, |one| {
        one.in_flight_ops
    }),
    ("migratekit_dataplane_device_ops", Kind::Gauge, |one| {
        one.device_ops
    }),
];

fn shards(page: &mut Page, shards: &[ShardStats]) {
    for (name, kind, value) in SHARD_METRICS {
        let samples = shards
            .iter()
            .map(|one| (vec![("shard", one.shard.to_string())], value(one)));
        page.metric(name, kind, samples);
    }
    let quantiles = ["0.5", "0.99", "0.999", "1"];
    let samples = shards.iter().flat_map(|one| {
        quantiles
            .into_iter()
            .zip(one.latency_us)
            .map(|(quantile, us)| {
                let labels = vec![
                    ("shard", one.shard.to_string()),
                    ("quantile", quantile.to_owned()),
                ];
                (labels, seconds(us))
            })
    });
    page.metric(
        "migratekit_dataplane_request_latency_seconds",
        Kind::Gauge,
        samples,
    );
}

/// Microseconds as seconds, exactly.
fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

fn exports(page: &mut Page, context: &Context) {
    let (exports, holds) = context.registry.counts();
    page.single("migratekit_dataplane_exports", Kind::Gauge, exports);
    page.single("migratekit_dataplane_holds", Kind::Gauge, holds);
    let all = context.registry.exports();
    let label = |name: &str| vec![("export", name.to_owned())];
    let connections = all
        .iter()
        .map(|export| (label(export.name()), export.connections()));
    page.metric(
        "migratekit_dataplane_export_connections",
        Kind::Gauge,
        connections,
    );
    let stats: Vec<(&str, ExportStats)> = all
        .iter()
        .map(|export| (export.name(), export.stats()))
        .collect();
    let mut each = |name: &str, value: fn(&ExportStats) -> u64| {
        let samples = stats
            .iter()
            .map(|(export, stats)| (label(export), value(stats)));
        page.metric(name, Kind::Counter, samples);
    };
    each("migratekit_dataplane_export_read_bytes_total", |stats| {
        stats.bytes_read
    });
    each("migratekit_dataplane_export_written_bytes_total", |stats| {
        stats.bytes_written
    });
    each("migratekit_dataplane_export_zeroed_bytes_total", |stats| {
        stats.bytes_zeroed
    });
    each("migratekit_dataplane_export_trimmed_bytes_total", |stats| {
        stats.bytes_trimmed
    });
    each("migratekit_dataplane_export_requests_total", |stats| {
        stats.requests
    });
    each(
        "migratekit_dataplane_export_requests_failed_total",
        |stats| stats.requests_failed,
    );
    each("migratekit_dataplane_export_flushes_total", |stats| {
        stats.flushes
    });
    each(
        "migratekit_dataplane_export_flush_failures_total",
        |stats| stats.flush_failures,
    );
    let exports = context.registry.exports();
    page.metric(
        "migratekit_dataplane_export_streams_voided_total",
        Kind::Counter,
        exports.iter().map(|export| {
            let labels = vec![("export", export.name().to_owned())];
            (labels, export.streams_voided())
        }),
    );
}

fn transfers(page: &mut Page, context: &Context) {
    let transfers = context.transfers.list().transfers;
    let states = [
        (TransferState::Running, "running"),
        (TransferState::Cancelling, "cancelling"),
        (TransferState::Succeeded, "succeeded"),
        (TransferState::Failed, "failed"),
        (TransferState::Cancelled, "cancelled"),
    ];
    let counts = states.map(|(state, name)| {
        let count = transfers
            .iter()
            .filter(|transfer| transfer.state == state)
            .count();
        (vec![("state", name.to_owned())], count)
    });
    page.metric("migratekit_dataplane_transfers", Kind::Gauge, counts);
    let running = || {
        transfers
            .iter()
            .filter(|transfer| !transfer.state.is_final())
    };
    let label = |id: &control::TransferId| vec![("id", id.to_string())];
    let data = running().map(|one| (label(&one.id), one.progress.data_bytes));
    page.metric(
        "migratekit_dataplane_transfer_data_bytes_total",
        Kind::Counter,
        data,
    );
    let in_flight = running().map(|one| (label(&one.id), one.progress.in_flight_bytes));
    page.metric(
        "migratekit_dataplane_transfer_in_flight_bytes",
        Kind::Gauge,
        in_flight,
    );
    let stalled = running().map(|one| (label(&one.id), seconds(one.progress.stalled_ms * 1_000)));
    page.metric(
        "migratekit_dataplane_transfer_stalled_seconds",
        Kind::Gauge,
        stalled,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_break_out_of_their_quotes() {
        let mut page = Page::default();
        page.metric(
            "m",
            Kind::Gauge,
            [(vec![("export", "a\"b\\c\nd".to_owned())], 1)],
        );
        assert_eq!(page.0, "# TYPE m gauge\nm{export=\"a\\\"b\\\\c\\nd\"} 1\n");
    }

    #[test]
    fn microseconds_become_seconds_without_rounding() {
        assert_eq!(seconds(1), "0.000001");
        assert_eq!(seconds(61_000_250), "61.000250");
    }
}
