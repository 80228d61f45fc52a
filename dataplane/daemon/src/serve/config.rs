//! The configuration of `serve`: defaults, then the file, then flags; read once and turned into types.

mod address;
mod export_rule;
mod raw;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use control::limits::EXPORTS_MAX;
use control::{ClientRule, TunableValue};
use engine::Tunables;

use crate::exit::{Failure, Side};

use super::args::ServeArgs;
use super::limits::{
    DRAIN_TIMEOUT_S_DEFAULT, DRAIN_TIMEOUT_S_RANGE, HANDSHAKE_DEADLINE_S_DEFAULT,
    HANDSHAKE_DEADLINE_S_RANGE, PREAUTH_CONNECTIONS_MAX_DEFAULT, PREAUTH_CONNECTIONS_RANGE,
    SHARDS_RANGE,
};
pub(super) use address::Address;
pub(super) use export_rule::{ExportRule, StoreRule};
use raw::{RawConfig, RawExport};

/// The word that turns the TLS listener off.
const NONE: &str = "none";

/// Everything `serve` was told, checked.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// Where TLS clients connect.
    pub(super) listen: Option<Address>,
    /// Folder with certificates; there whenever a listener needs it.
    pub(super) tls_dir: Option<PathBuf>,
    /// Folder for the control sockets.
    pub(super) control_dir: Option<PathBuf>,
    /// Folder for the journals of transfers.
    pub(super) journal_dir: Option<PathBuf>,
    /// Where stock `nbds://` clients connect.
    pub(super) nbds_listen: Option<Address>,
    /// Socket for plain NBD.
    pub(super) nbd_unix: Option<PathBuf>,
    /// Connections held before they have authenticated.
    pub(super) preauth_connections_max: usize,
    /// Time for each phase of a handshake.
    pub(super) handshake_deadline: Duration,
    /// Time that clients have to finish.
    pub(super) drain_timeout: Duration,
    /// Who may change tunables over `mk-data/1`.
    pub(super) tuners: ClientRule,
    /// Records sealed under one key; `None`: the default of the record layer.
    pub(super) records_per_key: Option<u64>,
    /// Tunables that were set, in the order of their names, as text.
    pub(super) tunables: Vec<(String, TunableValue)>,
    /// Exports, names distinct.
    pub(super) exports: Vec<ExportRule>,
}

impl Config {
    /// Reads the file that `args` name, if any, and puts the flags on top.
    pub(super) fn load(args: &ServeArgs) -> Result<Self, Failure> {
        let raw = match &args.config {
            Some(path) => RawConfig::read(path)?,
            None => RawConfig::default(),
        };
        Self::try_from(raw.overlay(args)?)
    }

    /// The configuration in force as a file that gives the same.
    pub(super) fn to_toml(&self) -> Result<String, Failure> {
        toml::to_string(&RawConfig::from(self)).map_err(|error| {
            Failure::bug("the configuration cannot be written", "").caused_by(&error)
        })
    }

    /// The value of a tunable that was set by name.
    fn tunable(&self, name: &str) -> Option<&TunableValue> {
        self.tunables
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    /// Sets every tunable that the configuration names; the reasons of those that were clamped.
    pub(super) fn apply_tunables(&self, tunables: &Tunables) -> Result<Vec<String>, Failure> {
        let mut notes = Vec::new();
        for (name, value) in &self.tunables {
            let clamped = set_tunable(tunables, name, value)
                .map_err(|error| Failure::engine(Side::Local, &error).inside("tunables"))?;
            notes.extend(clamped.map(|reason| format!("{name}: {reason}")));
        }
        Ok(notes)
    }

    /// This configuration, with what is only read at the start taken from `old`.
    pub(super) fn with_fixed_keys_of(self, old: &Self) -> Self {
        Self {
            listen: old.listen.clone(),
            control_dir: old.control_dir.clone(),
            journal_dir: old.journal_dir.clone(),
            nbds_listen: old.nbds_listen.clone(),
            nbd_unix: old.nbd_unix.clone(),
            ..self
        }
    }

    /// Keys that differ from `other` and are only read at the start.
    pub(super) fn fixed_keys_changed(&self, other: &Self) -> Vec<&'static str> {
        let mut keys = Vec::new();
        let mut compare = |key, differs: bool| {
            if differs {
                keys.push(key);
            }
        };
        compare("listen", self.listen != other.listen);
        compare("control_dir", self.control_dir != other.control_dir);
        compare("journal_dir", self.journal_dir != other.journal_dir);
        compare("nbds_listen", self.nbds_listen != other.nbds_listen);
        compare("nbd_unix", self.nbd_unix != other.nbd_unix);
        compare(
            "runtime",
            self.tunable("runtime") != other.tunable("runtime"),
        );
        compare("shards", self.tunable("shards") != other.tunable("shards"));
        keys
    }
}

/// Sets one tunable by number or by text.
pub(super) fn set_tunable(
    tunables: &Tunables,
    name: &str,
    value: &TunableValue,
) -> Result<Option<String>, engine::EngineError> {
    match value {
        TunableValue::Number(number) => tunables.set(name, *number),
        TunableValue::Text(text) => tunables.set_text(name, text),
    }
}

fn in_range<T: PartialOrd + std::fmt::Display>(
    key: &str,
    value: T,
    range: &RangeInclusive<T>,
    reason: &str,
) -> Result<T, Failure> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(Failure::usage(
        format!("{key} is out of range"),
        format!("{key} = {value}"),
        format!(
            "{} to {} are possible: {reason}",
            range.start(),
            range.end()
        ),
    ))
}

impl TryFrom<RawConfig> for Config {
    type Error = Failure;

    fn try_from(raw: RawConfig) -> Result<Self, Failure> {
        let listen = listen_of(&raw)?;
        let nbds_listen = raw
            .nbds_listen
            .as_deref()
            .map(Address::parse_nbds)
            .transpose()?;
        if nbds_listen.is_some() && raw.tls_dir.is_none() {
            return Err(needs_certificates("nbds_listen"));
        }
        let mut tunables: Vec<(String, TunableValue)> = raw.tunables.into_iter().collect();
        if let Some(shards) = raw.shards {
            let shards = in_range(
                "shards",
                shards,
                &SHARDS_RANGE,
                "each is a thread with its memory",
            )?;
            set_key(&mut tunables, "shards", TunableValue::Number(shards as u64));
        }
        if let Some(runtime) = raw.runtime {
            set_key(&mut tunables, "runtime", TunableValue::Text(runtime));
        }
        let config = Self {
            listen,
            tls_dir: raw.tls_dir,
            control_dir: raw.control_dir,
            journal_dir: raw.journal_dir,
            nbds_listen,
            nbd_unix: raw.nbd_unix,
            preauth_connections_max: in_range(
                "preauth_connections_max",
                raw.preauth_connections_max
                    .unwrap_or(PREAUTH_CONNECTIONS_MAX_DEFAULT),
                &PREAUTH_CONNECTIONS_RANGE,
                "each takes a descriptor",
            )?,
            handshake_deadline: Duration::from_secs(in_range(
                "handshake_deadline_s",
                raw.handshake_deadline_s
                    .unwrap_or(HANDSHAKE_DEADLINE_S_DEFAULT),
                &HANDSHAKE_DEADLINE_S_RANGE,
                "slow links need seconds, silent clients deserve no minutes",
            )?),
            drain_timeout: Duration::from_secs(in_range(
                "drain_timeout_s",
                raw.drain_timeout_s.unwrap_or(DRAIN_TIMEOUT_S_DEFAULT),
                &DRAIN_TIMEOUT_S_RANGE,
                "service managers lose patience",
            )?),
            tuners: raw.tuners.unwrap_or(ClientRule::Only(Vec::new())),
            records_per_key: raw.records_per_key,
            tunables,
            exports: raw
                .export
                .into_iter()
                .map(RawExport::into_rule)
                .collect::<Result<_, _>>()?,
        };
        config.check()
    }
}

impl Config {
    /// What no single key can tell.
    fn check(self) -> Result<Self, Failure> {
        // Names and words are wrong or right whatever the machine: tell at once, not at the first reload.
        self.apply_tunables(&Tunables::new())?;
        if self.exports.len() > EXPORTS_MAX {
            return Err(Failure::usage(
                format!("{} exports are configured", self.exports.len()),
                "export",
                format!("at most {EXPORTS_MAX} are possible"),
            ));
        }
        let mut names: Vec<&str> = self.exports.iter().map(|rule| rule.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            let on = format!("export {}", pair[0]);
            return Err(Failure::usage(
                "two exports have one name",
                on,
                "rename one of them",
            ));
        }
        if self.listen.is_none() && self.nbds_listen.is_none() && self.nbd_unix.is_none() {
            return Err(Failure::usage(
                "nothing to listen on",
                "serve",
                "give a --tls-dir for the TLS listener, or --nbd-unix PATH",
            ));
        }
        Ok(self)
    }
}

/// Without certificates there is no TLS listener; that is an error unless another listener was asked for.
fn listen_of(raw: &RawConfig) -> Result<Option<Address>, Failure> {
    match (raw.listen.as_deref(), &raw.tls_dir) {
        (Some(NONE), _) => Ok(None),
        (Some(text), Some(_)) => Address::parse_tls(text).map(Some),
        (Some(_), None) => Err(needs_certificates("listen")),
        (None, Some(_)) => Ok(Some(Address::DEFAULT)),
        (None, None) if raw.nbd_unix.is_some() => Ok(None),
        (None, None) => Err(needs_certificates("the TLS listener")),
    }
}

fn needs_certificates(what: &str) -> Failure {
    Failure::usage(
        format!("{what} needs certificates"),
        "serve",
        "give --tls-dir DIR; make one with: migratekit-dataplane pki init DIR --host NAME",
    )
}

fn set_key(tunables: &mut Vec<(String, TunableValue)>, name: &str, value: TunableValue) {
    tunables.retain(|(key, _)| key != name);
    tunables.push((name.to_owned(), value));
    tunables.sort_by(|one, other| one.0.cmp(&other.0));
}

impl From<&Config> for RawConfig {
    fn from(config: &Config) -> Self {
        let listen = config
            .listen
            .as_ref()
            .map_or_else(|| NONE.to_owned(), ToString::to_string);
        Self {
            listen: Some(listen),
            tls_dir: config.tls_dir.clone(),
            control_dir: config.control_dir.clone(),
            journal_dir: config.journal_dir.clone(),
            nbds_listen: config.nbds_listen.as_ref().map(ToString::to_string),
            nbd_unix: config.nbd_unix.clone(),
            runtime: None,
            shards: None,
            preauth_connections_max: Some(config.preauth_connections_max),
            handshake_deadline_s: Some(config.handshake_deadline.as_secs()),
            drain_timeout_s: Some(config.drain_timeout.as_secs()),
            tuners: Some(config.tuners.clone()),
            records_per_key: config.records_per_key,
            tunables: config.tunables.iter().cloned().collect(),
            export: config.exports.iter().map(RawExport::from).collect(),
        }
    }
}

/// The configuration in force, replaced as a whole when it is read again.
pub(super) type SharedConfig = Arc<Config>;
