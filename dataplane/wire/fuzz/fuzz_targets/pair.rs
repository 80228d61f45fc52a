//! See `wire::fuzzing::pair`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::fuzzing::pair(data));
