//! A laboratory: a CloudStack of one host for tests and the demonstration.
//!
//! It answers only what the contract knows, and its refusals are CloudStack's own. It shares no code with the programs
//! that are tested against it: signing, types and dates are its own. The state machine takes calls and
//! the time and gives answers; disks are reached through a trait; a thread serves HTTP around it.
//!
//! ```no_run
//! let lab = lab::CloudStack::start(&lab::Options::new("/tmp/my-lab"))?;
//! println!("{} {}", lab.url(), lab.keys().api);
//! # Ok::<(), lab::StartError>(())
//! ```
#![forbid(unsafe_code)]

mod cleaning;
mod cloudstack;
mod control;
mod devices;
mod faults;
mod files;
mod fuse;
mod hardware;
mod machines;
mod params;
mod refusal;
mod seeded;
mod server;
mod settings;
mod signature;
mod site;
mod table;
mod time;
mod volatile;
mod world;

pub use cleaning::clean;
pub use cloudstack::{Backing, CloudStack, Options, StartError};
pub use control::{Control, LabFault};
pub use faults::{Armed, Fault};
pub use files::Bus;
pub use hardware::Digests;
pub use settings::{Identifiers, Settings};
pub use signature::Keys;
pub use world::Restart;
