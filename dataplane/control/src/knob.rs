//! The knobs: one table of what can be tuned, for the data plane, its pages and the tuning tool.
//!
//! Everything that shows or changes a knob reads [`TABLE`]: `--set`, the help text, the control sockets,
//! `migratekit-tune` and `docs/interfaces/tunables.md`. The values in force are elsewhere; here is only what a value
//! may be, and why.

mod table;
mod text;

pub use table::{Applies, Granule, Knob, TABLE, Tunable, Unit};
pub use text::{help, markdown};
