//! Faults that are armed through the control endpoint and go off at the next call or job that fits.

use serde::{Deserialize, Serialize};

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// The call is carried out and its answer is lost (contract 8).
    LostReply,
    /// The call is lost on its way: nothing is carried out.
    LostRequest,
    /// The call is answered with this status and not carried out: 401, 429, 503 and 530 in CloudStack's words, anything
    /// else as a proxy in front of it would.
    Status {
        /// HTTP status.
        code: u16,
    },
    /// The job takes this much longer (contract 5: jobs of one machine queue).
    SlowJob {
        /// Additional time.
        ms: u64,
    },
    /// The job does not end until `POST /jobs/release`.
    StuckJob,
    /// The job fails when it would have ended; its object is as before.
    FailJob {
        /// `jobresultcode`.
        code: u16,
        /// `errortext`; absent: the result is absent as well, as for a blocked queue item (contract 5).
        text: Option<String>,
    },
    /// The job does its work and is recorded as failed (contract 5: look at the object before any retry).
    FailedButDone,
    /// The detach job fails by time-out, and the detach happens later (CloudStack issue 14214).
    LateDetach {
        /// How much later.
        ms: u64,
    },
    /// The check that a volume is not attached elsewhere is missed: the volume gets a second writer.
    DoubleAttach,
    /// The device appears in the appliance this much after the attach job has succeeded.
    LateDevice {
        /// How much later.
        ms: u64,
    },
}

/// A fault, and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Armed {
    /// What goes wrong.
    #[serde(flatten)]
    pub fault: Fault,
    /// Only for this command; absent: for any.
    #[serde(default)]
    pub command: Option<String>,
    /// Calls that fit and are let through first.
    #[serde(default)]
    pub after: u32,
    /// How often it goes off.
    #[serde(default = "once")]
    pub count: u32,
}

fn once() -> u32 {
    1
}

impl Armed {
    /// A fault that goes off once, at the next call of `command`.
    #[must_use]
    pub fn once(fault: Fault, command: &str) -> Armed {
        Armed {
            fault,
            command: Some(command.to_owned()),
            after: 0,
            count: 1,
        }
    }
}

/// Where a fault strikes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Call,
    Job,
}

impl Fault {
    fn place(&self) -> Place {
        match self {
            Fault::LostReply | Fault::LostRequest | Fault::Status { .. } => Place::Call,
            _ => Place::Job,
        }
    }
}

/// Takes the fault that `command` meets at `place`, if one is armed. A fault for jobs is not used up by a list.
pub(crate) fn take(armed: &mut Vec<Armed>, place: Place, command: &str) -> Option<Fault> {
    let fits = |one: &Armed| {
        one.fault.place() == place && one.command.as_deref().is_none_or(|name| name == command)
    };
    let at = armed.iter().position(fits)?;
    if armed[at].after > 0 {
        armed[at].after -= 1;
        return None;
    }
    armed[at].count = armed[at].count.saturating_sub(1);
    let fault = armed[at].fault.clone();
    if armed[at].count == 0 {
        armed.remove(at);
    }
    Some(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_goes_off_where_and_as_often_as_it_was_armed() {
        let mut armed = vec![Armed {
            fault: Fault::Status { code: 503 },
            command: Some("attachVolume".to_owned()),
            after: 1,
            count: 2,
        }];
        let mut meets = |place, command| take(&mut armed, place, command).is_some();
        assert!(!meets(Place::Call, "listVolumes"));
        assert!(!meets(Place::Job, "attachVolume"));
        assert!(
            !meets(Place::Call, "attachVolume"),
            "the first is let through"
        );
        assert!(meets(Place::Call, "attachVolume"));
        assert!(meets(Place::Call, "attachVolume"));
        assert!(!meets(Place::Call, "attachVolume"));
    }

    #[test]
    fn faults_read_as_the_control_endpoint_takes_them() {
        let armed: Armed = serde_json::from_str(
            r#"{"fault":"fail_job","code":530,"text":null,"command":"attachVolume"}"#,
        )
        .expect("well formed");
        assert_eq!(armed.count, 1);
        assert_eq!(
            armed.fault,
            Fault::FailJob {
                code: 530,
                text: None
            }
        );
    }
}
