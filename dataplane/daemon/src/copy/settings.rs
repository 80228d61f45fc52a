//! Flags and tunables of a copy, as the engine takes them.

use std::sync::Arc;
use std::time::Duration;

use engine::{Endpoint, ExtentSet, TransferSpec, Tunables};

use crate::cli::CopyArgs;
use crate::exit::{Failure, Side};
use crate::mkdata;

/// Connections when nobody says otherwise: at least two, so that sealing and waiting overlap, and no more
/// than four, beyond which one machine gains little.
const CONNECTIONS_AUTO: std::ops::RangeInclusive<usize> = 2..=4;

/// What the flags come to.
pub(crate) struct Settings {
    /// Values in force.
    pub(crate) tunables: Arc<Tunables>,
    /// Connections to make.
    pub(crate) connections: usize,
    /// Threads to start.
    pub(crate) shards: usize,
    /// Values that were clamped.
    pub(crate) warnings: Vec<String>,
}

impl Settings {
    /// `--set` first, in order; the flags with a name of their own have the last word.
    pub(crate) fn of(args: &CopyArgs) -> Result<Self, Failure> {
        let tunables = Tunables::new();
        let mut warnings = Vec::new();
        let mut connections_given = args.connections.is_some();
        let mut note = |name: &str, outcome: Result<Option<String>, engine::EngineError>| {
            let clamped = outcome.map_err(|error| Failure::engine(Side::Local, &error))?;
            warnings.extend(clamped.map(|reason| format!("{name}: {reason}")));
            Ok::<(), Failure>(())
        };
        for assignment in &args.tunables {
            let (name, value) = assignment.split_once('=').ok_or_else(|| {
                Failure::usage(
                    "--set needs a value",
                    assignment.as_str(),
                    "write --set NAME=VALUE",
                )
            })?;
            connections_given |= name == "connections";
            note(name, tunables.set_text(name, value))?;
        }
        let flags = [
            ("connections", args.connections),
            ("request_bytes", args.request_size),
            ("rate_bytes_per_s", args.rate_limit),
            ("shards", args.shards),
        ];
        for (name, value) in flags {
            if let Some(value) = value {
                note(name, tunables.set(name, value))?;
            }
        }
        if let Some(runtime) = args.runtime {
            note("runtime", tunables.set_text("runtime", runtime.name()))?;
        }
        let cpus = sys::cpu::available();
        if !connections_given {
            let auto = cpus.clamp(*CONNECTIONS_AUTO.start(), *CONNECTIONS_AUTO.end());
            note("connections", tunables.set("connections", auto as u64))?;
        }
        let connections = tunables.connections();
        let shards = tunables.shards().unwrap_or_else(|| cpus.min(connections));
        Ok(Self {
            tunables,
            connections,
            shards,
            warnings,
        })
    }

    /// The transfer to run.
    pub(crate) fn spec(
        &self,
        args: &CopyArgs,
        source: Endpoint,
        target: Endpoint,
        extents: Option<ExtentSet>,
    ) -> TransferSpec {
        let service = mkdata::service_of(&target);
        TransferSpec {
            connections: self.connections,
            request_bytes: self.tunables.request_bytes(),
            window_bytes: self.tunables.window_bytes_max(),
            extents,
            rate_bytes_per_s: self.tunables.rate_bytes_per_s(),
            target_is_zero: args.target_is_zero,
            overwrite: args.overwrite,
            allow_no_flush: args.allow_no_flush,
            in_flight_deadline: Duration::from_secs(args.request_timeout),
            zero_scan_bytes: self.tunables.zero_scan_bytes(),
            reconnect_for: Duration::from_secs(args.reconnect_timeout),
            checkpoint: self.tunables.checkpoint(),
            integrity: args.integrity().or_else(|| self.tunables.integrity()),
            checksum_diff: args.checksum_diff,
            service,
            ..TransferSpec::new(source, target)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser;

    fn settings(flags: &[&str]) -> Result<Settings, Failure> {
        let words = ["migratekit-dataplane", "copy", "a", "b"]
            .iter()
            .chain(flags);
        match Cli::try_parse_from(words).unwrap().verb {
            Verb::Copy(args) => Settings::of(&args),
            _ => unreachable!(),
        }
    }

    #[test]
    fn flags_of_their_own_have_the_last_word() {
        let settings = settings(&["--connections", "3", "--set", "connections=9"]).unwrap();
        assert_eq!(settings.connections, 3);
        assert!(settings.warnings.is_empty());
    }

    #[test]
    fn connections_follow_the_cpus_when_nobody_says_otherwise() {
        assert!(CONNECTIONS_AUTO.contains(&settings(&[]).unwrap().connections));
        assert_eq!(
            settings(&["--set", "connections=1"]).unwrap().connections,
            1
        );
    }

    #[test]
    fn there_are_no_more_shards_than_connections() {
        assert_eq!(settings(&["--connections", "1"]).unwrap().shards, 1);
        assert_eq!(
            settings(&["--shards", "7", "--connections", "1"])
                .unwrap()
                .shards,
            7
        );
    }

    #[test]
    fn a_clamped_value_is_a_warning() {
        let settings = settings(&["--request-size", "1", "--set", "device_depth=9999"]).unwrap();
        assert_eq!(settings.tunables.request_bytes(), 65_536);
        assert_eq!(settings.warnings.len(), 2);
        assert!(settings.warnings[1].starts_with("request_bytes: at least 64K"));
    }

    #[test]
    fn what_is_no_tunable_is_refused() {
        for flag in ["connections", "speed=1", "aead=rot13", "connections=many"] {
            assert!(settings(&["--set", flag]).is_err(), "{flag}");
        }
    }

    #[test]
    fn no_limit_is_zero() {
        assert_eq!(
            settings(&["--rate-limit", "0"])
                .unwrap()
                .tunables
                .rate_bytes_per_s(),
            None
        );
        let limited = settings(&["--rate-limit", "100M"]).unwrap();
        assert_eq!(limited.tunables.rate_bytes_per_s(), Some(100 << 20));
    }
}
