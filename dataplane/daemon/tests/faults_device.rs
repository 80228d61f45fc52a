//! Devices, disks and files that fail: one clear error, no false success, and the copy goes on once it is repaired.
//! Needs root.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod common;
mod crash;
mod faults;
mod server;
