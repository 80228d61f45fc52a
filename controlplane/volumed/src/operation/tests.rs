use super::*;

const SENTS: [Sent; 4] = [Sent::No, Sent::Perhaps, Sent::Yes, Sent::Refused];
const JOBS: [Job; 5] = [
    Job::NotAsked,
    Job::Pending,
    Job::Succeeded,
    Job::Failed,
    Job::Unknown,
];
const CLOUDS: [Cloud; 4] = [
    Cloud::NotAsked,
    Cloud::AsWanted,
    Cloud::AsBefore,
    Cloud::Otherwise,
];
const KERNELS: [Kernel; 4] = [
    Kernel::NotAsked,
    Kernel::Disk,
    Kernel::NoDisk,
    Kernel::Mismatch,
];

/// Every combination of facts there is.
fn every(mut check: impl FnMut(Kind, &Facts, Next)) {
    for kind in Kind::ALL {
        for sent in SENTS {
            for job in JOBS {
                for marked in [None, Some(0), Some(1), Some(2)] {
                    for cloud in CLOUDS {
                        for kernel in KERNELS {
                            for bits in 0..8 {
                                let facts = Facts {
                                    is_released: bits & 1 != 0,
                                    sent,
                                    job,
                                    marked,
                                    cloud,
                                    kernel,
                                    is_held: bits & 2 != 0,
                                    is_settled: bits & 4 != 0,
                                };
                                check(kind, &facts, next(kind, &facts));
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn nothing_is_sent_twice_or_before_the_device_is_released() {
    every(|kind, facts, next| {
        if next == Next::Send {
            assert_eq!(facts.sent, Sent::No);
            assert!(facts.is_released || !kind.needs_release());
            assert!(kind.asks_cloudstack());
        }
    });
}

#[test]
fn success_is_seen_in_cloudstack_and_in_the_kernel() {
    every(|kind, facts, next| {
        if next != Next::Succeed {
            return;
        }
        if kind.asks_cloudstack() {
            assert_eq!(facts.cloud, Cloud::AsWanted);
            assert!(!matches!(facts.job, Job::NotAsked | Job::Pending));
            assert!(matches!(facts.sent, Sent::Yes | Sent::Perhaps));
        }
        assert!(!kind.needs_release() || facts.is_released);
        assert!(!kind.ends_held() || facts.is_held);
        match kind.wants() {
            Wanted::Disk => assert_eq!(facts.kernel, Kernel::Disk),
            Wanted::NoDisk => assert_eq!(facts.kernel, Kernel::NoDisk),
            Wanted::Anything => {}
        }
    });
}

#[test]
fn nobody_gives_up_while_something_may_still_arrive() {
    every(|kind, facts, next| {
        if matches!(next, Next::Fail(_)) && next != Next::Fail(Failure::Refused) {
            assert!(facts.is_settled, "{kind:?} {facts:?}");
            assert!(facts.job != Job::Succeeded || !kind.asks_cloudstack());
        }
        if facts.job == Job::Pending && facts.sent == Sent::Yes && kind.asks_cloudstack() {
            assert!(matches!(next, Next::Wait | Next::Release));
        }
    });
}

/// A run of an operation against a world that answers in one way.
fn run(kind: Kind, world: Facts) -> (Vec<Next>, Next) {
    let mut facts = Facts {
        is_settled: world.is_settled,
        ..Facts::INTENT
    };
    let mut steps = Vec::new();
    loop {
        let step = next(kind, &facts);
        match step {
            Next::Release => facts.is_released = true,
            Next::Send => facts.sent = world.sent,
            Next::AskJob => facts.job = world.job,
            Next::SearchMark => facts.marked = world.marked,
            Next::LookInCloud => facts.cloud = world.cloud,
            Next::LookInKernel => facts.kernel = world.kernel,
            Next::Hold => facts.is_held = true,
            Next::Wait | Next::Succeed | Next::Fail(_) | Next::Stuck(_) => return (steps, step),
        }
        assert!(!steps.contains(&step), "{kind:?} does {step:?} twice");
        steps.push(step);
    }
}

const GOOD: Facts = Facts {
    is_released: true,
    sent: Sent::Yes,
    job: Job::Succeeded,
    marked: Some(1),
    cloud: Cloud::AsWanted,
    kernel: Kernel::Disk,
    is_held: true,
    is_settled: true,
};

#[test]
fn each_kind_in_its_order() {
    use Next::*;
    let plain: &[Next] = &[Send, AskJob, LookInCloud];
    let leaving: &[Next] = &[Release, Send, AskJob, LookInCloud, LookInKernel];
    for (kind, kernel, steps) in [
        (Kind::Create, Kernel::NoDisk, plain),
        (Kind::Snapshot, Kernel::Disk, plain),
        (Kind::Clone, Kernel::Disk, plain),
        (Kind::Resize, Kernel::Disk, plain),
        (
            Kind::Revert,
            Kernel::NoDisk,
            &[Release, Send, AskJob, LookInCloud],
        ),
        (
            Kind::Attach,
            Kernel::Disk,
            &[Send, AskJob, LookInCloud, LookInKernel, Hold],
        ),
        (Kind::AttachRoot, Kernel::NoDisk, leaving),
        (Kind::Detach, Kernel::NoDisk, leaving),
        (Kind::Delete, Kernel::NoDisk, leaving),
        (Kind::Export, Kernel::Disk, &[LookInKernel, Hold]),
        (Kind::Unexport, Kernel::Disk, &[Release]),
    ] {
        let world = Facts { kernel, ..GOOD };
        assert_eq!(run(kind, world), (steps.to_vec(), Succeed), "{kind:?}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn what_went_wrong_and_what_only_seemed_to() {
    let world = |job, marked, cloud, kernel| Facts {
        job,
        marked: Some(marked),
        cloud,
        kernel,
        ..GOOD
    };
    use Cloud::{AsBefore, AsWanted, Otherwise};
    use Kernel::{Disk, Mismatch, NoDisk};
    for (kind, world, end) in [
        // A detach that timed out, and the disk is gone all the same.
        (
            Kind::Detach,
            world(Job::Failed, 0, AsWanted, NoDisk),
            Next::Succeed,
        ),
        (
            Kind::Detach,
            world(Job::Failed, 0, AsBefore, Disk),
            Next::Fail(Failure::Job),
        ),
        // The record says detached, the hypervisor still has it: issue 14214 from the other side.
        (
            Kind::Detach,
            world(Job::Succeeded, 0, AsWanted, Disk),
            Next::Stuck(Riddle::DiskLeft),
        ),
        // A late detach cleared the attachment that had just been made.
        (
            Kind::Attach,
            world(Job::Succeeded, 0, AsBefore, Disk),
            Next::Stuck(Riddle::SuccessWithoutEffect),
        ),
        (
            Kind::Attach,
            world(Job::Succeeded, 0, Otherwise, NoDisk),
            Next::Stuck(Riddle::Otherwise),
        ),
        (
            Kind::Attach,
            world(Job::Succeeded, 0, AsWanted, Mismatch),
            Next::Stuck(Riddle::Mismatch),
        ),
        (
            Kind::Attach,
            world(Job::Succeeded, 0, AsWanted, NoDisk),
            Next::Stuck(Riddle::DiskMissing),
        ),
        // The answer was lost, the job's row has expired.
        (
            Kind::Create,
            world(Job::Unknown, 1, AsWanted, NoDisk),
            Next::Succeed,
        ),
        (
            Kind::Create,
            world(Job::Unknown, 0, AsWanted, NoDisk),
            Next::Fail(Failure::NeverArrived),
        ),
        (
            Kind::Create,
            world(Job::Unknown, 2, AsWanted, NoDisk),
            Next::Stuck(Riddle::TwoMarked),
        ),
        (
            Kind::Detach,
            world(Job::Unknown, 0, AsBefore, Disk),
            Next::Fail(Failure::NeverArrived),
        ),
        (
            Kind::Export,
            world(Job::Unknown, 0, AsBefore, NoDisk),
            Next::Fail(Failure::NoDisk),
        ),
        // Refused at once.
        (
            Kind::Resize,
            Facts {
                sent: Sent::Refused,
                ..GOOD
            },
            Next::Fail(Failure::Refused),
        ),
    ] {
        assert_eq!(run(kind, world).1, end, "{kind:?} {world:?}");
    }
}

#[test]
fn one_operation_at_a_time_and_its_job_too() {
    let over = Earlier {
        number: 4,
        is_terminal: true,
        may_still_run: false,
    };
    assert_eq!(admit(&[], 6), Ok(7));
    assert_eq!(admit(&[over], 0), Ok(5));
    let active = Earlier {
        is_terminal: false,
        ..over
    };
    assert_eq!(admit(&[active], 6), Err(Busy::Active(4)));
    let late = Earlier {
        may_still_run: true,
        ..over
    };
    assert_eq!(admit(&[late], 6), Err(Busy::JobRuns(4)));
}

#[test]
fn another_writer_grows_the_epoch() {
    let grows: Vec<Kind> = Kind::ALL.into_iter().filter(|k| k.grows_epoch()).collect();
    assert_eq!(grows, [Kind::AttachRoot, Kind::Revert, Kind::Resize]);
}
