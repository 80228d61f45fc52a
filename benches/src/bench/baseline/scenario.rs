//! What is measured: which way the bytes go, and what is behind the servers.

use super::{
    Plan,
    ceiling::Ceiling,
    contestants::{Contestant, Kind, Settings},
    delay,
    ground::Ground,
};
use anyhow::Result;
use benches::process::Run;
use serde::Serialize;
use std::path::Path;

/// Bytes from one place to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Scenario {
    /// Bytes from memory, discarded
    WriteNull,
    /// Bytes from memory into a loop device on tmpfs, flushed at the end
    WriteLoop,
    /// Bytes out of a loop device on tmpfs, discarded
    ReadLoop,
    /// Bytes from memory into a file on a disk, flushed at the end
    WriteDisk,
    /// Bytes from memory over a line of 50 ms there and back, discarded
    Delay,
}

/// What is behind a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Null,
    Loop,
    Disk,
}

impl Scenario {
    pub(super) const ALL: [Self; 5] = [
        Self::WriteNull,
        Self::WriteLoop,
        Self::ReadLoop,
        Self::WriteDisk,
        Self::Delay,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::WriteNull => "write-null",
            Self::WriteLoop => "write-loop",
            Self::ReadLoop => "read-loop",
            Self::WriteDisk => "write-disk",
            Self::Delay => "delay",
        }
    }

    pub(super) const fn place(self) -> Place {
        match self {
            Self::WriteNull | Self::Delay => Place::Null,
            Self::WriteLoop | Self::ReadLoop => Place::Loop,
            Self::WriteDisk => Place::Disk,
        }
    }

    pub(super) const fn is_read(self) -> bool {
        matches!(self, Self::ReadLoop)
    }
}

/// The figures of a scenario.
pub(super) struct Measured {
    pub scenario: Scenario,
    pub bytes: u64,
    pub sides: Vec<Side>,
}

/// The figures of one contestant.
pub(super) struct Side {
    pub name: &'static str,
    pub settings: String,
    pub runs: Vec<Run>,
    pub peak_memory_bytes: u64,
}

pub(super) enum Outcome {
    Measured(Measured),
    /// This machine cannot, and why.
    Impossible(String),
}

/// Who takes part.
struct Entrant {
    contestant: Contestant,
    settings: Settings,
    runs: Vec<Run>,
}

/// Runs all rounds of a scenario.
pub(super) fn measure(plan: &Plan, scenario: Scenario) -> Result<Outcome> {
    if scenario == Scenario::Delay {
        return delay::measure(plan);
    }
    let mut ground = Ground::new(plan, scenario)?;
    let mut ceiling = None;
    let mut entrants = Vec::new();
    if !scenario.is_read() {
        match ground.backing("bare")? {
            Ok(target) => ceiling = Some(Ceiling::find(plan, target.as_deref())?),
            Err(reason) => return Ok(Outcome::Impossible(reason)),
        }
    }
    for kind in Kind::ALL.into_iter().filter(|kind| kind.can(scenario)) {
        match ground.backing(kind.short())? {
            Ok(place) => entrants.push(Entrant::new(kind, plan, &ground, place.as_deref())?),
            Err(reason) => return Ok(Outcome::Impossible(reason)),
        }
    }
    for round in 0..plan.rounds as usize {
        if let Some(ceiling) = &mut ceiling {
            ceiling.run()?;
        }
        for step in 0..entrants.len() {
            // Who begins changes from round to round.
            let index = (round + step) % entrants.len();
            let entrant = &mut entrants[index];
            let run = entrant.contestant.run(&ground, entrant.settings)?;
            entrant.runs.push(run);
        }
    }
    // Servers end before what is behind them goes.
    let sides = entrants.into_iter().map(Entrant::into_side);
    let mut sides: Vec<Side> = sides.collect::<Result<_>>()?;
    sides.extend(ceiling.map(Ceiling::into_side));
    Ok(Outcome::Measured(Measured {
        scenario,
        bytes: plan.bytes,
        sides,
    }))
}

impl Entrant {
    /// Starts its server and looks for the best settings, which is the first touch of what is behind it, too.
    fn new(kind: Kind, plan: &Plan, ground: &Ground, place: Option<&Path>) -> Result<Self> {
        let contestant = Contestant::start(kind, ground, place)?;
        Ok(Self {
            settings: contestant.best_settings(ground, plan.quick)?,
            contestant,
            runs: Vec::new(),
        })
    }

    fn into_side(self) -> Result<Side> {
        Ok(Side {
            name: self.contestant.name(),
            settings: self.settings.to_string(),
            peak_memory_bytes: self.contestant.peak_memory_bytes()?,
            runs: self.runs,
        })
    }
}

/// As a result names it.
impl Serialize for Scenario {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.name())
    }
}
