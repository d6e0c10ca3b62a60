//! Clients and backends that speak the Pusher protocol: real libraries, and ones that misbehave.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
#[path = "../support/mod.rs"]
mod support;

mod api;
mod channels;
mod client;
mod connect;
mod document;
mod libraries;

/// Two apps, a route for clients of others, and one channel that both may use.
pub(crate) const CONFIG: &str = r#"
[[route]]
path = "/app"
handler = "pusher"

[[route]]
path = "/ws"
handler = "hub"

[[app]]
id = "1"
key = "key-1"
secret = "secret-1"

[[app]]
id = "2"
key = "key-2"
secret = "secret-2"
client_events = false
connections_max = 1
presence_members_max = 1

[[channel]]
pattern = "1:news*"
"#;
