//! Requests of `seawall.v1`: the reader of plain objects agrees with the one that reads all.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seawall::session::fuzz::requests(data));
