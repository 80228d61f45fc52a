//! Frames, opens and seals; `tls::testing::fuzz_records` says what must hold.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    tls::testing::fuzz_records(Instant::now(), input);
});
