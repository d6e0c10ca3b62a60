//! What a client sends before any key is agreed on, cut anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seawall::tls::fuzz::handshake(data));
