//! A session as a list of operations: frames right and wrong, cut anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seawall::proto::fuzz::session(data));
