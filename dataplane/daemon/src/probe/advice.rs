//! What to change on this machine, from facts alone. Pure.

use sys::{RuntimeReport, Tier};

use super::ciphers::CipherSpeed;
use super::machine::Machine;
use crate::size::format_size;

/// Registered buffers want the whole arena locked.
const MEMLOCK_BYTES_WANTED: u64 = engine::engine::ARENA_BYTES as u64;
/// Connections of a busy server, with some files beside them.
const OPEN_FILES_WANTED: u64 = 4096;
/// A core that seals slower than this limits a 10 Gbit/s link.
const SEAL_BYTES_PER_S_WANTED: u64 = 1_250_000_000;

/// One line for each thing that could be better.
pub(super) fn lines(
    runtime: &RuntimeReport,
    ciphers: &[CipherSpeed],
    machine: &Machine,
) -> Vec<String> {
    let mut advice = Vec::new();
    tier_advice(runtime, machine, &mut advice);
    if let Some(limit) = machine.memlock_bytes
        && runtime.tier != Tier::Epoll
        && !runtime.registered_buffers
    {
        advice.push(format!(
            "memory limit for locking is {}: raise it to {} (LimitMEMLOCK= or ulimit -l) so that \
             buffers can be registered",
            format_size(limit),
            format_size(MEMLOCK_BYTES_WANTED.max(limit.saturating_add(1))),
        ));
    }
    if machine.cpus_usable < machine.cpus_online {
        advice.push(format!(
            "only {} of {} CPUs are usable: widen the affinity mask or the cgroup quota for more \
             throughput",
            machine.cpus_usable, machine.cpus_online
        ));
    }
    if let Some(limit) = machine
        .open_files_max
        .filter(|limit| *limit < OPEN_FILES_WANTED)
    {
        advice.push(format!(
            "only {limit} files may be open: raise LimitNOFILE= to {OPEN_FILES_WANTED} for a server"
        ));
    }
    let fastest = ciphers
        .iter()
        .map(|speed| speed.seal_bytes_per_s)
        .max()
        .unwrap_or(0);
    if fastest < SEAL_BYTES_PER_S_WANTED {
        advice.push(format!(
            "one core seals {}/s at best: use more connections and shards, or a CPU with AES \
             instructions (a virtual machine may hide them)",
            format_size(fastest)
        ));
    }
    cipher_advice(ciphers, &mut advice);
    advice
}

fn tier_advice(runtime: &RuntimeReport, machine: &Machine, advice: &mut Vec<String>) {
    match (runtime.tier, machine.io_uring_disabled) {
        (Tier::Rich, _) => {}
        (Tier::Plain, _) => advice.push(
            "the rich tier needs Linux 6.12 or later; the plain one costs some CPU time".to_owned(),
        ),
        (Tier::Epoll, Some(1 | 2)) => advice.push(
            "io_uring is switched off: sysctl kernel.io_uring_disabled=0, or 1 and the group of \
             kernel.io_uring_group"
                .to_owned(),
        ),
        (Tier::Epoll, _) => advice.push(
            "io_uring is not available: use Linux 6.1 or later, and in a container a seccomp profile \
             that allows io_uring_setup, io_uring_enter and io_uring_register"
                .to_owned(),
        ),
    }
}

/// The choice by CPU features is checked against the clock.
fn cipher_advice(ciphers: &[CipherSpeed], advice: &mut Vec<String>) {
    let Some(preferred) = ciphers.iter().find(|speed| speed.preferred) else {
        return;
    };
    let Some(best) = ciphers.iter().max_by_key(|speed| speed.seal_bytes_per_s) else {
        return;
    };
    // Less than a fifth is noise of a ten-millisecond measurement.
    if best.seal_bytes_per_s > preferred.seal_bytes_per_s / 5 * 6 {
        advice.push(format!(
            "{} is faster here than {}: set the tunable aead",
            best.suite, preferred.suite
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime(tier: Tier) -> RuntimeReport {
        RuntimeReport {
            tier,
            reason: String::new(),
            features: Vec::new(),
            registered_buffers: true,
            notes: Vec::new(),
        }
    }

    fn machine() -> Machine {
        Machine {
            kernel: "Linux 6.12".to_owned(),
            cpus_online: 4,
            cpus_allowed: 4,
            cpus_usable: 4,
            memlock_bytes: None,
            io_uring_disabled: Some(0),
            open_files_max: None,
        }
    }

    fn ciphers(rates: [u64; 2]) -> Vec<CipherSpeed> {
        let speed = |suite, rate, preferred| CipherSpeed {
            suite,
            seal_bytes_per_s: rate,
            open_bytes_per_s: rate,
            handshake_us: 1,
            preferred,
        };
        vec![speed("A", rates[0], true), speed("B", rates[1], false)]
    }

    #[test]
    fn a_good_machine_gets_no_advice() {
        let fast = ciphers([5 << 30, 5 << 30]);
        assert!(lines(&runtime(Tier::Rich), &fast, &machine()).is_empty());
    }

    #[test]
    fn each_lack_has_its_own_line() {
        let fast = ciphers([5 << 30, 5 << 30]);
        let check = |runtime: &RuntimeReport, machine: &Machine, word: &str| {
            let advice = lines(runtime, &fast, machine);
            assert!(
                advice.iter().any(|line| line.contains(word)),
                "{word}: {advice:?}"
            );
        };
        check(&runtime(Tier::Plain), &machine(), "6.12");
        check(&runtime(Tier::Epoll), &machine(), "seccomp");
        let off = Machine {
            io_uring_disabled: Some(2),
            ..machine()
        };
        check(&runtime(Tier::Epoll), &off, "kernel.io_uring_disabled=0");
        check(
            &runtime(Tier::Rich),
            &Machine {
                cpus_usable: 2,
                ..machine()
            },
            "2 of 4 CPUs",
        );
        let few = Machine {
            open_files_max: Some(1024),
            ..machine()
        };
        check(&runtime(Tier::Rich), &few, "LimitNOFILE");
        let unregistered = RuntimeReport {
            registered_buffers: false,
            ..runtime(Tier::Rich)
        };
        let small = Machine {
            memlock_bytes: Some(8 << 20),
            ..machine()
        };
        check(&unregistered, &small, "LimitMEMLOCK");
    }

    #[test]
    fn a_slow_choice_of_cipher_is_told() {
        let advice = lines(
            &runtime(Tier::Rich),
            &ciphers([2 << 30, 4 << 30]),
            &machine(),
        );
        assert_eq!(advice, ["B is faster here than A: set the tunable aead"]);
        let advice = lines(
            &runtime(Tier::Rich),
            &ciphers([1 << 28, 1 << 28]),
            &machine(),
        );
        assert!(advice[0].contains("256 MiB/s"), "{advice:?}");
    }
}
