//! Repository checks: floors and tidiness.
#![forbid(unsafe_code)]
fn main() {}
