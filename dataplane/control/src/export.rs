//! Exports and holds.

use serde::{Deserialize, Serialize};

use crate::limits::DEVICE_PATH_BYTES_MAX;
use crate::{ClientRule, Fence, Invalid, Serial};

/// What clients may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportMode {
    /// Read and write.
    Rw,
    /// Read only.
    Ro,
}

/// `PUT /v1/exports/{name}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportPut {
    /// Absolute path, best one below `/dev/disk/by-id`.
    pub device: String,
    /// The size the device must have, when given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// The serial number the device must have, when given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
    /// What clients may do.
    pub mode: ExportMode,
    /// Who may open it over TLS.
    pub client_fingerprints: ClientRule,
    /// Number of the operation that asks.
    pub fence: Fence,
}

impl ExportPut {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// When the device is not an absolute path, or is one of the stores that only the command line may name.
    pub fn validate(&self) -> Result<(), Invalid> {
        check_device(&self.device)
    }
}

/// `PUT /v1/holds/{name}`: open the whole device exclusively, and keep it open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldPut {
    /// Absolute path of a whole device.
    pub device: String,
    /// The size the device must have, when given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// The serial number the device must have, when given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<Serial>,
    /// Number of the operation that asks.
    pub fence: Fence,
}

impl HoldPut {
    /// Checks what the types do not.
    ///
    /// # Errors
    /// As for [`ExportPut::validate`].
    pub fn validate(&self) -> Result<(), Invalid> {
        check_device(&self.device)
    }
}

/// Relative paths would depend on the directory of another process; `null:` and `scratch:` throw data
/// away and so never come over a socket.
fn check_device(device: &str) -> Result<(), Invalid> {
    let problem = if device.starts_with("null:") || device.starts_with("scratch:") {
        "names a store that loses data; such exports exist on the command line only".to_owned()
    } else if !device.starts_with('/') {
        "is not an absolute path".to_owned()
    } else if device.len() > DEVICE_PATH_BYTES_MAX {
        format!(
            "has {} bytes; at most {DEVICE_PATH_BYTES_MAX} are possible",
            device.len()
        )
    } else if device.contains('\0') {
        "holds a zero byte".to_owned()
    } else {
        return Ok(());
    };
    Err(Invalid::new("device", problem))
}

/// Where an export comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportOrigin {
    /// Somebody put it over the socket.
    Control,
    /// The command line or the configuration file.
    Config,
}

/// What an export is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportState {
    /// Clients may open it.
    Open,
    /// It takes no new clients and finishes with those it has.
    Draining,
    /// Its last flush failed: what was not durable before is void, and nobody may open it any more.
    Failed,
}

/// Counters of an export since it was put.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportTotals {
    /// Payload bytes read by clients.
    pub bytes_read: u64,
    /// Payload bytes written by clients and taken by the device.
    pub bytes_written: u64,
    /// Bytes zeroed by WRITE_ZEROES.
    pub bytes_zeroed: u64,
    /// Bytes trimmed.
    pub bytes_trimmed: u64,
    /// Requests answered with success.
    pub requests: u64,
    /// Requests answered with an error.
    pub requests_failed: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Flushes that failed.
    pub flush_failures: u64,
}

/// An export, in `GET /v1/exports` and in the answer to PUT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportView {
    /// Its name on the wire.
    pub name: String,
    /// Where it comes from.
    pub origin: ExportOrigin,
    /// What it is doing.
    pub state: ExportState,
    /// Path as given; `null:SIZE` for a null store.
    pub device: String,
    /// Path after resolving links; absent for a null store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<String>,
    /// Size.
    pub size_bytes: u64,
    /// Serial number of the device, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// What clients may do.
    pub mode: ExportMode,
    /// Who may open it over TLS.
    pub client_fingerprints: ClientRule,
    /// Fence of the operation that put it; 0 for those of the configuration.
    pub fence: Fence,
    /// The device is held, and stays open when the export goes.
    pub held: bool,
    /// Writes bypass the page cache.
    pub direct: bool,
    /// Written data is thrown away or worth nothing.
    pub scratch: bool,
    /// Connections right now.
    pub connections: u64,
    /// Counters.
    pub totals: ExportTotals,
}

/// A held device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldView {
    /// Its name.
    pub name: String,
    /// Path as given.
    pub device: String,
    /// Path after resolving links.
    pub resolved: String,
    /// Size.
    pub size_bytes: u64,
    /// Serial number of the device, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Fence of the operation that put it.
    pub fence: Fence,
    /// Exports that use the device.
    pub exports: Vec<String>,
}

/// `GET /v1/exports`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportList {
    /// By name.
    pub exports: Vec<ExportView>,
    /// By name.
    pub holds: Vec<HoldView>,
}

/// Answer to `DELETE /v1/exports/{name}`: the export is gone, whether or not it was there before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportRemoved {
    /// Its name.
    pub name: String,
    /// It was there.
    pub was_present: bool,
    /// Its device was flushed after the last connection ended.
    pub flushed: bool,
    /// Connections that did not end by themselves in time and were closed.
    pub connections_cut: u64,
    /// Its last counters, when it was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totals: Option<ExportTotals>,
}

/// Answer to `DELETE /v1/holds/{name}`: nothing is held under this name, whether or not it was before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldRemoved {
    /// Its name.
    pub name: String,
    /// It was there.
    pub was_present: bool,
}

/// Answer to `POST /v1/exports/{name}/flush`: every write answered before the request is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// Name of the export.
    pub name: String,
    /// Size of its device.
    pub size_bytes: u64,
    /// Serial number of its device, when it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Fence of the operation that put it.
    pub fence: Fence,
    /// Counters, read before the flush: no byte counted here is volatile.
    pub totals: ExportTotals,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(device: &str) -> ExportPut {
        serde_json::from_value(serde_json::json!({
            "device": device, "mode": "rw", "client_fingerprints": ["any"], "fence": 1
        }))
        .unwrap()
    }

    #[test]
    fn devices_are_absolute_paths_and_never_lose_data() {
        assert_eq!(put("/dev/disk/by-id/virtio-1").validate(), Ok(()));
        for bad in [
            "",
            "dev/vdb",
            "null:1G",
            "scratch:/dev/vdb",
            "/dev/\0",
            "nbd://h/e",
        ] {
            assert!(put(bad).validate().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_misspelt_or_missing_key_is_an_error() {
        let whole = serde_json::to_value(put("/dev/vdb")).unwrap();
        for (key, replacement) in [("fence", "fences"), ("client_fingerprints", "clients")] {
            let mut body = whole.as_object().unwrap().clone();
            let value = body.remove(key).unwrap();
            assert!(
                serde_json::from_value::<ExportPut>(body.clone().into()).is_err(),
                "{key}"
            );
            body.insert(replacement.to_owned(), value);
            assert!(
                serde_json::from_value::<ExportPut>(body.into()).is_err(),
                "{key}"
            );
        }
        let mut body = whole.as_object().unwrap().clone();
        body.insert("serail".into(), "x".into());
        assert!(serde_json::from_value::<ExportPut>(body.into()).is_err());
    }
}
