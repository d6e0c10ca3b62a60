//! Request heads: limits and circumstances from the first bytes, then the head itself.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seawall::proto::fuzz::request(data));
