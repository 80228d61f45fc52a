//! What the measuring programs have in common.
//!
//! `peers` compares a copy with those of other programs; `migratekit-bench` measures what the machine could do at best.
#![forbid(unsafe_code)]

pub mod disk;
pub mod machine;
pub mod machine_time;
pub mod nbdkit;
pub mod ours;
pub mod process;
pub mod spread;
