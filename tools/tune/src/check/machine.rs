//! CPU, memory, network and kernel.

use std::path::Path;
use std::process::Command;

use super::{Findings, Root, Verdict};

const MIB: u64 = 1 << 20;
/// Per connection: what a window may hold by the table of tunables.
const SOCKET_BUFFER_WANTED: u64 = 16 * MIB;
/// What a shard locks on kernels that count the rings' memory, and some air.
const MEMLOCK_WANTED: u64 = 64 * MIB;

pub(super) fn look(root: &Root, findings: &mut Findings) {
    findings.topic = "cpu";
    cpu(root, findings);
    findings.topic = "memory";
    memory(root, findings);
    findings.topic = "network";
    buffers(root, findings);
    interfaces(root, findings);
    findings.topic = "kernel";
    match root.read("proc/sys/kernel/osrelease") {
        Some(release) => findings.add("release", release, Verdict::Info, ""),
        None => findings.unseen("release", "/proc is not mounted"),
    }
}

fn cpu(root: &Root, findings: &mut Findings) {
    let info = root.read("proc/cpuinfo").unwrap_or_default();
    let flags = info
        .lines()
        .find(|line| line.starts_with("flags") || line.starts_with("Features"))
        .and_then(|line| line.split_once(':'));
    let cpus = info
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    if cpus > 0 {
        findings.add("cpus", cpus.to_string(), Verdict::Info, "");
    }
    match flags {
        None => findings.unseen("aes", "/proc/cpuinfo tells no flags"),
        Some((_, flags)) => {
            let has = |flag: &str| flags.split_whitespace().any(|one| one == flag);
            let remedy = "give the virtual machine the CPU model of its host; else set aead = \"chacha20-poly1305\"";
            let word = |yes| if yes { "yes" } else { "no" };
            findings.judge("aes", word(has("aes")), has("aes"), Verdict::Bad, remedy);
            let vaes = has("vaes") && has("vpclmulqdq");
            let remedy = "four times the cipher rate where the CPU has it; may be hidden by the CPU model of the machine";
            findings.judge("vaes", word(vaes), vaes, Verdict::Info, remedy);
        }
    }
    match root.read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") {
        None => findings.unseen(
            "governor",
            "a virtual machine is not told; look at its host",
        ),
        Some(governor) => {
            let good = governor == "performance" || governor == "schedutil";
            let remedy = "cpupower frequency-set -g performance";
            findings.judge("governor", governor, good, Verdict::Slow, remedy);
        }
    }
}

fn memory(root: &Root, findings: &mut Findings) {
    let info = root.read("proc/meminfo").unwrap_or_default();
    let available = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    match available {
        None => findings.unseen("available", "/proc/meminfo does not tell"),
        Some(kib) => {
            let good = kib >= 512 * 1024;
            let remedy = "a side of a transfer may take 256 MiB";
            findings.judge(
                "available",
                format!("{} MiB", kib / 1024),
                good,
                Verdict::Bad,
                remedy,
            );
        }
    }
    let limits = root.read("proc/self/limits").unwrap_or_default();
    let locked = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))
        .and_then(|rest| rest.split_whitespace().next());
    match locked {
        None => findings.unseen("memlock", "/proc/self/limits does not tell"),
        Some(limit) => {
            let good = limit
                .parse::<u64>()
                .map_or(limit == "unlimited", |bytes| bytes >= MEMLOCK_WANTED);
            let remedy =
                "LimitMEMLOCK=infinity in the unit of the service; this is the limit of this shell";
            findings.judge("memlock", limit, good, Verdict::Slow, remedy);
        }
    }
}

fn buffers(root: &Root, findings: &mut Findings) {
    for name in ["tcp_rmem", "tcp_wmem"] {
        let text = root.read(format!("proc/sys/net/ipv4/{name}"));
        let most = text
            .as_deref()
            .and_then(|text| text.split_whitespace().nth(2)?.parse::<u64>().ok());
        match most {
            None => findings.unseen(name, "the network namespace does not show it"),
            Some(most) => {
                let remedy = format!(
                    "sysctl net.ipv4.{name}: its last number, {SOCKET_BUFFER_WANTED} for peers that are far away"
                );
                let good = most >= SOCKET_BUFFER_WANTED;
                findings.judge(
                    name,
                    format!("at most {most}"),
                    good,
                    Verdict::Slow,
                    &remedy,
                );
            }
        }
    }
    match root.read("proc/sys/net/ipv4/tcp_congestion_control") {
        None => findings.unseen(
            "congestion control",
            "the network namespace does not show it",
        ),
        Some(name) => findings.add("congestion control", name, Verdict::Info, ""),
    }
}

fn interfaces(root: &Root, findings: &mut Findings) {
    let mut names: Vec<String> = std::fs::read_dir(root.0.join("sys/class/net"))
        .map(|found| {
            found
                .filter_map(|one| one.ok()?.file_name().into_string().ok())
                .collect()
        })
        .unwrap_or_default();
    names.retain(|name| name != "lo");
    names.sort();
    if names.is_empty() {
        findings.unseen("interfaces", "there is none but loopback");
    }
    for name in names {
        let up = root.read(format!("sys/class/net/{name}/operstate"));
        if up.as_deref() == Some("down") {
            continue;
        }
        let fact = format!("{name} mtu");
        match root.number(format!("sys/class/net/{name}/mtu")) {
            None => findings.unseen(&fact, "/sys is not mounted"),
            Some(mtu) => {
                let remedy = "9000 saves CPU where every device of the path takes it";
                findings.judge(&fact, mtu.to_string(), mtu >= 9000, Verdict::Info, remedy);
            }
        }
        offloads(&name, findings);
    }
}

/// The kernel tells them by a system call that `ethtool` makes.
fn offloads(interface: &str, findings: &mut Findings) {
    let fact = format!("{interface} offloads");
    let told = Command::new("ethtool").arg("-k").arg(interface).output();
    let Some(told) = told.ok().filter(|told| told.status.success()) else {
        findings.unseen(
            &fact,
            "ethtool -k tells them; it is not installed, or does not answer",
        );
        return;
    };
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    let off = offloads_off(&text);
    let found = if off.is_empty() {
        "on".to_owned()
    } else {
        format!("off: {}", off.join(", "))
    };
    let remedy = format!("ethtool -K {interface} tso on gso on gro on");
    findings.judge(&fact, found, off.is_empty(), Verdict::Slow, &remedy);
}

/// Those that matter and are off.
pub(super) fn offloads_off(text: &str) -> Vec<&'static str> {
    let names = [
        "tcp-segmentation-offload",
        "generic-segmentation-offload",
        "generic-receive-offload",
    ];
    let is_off = |name: &&str| {
        text.lines().any(|line| {
            line.strip_prefix(*name)
                .is_some_and(|rest| rest.trim_start_matches(':').trim_start().starts_with("off"))
        })
    };
    names.into_iter().filter(is_off).collect()
}

/// Which interface of the kernel moves the data: the program itself tries.
pub(super) fn tier(program: Option<&Path>, findings: &mut Findings) {
    let program = crate::program(program);
    let told = Command::new(&program)
        .args(["probe", "--output", "json"])
        .output();
    let told = told.ok().filter(|told| told.status.success());
    let probe =
        told.and_then(|told| serde_json::from_slice::<serde_json::Value>(&told.stdout).ok());
    let tier = probe.as_ref().and_then(|probe| probe.get("tier")?.as_str());
    match tier {
        None => {
            let why = format!(
                "{} probe does not tell; name the program by --program",
                program.display()
            );
            findings.unseen("tier", &why);
        }
        Some(tier) => {
            let remedy = "a newer kernel, or kernel.io_uring_disabled = 0, gives the rich tier; `migratekit-dataplane probe` says why not";
            findings.judge("tier", tier, tier == "rich", Verdict::Slow, remedy);
        }
    }
}
