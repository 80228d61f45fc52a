//! See `wire::fuzzing::client_handshake`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| wire::fuzzing::client_handshake(data));
