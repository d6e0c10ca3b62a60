//! Offers of Sec-WebSocket-Extensions.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seawall::proto::fuzz::extensions(data));
