//! The figures for people and for programs.

use super::{
    ceiling::BARE,
    contestants::Versions,
    scenario::{Measured, Side},
};
use benches::{
    machine::Machine,
    process::Run,
    spread::{GIB, Spread},
};
use serde::{Serialize, Serializer, ser::SerializeStruct as _};
use std::fmt::Write as _;

/// Everything that was measured.
#[derive(Serialize)]
pub(super) struct Report {
    pub schema: u32,
    pub machine: Machine,
    pub versions: Versions,
    pub bytes_per_run: u64,
    pub rounds: u32,
    pub quick: bool,
    pub scenarios: Vec<Measured>,
    pub skipped: Vec<String>,
}

/// What the runs of one contestant say together.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    pub gib_per_s: Spread,
    pub sender_cpu_s_per_gib: f64,
    pub target_cpu_s_per_gib: f64,
    pub machine_busy_s_per_gib: f64,
    pub steal_s_per_gib: f64,
}

impl Figures {
    fn of(bytes: u64, runs: &[Run]) -> Self {
        let gib = bytes as f64 / GIB;
        let median = |value: fn(&Run) -> f64| Spread::of(runs.iter().map(value)).median / gib;
        Self {
            gib_per_s: Spread::of(runs.iter().map(|run| gib / run.seconds)),
            sender_cpu_s_per_gib: median(|run| run.sender_cpu),
            target_cpu_s_per_gib: median(|run| run.target_cpu),
            machine_busy_s_per_gib: median(|run| run.machine_busy),
            steal_s_per_gib: median(|run| run.steal),
        }
    }
}

impl Measured {
    /// The figures of the contestant with that name.
    pub(super) fn figures(&self, name: &str) -> Option<Figures> {
        let side = self.sides.iter().find(|side| side.name == name)?;
        Some(Figures::of(self.bytes, &side.runs))
    }

    /// How many times as fast one is as the other, by medians.
    pub(super) fn ratio(&self, of: &str, to: &str) -> Option<f64> {
        Some(self.figures(of)?.gib_per_s.median / self.figures(to)?.gib_per_s.median)
    }
}

/// A scenario with everybody's figures; what can be derived from them is there as well.
impl Serialize for Measured {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let sides: Vec<_> = self.sides.iter().map(|side| self.side(side)).collect();
        let mut fields = to.serialize_struct("scenario", 2)?;
        fields.serialize_field("scenario", &self.scenario)?;
        fields.serialize_field("contestants", &sides)?;
        fields.end()
    }
}

#[derive(Serialize)]
struct SideObject<'a> {
    name: &'a str,
    settings: &'a str,
    #[serde(flatten)]
    figures: Figures,
    /// How many times as fast ours is, by medians.
    ours_is_times: Option<f64>,
    /// Of the bare pipeline, where it takes part.
    of_ceiling: Option<f64>,
    server_peak_memory_bytes: u64,
    seconds: Vec<f64>,
}

impl Measured {
    fn side<'a>(&self, side: &'a Side) -> SideObject<'a> {
        SideObject {
            name: side.name,
            settings: &side.settings,
            figures: Figures::of(self.bytes, &side.runs),
            ours_is_times: self.ratio("ours", side.name),
            of_ceiling: self.ratio(side.name, BARE),
            server_peak_memory_bytes: side.peak_memory_bytes,
            seconds: side.runs.iter().map(|run| run.seconds).collect(),
        }
    }
}

impl Report {
    /// The table.
    pub(super) fn to_text(&self) -> String {
        let Versions {
            ours,
            tier,
            nbdkit,
            nbdcopy,
            qemu_img,
            stunnel,
        } = &self.versions;
        let mut text = format!(
            "{}\n{ours} (tier {tier}); {nbdkit}; {nbdcopy}; {qemu_img}; {stunnel}\n\
             {} MiB a run, {} rounds{}\n",
            self.machine.line(),
            self.bytes_per_run >> 20,
            self.rounds,
            if self.quick { ", quick" } else { "" },
        );
        for measured in &self.scenarios {
            text += &measured.to_text();
        }
        for skipped in &self.skipped {
            let _infallible = writeln!(text, "\nSKIP: {skipped}");
        }
        text
    }
}

impl Measured {
    fn to_text(&self) -> String {
        let mut text = format!(
            "\n{:<33} {:>16} {:>6} {:>8} {:>7} {:>7} {:>6} {:>6} {:>5}  settings\n",
            self.scenario.name(),
            "GiB/s",
            "ours",
            "of the",
            "sender",
            "target",
            "busy",
            "stolen",
            "peak"
        );
        let _infallible = writeln!(
            text,
            "{:<33} {:>16} {:>6} {:>8} {:>30} {:>5}",
            "", "min med max", "is x", "ceiling", "CPU s per GiB", "MiB"
        );
        for side in &self.sides {
            let side = self.side(side);
            let Figures {
                gib_per_s: rate,
                sender_cpu_s_per_gib: sender,
                target_cpu_s_per_gib: target,
                machine_busy_s_per_gib: busy,
                steal_s_per_gib: stolen,
            } = &side.figures;
            let spread = format!("{:.2} {:.2} {:.2}", rate.min, rate.median, rate.max);
            let times = side
                .ours_is_times
                .map_or(String::new(), |x| format!("{x:.2}"));
            let share = side
                .of_ceiling
                .map_or(String::new(), |x| format!("{:.0} %", 100.0 * x));
            let _infallible = writeln!(
                text,
                "{:<33} {spread:>16} {times:>6} {share:>8} {sender:>7.2} {target:>7.2} {busy:>6.2} {stolen:>6.2} {:>5}  {}",
                side.name,
                side.server_peak_memory_bytes >> 20,
                side.settings,
            );
        }
        text
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::baseline::scenario::Scenario;

    /// Two rounds of 1 GiB.
    pub(crate) fn side(name: &'static str, seconds: [f64; 2]) -> Side {
        let run = |seconds| Run {
            seconds,
            sender_cpu: 0.5,
            target_cpu: 0.25,
            machine_busy: 1.0,
            steal: 0.0,
        };
        Side {
            name,
            settings: "defaults".into(),
            runs: seconds.map(run).to_vec(),
            peak_memory_bytes: 64 << 20,
        }
    }

    pub(crate) fn measured() -> Measured {
        Measured {
            scenario: Scenario::WriteNull,
            bytes: 1 << 30,
            sides: vec![
                side("ours", [0.5, 0.5]),
                side("nbdcopy -> nbdkit, TLS", [1.0, 1.0]),
                side(BARE, [0.4, 0.4]),
            ],
        }
    }

    #[test]
    fn ratios_and_shares_are_of_medians() {
        let measured = measured();
        assert_eq!(measured.ratio("ours", "nbdcopy -> nbdkit, TLS"), Some(2.0));
        assert_eq!(measured.ratio("ours", "nobody"), None);
        let value = serde_json::to_value(&measured).unwrap();
        assert_eq!(value["scenario"], "write-null");
        let ours = &value["contestants"][0];
        assert_eq!(ours["gib_per_s"]["median"], 2.0);
        assert_eq!(ours["of_ceiling"], 0.8);
        assert_eq!(ours["sender_cpu_s_per_gib"], 0.5);
        assert_eq!(value["contestants"][1]["ours_is_times"], 2.0);
    }

    #[test]
    fn the_table_has_a_line_for_each() {
        let text = measured().to_text();
        assert_eq!(text.lines().count(), 6, "{text}");
        assert!(text.contains("80 %"), "{text}");
    }
}
