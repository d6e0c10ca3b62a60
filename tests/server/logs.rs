//! What the server says of itself while it runs, for machines.

use std::io::{BufRead, BufReader};

use serde_json::Value;

use crate::support::process::command;

/// Every line, the start's facts among them, is an object of its own.
#[test]
fn a_log_of_json_is_json_from_the_first_line() {
    let config = "[log]\nformat = \"json\"\n";
    let arguments = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let (mut command, path) = command(&arguments, config);
    let mut child = command.spawn().expect("the server can be started");
    let lines = BufReader::new(child.stderr.take().expect("its log is piped")).lines();
    let mut facts = Vec::new();
    for line in lines.map_while(Result::ok) {
        let object: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("`{line}` is no JSON: {error}"));
        if let Some(fact) = object["fields"]["fact"].as_str() {
            let message = object["fields"]["message"].as_str().expect("a fact says something");
            facts.push((fact.to_owned(), message.to_owned()));
        }
        if facts.last().is_some_and(|(fact, _)| fact == "limits") {
            break;
        }
    }
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
    std::fs::remove_file(path).expect("the configuration was written");
    let of = |name: &str| {
        let found = facts.iter().find(|(fact, _)| fact == name);
        found.map_or_else(|| panic!("no {name}: {facts:?}"), |(_, message)| message.as_str())
    };
    assert!(of("clients").starts_with("ws://127.0.0.1:"));
    assert!(of("operators").starts_with("http://127.0.0.1:"));
    assert!(of("engine").contains("io_uring"));
    assert!(of("limits").contains("connections"));
}
