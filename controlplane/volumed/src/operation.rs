//! What an operation does next, from what is recorded and seen: one pure function.
//!
//! The order is always: record, release the device where it is to leave, send once, see the job end, verify in
//! CloudStack, verify in the kernel, serve, done. A restart at any point asks again and goes on.

/// The operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A new volume.
    Create,
    /// To the appliance.
    Attach,
    /// To another machine, as its root.
    AttachRoot,
    /// From whatever it is attached to.
    Detach,
    /// Gone for ever; `deletion` has allowed it.
    Delete,
    /// A snapshot of its storage.
    Snapshot,
    /// Back to a snapshot.
    Revert,
    /// A new volume with its content.
    Clone,
    /// Larger.
    Resize,
    /// Served by the data plane.
    Export,
    /// No longer served.
    Unexport,
}

/// What the kernel of the appliance must show in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// The disk, with its serial and size.
    Disk,
    /// No disk with its serial.
    NoDisk,
    /// Whatever it showed.
    Anything,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Create,
        Self::Attach,
        Self::AttachRoot,
        Self::Detach,
        Self::Delete,
        Self::Snapshot,
        Self::Revert,
        Self::Clone,
        Self::Resize,
        Self::Export,
        Self::Unexport,
    ];

    /// Whether CloudStack is asked to do something.
    pub const fn asks_cloudstack(self) -> bool {
        !matches!(self, Self::Export | Self::Unexport)
    }

    /// Whether it makes an object, which a second request would make twice.
    pub const fn creates(self) -> bool {
        matches!(self, Self::Create | Self::Snapshot | Self::Clone)
    }

    /// Whether the data plane must have let go of the device before CloudStack is asked.
    pub const fn needs_release(self) -> bool {
        matches!(
            self,
            Self::AttachRoot | Self::Detach | Self::Delete | Self::Revert | Self::Unexport
        )
    }

    /// Whether the data plane holds or serves the device in the end.
    pub const fn ends_held(self) -> bool {
        matches!(self, Self::Attach | Self::Export)
    }

    /// Whether another writer than the copier may have changed the content, so that the epoch grows.
    pub const fn grows_epoch(self) -> bool {
        matches!(self, Self::AttachRoot | Self::Revert | Self::Resize)
    }

    const fn wants(self) -> Wanted {
        match self {
            Self::Attach | Self::Export => Wanted::Disk,
            Self::AttachRoot | Self::Detach | Self::Delete => Wanted::NoDisk,
            _ => Wanted::Anything,
        }
    }
}

/// Whether the command went out. Recorded before it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// Only the intent is recorded.
    No,
    /// Recorded as about to go; it may have arrived or not.
    Perhaps,
    /// CloudStack answered that it has it.
    Yes,
    /// CloudStack refused it and did nothing.
    Refused,
}

/// What is known of the job in CloudStack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Not asked since the last step.
    NotAsked,
    /// Not over.
    Pending,
    /// Over, and it says that it worked.
    Succeeded,
    /// Over, and it says that it did not.
    Failed,
    /// CloudStack has no such job: it never arrived, or its row has expired.
    Unknown,
}

/// What CloudStack shows of the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cloud {
    /// Not asked since the job ended.
    NotAsked,
    /// As the operation wants it.
    AsWanted,
    /// As before the operation.
    AsBefore,
    /// Attached to a machine that this operation is not about, or otherwise as nobody wanted it.
    Otherwise,
}

/// What the kernel shows under the volume's serial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Not looked since CloudStack showed what was wanted.
    NotAsked,
    /// One disk, large enough.
    Disk,
    /// No disk.
    NoDisk,
    /// Two disks, or one that is too small.
    Mismatch,
}

/// All that the decision rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// Whether the data plane has let go of the device.
    pub is_released: bool,
    /// Whether the command went out.
    pub sent: Sent,
    /// Its job. A command that answers at once (deleteVolume) counts as a job that ended with that answer.
    pub job: Job,
    /// How many objects bear the exact mark of this operation, when they were counted.
    pub marked: Option<u32>,
    /// The volume in CloudStack.
    pub cloud: Cloud,
    /// The disk in the kernel.
    pub kernel: Kernel,
    /// Whether the data plane holds or serves it.
    pub is_held: bool,
    /// Whether so much time has passed that a late arrival, a stale list or a late end on the host is excluded.
    pub is_settled: bool,
}

impl Facts {
    /// An operation of which only the intent is recorded.
    pub const INTENT: Self = Self {
        is_released: false,
        sent: Sent::No,
        job: Job::NotAsked,
        marked: None,
        cloud: Cloud::NotAsked,
        kernel: Kernel::NotAsked,
        is_held: false,
        is_settled: false,
    };
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Next {
    /// Let the data plane close its connections and let go of the device.
    Release,
    /// Record that it is about to go, then send it, once.
    Send,
    /// Ask for the job by the id that we chose.
    AskJob,
    /// Search for objects with the exact mark.
    SearchMark,
    /// Read the volume in CloudStack.
    LookInCloud,
    /// Look for the disk.
    LookInKernel,
    /// Let the data plane hold or serve the device.
    Hold,
    /// Ask the same again later.
    Wait,
    /// It is done, and verified.
    Succeed,
    /// It did not happen, and will not.
    Fail(Failure),
    /// An operator must look.
    Stuck(Riddle),
}

/// Why an operation failed. The volume is as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Failure {
    /// CloudStack said no at once.
    #[error("CloudStack refused the command; its text says why")]
    Refused,
    /// The job failed and nothing has changed.
    #[error(
        "the job failed in CloudStack and the volume is as before; ask anew once its cause is removed"
    )]
    Job,
    /// The command never arrived.
    #[error("the command did not reach CloudStack and the volume is as before; ask anew")]
    NeverArrived,
    /// There is no disk to serve.
    #[error("the volume's disk is not in the appliance; attach it first")]
    NoDisk,
}

/// Why an operation is stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Riddle {
    /// Two objects bear one mark.
    #[error(
        "two objects bear the mark of this operation; keep one, delete the other by hand, then retry"
    )]
    TwoMarked,
    /// The job says it worked and nothing has changed.
    #[error("the job succeeded but CloudStack shows the volume as before; compare its events")]
    SuccessWithoutEffect,
    /// Neither as before nor as wanted.
    #[error(
        "CloudStack shows the volume as nobody asked; look for a second user of the account, or a late detach"
    )]
    Otherwise,
    /// CloudStack says attached, the kernel has no disk.
    #[error(
        "CloudStack shows the volume attached but its disk is not in the appliance; see the hypervisor's log"
    )]
    DiskMissing,
    /// CloudStack says detached, the kernel still has the disk.
    #[error(
        "CloudStack shows the volume detached but its disk is still in the appliance; attach it nowhere, see the hypervisor's domain"
    )]
    DiskLeft,
    /// Two disks of one serial, or a small one.
    #[error("the disk of that serial is doubled or too small; nothing is written to it")]
    Mismatch,
}

/// Decides.
pub fn next(kind: Kind, facts: &Facts) -> Next {
    if kind.needs_release() && !facts.is_released {
        return Next::Release;
    }
    if !kind.asks_cloudstack() {
        return in_kernel(kind, facts);
    }
    match facts.sent {
        Sent::No => return Next::Send,
        Sent::Refused => return Next::Fail(Failure::Refused),
        Sent::Perhaps | Sent::Yes => {}
    }
    match facts.job {
        Job::NotAsked => Next::AskJob,
        Job::Pending => Next::Wait,
        // Right after sending, the command may still be on its way.
        Job::Unknown if !facts.is_settled => Next::Wait,
        Job::Unknown if kind.creates() => by_mark(kind, facts),
        Job::Unknown | Job::Succeeded | Job::Failed => in_cloud(kind, facts),
    }
}

fn by_mark(kind: Kind, facts: &Facts) -> Next {
    match facts.marked {
        None => Next::SearchMark,
        Some(0) => Next::Fail(Failure::NeverArrived),
        Some(1) => in_cloud(kind, facts),
        Some(_) => Next::Stuck(Riddle::TwoMarked),
    }
}

fn in_cloud(kind: Kind, facts: &Facts) -> Next {
    match facts.cloud {
        Cloud::NotAsked => Next::LookInCloud,
        // Whatever the job said: failed but done is done, once the kernel agrees.
        Cloud::AsWanted => in_kernel(kind, facts),
        // A list may be stale, and the host may still be at work after a restart failed the job.
        Cloud::AsBefore | Cloud::Otherwise if !facts.is_settled => Next::Wait,
        Cloud::Otherwise => Next::Stuck(Riddle::Otherwise),
        Cloud::AsBefore => match facts.job {
            Job::Succeeded => Next::Stuck(Riddle::SuccessWithoutEffect),
            Job::Failed => Next::Fail(Failure::Job),
            Job::Unknown | Job::NotAsked | Job::Pending => Next::Fail(Failure::NeverArrived),
        },
    }
}

fn in_kernel(kind: Kind, facts: &Facts) -> Next {
    let wants = kind.wants();
    let agrees = match (wants, facts.kernel) {
        (Wanted::Anything, _) => true,
        (_, Kernel::NotAsked) => return Next::LookInKernel,
        (_, Kernel::Mismatch) => return Next::Stuck(Riddle::Mismatch),
        (Wanted::Disk, seen) => seen == Kernel::Disk,
        (Wanted::NoDisk, seen) => seen == Kernel::NoDisk,
    };
    if agrees {
        return if kind.ends_held() && !facts.is_held {
            Next::Hold
        } else {
            Next::Succeed
        };
    }
    if !facts.is_settled {
        return Next::Wait;
    }
    match wants {
        Wanted::NoDisk => Next::Stuck(Riddle::DiskLeft),
        _ if kind == Kind::Export => Next::Fail(Failure::NoDisk),
        _ => Next::Stuck(Riddle::DiskMissing),
    }
}

/// An operation of a volume that came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Earlier {
    /// Its number, which grows with every operation and is the data plane's fence.
    pub number: u64,
    /// Whether it has ended.
    pub is_terminal: bool,
    /// Whether a command of it went out whose job is not known to have ended.
    pub may_still_run: bool,
}

/// Another operation of this volume must end first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Busy {
    /// It is active.
    #[error("operation {0} of this volume is active; wait for it or cancel it")]
    Active(u64),
    /// Its job may still change the volume, even after an attachment to another machine.
    #[error(
        "a job of operation {0} may still run in CloudStack and undo what follows; wait until it has ended"
    )]
    JobRuns(u64),
}

/// The number for a new operation of a volume, given all earlier ones and the last number of any volume.
///
/// # Errors
/// When an earlier one is active, or may still have an effect.
pub fn admit(earlier: &[Earlier], last_number: u64) -> Result<u64, Busy> {
    for operation in earlier {
        if !operation.is_terminal {
            return Err(Busy::Active(operation.number));
        }
        if operation.may_still_run {
            return Err(Busy::JobRuns(operation.number));
        }
    }
    let highest = earlier.iter().map(|operation| operation.number).max();
    Ok(highest.unwrap_or(0).max(last_number) + 1)
}

#[cfg(test)]
mod tests;
