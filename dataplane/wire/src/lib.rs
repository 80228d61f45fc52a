//! NBD, both roles, as sans-io state machines.
#![forbid(unsafe_code)]
