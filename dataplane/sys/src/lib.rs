//! The kernel: rings, leases, devices, sockets, CPUs. The only crate with unsafe code.
//!
//! A shard talks to the kernel through [`Backend`] only. Memory that the kernel may touch belongs to an
//! [`Op`]; the backend owns it until the completion gives it back, so safe code cannot reach it meanwhile.
//!
//! The parts without system calls run under Miri:
//! `MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test -p sys --lib -- arena slab parts cursor tag`

pub mod alloc_count;
pub mod arena;
pub mod backend;
pub mod cpu;
pub mod device;
pub mod fault;
pub mod memory;
pub mod net;
pub mod poll;
pub mod ring;
pub mod runtime;
mod slab;
mod tables;
pub mod waker;

pub use arena::{Arena, ArenaConfig, Lease, LeaseClass};
pub use backend::{
    Backend, Completion, FileId, Op, Outcome, PARTS_MAX, Part, Parts, Refused, RefusedWhy, RxMode,
    SlotId, SocketId, Token, Via, ZeroMode,
};
pub use device::{DeviceFile, DeviceIdentity, DeviceKind, OpenIntent, OpenOptions};
pub use fault::{Blame, FaultKind, IoFault, OpKind, RingError, SetupError, SetupErrorKind};
pub use runtime::{RuntimeChoice, RuntimeReport, Tier, TierReport};
pub use waker::Waker;
