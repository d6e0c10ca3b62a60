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
            facts.push((fact.to_owned(), object["fields"].clone()));
        }
        if facts.last().is_some_and(|(fact, _)| fact == "limits") {
            break;
        }
    }
    child.kill().expect("it runs");
    child.wait().expect("it was killed");
    std::fs::remove_file(path).expect("the configuration was written");
    let of = |name: &str, key: &str| -> Value {
        let found = facts.iter().find(|(fact, _)| fact == name);
        let (_, fields) = found.unwrap_or_else(|| panic!("no {name}: {facts:?}"));
        assert!(!fields[key].is_null(), "{name} has no {key}: {fields}");
        fields[key].clone()
    };
    let text = |name: &str, key: &str| of(name, key).as_str().expect("a string").to_owned();
    assert!(text("clients", "url").starts_with("ws://127.0.0.1:"));
    assert!(text("playground", "url").starts_with("http://127.0.0.1:"));
    assert!(text("operators", "url").starts_with("http://127.0.0.1:"));
    assert_eq!(text("hub", "access"), "anonymous");
    assert_eq!(text("tickets", "keys"), "random");
    assert!(of("engine", "ring_entries").is_u64());
    assert!(of("limits", "connections").is_u64());
}
