//! When a volume may be deleted. Everything that is not plainly allowed is refused.

use model::ids::VolumeId;

/// What a volume is recorded to be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The copy of a source's disk.
    Replica,
    /// A clone made for a rehearsal or a verification.
    Clone,
    /// A small disk that proves that the appliance works.
    Canary,
    /// The root disk that a machine's shell was created with.
    ShellRoot,
}

impl Role {
    /// Whether such a volume can be made again from what is left.
    fn is_replaceable(self) -> bool {
        match self {
            Self::Clone | Self::Canary | Self::ShellRoot => true,
            Self::Replica => false,
        }
    }
}

/// What is known about the volume, read immediately before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts<'a> {
    /// The volume.
    pub volume: VolumeId,
    /// Its recorded role, when it has a record.
    pub role: Option<Role>,
    /// Whether CloudStack shows it attached to any machine.
    pub is_attached: bool,
    /// Whether it was ever attached; what is not known counts as yes.
    pub was_attached: bool,
    /// Whether the data plane holds or exports its device.
    pub is_held: bool,
    /// Whether the job that it belongs to is terminal; a job that is not known is not.
    pub is_job_terminal: bool,
    /// Whether CloudStack protects it from deletion.
    pub is_protected: bool,
    /// What an operator wrote to confirm: the volume's id.
    pub confirmation: Option<&'a str>,
}

/// Why a deletion is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// Nothing can have been written to it.
    NeverAttached,
    /// A clone, a canary or a shell's root, and its job is over.
    Replaceable,
    /// An operator named it.
    Confirmed,
}

/// Why a deletion is refused, and what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Attached somewhere; no confirmation changes that.
    #[error("the volume is attached; detach it first")]
    Attached,
    /// The data plane has its device.
    #[error("the data plane holds the volume's device; unexport and detach it first")]
    Held,
    /// CloudStack's own protection is on.
    #[error("CloudStack protects the volume; lift deleteprotection there if it is really to go")]
    Protected,
    /// The confirmation names another volume.
    #[error("the confirmation names another volume; write this volume's id")]
    OtherVolumeNamed,
    /// It may hold data that exists nowhere else.
    #[error("the volume was attached and may hold data; an operator must confirm with its id")]
    MayHoldData,
}

/// Decides.
///
/// # Errors
/// With the reason, when the volume must stay.
pub fn decide(facts: &Facts<'_>) -> Result<Allowed, Refused> {
    if facts.is_attached {
        return Err(Refused::Attached);
    }
    if facts.is_held {
        return Err(Refused::Held);
    }
    if facts.is_protected {
        return Err(Refused::Protected);
    }
    match facts.confirmation {
        Some(named) if named == facts.volume.to_string() => return Ok(Allowed::Confirmed),
        // A mistaken operator is not asked again by way of another rule.
        Some(_) => return Err(Refused::OtherVolumeNamed),
        None => {}
    }
    if !facts.was_attached {
        return Ok(Allowed::NeverAttached);
    }
    if facts.role.is_some_and(Role::is_replaceable) && facts.is_job_terminal {
        return Ok(Allowed::Replaceable);
    }
    Err(Refused::MayHoldData)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume() -> VolumeId {
        "60338035-92fb-4d27-98d4-b60ad4b38b87".parse().unwrap()
    }

    fn facts(role: Option<Role>) -> Facts<'static> {
        Facts {
            volume: volume(),
            role,
            is_attached: false,
            was_attached: true,
            is_held: false,
            is_job_terminal: true,
            is_protected: false,
            confirmation: None,
        }
    }

    #[test]
    fn replicas_that_were_attached_stay() {
        let named = volume().to_string();
        for role in [Some(Role::Replica), None] {
            let facts = facts(role);
            assert_eq!(decide(&facts), Err(Refused::MayHoldData));
            let fresh = Facts {
                was_attached: false,
                ..facts
            };
            assert_eq!(decide(&fresh), Ok(Allowed::NeverAttached));
            let confirmed = Facts {
                confirmation: Some(&named),
                ..facts
            };
            assert_eq!(decide(&confirmed), Ok(Allowed::Confirmed));
            let mistaken = Facts {
                confirmation: Some("yes"),
                was_attached: false,
                ..facts
            };
            assert_eq!(decide(&mistaken), Err(Refused::OtherVolumeNamed));
        }
    }

    #[test]
    fn what_can_be_made_again_goes_when_its_job_is_over() {
        for role in [Role::Clone, Role::Canary, Role::ShellRoot] {
            let facts = facts(Some(role));
            assert_eq!(decide(&facts), Ok(Allowed::Replaceable));
            let running = Facts {
                is_job_terminal: false,
                ..facts
            };
            assert_eq!(decide(&running), Err(Refused::MayHoldData));
        }
    }

    #[test]
    fn no_confirmation_deletes_what_is_in_use() {
        let named = volume().to_string();
        let confirmed = Facts {
            confirmation: Some(&named),
            ..facts(Some(Role::Clone))
        };
        for (facts, refused) in [
            (
                Facts {
                    is_attached: true,
                    ..confirmed
                },
                Refused::Attached,
            ),
            (
                Facts {
                    is_held: true,
                    ..confirmed
                },
                Refused::Held,
            ),
            (
                Facts {
                    is_protected: true,
                    ..confirmed
                },
                Refused::Protected,
            ),
        ] {
            assert_eq!(decide(&facts), Err(refused));
        }
    }
}
