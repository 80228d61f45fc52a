//! Which programs were measured, and where.

use anyhow::Result;
use benches::{
    machine::{self, Machine, first_line_of},
    nbdkit::version,
};
use serde::Serialize;
use std::{path::Path, process::Command};

/// The machine and the versions of all contestants.
#[derive(Debug, Serialize)]
pub(crate) struct Versions {
    #[serde(flatten)]
    pub machine: Machine,
    pub ours: String,
    pub tier: String,
    pub nbdkit: String,
    pub nbdcopy: String,
}

impl Versions {
    /// Asks each program.
    pub(crate) fn of(binary: &Path) -> Result<Self> {
        let probe = Command::new(binary)
            .args(["probe", "--output", "json"])
            .output()?;
        let probe: serde_json::Value = serde_json::from_slice(&probe.stdout).unwrap_or_default();
        Ok(Self {
            machine: machine::describe()?,
            ours: first_line_of(Command::new(binary).arg("--version")),
            tier: probe["tier"].as_str().unwrap_or_default().to_owned(),
            nbdkit: version("nbdkit")?,
            nbdcopy: version("nbdcopy")?,
        })
    }

    /// Machine and our own program in one line.
    pub(crate) fn line(&self) -> String {
        format!(
            "{}; {} (tier {})",
            self.machine.line(),
            self.ours,
            self.tier
        )
    }
}
