//! A client of the hub.

use serde_json::Value;

use crate::support::raw::{self, CLOSE, TEXT};
use crate::support::{Raw, Server};

/// See the module.
pub(crate) struct Client(pub(crate) Raw);

impl Client {
    pub(crate) fn connect(server: &Server) -> Self {
        Self::connect_with(server, "/ws?room=1", "").0
    }

    /// Connects with these lines in its request; returns the welcome, too.
    pub(crate) fn connect_with(server: &Server, path: &str, lines: &str) -> (Self, Value) {
        let mut raw = Raw::connect(server.address());
        raw.send(&raw::request_with(path, lines));
        raw.switched();
        let mut client = Self(raw);
        let welcome = client.await_type("welcome");
        (client, welcome)
    }

    pub(crate) fn send(&mut self, request: &Value) {
        self.0.send(&raw::text(request.to_string()));
    }

    /// Sends a request, and returns the first object of this type.
    pub(crate) fn request(&mut self, request: &Value, reply: &str) -> Value {
        self.send(request);
        self.await_type(reply)
    }

    /// Returns the next object of this type. No error may come before it.
    pub(crate) fn await_type(&mut self, kind: &str) -> Value {
        let object =
            self.await_object(|object| object["type"] == kind || object["type"] == "error");
        assert_eq!(object["type"], kind, "{object}");
        object
    }

    /// Sends a request, and returns the reply with its id.
    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        self.send(request);
        self.await_object(|object| object["id"] == request["id"])
    }

    pub(crate) fn await_object(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            let frame = self.0.frame();
            if frame.first & 0xf != TEXT {
                continue; // A ping.
            }
            let text = String::from_utf8(frame.payload).unwrap();
            for line in text.lines() {
                let object: Value = serde_json::from_str(line).unwrap();
                if is_it(&object) {
                    return object;
                }
            }
        }
    }

    pub(crate) fn close(mut self) {
        self.0.send(&raw::close(1000));
        while self.0.frame().first & 0xf != CLOSE {}
        self.0.end();
    }
}
