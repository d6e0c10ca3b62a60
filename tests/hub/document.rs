//! PROTOCOL.md against the server: its tables name what the server knows, no more and no less, and
//! its examples use documented fields only.

use std::collections::{BTreeMap, BTreeSet};

use seawall::hub::Code;
use seawall::metrics::CloseClass;
use serde_json::{Value, json};

use crate::client::{Client, got};
use crate::support::Server;

pub(crate) const DOCUMENT: &str = include_str!("../../src/session/seawall/PROTOCOL.md");

/// The rows of a section's first table, as cells.
pub(crate) fn table(section: &str) -> Vec<Vec<String>> {
    let heading = format!("\n## {section}\n");
    let (_, rest) = DOCUMENT.split_once(&heading).unwrap_or_else(|| panic!("no {section}"));
    let lines = rest.lines().take_while(|line| !line.starts_with("## "));
    let rows = lines.skip_while(|line| !line.starts_with('|')).skip(2);
    let cells = |line: &str| {
        let line = line.replace("\\|", "or");
        let inner = line.trim_matches('|').split('|');
        inner.map(|cell| cell.trim().to_owned()).collect()
    };
    rows.take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// The words in back quotes.
pub(crate) fn quoted(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn first_words(section: &str) -> BTreeSet<String> {
    table(section).iter().flat_map(|row| quoted(&row[0])).collect()
}

#[test]
fn the_requests_are_those_of_the_server() {
    let server = Server::start("");
    let received = Client::open(&server).refused(json!({"type": "x"}), "bad_request");
    let (_, known) = received.split_once("use ").expect("the error names the types");
    let known: BTreeSet<_> =
        known.split([',', ' ']).filter(|word| !matches!(*word, "" | "or")).collect();
    let documented = first_words("Requests");
    assert_eq!(documented.iter().map(String::as_str).collect::<BTreeSet<_>>(), known);
}

#[test]
fn the_error_codes_are_those_of_the_server() {
    let known: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str().to_owned()).collect();
    assert_eq!(first_words("Error codes"), known);
}

#[test]
fn the_close_codes_are_those_of_the_server() {
    let documented: BTreeSet<u16> =
        table("Close codes").iter().map(|row| row[0].parse().expect("a number")).collect();
    let own = |code: &u16| *code >= 4000;
    let named: BTreeSet<u16> = CloseClass::CODES.iter().map(|code| code.get()).collect();
    let known: BTreeSet<u16> = named.iter().copied().filter(own).collect();
    assert_eq!(documented.iter().copied().filter(own).collect::<BTreeSet<_>>(), known);
    assert!(documented.is_subset(&named), "{documented:?}");
}

#[test]
fn the_calls_are_those_of_the_api() {
    let server = Server::start("");
    let document = got(&server, "/v1/openapi.json");
    let mut known = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys().filter(|name| *name != "parameters") {
            known.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    assert_eq!(first_words("HTTP API"), known);
}

/// Fields of each type: those of the tables, and of what replies carry besides.
pub(crate) fn fields() -> BTreeMap<String, BTreeSet<String>> {
    let mut fields: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in table("Requests").iter().chain(&table("Events")) {
        for kind in quoted(&row[0]) {
            fields.entry(kind).or_default().extend(quoted(&row[1]));
        }
    }
    for (kind, more) in [
        ("authenticated", "user expires_in ticket"),
        ("subscribed", "channel epoch offset recovered presence grant"),
        ("published", "channel epoch offset duplicate"),
        ("presence", "count members next"),
        ("history", "epoch offset messages"),
        ("resumed", "ticket connection channels"),
        ("result", "content"),
        ("pong", ""),
    ] {
        fields.entry(kind.to_owned()).or_default().extend(more.split(' ').map(str::to_owned));
    }
    fields
}

#[test]
fn the_examples_use_documented_fields() {
    let fields = fields();
    let blocks = DOCUMENT.split("```json\n").skip(1);
    let mut seen = BTreeSet::new();
    for block in blocks {
        let (block, _) = block.split_once("```").expect("the block ends");
        for object in serde_json::Deserializer::from_str(block).into_iter::<Value>() {
            let object = object.unwrap_or_else(|error| panic!("{error}: {block}"));
            let Some(kind) = object["type"].as_str() else { continue };
            let known = fields.get(kind).unwrap_or_else(|| panic!("{kind} is not documented"));
            for name in object.as_object().unwrap().keys() {
                let general = matches!(name.as_str(), "type" | "id");
                assert!(general || known.contains(name), "{kind} has no {name}: {object}");
            }
            seen.insert(kind.to_owned());
        }
    }
    for kind in first_words("Requests").iter().chain(&first_words("Events")) {
        assert!(seen.contains(kind) || kind == "leave", "no example of {kind}");
    }
}
