//! The figures for people and for programs.

use super::{
    ciphers::Cipher,
    device::{Facts, Writing},
    memory::Copying,
    meter::Figures,
    pipeline::{End, Pipeline},
    sockets::Socket,
};
use benches::machine::Machine;
use serde::Serialize;
use std::fmt::Write as _;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub schema: u32,
    pub machine: Machine,
    pub bytes_per_run: u64,
    pub rounds: u32,
    /// The source is that large and read again and again.
    pub source_bytes: usize,
    pub target: Option<Facts>,
    pub ciphers: Vec<Cipher>,
    pub memory: Vec<Copying>,
    pub sockets: Vec<Socket>,
    pub device: Vec<Writing>,
    pub pipeline: Vec<Pipeline>,
}

impl Report {
    /// The best combination of the bare pipeline.
    pub(super) fn ceiling(&self, end: End) -> Option<&Pipeline> {
        let cells = self.pipeline.iter().filter(|cell| cell.end == end);
        cells.max_by(|a, b| {
            let median = |cell: &Pipeline| cell.figures.gib_per_s.median;
            median(a).total_cmp(&median(b))
        })
    }

    /// The table.
    pub(super) fn to_text(&self) -> String {
        let mut text = self.head();
        let mut line = |name: &str, figures: &Figures| {
            let rate = &figures.gib_per_s;
            let spread = format!("{:.2} {:.2} {:.2}", rate.min, rate.median, rate.max);
            let cpu = figures.cpu_s_per_gib;
            let _infallible = writeln!(text, "{name:<44} {spread:>20} {cpu:>12.3}");
        };
        for cipher in &self.ciphers {
            line(&format!("{} seal", cipher.suite), &cipher.seal);
            line("  open what is in a cache", &cipher.open_hot);
            line("  open what is in memory", &cipher.open_cold);
        }
        for copying in &self.memory {
            line(&format!("copy {}", copying.what), &copying.figures);
        }
        for cell in &self.sockets {
            let name = combination(cell.kind.name(), cell.connections, cell.batch_bytes);
            line(&name, &cell.figures);
        }
        for cell in &self.device {
            let name = combination("write", cell.writers, cell.batch_bytes);
            line(&name, &cell.figures);
        }
        for cell in &self.pipeline {
            let name = format!("pipeline {}", cell.end.name());
            let name = format!("{name}, {}", cell.cell);
            line(&name, &cell.figures);
        }
        text += &self.ceilings();
        text
    }

    fn head(&self) -> String {
        let mut text = format!(
            "{}\n{} MiB a run, {} rounds, source of {} MiB in memory\n",
            self.machine.line(),
            self.bytes_per_run >> 20,
            self.rounds,
            self.source_bytes >> 20
        );
        if let Some(target) = &self.target {
            let direct = if target.direct { "direct" } else { "buffered" };
            let (path, block) = (&target.path, target.logical_block);
            let _infallible =
                writeln!(text, "target {path}: {direct} I/O, blocks of {block} bytes");
        }
        let _infallible = writeln!(
            text,
            "\n{:<44} {:>20} {:>12}",
            "", "GiB/s min/med/max", "CPU s/GiB"
        );
        text
    }

    fn ceilings(&self) -> String {
        let mut text = String::new();
        for end in [End::Null, End::Device] {
            if let Some(best) = self.ceiling(end) {
                let _infallible = write!(
                    text,
                    "\nceiling {}: {:.2} GiB/s ({}), machine busy {:.2} s/GiB, stolen {:.2}",
                    end.name(),
                    best.figures.gib_per_s.median,
                    format_args!("{}, {}", best.suite, best.cell),
                    best.figures.machine_busy_s_per_gib,
                    best.figures.steal_s_per_gib,
                );
            }
        }
        text
    }
}

fn combination(name: &str, lanes: usize, batch: usize) -> String {
    format!("{name}, {lanes} x {} KiB", batch >> 10)
}
