//! Messages through a compressor and back.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seawall::proto::fuzz::deflate(data));
