//! What CloudStack, the database and the kernel say of each volume, compared: adopt, repair the record, or report.
//!
//! There is no action that deletes, detaches or attaches: what only an operator can decide is reported.

use std::collections::{BTreeMap, BTreeSet};

use crate::identity::{Serial, is_mark};
use model::ids::VolumeId;

/// Where CloudStack or the record says a volume is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Attached to nothing.
    Free,
    /// Attached to this appliance, in a slot.
    Here {
        /// The slot.
        device_id: u32,
    },
    /// Attached to another machine.
    Elsewhere,
}

/// A volume as CloudStack lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// Its id.
    pub volume: VolumeId,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// Its size.
    pub size_bytes: u64,
}

/// A volume as the database has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its id.
    pub volume: VolumeId,
    /// Where it should be.
    pub place: Place,
    /// Its size.
    pub size_bytes: u64,
    /// Whether the data plane should hold or serve it.
    pub should_be_held: bool,
    /// Whether an operation of it is active; such a volume is left alone.
    pub is_busy: bool,
}

/// What the appliance's kernel and data plane show for one serial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Disks with this serial.
    pub disks: u32,
    /// Size of the disk, or of the smallest.
    pub size_bytes: u64,
    /// Whether the data plane holds or serves it.
    pub is_held: bool,
}

/// What to do about one volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Record a volume that bears our mark and is in no record.
    Adopt,
    /// Mend a record, or put a hold back.
    Repair(Repair),
    /// Tell an operator.
    Report(Problem),
    /// A repair or an adoption that is not made, because state folder and database do not belong together.
    Withheld,
}

/// What is mended without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// CloudStack and the kernel agree that it is here, in this slot.
    RecordHere {
        /// The slot.
        device_id: u32,
    },
    /// CloudStack and the kernel agree that it is attached to nothing.
    RecordFree,
    /// It has grown: the record and the content epoch follow.
    RecordSize {
        /// The new size.
        size_bytes: u64,
    },
    /// The data plane has lost its hold or export.
    HoldAgain,
}

/// What only a person can decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Attached to another machine and still a disk here.
    #[error(
        "the volume is attached to another machine and its disk is still here: two writers are possible; stop both"
    )]
    TwoWriters,
    /// Detached in CloudStack, still a disk here.
    #[error(
        "CloudStack shows the volume detached but its disk is here, as after a late detach; attach it nowhere else"
    )]
    LateDetach,
    /// Attached here in CloudStack, and no disk.
    #[error(
        "CloudStack shows the volume attached here but there is no disk; see the hypervisor's log"
    )]
    NoDisk,
    /// Several disks of its serial.
    #[error("several disks have the volume's serial; detach the one that is not it")]
    DoubleDisk,
    /// Two recorded volumes share the 80 bits of a serial.
    #[error("another volume has the same serial; keep the two in different machines")]
    SharedSerial,
    /// Not in CloudStack's list.
    #[error(
        "the volume is recorded but not in CloudStack's list; look at its events before anything else"
    )]
    Missing,
    /// Not where it was recorded to be.
    #[error("the volume is attached to another machine than recorded; find out who attached it")]
    Moved,
    /// Smaller than it was.
    #[error("the volume or its disk is smaller than recorded; write nothing to it")]
    Shrunk,
    /// Attached here by somebody else.
    #[error("a volume without our mark and record is attached here; it is left alone")]
    Foreign,
}

/// Everything that is known at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// CloudStack's list.
    pub observed: &'a [Observed],
    /// The database.
    pub recorded: &'a [Recorded],
    /// Kernel and data plane, by serial.
    pub seen: &'a BTreeMap<Serial, Seen>,
    /// The appliance's own system volume, which is nobody's replica.
    pub own_root: Option<VolumeId>,
    /// Whether state folder and database carry the same generation.
    pub generations_agree: bool,
}

/// The plan, by volume.
pub fn plan(facts: &Facts<'_>) -> Vec<(VolumeId, Action)> {
    let observed: BTreeMap<VolumeId, &Observed> =
        facts.observed.iter().map(|o| (o.volume, o)).collect();
    let recorded: BTreeSet<VolumeId> = facts.recorded.iter().map(|r| r.volume).collect();
    let mut serials: BTreeMap<Serial, u32> = BTreeMap::new();
    for volume in &recorded {
        *serials.entry(Serial::of(*volume)).or_default() += 1;
    }
    let mut plan = Vec::new();
    for record in facts.recorded.iter().filter(|record| !record.is_busy) {
        let serial = Serial::of(record.volume);
        let seen = facts.seen.get(&serial).copied().unwrap_or_default();
        let actions = if serials.get(&serial).is_some_and(|count| *count > 1) {
            vec![Action::Report(Problem::SharedSerial)]
        } else {
            known(record, observed.get(&record.volume).copied(), seen)
        };
        plan.extend(actions.into_iter().map(|a| (record.volume, a)));
    }
    for volume in observed.values() {
        if recorded.contains(&volume.volume) || facts.own_root == Some(volume.volume) {
            continue;
        }
        if is_mark(&volume.name) {
            plan.push((volume.volume, Action::Adopt));
        } else if matches!(volume.place, Place::Here { .. }) {
            plan.push((volume.volume, Action::Report(Problem::Foreign)));
        }
    }
    if !facts.generations_agree {
        for (_, action) in &mut plan {
            if !matches!(action, Action::Report(_)) {
                *action = Action::Withheld;
            }
        }
    }
    plan.sort_by_key(|(volume, _)| *volume);
    plan
}

fn known(record: &Recorded, observed: Option<&Observed>, seen: Seen) -> Vec<Action> {
    let report = |problem| vec![Action::Report(problem)];
    let Some(observed) = observed else {
        return report(Problem::Missing);
    };
    match (observed.place, seen.disks) {
        (_, 2..) => return report(Problem::DoubleDisk),
        (Place::Elsewhere, 1) => return report(Problem::TwoWriters),
        (Place::Free, 1) => return report(Problem::LateDetach),
        (Place::Here { .. }, 0) => return report(Problem::NoDisk),
        (Place::Elsewhere, _) if record.place != Place::Elsewhere => {
            return report(Problem::Moved);
        }
        _ => {}
    }
    let is_here = matches!(observed.place, Place::Here { .. });
    let disk_is_short = is_here && seen.size_bytes < observed.size_bytes;
    if disk_is_short || observed.size_bytes < record.size_bytes {
        return report(Problem::Shrunk);
    }
    let mut actions = Vec::new();
    match observed.place {
        place if place == record.place => {}
        Place::Here { device_id } => {
            actions.push(Action::Repair(Repair::RecordHere { device_id }));
        }
        Place::Free => actions.push(Action::Repair(Repair::RecordFree)),
        // Told apart above.
        Place::Elsewhere => {}
    }
    if observed.size_bytes > record.size_bytes {
        let size_bytes = observed.size_bytes;
        actions.push(Action::Repair(Repair::RecordSize { size_bytes }));
    }
    if is_here && record.should_be_held && !seen.is_held {
        actions.push(Action::Repair(Repair::HoldAgain));
    }
    actions
}

#[cfg(test)]
mod tests;
