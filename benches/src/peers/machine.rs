//! Where a figure was measured: without it a number is a rumour.

use crate::peer::version;
use anyhow::Result;
use serde::Serialize;
use std::{fs, path::Path, process::Command};

/// Machine, kernel, versions.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub cpu: String,
    pub cpus: usize,
    pub kernel: String,
    pub memory_mib: u64,
    pub load_before: String,
    pub ours: String,
    pub tier: String,
    pub nbdkit: String,
    pub nbdcopy: String,
    pub commit: String,
}

impl Machine {
    /// The machine in one line.
    pub(crate) fn line(&self) -> String {
        format!(
            "{}, {} CPUs, Linux {}, load {}; {} ({}, tier {})",
            self.cpu, self.cpus, self.kernel, self.load_before, self.ours, self.commit, self.tier
        )
    }
}

fn first_line_of(command: &mut Command) -> String {
    let output = command.output().ok();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.and_then(|text| text.lines().next().map(str::to_owned))
        .unwrap_or_default()
}

fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':'));
    value
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

/// Reads the machine's facts; what cannot be read stays empty.
pub(crate) fn describe(binary: &Path) -> Result<Machine> {
    let memory = field("/proc/meminfo", "MemTotal");
    let memory_kib = memory
        .split(' ')
        .next()
        .and_then(|kib| kib.parse::<u64>().ok());
    let probe = Command::new(binary)
        .args(["probe", "--output", "json"])
        .output()?;
    let probe: serde_json::Value = serde_json::from_slice(&probe.stdout).unwrap_or_default();
    Ok(Machine {
        cpu: field("/proc/cpuinfo", "model name"),
        cpus: std::thread::available_parallelism()?.get(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned(),
        memory_mib: memory_kib.unwrap_or(0) / 1024,
        load_before: fs::read_to_string("/proc/loadavg")?.trim().to_owned(),
        ours: first_line_of(Command::new(binary).arg("--version")),
        tier: probe["tier"].as_str().unwrap_or_default().to_owned(),
        nbdkit: version("nbdkit")?,
        nbdcopy: version("nbdcopy")?,
        commit: first_line_of(Command::new("git").args(["rev-parse", "--short=12", "HEAD"])),
    })
}
