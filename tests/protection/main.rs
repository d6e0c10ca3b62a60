//! What clients may not do to the server, nor to each other, over sockets.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
#[path = "../support/mod.rs"]
mod support;

mod admission;
mod memory;
mod rates;
mod reload;

use support::Raw;
use support::raw::{FIN, PING, TEXT, frame, request_with};

/// An upgraded connection to the hub, after its welcome.
fn hub(server: &support::Server, headers: &str) -> Raw {
    let mut raw = Raw::connect(server.address());
    raw.send(&request_with("/ws", &format!("Sec-WebSocket-Protocol: seawall.v1\r\n{headers}")));
    raw.switched();
    let welcome = said(&mut raw);
    assert_eq!(welcome["type"], "welcome", "{welcome}");
    raw
}

/// The next text message, as JSON.
#[track_caller]
fn said(raw: &mut Raw) -> serde_json::Value {
    loop {
        let frame = raw.frame();
        if frame.first != FIN | PING {
            assert_eq!(frame.first, FIN | TEXT, "{frame:?}");
            return serde_json::from_slice(&frame.payload).unwrap();
        }
    }
}

fn say(raw: &mut Raw, text: &str) {
    raw.send(&frame(FIN | TEXT, text.as_bytes()));
}
