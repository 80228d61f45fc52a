//! What the whole machine did meanwhile.

use anyhow::{Context, Result};

/// The first line of `/proc/stat`, see proc_stat(5).
#[derive(Debug, Clone, Copy)]
pub struct MachineTime {
    /// Seconds of all CPUs that were not idle, since the machine began.
    pub busy: f64,
    /// Seconds that another machine took away.
    pub steal: f64,
}

impl MachineTime {
    /// Up to now.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn now() -> Result<Self> {
        let text = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
        Self::parse(&text).context("/proc/stat has no line for all CPUs")
    }

    fn parse(text: &str) -> Option<Self> {
        /// Of a second: what the kernel counts in here, on every architecture that Linux shows to programs.
        const TICKS: f64 = 100.0;
        let line = text.lines().find(|line| line.starts_with("cpu "))?;
        let ticks: Vec<f64> = line
            .split_whitespace()
            .skip(1)
            .map(|word| word.parse().ok())
            .collect::<Option<_>>()?;
        // user nice system idle iowait irq softirq steal
        let [user, nice, system, _, _, irq, softirq, steal, ..] = ticks[..] else {
            return None;
        };
        Some(Self {
            busy: (user + nice + system + irq + softirq) / TICKS,
            steal: steal / TICKS,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_idle_or_taken_away_is_not_busy() {
        let time = MachineTime::parse("cpu  100 200 300 9999 88 10 20 50 0 0\ncpu0 1\n").unwrap();
        assert_eq!((time.busy, time.steal), (6.3, 0.5));
        assert!(MachineTime::parse("cpu  1 2 3\n").is_none());
        assert!(MachineTime::parse("intr 1\n").is_none());
    }
}
