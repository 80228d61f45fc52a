//! What a seed decides.

use super::DATA_BYTES;

/// One point of a campaign.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    /// It crashes when so many bytes have gone to the target.
    pub at_bytes: u64,
    /// Nothing goes on until it has crashed; else it crashes in full flight.
    pub holds: bool,
    pub connections: u64,
    /// `None`: what the copy takes by itself.
    pub integrity: Option<&'static str>,
    /// A loop device, else a regular file.
    pub on_device: bool,
    /// Both sides go, where there is a choice.
    pub both: bool,
}

/// SplitMix64: every seed is a good one.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % sides
    }
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice(seed);
        // Most points lie behind the first checkpoints, none behind the last byte.
        let first = if dice.roll(4) == 0 { 1 } else { 40 };
        let range = DATA_BYTES / 100 * first..DATA_BYTES / 100 * 97;
        let mut integrities = [None, None, Some("none"), Some("media")].into_iter();
        Self {
            seed,
            at_bytes: range.start + dice.roll(range.end - range.start),
            holds: dice.roll(2) == 0,
            connections: 1 + dice.roll(4),
            integrity: integrities
                .nth(usize::try_from(dice.roll(4)).unwrap())
                .unwrap(),
            on_device: seed % 2 == 1,
            both: dice.roll(2) == 0,
        }
    }
}

impl Plan {
    /// In full flight, when most has gone.
    pub fn late(seed: u64) -> Self {
        Self {
            at_bytes: DATA_BYTES / 100 * 90,
            holds: false,
            ..Self::of(seed)
        }
    }
}

/// Runs `point` with one seed after the other: 3, with `MIGRATEKIT_SOAK` 20, or the one of `MK_CRASH_SEED`. It tells how
/// many bytes were durable when it crashed; `None` is a skip. A campaign of which nothing was has asked nothing.
pub fn campaign(kind: &str, point: impl Fn(Plan) -> Option<u64>) {
    let one = std::env::var("MK_CRASH_SEED").ok();
    let last = match std::env::var_os("MIGRATEKIT_SOAK") {
        Some(_) => 20,
        None => 3,
    };
    let seeds = match &one {
        Some(seed) => vec![seed.parse().unwrap()],
        None => (1..=last).collect(),
    };
    let mut durable_bytes = 0;
    for seed in seeds {
        let plan = Plan::of(seed);
        println!("{kind}: MK_CRASH_SEED={seed} {plan:?}");
        let Some(durable) = point(plan) else {
            return;
        };
        println!("{kind}: {durable} bytes were durable");
        durable_bytes += durable;
    }
    assert!(
        one.is_some() || durable_bytes > 0,
        "no point of {kind} had anything to lose"
    );
}
