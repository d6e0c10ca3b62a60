//! The guide's tables name all events, codes and endpoints, each with a test that exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the text of the sources in a folder.
fn sources(folder: &str) -> String {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let sources = paths.filter(|path| path.extension().is_some_and(|end| end == "rs"));
    sources.map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// Returns the rows of the tables under "Coverage": what is covered, and its test.
fn rows() -> Vec<(String, String)> {
    let guide = fs::read_to_string(root().join("src/session/pusher/PUSHER.md")).unwrap();
    let (_, tables) = guide.split_once("## Coverage").unwrap();
    let rows = tables.lines().filter(|line| line.starts_with('|') && line.contains('`'));
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let text = |cell: &str| cell.trim_matches('`').to_owned();
        (text(cells[0]), text(cells.last().unwrap()))
    })
    .collect()
}

#[test]
fn each_row_names_a_test_that_exists() {
    let webhooks = fs::read_to_string(root().join("tests/backend/pusher.rs")).unwrap();
    let tests = sources("tests/pusher") + &sources("src/session/pusher") + &webhooks;
    let rows = rows();
    assert!(rows.len() > 25, "only {} rows", rows.len());
    for (subject, test) in rows {
        assert!(tests.contains(&format!("fn {test}()")), "{subject}: no test {test}");
    }
}

#[test]
fn the_tables_are_complete() {
    let source = sources("src/session/pusher");
    let is_of_name = |c: char| c.is_ascii_lowercase() || matches!(c, '_' | ':');
    let mut used: BTreeSet<String> = source
        .match_indices("\"pusher")
        .map(|(at, _)| source[at + 1..].chars().take_while(|c| is_of_name(*c)).collect())
        .filter(|name: &String| name.contains(':') && !name.ends_with(':'))
        .filter(|name| name != "pusher:unknown")
        .collect();
    for part in source.split("CloseCode::new(").skip(1) {
        used.extend(part.split(')').next().map(str::to_owned));
    }
    let routes = fs::read_to_string(root().join("src/control/admin/api/app/mod.rs")).unwrap();
    for part in routes.split(".route(\"").skip(1) {
        let (path, rest) = part.split_once('"').unwrap();
        let method =
            if rest.trim_start_matches([',', ' ']).starts_with("get") { "GET" } else { "POST" };
        used.insert(format!("{method} {path}"));
    }
    let webhooks = seawall::events::EventKind::OF_APPS;
    used.extend(webhooks.map(|kind| kind.name().to_owned()));
    let listed: BTreeSet<String> = rows().into_iter().map(|(subject, _)| subject).collect();
    let missing: Vec<_> = used.difference(&listed).collect();
    assert!(missing.is_empty(), "not in the guide: {missing:?}");
}
