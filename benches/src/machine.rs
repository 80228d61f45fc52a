//! Where a figure was measured: without it a number is a rumour.

use anyhow::Result;
use serde::Serialize;
use std::{fs, process::Command};

/// Features of a CPU that decide how fast ciphers and hashes are.
const TELLING_FLAGS: [&str; 7] = [
    "aes",
    "vaes",
    "pclmulqdq",
    "vpclmulqdq",
    "avx2",
    "avx512f",
    "sha_ni",
];

/// Machine, kernel, commit.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Its name as the kernel knows it.
    pub cpu: String,
    /// CPUs this process may use.
    pub cpus: usize,
    /// Those of the features that decide about speed which it has.
    pub cpu_flags: Vec<&'static str>,
    /// Bytes of the last level cache that a CPU has; 0 when the kernel does not tell.
    pub last_level_cache_bytes: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Memory of the machine, MiB.
    pub memory_mib: u64,
    /// `/proc/loadavg` when it was looked at.
    pub load_before: String,
    /// The tree that was measured; empty outside of a repository.
    pub commit: String,
}

/// The first line that a command prints; empty when it cannot be started.
#[must_use]
pub fn first_line_of(command: &mut Command) -> String {
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

/// `12K`, `32M`, as sysfs writes sizes of caches.
fn cache_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let shift = match unit {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_shl(shift)
}

fn last_level_cache_bytes() -> u64 {
    (0..=4)
        .map(|index| format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size"))
        .filter_map(|path| cache_bytes(&fs::read_to_string(path).ok()?))
        .max()
        .unwrap_or(0)
}

/// Reads the machine's facts; what cannot be read stays empty.
///
/// # Errors
/// When the kernel does not even tell its name.
pub fn describe() -> Result<Machine> {
    let memory = field("/proc/meminfo", "MemTotal");
    let memory_kib = memory
        .split(' ')
        .next()
        .and_then(|kib| kib.parse::<u64>().ok());
    let flags = field("/proc/cpuinfo", "flags");
    let has = |flag: &&str| flags.split_whitespace().any(|word| word == *flag);
    Ok(Machine {
        cpu: field("/proc/cpuinfo", "model name"),
        cpus: std::thread::available_parallelism()?.get(),
        cpu_flags: TELLING_FLAGS.into_iter().filter(has).collect(),
        last_level_cache_bytes: last_level_cache_bytes(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned(),
        memory_mib: memory_kib.unwrap_or(0) / 1024,
        load_before: fs::read_to_string("/proc/loadavg")?.trim().to_owned(),
        commit: first_line_of(Command::new("git").args(["rev-parse", "--short=12", "HEAD"])),
    })
}

impl Machine {
    /// The machine in one line.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "{}, {} CPUs, Linux {}, load {}, commit {}",
            self.cpu, self.cpus, self.kernel, self.load_before, self.commit
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_caches_are_read_as_sysfs_writes_them() {
        assert_eq!(cache_bytes("32768K\n"), Some(32 << 20));
        assert_eq!(cache_bytes("32M"), Some(32 << 20));
        assert_eq!(cache_bytes("32"), None);
        assert_eq!(cache_bytes(""), None);
    }
}
