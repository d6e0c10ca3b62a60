//! Sealed records as a list of operations: right, wrong and damaged, cut anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seawall::tls::fuzz::records(data));
