//! The client library against a server over lines that fail, at random; see `library_model.mjs`.
//!
//! The seed is printed when a law is broken; `SEAWALL_SEED` chooses one, `SEAWALL_STEPS` the
//! length.

use std::env;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::Server;
use crate::{alone, root, tool};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Two channels that forget nothing, one that needs a token, one that forgets quickly, and one in
/// which only backends subscribe. Anonymous clients may stay.
const CONFIG: &str = "[auth]\nallow_anonymous = true\nleeway_s = 1\n\
    [[key]]\nsecret = \"0123456789abcdef0123456789abcdef\"\n\
    [[channel]]\npattern = \"open:*\"\nhistory = 100_000\nhistory_ttl_s = 3600\n\
    [[channel]]\npattern = \"token:*\"\nhistory = 100_000\nhistory_ttl_s = 3600\n\
    subscribe = \"token\"\npublish = \"server\"\n\
    [[channel]]\npattern = \"short:*\"\nhistory = 5\n\
    [[channel]]\npattern = \"server:*\"\nsubscribe = \"server\"\npublish = \"server\"\n";

fn number(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn each_message_once_or_a_gap_and_each_publish_settles() {
    tool(root().join(".cache/node/node_modules/ws"));
    let server = Server::start(CONFIG);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    let seed = number("SEAWALL_SEED").unwrap_or(u64::from(now.subsec_nanos()));
    let steps = number("SEAWALL_STEPS").unwrap_or(600);
    let facts = serde_json::json!({
        "url": format!("ws://{}/ws", server.address()),
        "admin": format!("http://{}", server.admin()),
        "pid": server.pid(),
        "secret": SECRET,
        "seed": seed,
        "steps": steps,
    });
    let mut node = Command::new("node");
    node.arg("tests/clients/library_model.mjs").env("SEAWALL", facts.to_string());
    assert!(alone(&mut node).ends_with("all passed\n"), "seed {seed}");
}
