//! The configuration as it is written: every key optional, units in the names, unknown keys errors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use control::{ClientRule, ExportMode, TunableValue};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;
use crate::serve::args::ServeArgs;
use crate::serve::limits::CONFIG_BYTES_MAX;
use crate::size::parse_size;

use super::export_rule::{ExportRule, StoreRule};

/// The configuration file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    /// Where TLS clients connect; `none`: nowhere.
    pub(super) listen: Option<String>,
    /// Folder with certificates.
    pub(super) tls_dir: Option<PathBuf>,
    /// Folder for the control sockets.
    pub(super) control_dir: Option<PathBuf>,
    /// Folder for the journals of transfers.
    pub(super) journal_dir: Option<PathBuf>,
    /// Where stock `nbds://` clients connect.
    pub(super) nbds_listen: Option<String>,
    /// Socket for plain NBD.
    pub(super) nbd_unix: Option<PathBuf>,
    /// Tier.
    pub(super) runtime: Option<String>,
    /// Threads that move data.
    pub(super) shards: Option<usize>,
    /// Connections held before they have authenticated.
    pub(super) preauth_connections_max: Option<usize>,
    /// Time for each phase of a handshake.
    pub(super) handshake_deadline_s: Option<u64>,
    /// Time that clients have to finish.
    pub(super) drain_timeout_s: Option<u64>,
    /// Fingerprints of clients that may change tunables over `mk-data/1`.
    pub(super) tuners: Option<ClientRule>,
    /// Records sealed under one key; lower it only to test how peers take new keys.
    pub(super) records_per_key: Option<u64>,
    /// Tunables by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) tunables: BTreeMap<String, TunableValue>,
    /// Exports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) export: Vec<RawExport>,
}

/// `[[export]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawExport {
    name: String,
    /// A file or block device.
    path: Option<PathBuf>,
    /// Instead of a path: a null store of this size.
    null_bytes: Option<RawSize>,
    mode: Option<ExportMode>,
    scratch: Option<bool>,
    client_fingerprints: Option<ClientRule>,
}

/// A number of bytes, or a text like `10G`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum RawSize {
    Bytes(u64),
    Text(String),
}

impl RawConfig {
    /// Reads the file.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let cannot = |error: std::io::Error| {
            Failure::usage(
                "the configuration file cannot be read",
                path.display().to_string(),
                "check the path, the owner and the mode of the file",
            )
            .caused_by(&error)
        };
        let len_bytes = std::fs::metadata(path).map_err(cannot)?.len();
        if len_bytes > CONFIG_BYTES_MAX {
            return Err(Failure::usage(
                format!("the configuration file has {len_bytes} bytes"),
                path.display().to_string(),
                format!("at most {CONFIG_BYTES_MAX} are read; is this the right file?"),
            ));
        }
        let text = std::fs::read_to_string(path).map_err(cannot)?;
        Self::parse(&text).map_err(|failure| failure.inside(&path.display().to_string()))
    }

    /// Understands the text of the file.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            Failure::usage(
                format!("the configuration is not valid: {}", error.message()),
                line.map_or_else(String::new, |line| format!("line {line}")),
                "the keys are listed in docs/interfaces/command-line.md; --print-config shows those in force",
            )
        })
    }

    /// Puts the flags on top. An export of the command line replaces one of the file with its name.
    pub(super) fn overlay(mut self, args: &ServeArgs) -> Result<Self, Failure> {
        fn set<T: Clone>(slot: &mut Option<T>, flag: Option<&T>) {
            if let Some(flag) = flag {
                *slot = Some(flag.clone());
            }
        }
        set(&mut self.listen, args.listen.as_ref());
        set(&mut self.tls_dir, args.tls_dir.as_ref());
        set(&mut self.control_dir, args.control_dir.as_ref());
        set(&mut self.journal_dir, args.journal_dir.as_ref());
        set(&mut self.nbds_listen, args.nbds_listen.as_ref());
        set(&mut self.nbd_unix, args.nbd_unix.as_ref());
        set(
            &mut self.runtime,
            args.runtime
                .map(|runtime| runtime.name().to_owned())
                .as_ref(),
        );
        set(&mut self.shards, args.shards.as_ref());
        set(
            &mut self.preauth_connections_max,
            args.preauth_connections_max.as_ref(),
        );
        set(
            &mut self.handshake_deadline_s,
            args.handshake_deadline.as_ref(),
        );
        set(&mut self.drain_timeout_s, args.drain_timeout.as_ref());
        for assignment in &args.tunables {
            let (name, value) = assignment.split_once('=').ok_or_else(|| {
                Failure::usage(
                    "--set needs a value",
                    assignment.as_str(),
                    "write --set NAME=VALUE",
                )
            })?;
            self.tunables
                .insert(name.to_owned(), TunableValue::Text(value.to_owned()));
        }
        for text in &args.exports {
            let rule = ExportRule::parse(text)?;
            self.export.retain(|export| export.name != rule.name);
            self.export.push(RawExport::from(&rule));
        }
        Ok(self)
    }
}

impl RawExport {
    pub(super) fn into_rule(self) -> Result<ExportRule, Failure> {
        let on = format!("export {}", self.name);
        let store = match (self.path, self.null_bytes) {
            (Some(path), None) if !path.as_os_str().is_empty() => StoreRule::Path(path),
            (None, Some(RawSize::Bytes(size_bytes))) => StoreRule::Null { size_bytes },
            (None, Some(RawSize::Text(text))) => StoreRule::Null {
                size_bytes: parse_size(&text).map_err(|error| {
                    Failure::usage(
                        "null_bytes is no size",
                        on,
                        "write bytes, or a text like \"10G\"",
                    )
                    .caused_by(&error)
                })?,
            },
            _ => {
                let remedy = "give it either a path or null_bytes";
                return Err(Failure::usage(
                    "the export has not exactly one store",
                    on,
                    remedy,
                ));
            }
        };
        ExportRule {
            name: self.name,
            store,
            mode: self.mode.unwrap_or(ExportMode::Rw),
            scratch: self.scratch.unwrap_or(false),
            clients: self.client_fingerprints.unwrap_or(ClientRule::Any),
        }
        .check()
    }
}

impl From<&ExportRule> for RawExport {
    fn from(rule: &ExportRule) -> Self {
        let (path, null_bytes) = match &rule.store {
            StoreRule::Path(path) => (Some(path.clone()), None),
            StoreRule::Null { size_bytes } => (None, Some(RawSize::Bytes(*size_bytes))),
        };
        Self {
            name: rule.name.clone(),
            path,
            null_bytes,
            mode: Some(rule.mode),
            scratch: Some(rule.scratch),
            client_fingerprints: Some(rule.clients.clone()),
        }
    }
}
