//! Transfers and their events.

use serde::{Deserialize, Serialize};

use crate::limits::{
    IN_FLIGHT_DEADLINE_S_MAX, SOURCE_ID_BYTES_MAX, TRANSFER_CONNECTIONS_MAX, TRANSFER_EXTENTS_MAX,
    URI_BYTES_MAX,
};
use crate::{ErrorBody, Invalid, TransferId};

/// A range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// Where it begins.
    pub offset_bytes: u64,
    /// How long it is; never 0.
    pub len_bytes: u64,
}

/// `POST /v1/transfers`. What is left out is taken from the tunables when the transfer starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// Chosen by the client: the same id with the same body is the same transfer.
    pub id: TransferId,
    /// URI or absolute path of what is read.
    pub source: String,
    /// URI or absolute path of what is written.
    pub target: String,
    /// Folder with our client certificates, for URIs that do not name one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_dir: Option<String>,
    /// Connections to each side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Longest request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<u32>,
    /// Only these ranges; everything when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extents: Option<Vec<Extent>>,
    /// Limit of the data rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_bytes_per_s: Option<u64>,
    /// The target reads as zeroes everywhere, so zeroes need not be written outside `extents`.
    #[serde(default)]
    pub target_is_zero: bool,
    /// Overwrite an existing file, or a device with a foreign signature.
    #[serde(default)]
    pub overwrite: bool,
    /// Accept a target that cannot flush; the result is then not durable.
    #[serde(default)]
    pub allow_no_flush: bool,
    /// A request that is not answered in this time breaks its connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight_deadline_s: Option<u64>,
    /// What is compared at the checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integrity: Option<TransferIntegrity>,
    /// Send only chunks that differ from what the target has.
    #[serde(default)]
    pub checksum_diff: bool,
    /// Write down what is durable, in a file named after the id in the server's journal folder, and go on behind what
    /// such a file says.
    #[serde(default)]
    pub journal: bool,
    /// Name of the source's present state, for a journal with a source that cannot tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_id: Option<String>,
}

/// What a transfer compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferIntegrity {
    /// Nothing.
    None,
    /// What was read with what arrived.
    Stream,
    /// What was read with what the target's medium holds after the flush.
    Media,
}

impl TransferRequest {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// When a value is out of range, whatever source and target are.
    pub fn validate(&self) -> Result<(), Invalid> {
        for (field, uri) in [("source", &self.source), ("target", &self.target)] {
            check_uri(field, uri)?;
        }
        if let Some(dir) = &self.tls_dir
            && !dir.starts_with('/')
        {
            return Err(Invalid::new("tls_dir", "is not an absolute path"));
        }
        let in_range = |field, value: Option<u64>, max: u64| match value {
            Some(value) if value == 0 || value > max => Err(Invalid::new(
                field,
                format!("is {value}; 1 to {max} are possible"),
            )),
            _ => Ok(()),
        };
        let connections = self.connections.map(u64::from);
        in_range(
            "connections",
            connections,
            u64::from(TRANSFER_CONNECTIONS_MAX),
        )?;
        in_range(
            "request_bytes",
            self.request_bytes.map(u64::from),
            u64::from(u32::MAX),
        )?;
        in_range("rate_bytes_per_s", self.rate_bytes_per_s, u64::MAX)?;
        in_range(
            "in_flight_deadline_s",
            self.in_flight_deadline_s,
            IN_FLIGHT_DEADLINE_S_MAX,
        )?;
        if let Some(name) = &self.source_id
            && (name.is_empty() || name.len() > SOURCE_ID_BYTES_MAX)
        {
            let problem = format!("is empty or longer than {SOURCE_ID_BYTES_MAX} bytes");
            return Err(Invalid::new("source_id", problem));
        }
        self.extents.as_deref().map_or(Ok(()), check_extents)
    }
}

fn check_uri(field: &'static str, uri: &str) -> Result<(), Invalid> {
    let problem = if uri.is_empty() {
        "is empty".to_owned()
    } else if uri.len() > URI_BYTES_MAX {
        format!(
            "has {} bytes; at most {URI_BYTES_MAX} are possible",
            uri.len()
        )
    } else if uri.contains('\0') {
        "holds a zero byte".to_owned()
    } else {
        return Ok(());
    };
    Err(Invalid::new(field, problem))
}

fn check_extents(extents: &[Extent]) -> Result<(), Invalid> {
    let wrong = |problem: String| Err(Invalid::new("extents", problem));
    if extents.len() > TRANSFER_EXTENTS_MAX {
        let count = extents.len();
        return wrong(format!(
            "has {count} ranges; at most {TRANSFER_EXTENTS_MAX} are possible"
        ));
    }
    for (index, extent) in extents.iter().enumerate() {
        if extent.len_bytes == 0 {
            return wrong(format!("has an empty range at index {index}"));
        }
        if extent.offset_bytes.checked_add(extent.len_bytes).is_none() {
            return wrong(format!(
                "has a range at index {index} that ends beyond 2^64"
            ));
        }
    }
    Ok(())
}

/// Where a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferState {
    /// At work.
    Running,
    /// Told to stop: finishing what is in flight, then flushing.
    Cancelling,
    /// Everything is on the target, and durable when the report says so.
    Succeeded,
    /// Ended by an error.
    Failed,
    /// Ended because somebody asked.
    Cancelled,
}

impl TransferState {
    /// No more events follow.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Numbers of a transfer; they only grow, but for the last three and the two of a comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferProgress {
    /// All bytes the transfer is about.
    pub total_bytes: u64,
    /// Data sent and acknowledged.
    pub data_bytes: u64,
    /// Bytes written as zeroes.
    pub zero_bytes: u64,
    /// Bytes that needed nothing.
    pub skipped_bytes: u64,
    /// Bytes an earlier run had made durable.
    #[serde(default)]
    pub resumed_bytes: u64,
    /// Bytes that were acknowledged and then lost with a connection: they are sent again.
    #[serde(default)]
    pub void_bytes: u64,
    /// Bytes covered by an answered flush.
    pub durable_bytes: u64,
    /// Bytes that were compared since and are equal.
    #[serde(default)]
    pub verified_bytes: u64,
    /// While both sides are compared before anything moves: how much of both, else 0.
    #[serde(default)]
    pub comparing_bytes: u64,
    /// How much of `comparing_bytes` is done.
    #[serde(default)]
    pub compared_bytes: u64,
    /// Data on its way now, on all connections together.
    #[serde(default)]
    pub in_flight_bytes: u64,
    /// Time since the start.
    pub elapsed_ms: u64,
    /// Time since the last acknowledged byte.
    pub stalled_ms: u64,
}

/// What a transfer that succeeded did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransferReport {
    /// From the start until the last flush was answered.
    pub time_to_durable_ms: u64,
    /// Connections it used.
    pub connections: u64,
    /// Longest request it used.
    pub request_bytes: u64,
    /// Cipher suite, when there was TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suite: Option<String>,
    /// The target was flushed.
    pub durable: bool,
    /// The target threw the data away.
    pub discarded: bool,
    /// What was compared: `none`, `stream`, `media`.
    #[serde(default)]
    pub integrity: String,
    /// Who read the target for it: `target`, `readback`, `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_by: Option<String>,
    /// Connections that were lost and made again.
    #[serde(default)]
    pub reconnects: u64,
    /// Payload bytes that were copied once more than needed.
    pub plaintext_copied_bytes: u64,
    /// Processor time of the process meanwhile.
    pub cpu_seconds: f64,
    /// What is worth knowing.
    pub warnings: Vec<String>,
}

/// A transfer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TransferView {
    /// Its id.
    pub id: TransferId,
    /// Where it is.
    pub state: TransferState,
    /// What is read.
    pub source: String,
    /// What is written.
    pub target: String,
    /// Its numbers.
    pub progress: TransferProgress,
    /// When it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<TransferReport>,
    /// When it failed or was cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
}

/// `GET /v1/transfers`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TransferList {
    /// Running ones and the last that ended, oldest first.
    pub transfers: Vec<TransferView>,
}

/// The data of one server-sent event. Its `id` counts from 1 without gaps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum TransferEvent {
    /// Numbers, about once a second.
    Progress {
        /// Since the epoch of Unix.
        at_ms: u64,
        /// The numbers.
        progress: TransferProgress,
    },
    /// A new state; the last event of a stream has a final one.
    State {
        /// Since the epoch of Unix.
        at_ms: u64,
        /// Everything about the transfer.
        transfer: Box<TransferView>,
    },
    /// Events that are no longer kept; the next ones follow.
    Gap(EventGap),
}

impl TransferEvent {
    /// The `event:` field of the stream.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Progress { .. } => "progress",
            Self::State { .. } => "state",
            Self::Gap(_) => "gap",
        }
    }
}

/// Events that came and went while nobody listened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventGap {
    /// First id that is missing.
    pub first_missing: u64,
    /// Last id that is missing.
    pub last_missing: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: &[(&str, serde_json::Value)]) -> Result<TransferRequest, String> {
        let mut body = serde_json::json!({"id": "t", "source": "/a", "target": "mk://h/e"});
        for (key, value) in change {
            body[*key] = value.clone();
        }
        let request: TransferRequest =
            serde_json::from_value(body).map_err(|error| error.to_string())?;
        request.validate().map_err(|error| error.to_string())?;
        Ok(request)
    }

    #[test]
    fn the_least_request_is_an_id_and_two_ends() {
        let request = request(&[]).unwrap();
        assert_eq!(request.connections, None);
        assert!(!request.overwrite);
    }

    #[test]
    fn values_out_of_range_are_named() {
        let range = |offset_bytes: u64, len_bytes: u64| serde_json::json!([{"offset_bytes": offset_bytes, "len_bytes": len_bytes}]);
        for (field, value) in [
            ("connections", 0.into()),
            ("connections", 65.into()),
            ("request_bytes", 0.into()),
            ("rate_bytes_per_s", 0.into()),
            ("in_flight_deadline_s", 3601.into()),
            ("extents", range(0, 0)),
            ("extents", range(u64::MAX, 2)),
            ("source", "".into()),
            ("target", "x".repeat(16_385).into()),
            ("tls_dir", "pki".into()),
        ] {
            let error = request(&[(field, value)]).unwrap_err();
            assert!(error.starts_with(field), "{field}: {error}");
        }
        assert!(request(&[("extents", range(u64::MAX - 1, 1))]).is_ok());
    }

    #[test]
    fn an_unknown_key_is_an_error_at_every_depth() {
        assert!(request(&[("overwritten", true.into())]).is_err());
        let extent = serde_json::json!([{"offset_bytes": 0, "len_bytes": 1, "x": 1}]);
        assert!(request(&[("extents", extent)]).is_err());
    }
}
