//! The JSON protocol: frames of a hub connection, whose home answers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seawall::session::hub::fuzz::protocol(data));
