//! What the Volume Daemon decides, and how it finds disks: the rules that no volume operation may bend.
//!
//! Everything but [`discovery`] and [`watch`] is pure: facts go in, a decision comes out.
//!
//! Invariants:
//! - a disk is found by its serial and by nothing else; two hits are an error, never a guess;
//! - a CloudStack command is sent at most once for each operation;
//! - an operation succeeds only when CloudStack and the kernel both show what was wanted;
//! - nothing here deletes a volume on its own account: the reconciler adopts, repairs records, and reports.
//!
//! The page for people is `docs/architecture/volume-daemon.md`.
#![forbid(unsafe_code)]

pub mod deletion;
pub mod discovery;
pub mod identity;
pub mod operation;
pub mod reconcile;
pub mod size;
pub mod slots;
pub mod watch;
