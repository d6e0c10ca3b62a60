//! Messages of clients of apps, and names that they may use.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        seawall::session::pusher::fuzz::client_message(text);
    }
});
