//! The result of a copy: one object for programs, a few lines for people.

use std::fmt::Write as _;

use engine::TransferReport;
use serde::Serialize;

use super::SCHEMA;
use super::progress::seconds;
use crate::size::{format_rate, format_size, rate};

const GIB: f64 = (1_u64 << 30) as f64;

/// What the transfer itself does not know.
#[derive(Debug, Clone, Default)]
pub(crate) struct CopyFacts {
    /// As the operator wrote it.
    pub(crate) source: String,
    /// As the operator wrote it.
    pub(crate) target: String,
    /// `raw`, `qcow2`, `vmdk`; `None` for a source that is no file.
    pub(crate) source_format: Option<&'static str>,
    /// Shards in use.
    pub(crate) shards: usize,
    /// Size of the source.
    pub(crate) source_bytes: u64,
    /// Bytes the source file takes on its file system.
    pub(crate) source_allocated_bytes: Option<u64>,
    /// Bytes the target file takes on its file system.
    pub(crate) target_allocated_bytes: Option<u64>,
    /// CPU time of qemu-nbd, seconds.
    pub(crate) helper_cpu_seconds: Option<f64>,
    /// Clamped tunables, odd names and the like; the transfer's own follow.
    pub(crate) warnings: Vec<String>,
}

/// The object of `copy --output json`.
#[derive(Debug, Serialize)]
pub(crate) struct CopyResult {
    schema: u32,
    command: &'static str,
    outcome: &'static str,
    source: String,
    target: String,
    source_format: Option<&'static str>,
    source_bytes: u64,
    total_bytes: u64,
    data_bytes: u64,
    zero_bytes: u64,
    skipped_bytes: u64,
    resumed_bytes: u64,
    void_bytes: u64,
    durable_bytes: u64,
    durable: bool,
    integrity: &'static str,
    verified_bytes: u64,
    verified_by: Option<String>,
    reconnects: u64,
    discarded: bool,
    elapsed_s: f64,
    time_to_durable_s: Option<f64>,
    data_rate_bytes_per_s: Option<u64>,
    cpu_s: f64,
    cpu_s_per_gib: Option<f64>,
    helper_cpu_s: Option<f64>,
    tier: String,
    suite: Option<String>,
    connections: usize,
    shards: usize,
    request_bytes: u32,
    plaintext_copied_bytes: u64,
    ciphertext_joined_bytes: u64,
    source_direct: Option<bool>,
    target_direct: Option<bool>,
    source_allocated_bytes: Option<u64>,
    target_allocated_bytes: Option<u64>,
    latency_us: Option<Latency>,
    warnings: Vec<String>,
}

/// Request latency, microseconds.
#[derive(Debug, Serialize)]
struct Latency {
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl Latency {
    /// `None` when no request went to a server.
    fn of([p50, p99, p999, max]: [u64; 4]) -> Option<Self> {
        (max > 0).then_some(Self {
            p50,
            p99,
            p999,
            max,
        })
    }
}

impl CopyResult {
    /// Puts the report and the facts together.
    pub(crate) fn new(facts: CopyFacts, report: TransferReport) -> Self {
        let progress = report.progress;
        let elapsed = progress.elapsed.as_secs_f64();
        // A null target answers a flush as well, and keeps nothing.
        let durable = report.durable && !report.discarded;
        let mut warnings = facts.warnings;
        warnings.extend(report.warnings);
        Self {
            schema: SCHEMA,
            command: "copy",
            outcome: "done",
            source: facts.source,
            target: facts.target,
            source_format: facts.source_format,
            source_bytes: facts.source_bytes,
            total_bytes: progress.total_bytes,
            data_bytes: progress.data_bytes,
            zero_bytes: progress.zero_bytes,
            skipped_bytes: progress.skipped_bytes,
            resumed_bytes: progress.resumed_bytes,
            void_bytes: progress.void_bytes,
            durable_bytes: if durable { progress.durable_bytes } else { 0 },
            durable,
            integrity: report.integrity.name(),
            verified_bytes: progress.verified_bytes,
            verified_by: report.verified_by.map(|by| by.to_string()),
            reconnects: report.reconnects,
            discarded: report.discarded,
            elapsed_s: seconds(progress.elapsed),
            time_to_durable_s: durable.then(|| seconds(report.time_to_durable)),
            data_rate_bytes_per_s: rate(progress.data_bytes, elapsed),
            cpu_s: thousandths(report.cpu_seconds),
            cpu_s_per_gib: per_gib(report.cpu_seconds, progress.data_bytes).map(thousandths),
            helper_cpu_s: facts.helper_cpu_seconds.map(thousandths),
            tier: report.tier,
            suite: report.suite,
            connections: report.connections,
            shards: facts.shards,
            request_bytes: report.request_bytes,
            plaintext_copied_bytes: report.plaintext_copied_bytes,
            ciphertext_joined_bytes: report.ciphertext_joined_bytes,
            source_direct: report.source_direct,
            target_direct: report.target_direct,
            source_allocated_bytes: facts.source_allocated_bytes,
            target_allocated_bytes: facts.target_allocated_bytes,
            latency_us: Latency::of(report.latency_us),
            warnings,
        }
    }

    /// What the operator should know although all went well.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The lines for people.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<9} {value}");
        };
        line("copied", format!("{} to {}", self.source, self.target));
        line("total", size_with_bytes(self.total_bytes));
        let speed = format_rate(self.data_bytes, self.elapsed_s);
        line(
            "data",
            format!("{} at {speed}", size_with_bytes(self.data_bytes)),
        );
        line("zeroes", size_with_bytes(self.zero_bytes));
        line("skipped", size_with_bytes(self.skipped_bytes));
        if self.resumed_bytes > 0 {
            line("resumed", size_with_bytes(self.resumed_bytes));
        }
        line("durable", self.durable_text());
        line("verified", self.verified_text());
        if self.reconnects > 0 {
            let again = format_size(self.void_bytes);
            let text = format!("{} lost connections, {again} sent again", self.reconnects);
            line("repaired", text);
        }
        line("cpu", self.cpu_text());
        line("path", self.path_text());
        let (copied, joined) = (self.plaintext_copied_bytes, self.ciphertext_joined_bytes);
        line(
            "copies",
            format!(
                "plaintext {}, joined {}",
                format_size(copied),
                format_size(joined)
            ),
        );
        line(
            "direct",
            format!(
                "source {}, target {}",
                yes(self.source_direct),
                yes(self.target_direct)
            ),
        );
        if self.source_allocated_bytes.is_some() || self.target_allocated_bytes.is_some() {
            let allocated = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), format_size);
            let (from, to) = (self.source_allocated_bytes, self.target_allocated_bytes);
            line(
                "on disk",
                format!("source {}, target {}", allocated(from), allocated(to)),
            );
        }
        if let Some(Latency { p50, p99, max, .. }) = &self.latency_us {
            line(
                "latency",
                format!("p50 {p50} us, p99 {p99} us, max {max} us"),
            );
        }
        text
    }

    fn durable_text(&self) -> String {
        match self.time_to_durable_s {
            _ if self.discarded => "no: a null target keeps nothing".to_owned(),
            Some(seconds) => format!(
                "{} after {seconds:.3} s",
                size_with_bytes(self.durable_bytes)
            ),
            None => "no: the target cannot flush".to_owned(),
        }
    }

    fn verified_text(&self) -> String {
        match &self.verified_by {
            Some(by) => format!(
                "{} by {by} ({})",
                size_with_bytes(self.verified_bytes),
                self.integrity
            ),
            None => "no: nothing was compared".to_owned(),
        }
    }

    fn cpu_text(&self) -> String {
        let mut text = format!("{:.3} s", self.cpu_s);
        if let Some(per_gib) = self.cpu_s_per_gib {
            let _ = write!(text, ", {per_gib:.3} s per GiB of data");
        }
        if let Some(helper) = self.helper_cpu_s {
            let _ = write!(text, "; qemu-nbd {helper:.3} s");
        }
        text
    }

    fn path_text(&self) -> String {
        format!(
            "tier {}, {} shards, {} connections, requests of {}, {}",
            self.tier,
            self.shards,
            self.connections,
            format_size(u64::from(self.request_bytes)),
            self.suite.as_deref().unwrap_or("no tls")
        )
    }
}

/// `1.50 GiB (1610612736 bytes)`.
fn size_with_bytes(bytes: u64) -> String {
    if bytes < 1024 {
        format_size(bytes)
    } else {
        format!("{} ({bytes} bytes)", format_size(bytes))
    }
}

fn yes(direct: Option<bool>) -> &'static str {
    match direct {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    }
}

/// `None` when next to no data moved: the number would only show the start-up.
#[expect(
    clippy::cast_precision_loss,
    reason = "a figure for people and reports"
)]
fn per_gib(cpu_seconds: f64, data_bytes: u64) -> Option<f64> {
    const DATA_BYTES_MIN: u64 = 1 << 20;
    (data_bytes >= DATA_BYTES_MIN).then(|| cpu_seconds / (data_bytes as f64 / GIB))
}

fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::Progress;
    use engine::transfer::{Integrity, VerifiedBy};
    use std::time::Duration;

    fn report() -> TransferReport {
        TransferReport {
            progress: Progress {
                total_bytes: 4 << 30,
                data_bytes: 2 << 30,
                zero_bytes: 1 << 30,
                skipped_bytes: 1 << 30,
                resumed_bytes: 0,
                void_bytes: 0,
                durable_bytes: 4 << 30,
                in_flight_bytes: 0,
                verified_bytes: 4 << 30,
                comparing_bytes: 0,
                compared_bytes: 0,
                elapsed: Duration::from_millis(1250),
                stalled_for: Duration::ZERO,
            },
            time_to_durable: Duration::from_millis(1250),
            connections: 4,
            request_bytes: 262_144,
            suite: Some("TLS_AES_128_GCM_SHA256".to_owned()),
            tier: "rich".to_owned(),
            plaintext_copied_bytes: 0,
            ciphertext_joined_bytes: 4096,
            discarded: false,
            durable: true,
            integrity: Integrity::Stream,
            verified_by: Some(VerifiedBy::Target),
            reconnects: 0,
            source_direct: Some(true),
            target_direct: None,
            cpu_seconds: 0.5,
            warnings: vec!["from the transfer".to_owned()],
            latency_us: [100, 900, 1000, 1500],
        }
    }

    fn facts() -> CopyFacts {
        CopyFacts {
            source: "disk.raw".to_owned(),
            target: "mk://h/d".to_owned(),
            source_format: Some("raw"),
            shards: 2,
            source_bytes: 4 << 30,
            source_allocated_bytes: Some(2 << 30),
            warnings: vec!["from the command".to_owned()],
            ..CopyFacts::default()
        }
    }

    #[test]
    fn the_text_of_a_result_is_the_golden_one() {
        insta::assert_snapshot!(CopyResult::new(facts(), report()).to_text());
    }

    #[test]
    fn the_object_of_a_result_is_the_golden_one() {
        let result = CopyResult::new(facts(), report());
        insta::assert_snapshot!(serde_json::to_string_pretty(&result).unwrap());
    }

    #[test]
    fn nothing_is_durable_in_a_null_target_and_the_text_says_so() {
        let mut report = report();
        report.discarded = true;
        let result = CopyResult::new(facts(), report);
        assert_eq!(result.time_to_durable_s, None);
        assert!(
            result
                .to_text()
                .contains("durable   no: a null target keeps nothing")
        );
    }

    #[test]
    fn a_target_without_flush_is_never_called_durable() {
        let mut report = report();
        report.durable = false;
        assert!(
            CopyResult::new(facts(), report)
                .to_text()
                .contains("cannot flush")
        );
    }

    #[test]
    fn a_copy_without_data_has_no_cpu_per_gib() {
        let mut report = report();
        report.progress.data_bytes = 4096;
        let result = CopyResult::new(facts(), report);
        assert_eq!(result.cpu_s_per_gib, None);
        assert!(!result.to_text().contains("per GiB"));
    }
}
