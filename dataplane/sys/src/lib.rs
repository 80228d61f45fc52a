//! The kernel: rings, leases, devices, sockets, CPUs. The only crate with unsafe code.
//!
//! A shard talks to the kernel through a backend only. Memory that the kernel may touch belongs to an
//! operation; the backend owns it until the completion gives it back, so safe code cannot reach it meanwhile.

pub mod arena;
pub mod fault;
pub mod memory;
pub mod waker;

pub use arena::{Arena, ArenaConfig, Lease, LeaseClass};
pub use fault::{Blame, FaultKind, IoFault, OpKind, RingError, SetupError, SetupErrorKind};
pub use waker::Waker;
