//! A client of an app that sends and expects single messages.

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use crate::support::raw::{self, CLOSE, FIN, PING, TEXT};
use crate::support::{Raw, Server};

/// Returns the signature of a text, in hexadecimal.
pub(crate) fn sign(app: u32, text: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, format!("secret-{app}").as_bytes());
    hex(hmac::sign(&key, text.as_bytes()).as_ref())
}

/// Returns bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// A connection to an app.
pub(crate) struct AppClient {
    raw: Raw,
    app: u32,
    pub(crate) socket_id: String,
}

impl AppClient {
    /// Connects with a path and query that need not be valid, and returns its first message.
    #[track_caller]
    pub(crate) fn first_message(server: &Server, target: &str) -> (Raw, Value) {
        let mut raw = Raw::connect(server.address());
        raw.send(&raw::request_with(target, ""));
        raw.switched();
        let first = next_of(&mut raw);
        (raw, first)
    }

    /// Connects.
    #[track_caller]
    pub(crate) fn connect(server: &Server, app: u32) -> Self {
        let target = format!("/app/key-{app}?protocol=7&client=test&version=1");
        let (raw, first) = Self::first_message(server, &target);
        assert_eq!(first["event"], "pusher:connection_established");
        let data = data_of(&first);
        assert_eq!(data["activity_timeout"], 120);
        let socket_id = data["socket_id"].as_str().expect("it has an id").to_owned();
        Self { raw, app, socket_id }
    }

    /// Sends a message.
    pub(crate) fn send(&mut self, message: &Value) {
        self.raw.send(&raw::text(message.to_string()));
    }

    /// Sends text.
    pub(crate) fn send_text(&mut self, text: &str) {
        self.raw.send(&raw::text(text));
    }

    /// Returns the next message; pings are skipped.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Value {
        next_of(&mut self.raw)
    }

    /// Returns the data of the next message, which is this event.
    #[track_caller]
    pub(crate) fn expect(&mut self, event: &str) -> Value {
        let message = self.next();
        assert_eq!(message["event"], event, "{message}");
        data_of(&message)
    }

    /// Returns the code of the Close that comes next.
    #[track_caller]
    pub(crate) fn close_code(&mut self) -> u16 {
        close_code_of(&mut self.raw)
    }

    /// Subscribes with this authorization.
    pub(crate) fn ask(&mut self, channel: &str, auth: &str, channel_data: Option<&str>) {
        let mut data = json!({"channel": channel, "auth": auth});
        if let Some(channel_data) = channel_data {
            data["channel_data"] = channel_data.into();
        }
        self.send(&json!({"event": "pusher:subscribe", "data": data}));
    }

    /// Returns the authorization for a text behind the socket id.
    pub(crate) fn authorization(&self, text: &str) -> String {
        let signature = sign(self.app, &format!("{}:{text}", self.socket_id));
        format!("key-{}:{signature}", self.app)
    }

    /// Subscribes with a valid authorization; returns the data of the reply.
    #[track_caller]
    pub(crate) fn subscribe(&mut self, channel: &str) -> Value {
        let auth = self.authorization(channel);
        self.ask(channel, &auth, None);
        self.expect("pusher_internal:subscription_succeeded")
    }

    /// Joins a presence channel as a user; returns the data of the reply.
    #[track_caller]
    pub(crate) fn join(&mut self, channel: &str, user: &str) -> Value {
        let data = json!({"user_id": user, "user_info": {"name": user}}).to_string();
        let auth = self.authorization(&format!("{channel}:{data}"));
        self.ask(channel, &auth, Some(&data));
        self.expect("pusher_internal:subscription_succeeded")
    }

    /// Signs in.
    pub(crate) fn sign_in(&mut self, user: &str) {
        let user_data = json!({"id": user}).to_string();
        let auth = self.authorization(&format!(":user::{user_data}"));
        let data = json!({"auth": auth, "user_data": user_data});
        self.send(&json!({"event": "pusher:signin", "data": data}));
    }

    /// Sends an event to the other members of a channel.
    pub(crate) fn trigger(&mut self, channel: &str, event: &str, data: &Value) {
        self.send(&json!({"event": event, "channel": channel, "data": data}));
    }

    /// Checks that nothing was sent before the answer to a ping.
    #[track_caller]
    pub(crate) fn expect_nothing(&mut self) {
        self.send(&json!({"event": "pusher:ping", "data": {}}));
        self.expect("pusher:pong");
    }
}

#[track_caller]
fn next_of(raw: &mut Raw) -> Value {
    loop {
        let frame = raw.frame();
        match frame.first & 0x0f {
            TEXT => return serde_json::from_slice(&frame.payload).expect("messages are JSON"),
            PING => {}
            _ => panic!("{frame:?}"),
        }
    }
}

/// Returns the code of the Close that comes next.
#[track_caller]
pub(crate) fn close_code_of(raw: &mut Raw) -> u16 {
    loop {
        let frame = raw.frame();
        match frame.first & 0x0f {
            PING => {}
            CLOSE => {
                assert_eq!(frame.first & FIN, FIN);
                return frame.close_code();
            }
            _ => panic!("{frame:?}"),
        }
    }
}

/// Returns the data of a message: an object, or the JSON in a string.
pub(crate) fn data_of(message: &Value) -> Value {
    match &message["data"] {
        Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| text.clone().into()),
        other => other.clone(),
    }
}
