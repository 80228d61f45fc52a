//! Device ids of an appliance: which are free, and how many are kept back.

use std::collections::BTreeSet;

/// The slot of the root disk.
pub const ROOT: u32 = 0;
/// The slot of the CD-ROM drive, which CloudStack gives to no disk.
pub const CDROM: u32 = 3;
/// Data volumes of a KVM machine when listHypervisorCapabilities does not say.
pub const LIMIT_DEFAULT: u32 = 32;
/// Slots kept for a clone and a canary.
pub const KEPT: u32 = 2;

/// What a slot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A replica: it leaves the kept slots alone.
    Replica,
    /// A clone or a canary: it may take a kept slot.
    Spare,
}

/// No slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoSlot {
    /// Every slot for this purpose is taken.
    #[error(
        "the appliance has {used} data volumes and {usable} slots for this purpose; detach what is idle or add an appliance"
    )]
    Full {
        /// Data volumes there are.
        used: u32,
        /// Slots for this purpose.
        usable: u32,
    },
    /// The wanted slot is reserved or past the end.
    #[error(
        "slot {wanted} is not one for data: 0 is the root's, 3 the CD-ROM's, the last is {last}"
    )]
    Impossible {
        /// The wanted slot.
        wanted: u32,
        /// The highest.
        last: u32,
    },
    /// The wanted slot is taken.
    #[error("slot {wanted} is taken by another volume; read the machine's volumes again")]
    Taken {
        /// The wanted slot.
        wanted: u32,
    },
}

/// The slot for one more data volume, lowest first, or the wanted one.
///
/// # Errors
/// When none is left for this purpose, or the wanted one is taken, reserved, or past the end.
pub fn choose(
    taken: &BTreeSet<u32>,
    limit: Option<u32>,
    purpose: Purpose,
    wanted: Option<u32>,
) -> Result<u32, NoSlot> {
    let limit = limit.unwrap_or(LIMIT_DEFAULT);
    let kept = match purpose {
        Purpose::Replica => KEPT,
        Purpose::Spare => 0,
    };
    let usable = limit.saturating_sub(kept);
    let is_data = |id: u32| id != ROOT && id != CDROM;
    let used = taken.iter().filter(|id| is_data(**id)).count();
    let used = u32::try_from(used).unwrap_or(u32::MAX);
    if used >= usable {
        return Err(NoSlot::Full { used, usable });
    }
    let last = limit.saturating_add(1);
    if let Some(wanted) = wanted {
        if !is_data(wanted) || wanted > last {
            return Err(NoSlot::Impossible { wanted, last });
        }
        if taken.contains(&wanted) {
            return Err(NoSlot::Taken { wanted });
        }
        return Ok(wanted);
    }
    (1..=last)
        .find(|id| is_data(*id) && !taken.contains(id))
        .ok_or(NoSlot::Full { used, usable })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(limit: Option<u32>, purpose: Purpose) -> Vec<u32> {
        let mut taken = BTreeSet::from([ROOT]);
        let mut given = Vec::new();
        while let Ok(id) = choose(&taken, limit, purpose, None) {
            assert!(taken.insert(id), "{id} twice");
            given.push(id);
        }
        given
    }

    #[test]
    fn every_slot_once_and_never_three() {
        assert_eq!(fill(Some(6), Purpose::Spare), [1, 2, 4, 5, 6, 7]);
        assert_eq!(fill(Some(6), Purpose::Replica), [1, 2, 4, 5]);
        assert_eq!(fill(None, Purpose::Replica).len(), 30);
        assert_eq!(fill(Some(1), Purpose::Replica), [] as [u32; 0]);
    }

    #[test]
    fn a_wanted_slot_is_checked() {
        let taken = BTreeSet::from([0, 1]);
        let ask = |wanted| choose(&taken, Some(6), Purpose::Replica, Some(wanted));
        assert_eq!(ask(4), Ok(4));
        assert_eq!(ask(1), Err(NoSlot::Taken { wanted: 1 }));
        for wanted in [0, 3, 8] {
            assert_eq!(ask(wanted), Err(NoSlot::Impossible { wanted, last: 7 }));
        }
    }
}
