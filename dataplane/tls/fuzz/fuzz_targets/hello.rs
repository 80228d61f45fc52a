//! Reads a ClientHello; `tls::testing::fuzz_hello` says what must hold.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    tls::testing::fuzz_hello(input);
});
