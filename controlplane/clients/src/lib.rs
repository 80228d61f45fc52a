//! The only callers of services outside this product. Each client signs, sends, decodes and explains; none tries again
//! on its own, because only the caller's journal knows whether a second try is safe.
#![forbid(unsafe_code)]

pub mod cloudstack;
