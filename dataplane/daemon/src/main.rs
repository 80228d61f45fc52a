//! The data plane daemon and command line.
#![forbid(unsafe_code)]
fn main() {}
