//! The CPU bandwidth limit of the control groups we are in.
//!
//! A limit may sit on any group above ours, so the hierarchy is walked up to its root. Version 2 writes
//! `max 100000` or `150000 100000` (quota and period, microseconds) to `cpu.max`; version 1 has a file for each.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The smallest quota above us in whole CPUs, rounded up; None without one.
pub(super) fn quota_cpus() -> Option<usize> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    smallest(&groups, &mounts, |path| fs::read_to_string(path).ok())
}

fn smallest(groups: &str, mounts: &str, read: impl Fn(&Path) -> Option<String>) -> Option<usize> {
    groups
        .lines()
        .filter_map(|line| {
            // `12:cpu,cpuacct:/path` (version 1) or `0::/path` (version 2).
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?;
            let group = fields.next()?;
            let version_2 = controllers.is_empty();
            if !version_2 && controllers.split(',').all(|name| name != "cpu") {
                return None;
            }
            let (folder, mount) = folder_of(mounts, group, version_2)?;
            folder
                .ancestors()
                .take_while(|folder| folder.starts_with(&mount))
                .filter_map(|folder| cpus_of(folder, version_2, &read))
                .min()
        })
        .min()
}

/// Where the group is mounted, and the mount's top. In a container the mount shows only a part of the
/// hierarchy: its root field says which.
fn folder_of(mounts: &str, group: &str, version_2: bool) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (fixed, rest) = line.split_once(" - ")?;
        let mut fields = fixed.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        let mut rest = rest.split(' ');
        let kind = rest.next()?;
        let options = rest.nth(1)?;
        let right = match version_2 {
            true => kind == "cgroup2",
            false => kind == "cgroup" && options.split(',').any(|option| option == "cpu"),
        };
        if !right {
            return None;
        }
        // A group outside the mounted part cannot be looked at; the top of the mount is the nearest.
        let inside = Path::new(group)
            .strip_prefix(root)
            .unwrap_or_else(|_| Path::new(""));
        Some((Path::new(mount).join(inside), PathBuf::from(mount)))
    })
}

fn cpus_of(
    folder: &Path,
    version_2: bool,
    read: &impl Fn(&Path) -> Option<String>,
) -> Option<usize> {
    let (quota, period) = if version_2 {
        let text = read(&folder.join("cpu.max"))?;
        let (quota, period) = text.trim().split_once(' ')?;
        (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?)
    } else {
        let value = |name| read(&folder.join(name))?.trim().parse::<i64>().ok();
        let (quota, period) = (value("cpu.cfs_quota_us")?, value("cpu.cfs_period_us")?);
        // -1 means unlimited.
        (u64::try_from(quota).ok()?, u64::try_from(period).ok()?)
    };
    if period == 0 {
        return None;
    }
    usize::try_from(quota.div_ceil(period))
        .ok()
        .map(|cpus| cpus.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const V2: &str = "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    const V1: &str = "31 1 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 1 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n";

    #[track_caller]
    fn check(groups: &str, mounts: &str, files: &[(&str, &str)], expected: Option<usize>) {
        let files: HashMap<PathBuf, &str> = files
            .iter()
            .map(|(path, text)| (PathBuf::from(path), *text))
            .collect();
        let read = |path: &Path| files.get(path).map(|text| (*text).to_owned());
        assert_eq!(smallest(groups, mounts, read), expected);
    }

    #[test]
    fn version_2_takes_the_smallest_limit_on_the_way_up() {
        let files = [
            ("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
            ("/sys/fs/cgroup/cpu.max", "400000 100000\n"),
        ];
        check("0::/a/b\n", V2, &files, Some(2));
    }

    #[test]
    fn no_limit_anywhere_is_none() {
        check(
            "0::/a\n",
            V2,
            &[("/sys/fs/cgroup/a/cpu.max", "max 100000\n")],
            None,
        );
        check("0::/a\n", "", &[], None);
    }

    #[test]
    fn version_1_reads_quota_and_period_and_minus_one_is_unlimited() {
        let (quota, period) = ("cpu.cfs_quota_us", "cpu.cfs_period_us");
        let at = |folder: &str, name: &str| format!("/sys/fs/cgroup/cpu{folder}/{name}");
        let names = [
            at("/job", quota),
            at("/job", period),
            at("", quota),
            at("", period),
        ];
        let files: Vec<(&str, &str)> = names
            .iter()
            .map(String::as_str)
            .zip(["50000\n", "100000\n", "-1\n", "100000\n"])
            .collect();
        check("5:memory:/job\n4:cpu,cpuacct:/job\n", V1, &files, Some(1));
    }

    #[test]
    fn a_container_sees_its_group_at_the_top_of_the_mount() {
        let mounts = "30 1 0:26 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        check(
            "0::/docker/1\n",
            mounts,
            &[("/sys/fs/cgroup/cpu.max", "300000 100000")],
            Some(3),
        );
        check(
            "0::/../outside\n",
            mounts,
            &[("/sys/fs/cgroup/cpu.max", "300000 100000")],
            Some(3),
        );
    }

    #[test]
    fn nonsense_is_no_limit() {
        check(
            "0::/a\n",
            V2,
            &[("/sys/fs/cgroup/a/cpu.max", "100000 0\n")],
            None,
        );
        check(
            "0::/a\n",
            V2,
            &[("/sys/fs/cgroup/a/cpu.max", "garbage")],
            None,
        );
        check("garbage\n0:\n", V2, &[], None);
    }
}
