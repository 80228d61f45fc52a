//! Our sessions against OpenSSL and GnuTLS over loopback sockets, in both roles.
//!
//! Nothing sleeps: every step waits for what the other program prints or sends. A program that is
//! not installed is a skip that says so, and a failure where the `CI` variable is set.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests, where a panic is the report"
)]
#![allow(unreachable_pub, reason = "modules of a test binary")]
#![allow(clippy::print_stderr, reason = "a skip is said out loud")]

#[path = "../common/mod.rs"]
mod common;
mod gnutls;
mod link;
mod openssl;
mod tools;

/// Lines of printable text that no tool takes for a command: `len` bytes in all.
fn text(len: usize) -> Vec<u8> {
    let line = b"0123456789 the quick brown fox jumps over the lazy dog 987654321\n";
    let mut text: Vec<u8> = line.iter().copied().cycle().take(len).collect();
    text[len - 1] = b'\n';
    text
}
