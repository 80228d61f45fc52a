//! Shards, lanes and transfers: the data plane without its front door.
//!
//! ```text
//! door ─► Engine::serve ─► shard: lane ─► device        transfer::run ─► shard: mover ─► device or connection
//! ```
//! One thread owns a shard and everything in it; the rest of the process talks to it by bounded queues. Memory the
//! kernel may touch is owned by the backend's in-flight table until its completion.
#![forbid(unsafe_code)]

mod client;
mod command;
mod ctx;
pub mod dial;
pub mod digest;
pub mod engine;
pub mod error;
pub mod export;
pub mod extents;
mod gate;
pub mod journal;
pub mod ledger;
pub mod limits;
mod link;
mod mover;
mod parked;
mod payload;
mod server;
mod shard;
#[cfg(test)]
mod sim;
mod slots;
pub mod stats;
mod syncs;
pub mod transfer;
pub mod tunables;
mod window;
mod zero;

pub use dial::{Address, Dialled, Endpoint, NbdClient, NbdEndpoint, TlsMode};
pub use engine::{CloseHow, Engine, EngineConfig, ServerSeed};
pub use error::{Blame, EngineError, ErrorKind};
pub use export::{Export, ExportSpec, Store};
pub use extents::ExtentSet;
pub use journal::Journal;
pub use ledger::Ledger;
pub use transfer::{Cancel, Checkpoint, Progress, TransferReport, TransferSpec};
pub use tunables::{SendZc, Tunable, Tunables};
