//! The search for better settings: which two to compare next, and which to keep. It measures nothing itself.

use std::collections::{BTreeMap, BTreeSet};

use control::knob::Tunable;
use serde::Serialize;

/// Values by name of tunable.
pub(crate) type Settings = BTreeMap<&'static str, u64>;

/// A gain below this is not worth a setting that somebody has to remember.
const GAIN_MIN: f64 = 0.005;

/// In which order the tunables have their turn. Those that hide others come first: behind a window that is too small
/// more connections look good, and then keep the window small.
pub(crate) const ORDER: [&str; 6] = [
    "window_bytes_max",
    "request_bytes",
    "connections",
    "send_batch_bytes",
    "device_depth",
    "recv_buffer_bytes",
];

/// What is in flight is their product, so that neither may get anywhere alone.
const TRADED: [&str; 2] = ["connections", "window_bytes_max"];

/// The values that are tried for one tunable, in order.
#[derive(Debug, Clone)]
pub(crate) struct Ladder {
    name: &'static str,
    steps: Vec<u64>,
}

/// One for each of the settings that are tuned, in [`ORDER`].
pub(crate) fn ladders(start: &Settings) -> Vec<Ladder> {
    let one = |name: &&str| Some(Ladder::of(Tunable::by_name(name)?, *start.get(*name)?));
    ORDER.iter().filter_map(one).collect()
}

impl Ladder {
    /// Doublings from the least value to the greatest, and where the search begins.
    fn of(row: &'static Tunable, start: u64) -> Self {
        let mut steps: Vec<u64> = std::iter::successors(Some(row.min.max(1)), |step| {
            step.checked_mul(2).filter(|next| *next <= row.max)
        })
        .collect();
        steps.push(start);
        steps.sort_unstable();
        steps.dedup();
        let name = row.name;
        Self { name, steps }
    }

    fn step(&self, from: u64, by: isize) -> Option<u64> {
        let at = self.steps.iter().position(|step| *step == from)?;
        self.steps.get(at.checked_add_signed(by)?).copied()
    }
}

/// One tunable from one value to another.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Change {
    pub(crate) knob: &'static str,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// What one comparison said.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Tried {
    pub(crate) changes: Vec<Change>,
    pub(crate) pairs: usize,
    /// Medians, in the unit of what was measured.
    pub(crate) rate_from: f64,
    pub(crate) rate_to: f64,
    /// Median of the gains of the pairs; 0.1 is a tenth more.
    pub(crate) gain: f64,
    /// Median of what the gains are away from their median.
    pub(crate) mad: f64,
    pub(crate) kept: bool,
}

/// Where the search ended.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) best: Settings,
    pub(crate) tried: Vec<Tried>,
    /// No step from the best is better; else the budget ended before.
    pub(crate) complete: bool,
}

/// Measures two settings in turn: pairs of rates, or nothing when the budget has ended.
pub(crate) type Measure<'a, E> =
    dyn FnMut(&Settings, &Settings) -> Result<Option<Vec<(f64, f64)>>, E> + 'a;

/// One tunable at a time from the current best, up and down, until no step is better.
///
/// Steps of two follow those of one, because a gain may hide behind a flat place.
pub(crate) fn search<E>(
    start: Settings,
    ladders: &[Ladder],
    measure: &mut Measure<'_, E>,
) -> Result<Found, E> {
    let mut walk = Walk {
        best: start,
        tried: Vec::new(),
        refused: BTreeSet::new(),
    };
    let mut complete = true;
    loop {
        let mut moved = false;
        for ladder in ladders {
            match walk.climb(ladder, measure)? {
                Some(climbed) => moved |= climbed,
                None => complete = false,
            }
        }
        if !moved && complete {
            match walk.trade(ladders, measure)? {
                Some(traded) => moved = traded,
                None => complete = false,
            }
        }
        if !moved || !complete {
            return Ok(Found {
                best: walk.best,
                tried: walk.tried,
                complete,
            });
        }
    }
}

struct Walk {
    best: Settings,
    tried: Vec<Tried>,
    /// Comparisons that said no.
    refused: BTreeSet<(Settings, Settings)>,
}

impl Walk {
    /// Whether this tunable has moved; `None` when the budget has ended.
    fn climb<E>(
        &mut self,
        ladder: &Ladder,
        measure: &mut Measure<'_, E>,
    ) -> Result<Option<bool>, E> {
        let mut moved = false;
        for by in [1, -1, 2, -2] {
            loop {
                match self.step(&[(ladder, by)], measure)? {
                    Some(true) => moved = true,
                    Some(false) => break,
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(moved))
    }

    /// Fewer connections with larger windows, or the other way around: together they keep what is in flight.
    fn trade<E>(
        &mut self,
        ladders: &[Ladder],
        measure: &mut Measure<'_, E>,
    ) -> Result<Option<bool>, E> {
        let find = |name: &str| ladders.iter().find(|ladder| ladder.name == name);
        let [Some(one), Some(other)] = TRADED.map(find) else {
            return Ok(Some(false));
        };
        for by in [-1, 1] {
            match self.step(&[(one, by), (other, -by)], measure)? {
                Some(false) => {}
                end => return Ok(end),
            }
        }
        Ok(Some(false))
    }

    fn step<E>(
        &mut self,
        moves: &[(&Ladder, isize)],
        measure: &mut Measure<'_, E>,
    ) -> Result<Option<bool>, E> {
        let mut trial = self.best.clone();
        let mut changes = Vec::new();
        for (ladder, by) in moves {
            let from = self.best.get(ladder.name).copied().unwrap_or_default();
            let Some(to) = ladder.step(from, *by) else {
                return Ok(Some(false));
            };
            trial.insert(ladder.name, to);
            let knob = ladder.name;
            changes.push(Change { knob, from, to });
        }
        let comparison = (self.best.clone(), trial);
        if self.refused.contains(&comparison) {
            return Ok(Some(false));
        }
        let Some(pairs) = measure(&comparison.0, &comparison.1)? else {
            return Ok(None);
        };
        let tried = judge(changes, &pairs);
        let kept = tried.kept;
        self.tried.push(tried);
        if kept {
            // The way back is known to be worse.
            let (before, after) = comparison;
            self.best.clone_from(&after);
            self.refused.insert((after, before));
        } else {
            self.refused.insert(comparison);
        }
        Ok(Some(kept))
    }
}

fn judge(changes: Vec<Change>, pairs: &[(f64, f64)]) -> Tried {
    let gains: Vec<f64> = pairs.iter().map(|(a, b)| b / a - 1.0).collect();
    let gain = median(gains.iter().copied());
    let mad = median(gains.iter().map(|one| (one - gain).abs()));
    Tried {
        changes,
        pairs: pairs.len(),
        rate_from: median(pairs.iter().map(|pair| pair.0)),
        rate_to: median(pairs.iter().map(|pair| pair.1)),
        gain,
        mad,
        kept: gain > (2.0 * mad).max(GAIN_MIN),
    }
}

/// NaN of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    f64::midpoint(at(values.len().saturating_sub(1) / 2), at(values.len() / 2))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const KNOBS: [&str; 3] = ["connections", "request_bytes", "window_bytes_max"];
    const MIB: f64 = 1_048_576.0;

    fn row(name: &str) -> &'static Tunable {
        Tunable::by_name(name).unwrap()
    }

    /// GiB/s of a made-up pair of hosts 2 ms apart: cores that share the ciphers, a cost for each request, caches
    /// that large ones leave, and windows that must hold what is on the way.
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn rate(settings: &Settings) -> f64 {
        let [connections, request, window] = KNOBS.map(|name| settings[name] as f64);
        let cores = connections.min(4.0) / (1.0 + 0.02 * (connections - 4.0).max(0.0));
        let per_mib = 0.4 + 0.03 * (MIB / request) + 0.15 * (request / MIB - 0.5).max(0.0);
        let in_caches = 1.0 + 0.004 * (window * connections / MIB - 32.0).max(0.0);
        let by_cpu = cores / (per_mib * in_caches);
        let by_line = window.max(2.0 * request).min(window * 2.0) * connections / MIB / 2.0;
        by_cpu.min(by_line)
    }

    fn start(bad: (&'static str, u64)) -> Settings {
        let mut settings: Settings = KNOBS.map(|name| (name, row(name).default)).into();
        settings.insert(bad.0, bad.1);
        settings
    }

    fn best_of_the_grid() -> f64 {
        let steps = KNOBS.map(|name| Ladder::of(row(name), row(name).default).steps);
        let mut best = 0.0_f64;
        for connections in &steps[0] {
            for request in &steps[1] {
                for window in &steps[2] {
                    let values = [*connections, *request, *window];
                    let settings = std::iter::zip(KNOBS, values).collect();
                    best = best.max(rate(&settings));
                }
            }
        }
        best
    }

    /// `noise` is the most that a single rate is off, as a share.
    fn run(from: Settings, noise: f64) -> Found {
        let mut state = 0x9e37_79b9_u32;
        let mut noisy = |rate: f64| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            rate * (1.0 + noise * (f64::from(state) / f64::from(u32::MAX) * 2.0 - 1.0))
        };
        let ladders = ladders(&from);
        let mut measure = |a: &Settings, b: &Settings| {
            let pairs = (0..5).map(|_| (noisy(rate(a)), noisy(rate(b)))).collect();
            Ok::<_, Infallible>(Some(pairs))
        };
        search(from, &ladders, &mut measure).unwrap()
    }

    #[test]
    fn from_three_bad_starts_it_ends_within_a_twentieth_of_the_best_of_the_grid() {
        let best = best_of_the_grid();
        let bad = [
            ("request_bytes", 64 << 10),
            ("connections", 1),
            ("window_bytes_max", 1 << 20),
        ];
        for bad in bad {
            for noise in [0.0, 0.01] {
                let found = run(start(bad), noise);
                let reached = rate(&found.best);
                assert!(found.complete);
                assert!(
                    reached >= 0.95 * best,
                    "{bad:?} {noise}: {reached} of {best}: {found:?}"
                );
                assert!(found.tried.len() < 80, "{}", found.tried.len());
            }
        }
    }

    #[test]
    fn what_lies_within_the_noise_is_not_kept() {
        let pairs = [
            (1.0, 1.1),
            (1.0, 0.9),
            (1.0, 1.08),
            (1.0, 1.02),
            (1.0, 0.95),
        ];
        let tried = judge(Vec::new(), &pairs);
        assert!(!tried.kept && tried.mad > 0.0, "{tried:?}");
        let tried = judge(Vec::new(), &[(1.0, 1.1); 5]);
        assert!(tried.kept, "{tried:?}");
        let tried = judge(Vec::new(), &[(1.0, 1.001); 5]);
        assert!(!tried.kept, "not worth it: {tried:?}");
    }

    #[test]
    fn when_the_budget_ends_what_was_found_so_far_stands() {
        let from = start(("connections", 1));
        let mut left = 2;
        let mut measure = |a: &Settings, b: &Settings| {
            let pairs = vec![(rate(a), rate(b)); 5];
            left -= 1;
            Ok::<_, Infallible>((left >= 0).then_some(pairs))
        };
        let found = search(from.clone(), &ladders(&from)[2..], &mut measure).unwrap();
        assert!(!found.complete);
        assert_eq!(found.tried.len(), 2);
        assert_eq!(found.best["connections"], 4);
    }

    #[test]
    fn a_ladder_has_its_start_and_stays_inside_the_row() {
        let ladder = Ladder::of(row("connections"), 3);
        assert_eq!(ladder.steps, [1, 2, 3, 4, 8, 16, 32, 64]);
        assert_eq!(ladder.step(64, 1), None);
        assert_eq!(ladder.step(1, -1), None);
    }
}
