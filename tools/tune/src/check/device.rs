//! A block device.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::{Findings, Root, Verdict};

pub(super) fn look(root: &Root, path: &Path, findings: &mut Findings) -> Result<()> {
    let shown = path.display();
    let meta = std::fs::metadata(path).with_context(|| format!("{shown} cannot be looked at"))?;
    if !meta.file_type().is_block_device() {
        bail!("{shown} is not a block device; --device is for those");
    }
    findings.topic = "device";
    let (major, minor) = numbers(meta.rdev());
    queue(root, &format!("sys/dev/block/{major}:{minor}"), findings);
    Ok(())
}

/// Major and minor number as Linux packs them into 64 bits.
pub(super) const fn numbers(dev: u64) -> (u64, u64) {
    let major = ((dev >> 8) & 0xfff) | ((dev >> 32) & !0xfff);
    let minor = (dev & 0xff) | ((dev >> 12) & !0xff);
    (major, minor)
}

/// A partition has the queue of its disk, which is the folder above.
pub(super) fn queue(root: &Root, device: &str, findings: &mut Findings) {
    let own = PathBuf::from(device).join("queue");
    let of_disk = PathBuf::from(device).join("../queue");
    let Some(queue) = [own, of_disk]
        .into_iter()
        .find(|path| root.0.join(path).is_dir())
    else {
        findings.unseen("queue", "/sys shows no queue of this device");
        return;
    };
    match root.number(queue.join("logical_block_size")) {
        None => findings.unseen("logical block", "/sys does not tell"),
        Some(bytes) => {
            let remedy = "writes of less than 4096 bytes are possible, and slow on disks that are 4096 inside";
            let physical = root
                .number(queue.join("physical_block_size"))
                .unwrap_or(bytes);
            let found = format!("{bytes} of {physical}");
            findings.judge(
                "logical block",
                found,
                bytes == physical,
                Verdict::Info,
                remedy,
            );
        }
    }
    match root.read(queue.join("scheduler")) {
        None => findings.unseen("scheduler", "/sys does not tell"),
        Some(text) => {
            let chosen = text
                .split_once('[')
                .and_then(|(_, rest)| rest.split_once(']'));
            let chosen = chosen.map_or(text.as_str(), |(chosen, _)| chosen);
            let rotates = root.number(queue.join("rotational")) == Some(1);
            let good = rotates || matches!(chosen, "none" | "mq-deadline" | "kyber");
            let remedy = format!("echo none > /{}", queue.join("scheduler").display());
            findings.judge("scheduler", chosen, good, Verdict::Slow, &remedy);
        }
    }
    match root.number(queue.join("max_sectors_kb")) {
        None => findings.unseen("longest request", "/sys does not tell"),
        Some(kib) => {
            let most = root.number(queue.join("max_hw_sectors_kb")).unwrap_or(kib);
            let good = kib >= 256 || kib >= most;
            let remedy = format!(
                "echo {} > /{}",
                most.min(1024),
                queue.join("max_sectors_kb").display()
            );
            findings.judge(
                "longest request",
                format!("{kib} KiB"),
                good,
                Verdict::Slow,
                &remedy,
            );
        }
    }
    depth(root, &queue, findings);
}

fn depth(root: &Root, queue: &Path, findings: &mut Findings) {
    match root.number(queue.join("nr_requests")) {
        None => findings.unseen("queue depth", "/sys does not tell"),
        Some(depth) => {
            let remedy = "device_depth beyond it only waits in the kernel";
            findings.judge(
                "queue depth",
                depth.to_string(),
                depth >= 64,
                Verdict::Info,
                remedy,
            );
        }
    }
    match root.read(queue.join("write_cache")) {
        None => findings.unseen("write cache", "/sys does not tell"),
        Some(kind) => findings.add("write cache", kind, Verdict::Info, ""),
    }
}
