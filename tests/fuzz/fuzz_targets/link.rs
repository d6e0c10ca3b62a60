//! Messages of applications on links.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seawall::link::fuzz::link_message(data));
