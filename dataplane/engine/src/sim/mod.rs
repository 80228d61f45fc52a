//! The data plane in a world made from one number.
//!
//! ```text
//! seed ─► disks, sockets, clock, order of turns ─► client shard + server shard ─► checker
//! ```
//! Two shards run on one thread over [`backend::SimBackend`]. Nothing here blocks, and nothing but the seed decides
//! what happens, so a failed run is repeated by its seed and its fault alone: `MK_SIM_SEED=7 MK_SIM_FAULT=ShortIo`.

mod backend;
mod campaign;
mod case;
mod check;
mod copy;
mod core;
mod disk;
mod fairness;
mod load;
mod model;
mod outlook;
mod overlap;
mod peer;
mod peers;
mod pipe;
mod quiet;
mod run;
mod secure;
mod side;
mod teeth;
mod turns;
mod wiring;
mod world;
