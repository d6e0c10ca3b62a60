//! Nodes that are restarted one by one, under load: nothing is lost, doubled or reordered.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::engine::{Engine, KINDS, start_node};
use crate::support::Server;

const CLIENTS: &str = "12";

fn urls(nodes: &[Server]) -> Value {
    let urls: Vec<_> = nodes.iter().map(|node| format!("ws://{}/ws", node.address())).collect();
    json!({"urls": urls})
}

#[test]
fn a_rolling_restart_under_load_loses_nothing() {
    let root = env!("CARGO_MANIFEST_DIR");
    for kind in KINDS {
        let engine = Engine::start(kind);
        let mut nodes: Vec<_> = (0..3).map(|_| start_node(&engine)).collect();
        let mut run = Command::new("timeout");
        run.args(["240", "node", &format!("{root}/tests/cluster/rolling.mjs")]);
        run.args([&format!("{root}/.cache/node"), CLIENTS]);
        run.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = run.spawn().expect("coreutils are there");
        let mut orders = script.stdin.take().expect("it is piped");
        let mut lines = BufReader::new(script.stdout.take().expect("it is piped")).lines();
        let mut order = |object: Value| writeln!(orders, "{object}").expect("the script reads");
        let mut expect = |expected: &str| {
            let line = lines.next().and_then(Result::ok);
            assert_eq!(line.as_deref(), Some(expected), "the script has printed why, above");
        };
        order(urls(&nodes));
        order(json!({"progress": "start"}));
        expect("start");
        for at in 0..3 {
            nodes[at].signal("TERM");
            let ended = nodes[at].wait(Duration::from_mins(1));
            assert_eq!(ended.code(), Some(0), "{}", nodes[at].log());
            order(json!({"progress": "with two nodes"}));
            expect("with two nodes");
            nodes[at] = start_node(&engine);
            order(urls(&nodes));
            order(json!({"progress": "with all nodes"}));
            expect("with all nodes");
        }
        order(json!({"finish": true}));
        expect("all passed");
        assert!(script.wait().expect("it ends").success());
    }
}
