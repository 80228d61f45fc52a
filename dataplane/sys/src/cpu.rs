//! How many CPUs we may use: the affinity mask, and what the control groups leave of it.

mod quota;

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::{SetupError, SetupErrorKind};

/// min(CPUs in the affinity mask, cgroup v1/v2 quota rounded up), at least 1.
pub fn available() -> usize {
    let mask = allowed().map_or(1, |cpus| cpus.len());
    quota::quota_cpus()
        .map_or(mask, |quota| mask.min(quota))
        .max(1)
}

/// Pins the calling thread to the `index`-th CPU that it may run on at present.
pub fn pin(index: usize) -> Result<(), SetupError> {
    let subject = || format!("CPU {index}");
    let failed = |errno| SetupError::from_io(subject(), "the thread cannot be pinned", errno);
    let cpus = allowed().map_err(failed)?;
    let Some(&cpu) = cpus.get(index) else {
        let problem = format!("only {} CPUs are allowed", cpus.len());
        return Err(SetupError::new(SetupErrorKind::Invalid, subject(), problem)
            .with_remedy("use fewer shards, or a wider affinity mask"));
    };
    let mut set = CpuSet::new();
    set.set(cpu).map_err(failed)?;
    sched_setaffinity(this_thread(), &set).map_err(failed)
}

/// The CPUs in the calling thread's affinity mask.
fn allowed() -> nix::Result<Vec<usize>> {
    let set = sched_getaffinity(this_thread())?;
    Ok((0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .collect())
}

fn this_thread() -> Pid {
    Pid::from_raw(0)
}

#[cfg(test)]
#[cfg(not(miri))]
mod tests {
    use super::*;

    #[test]
    fn there_is_at_least_one_cpu() {
        assert!(available() >= 1);
    }

    #[test]
    fn a_pinned_thread_may_use_one_cpu_only() {
        std::thread::spawn(|| {
            let last = allowed().unwrap().len() - 1;
            pin(last).unwrap();
            assert_eq!(allowed().unwrap().len(), 1);
            assert_eq!(available(), 1);
            assert_eq!(pin(1).unwrap_err().kind(), SetupErrorKind::Invalid);
        })
        .join()
        .unwrap();
    }
}
