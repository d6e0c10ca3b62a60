//! Answers of applications to hooks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seawall::hooks::fuzz::answers(data));
