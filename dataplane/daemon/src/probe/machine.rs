//! Facts of the machine and of the limits put on this process.

use std::fs;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::Pid;
use serde::Serialize;

/// What we may use.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    pub(super) kernel: String,
    /// CPUs that are online.
    pub(super) cpus_online: usize,
    /// CPUs in the affinity mask of this process.
    pub(super) cpus_allowed: usize,
    /// The least of mask and control-group quota: how many shards run by default.
    pub(super) cpus_usable: usize,
    /// Memory that may be locked, and so registered with the kernel; none: no limit.
    pub(super) memlock_bytes: Option<u64>,
    /// `kernel.io_uring_disabled`: 0 for everybody, 1 for a group, 2 for nobody; none: no such setting.
    pub(super) io_uring_disabled: Option<u32>,
    /// Descriptors this process may open.
    pub(super) open_files_max: Option<u64>,
}

impl Machine {
    /// Reads everything; what cannot be read stays unknown.
    pub(super) fn look() -> Self {
        let allowed = sched_getaffinity(Pid::from_raw(0)).map_or(1, |set| {
            (0..CpuSet::count())
                .filter(|cpu| set.is_set(*cpu).unwrap_or(false))
                .count()
        });
        let online = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            kernel: kernel(),
            cpus_online: online_cpus().unwrap_or(online),
            cpus_allowed: allowed,
            cpus_usable: sys::cpu::available(),
            memlock_bytes: soft_limit(Resource::RLIMIT_MEMLOCK),
            io_uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
            open_files_max: soft_limit(Resource::RLIMIT_NOFILE),
        }
    }

    /// For people.
    pub(super) fn cpus_text(&self) -> String {
        format!(
            "{} usable; {} online, {} in the affinity mask",
            self.cpus_usable, self.cpus_online, self.cpus_allowed
        )
    }
}

/// `None` without limit.
fn soft_limit(resource: Resource) -> Option<u64> {
    let (soft, _) = getrlimit(resource).ok()?;
    (soft != RLIM_INFINITY).then_some(soft)
}

fn kernel() -> String {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
        text.trim().to_owned()
    };
    format!("{} {}", read("ostype"), read("osrelease"))
}

fn number(path: &str) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Counts a list like `0-3,8`.
fn online_cpus() -> Option<usize> {
    count_list(
        fs::read_to_string("/sys/devices/system/cpu/online")
            .ok()?
            .trim(),
    )
}

fn count_list(list: &str) -> Option<usize> {
    list.split(',')
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            Some(last.checked_sub(first)? + 1)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_counted() {
        let cases = [
            ("0", Some(1)),
            ("0-3,8", Some(5)),
            ("", None),
            ("3-1", None),
            ("a", None),
        ];
        for (list, count) in cases {
            assert_eq!(count_list(list), count, "{list}");
        }
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_cpu() {
        let machine = Machine::look();
        assert!(machine.kernel.starts_with("Linux "), "{}", machine.kernel);
        assert!(machine.cpus_usable >= 1 && machine.cpus_usable <= machine.cpus_allowed);
    }
}
