//! Runs a command in which io_uring is forbidden, as a container runtime would do it.
//!
//! `deny_io_uring EPERM|ENOSYS|ENOMEM -- command arguments...`
//!
//! Installs a seccomp filter that answers `io_uring_setup` with the given errno and runs the command under it. ENOMEM
//! is for rings of more than 64 entries only: so it is where memory is short, a trial gets its ring and a shard does not.
//! For tests of the fallback; the product has no switch for this.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    process::Command,
};

/// `struct sock_filter` values from `linux/bpf_common.h` and `linux/seccomp.h`.
const LOAD_WORD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const RETURN: u16 = 0x06;
/// Offset of the system call number in `struct seccomp_data`.
const NUMBER_AT: u32 = 0;
/// Offset of the first argument's low half there, on little-endian machines.
const ENTRIES_AT: u32 = 16;
/// A ring for a trial has no more entries.
const SMALL_ENTRIES: u32 = 64;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let error = match &arguments[..] {
        [errno, dashes, command, rest @ ..] if dashes == "--" => match errno_of(errno) {
            Some(errno) => run(errno, command, rest),
            None => usage(),
        },
        _ => usage(),
    };
    // Only failures come here: the command took our place otherwise.
    std::process::exit(report(&error));
}

fn usage() -> io::Error {
    io::Error::other("usage: deny_io_uring EPERM|ENOSYS|ENOMEM -- command arguments...")
}

fn report(error: &io::Error) -> i32 {
    // Nobody is left to tell if this fails.
    let _ = writeln!(io::stderr(), "deny_io_uring: {error}");
    125
}

fn errno_of(name: &str) -> Option<i32> {
    match name {
        "EPERM" => Some(libc::EPERM),
        "ENOSYS" => Some(libc::ENOSYS),
        "ENOMEM" => Some(libc::ENOMEM),
        _ => None,
    }
}

fn run(errno: i32, command: &str, arguments: &[String]) -> io::Error {
    match install_filter(errno) {
        Ok(()) => Command::new(command).args(arguments).exec(),
        Err(error) => error,
    }
}

fn install_filter(errno: i32) -> io::Result<()> {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let setup = u32::try_from(libc::SYS_io_uring_setup).map_err(io::Error::other)?;
    let answer = u32::try_from(errno).map_err(io::Error::other)? | libc::SECCOMP_RET_ERRNO;
    let allowed = if errno == libc::ENOMEM {
        SMALL_ENTRIES
    } else {
        0
    };
    let mut steps = [
        step(LOAD_WORD, 0, 0, NUMBER_AT),
        step(JUMP_IF_EQUAL, 0, 3, setup),
        step(LOAD_WORD, 0, 0, ENTRIES_AT),
        step(JUMP_IF_GREATER, 0, 1, allowed),
        step(RETURN, 0, 0, answer),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: 6,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: takes plain numbers; from here on exec gains no privileges, which a filter needs.
    let result = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `program` describes the six steps above, alive during the call; the kernel copies them.
    let result = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    if result != 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
