//! What clients are told while the engine is away, and the client library meanwhile.

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::client::{Client, got, position, text};
use crate::engine::{Engine, KINDS, Kind, start_node};

const AWAY: &str = "{\"type\":\"engine\",\"state\":\"away\"}";
const BACK: &str = "{\"type\":\"engine\",\"state\":\"back\"}";

#[test]
fn connections_are_told_that_the_engine_is_away_and_that_it_is_back() {
    for kind in KINDS {
        let mut engine = Engine::start(kind);
        let node = start_node(&engine);
        let [mut silent, mut member] = [(); 2].map(|()| Client::open(&node));
        member.subscribe("room");
        for ends in [false, true] {
            if ends {
                engine.kill();
            } else {
                engine.signal("STOP");
            }
            for client in [&mut silent, &mut member] {
                assert_eq!(client.next_text(), AWAY);
            }
            // Welcomed, and told before anything else.
            let mut late = Client::open(&node);
            assert_eq!(late.next_text(), AWAY);
            let publish =
                json!({"type": "publish", "channel": "room", "content": ends, "key": "one"});
            let refused = late.get(publish.clone(), "error");
            assert_eq!(refused["code"], "unavailable", "{refused}");
            assert!(refused["retry_after_ms"].is_u64(), "{refused}");
            if ends {
                engine.restart();
            } else {
                engine.signal("CONT");
            }
            for client in [&mut silent, &mut late] {
                assert_eq!(client.next_text(), BACK);
            }
            // An engine that restarts continues in a new epoch.
            let mut told = vec![text(&member.next(), "type")];
            if ends {
                told.push(text(&member.next(), "type"));
            }
            told.sort();
            assert_eq!(told, if ends { &["engine", "gap"][..] } else { &["engine"] });
            // It was carried out, or not: once in the end.
            let again = late.get(publish, "published");
            assert_eq!(position(&member.expect("message"))["offset"], again["offset"]);
            late.close();
        }
        silent.is_silent("room");
        member.is_silent("room");
        assert_eq!(Client::open(&node).ask(json!({"type": "ping"}))["type"], "pong");
    }
}

/// The library publishes while the engine is away: its repeats, and what was sent when the engine
/// stopped, make one message.
#[test]
fn the_library_publishes_once_while_the_engine_is_away() {
    let packages = format!("{}/.cache/node", env!("CARGO_MANIFEST_DIR"));
    let engine = Engine::start(Kind::Redis);
    let node = start_node(&engine);
    let mut run = Command::new("timeout");
    run.args(["120", "node", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/library.mjs")]);
    run.arg(packages).arg(format!("ws://{}/ws", node.address()));
    run.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut script = run.spawn().expect("coreutils are there");
    let mut lines = BufReader::new(script.stdout.take().expect("it is piped")).lines();
    let mut expect = |expected: &str| {
        let line = lines.next().and_then(Result::ok).unwrap_or_default();
        assert_eq!(line, expected, "run scripts/check.sh --install if `ws` is missing");
    };
    expect("joined");
    engine.signal("STOP");
    script.stdin.take().expect("it is piped").write_all(b"stopped\n").expect("it reads");
    expect("away");
    expect("repeating");
    engine.signal("CONT");
    expect("back");
    expect("published");
    expect("away stopped last");
    assert!(script.wait().expect("it ends").success());
    let kept = got(&node, "/v1/channels/room/history?limit=10");
    assert_eq!(kept["messages"].as_array().map(Vec::len), Some(3), "{kept}");
}
