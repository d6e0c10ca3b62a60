//! Raw bytes as frames, whole and cut.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seawall::proto::fuzz::frames(data));
