//! `migratekit-dataplane`: the data plane's server and its command line.
#![forbid(unsafe_code)]

mod credentials;
mod exit;
mod size;
mod uri;

/// Small, fast, and the same on every libc; the data path itself does not allocate.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {}
