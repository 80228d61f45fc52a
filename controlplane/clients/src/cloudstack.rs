//! CloudStack: signed calls with typed commands and tolerant answers.
//!
//! There is no call by name: a [`Command`] fixes name, parameters and answer, and the commands that touch volumes live in
//! a crate of their own that only the Volume Daemon may use.

mod answer;
mod client;
mod commands;
mod error;
mod params;
mod signing;

pub use answer::{Id, Number};
pub use client::{Client, Command, Keys, Settings};
pub use commands::{Capabilities, Job, JobOutcome, ListCapabilities, QueryAsyncJobResult};
pub use error::{ClientError, ClientErrorKind};
pub use params::Parameters;
pub use signing::{encode, expires, signature};
