//! Floor 0 of the control plane: facts in, decisions out. Nothing here opens a file, reads a clock or draws a number.

#![forbid(unsafe_code)]

pub mod ids;
pub mod job;
