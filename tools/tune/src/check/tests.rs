//! Facts of made-up machines.

use std::fs;

use super::clock::unix_ms;
use super::device::{numbers, queue};
use super::machine::{look, offloads_off};
use super::*;

fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let root = Root(dir.path().to_owned());
    (dir, root)
}

fn verdict(findings: &Findings, fact: &str) -> Verdict {
    let found = findings.all.iter().find(|one| one.fact == fact);
    found.unwrap_or_else(|| panic!("no {fact}")).verdict
}

#[test]
fn a_machine_that_shows_nothing_is_unseen_and_not_guessed() {
    let (_dir, root) = machine(&[]);
    let mut findings = Findings::new();
    look(&root, &mut findings);
    queue(&root, "sys/dev/block/8:0", &mut findings);
    assert!(
        findings
            .all
            .iter()
            .all(|one| one.verdict == Verdict::Unseen)
    );
    assert!(
        findings.all.iter().all(|one| one.remedy.is_some()),
        "each says why"
    );
}

#[test]
fn what_is_slow_or_bad_has_a_remedy() {
    let (_dir, root) = machine(&[
        ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu sse2\n"),
        (
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
            "powersave\n",
        ),
        ("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:   1024 kB\n"),
        (
            "proc/self/limits",
            "Max locked memory         65536      65536      bytes\n",
        ),
        ("proc/sys/net/ipv4/tcp_rmem", "4096 131072 6291456\n"),
    ]);
    let mut findings = Findings::new();
    look(&root, &mut findings);
    assert_eq!(verdict(&findings, "aes"), Verdict::Bad);
    assert_eq!(verdict(&findings, "governor"), Verdict::Slow);
    assert_eq!(verdict(&findings, "available"), Verdict::Bad);
    assert_eq!(verdict(&findings, "memlock"), Verdict::Slow);
    assert_eq!(verdict(&findings, "tcp_rmem"), Verdict::Slow);
    for one in findings
        .all
        .iter()
        .filter(|one| one.verdict > Verdict::Unseen)
    {
        assert!(one.remedy.is_some(), "{one:?}");
    }
}

#[test]
fn a_partition_has_the_queue_of_its_disk() {
    let (_dir, root) = machine(&[
        ("disk/part/partition", "1"),
        ("disk/queue/logical_block_size", "512\n"),
        ("disk/queue/physical_block_size", "4096\n"),
        ("disk/queue/scheduler", "none mq-deadline [bfq]\n"),
        ("disk/queue/rotational", "0\n"),
        ("disk/queue/max_sectors_kb", "128\n"),
        ("disk/queue/max_hw_sectors_kb", "2048\n"),
        ("disk/queue/nr_requests", "256\n"),
    ]);
    let mut findings = Findings::new();
    queue(&root, "disk/part", &mut findings);
    assert_eq!(verdict(&findings, "scheduler"), Verdict::Slow);
    assert_eq!(verdict(&findings, "longest request"), Verdict::Slow);
    assert_eq!(verdict(&findings, "queue depth"), Verdict::Good);
    assert_eq!(verdict(&findings, "write cache"), Verdict::Unseen);
    let text = table(&findings.all);
    assert!(text.contains("echo none > /"), "{text}");
}

#[test]
fn small_parts_read_what_the_kernel_and_the_peer_write() {
    assert_eq!(numbers(0x0801), (8, 1));
    assert_eq!(numbers(0x0010_3f02), (0x3f, 0x102));
    assert_eq!(unix_ms("1970-01-01T00:00:00.000Z"), Some(0));
    assert_eq!(unix_ms("2026-11-24T12:13:14.015Z"), Some(1_795_522_394_015));
    assert_eq!(unix_ms("2024-02-29T23:59:59Z"), Some(1_709_251_199_000));
    assert_eq!(unix_ms("yesterday"), None);
    let told = "tcp-segmentation-offload: off\ngeneric-receive-offload: on [fixed]\n";
    assert_eq!(offloads_off(told), ["tcp-segmentation-offload"]);
}
