//! See `wire::fuzzing::server_transmission`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::fuzzing::server_transmission(data));
