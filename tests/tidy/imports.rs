//! Imports: between rooms they are those that the architecture text lists, and within a room they
//! form no circle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::{code_of, room_of, rust_files};

/// The rooms that each room uses, as the architecture text lists them.
fn listed_uses() -> BTreeMap<String, BTreeSet<String>> {
    let (_, text) =
        rust_files("src").into_iter().find(|(path, _)| path.ends_with("lib.rs")).unwrap();
    let (_, list) = text.split_once("//! What each room uses of the others:").unwrap();
    let list = list.replace("\n//!   ", " ");
    let items = list.lines().filter_map(|line| line.strip_prefix("//! - "));
    items
        .map(|item| {
            let (room, used) = item.split_once(": ").unwrap();
            let names = used.split(", ").filter(|used| *used != "nothing");
            let used = names.map(|name| name.trim_matches('`').to_owned()).collect();
            (room.trim_matches('`').to_owned(), used)
        })
        .collect()
}

/// The words that a text names behind `crate::`.
fn words_of_crate(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("crate::").map(|(at, name)| {
        let rest = &text[at + name.len()..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        &rest[..end.unwrap_or(rest.len())]
    })
}

#[test]
fn rooms_use_exactly_what_the_architecture_text_lists() {
    let listed = listed_uses();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in rust_files("src") {
        let room = room_of(&path);
        if matches!(room, "lib" | "main") {
            continue;
        }
        let allowed = listed.get(room).unwrap_or_else(|| panic!("{room} is not in the list"));
        let of_room = found.entry(room.to_owned()).or_default();
        for used in words_of_crate(&text).filter(|used| listed.contains_key(*used)) {
            let is_allowed = used == room || allowed.contains(used);
            assert!(is_allowed, "{}: {room} must not use {used}", path.display());
            of_room.extend((used != room).then(|| used.to_owned()));
        }
    }
    assert_eq!(found, listed, "what rooms use, and what the text lists");
    // The missing edge between the two is the architecture.
    assert!(listed["driver"].is_empty() && listed["proto"].is_empty());
}

/// A file's module path below `src/`: `shard::mail::directory`.
fn module_of(path: &Path) -> String {
    let parts: Vec<&str> = path.iter().skip(1).map(|part| part.to_str().unwrap()).collect();
    parts.join("::").trim_end_matches(".rs").trim_end_matches("::mod").to_owned()
}

/// The module this many levels above another.
fn module_above(module: &str, levels: usize) -> Option<String> {
    let parts: Vec<&str> = module.split("::").collect();
    (parts.len() > levels).then(|| parts[..parts.len() - levels].join("::"))
}

/// The paths that begin a text: one, or those of a group in braces.
fn paths_at(text: &str) -> Vec<&str> {
    let Some(group) = text.strip_prefix('{') else {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
        return vec![&text[..end.unwrap_or(text.len())]];
    };
    let (mut depth, mut start, mut paths) = (1, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (c == ',' && depth == 1) {
            paths.extend(paths_at(group[start..at].trim_start()));
            start = at + 1;
        }
        if depth == 0 {
            break;
        }
    }
    paths
}

/// The modules of a room that a module of it uses. Modules above and below it are not counted:
/// types of one tree may know each other.
fn used_modules(module: &str, text: &str, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let code = code_of(text);
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("super::").chain(code.match_indices("crate::")) {
        if code[..at].ends_with("super::") {
            continue;
        }
        let mut rest = &code[at..];
        let mut levels = 0;
        while let Some(shorter) = rest.strip_prefix("super::") {
            (rest, levels) = (shorter, levels + 1);
        }
        let base = match rest.strip_prefix("crate::") {
            Some(shorter) => {
                rest = shorter;
                Some(String::new())
            }
            None => module_above(module, levels),
        };
        for path in paths_at(rest) {
            let full = format!("{}::{path}", base.as_deref().unwrap_or_default());
            let mut full = full.trim_start_matches("::");
            while !modules.contains(full) {
                let Some((shorter, _)) = full.rsplit_once("::") else { break };
                full = shorter;
            }
            used.extend(modules.contains(full).then(|| full.to_owned()));
        }
    }
    used.retain(|other| !is_within(module, other) && !is_within(other, module));
    used
}

fn is_within(module: &str, tree: &str) -> bool {
    module == tree || module.strip_prefix(tree).is_some_and(|rest| rest.starts_with("::"))
}

/// Everything that can be reached from a module.
fn reached(from: &str, graph: &BTreeMap<String, BTreeSet<String>>) -> BTreeSet<String> {
    let (mut found, mut waiting) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(module) = waiting.pop() {
        for next in graph.get(&module).into_iter().flatten() {
            if found.insert(next.clone()) {
                waiting.push(next.clone());
            }
        }
    }
    found
}

#[test]
fn no_imports_within_a_room_form_a_circle() {
    let files = rust_files("src");
    for room in listed_uses().keys() {
        let of_room = || files.iter().filter(|(path, _)| room_of(path) == room);
        let modules: BTreeSet<String> = of_room().map(|(path, _)| module_of(path)).collect();
        let used = |path: &Path, text: &str| used_modules(&module_of(path), text, &modules);
        let graph: BTreeMap<String, BTreeSet<String>> =
            of_room().map(|(path, text)| (module_of(path), used(path, text))).collect();
        let circle: Vec<&str> = graph
            .keys()
            .filter(|module| reached(module, &graph).contains(*module))
            .map(String::as_str)
            .collect();
        assert!(circle.is_empty(), "modules of {room} in a circle of imports: {circle:?}");
    }
}

#[test]
fn paths_of_a_group_are_all_seen() {
    let paths = paths_at("{a::{B, C}, d, e::F};");
    assert_eq!(paths, ["a::", "d", "e::F"]);
    assert_eq!(paths_at("a::b(x)"), ["a::b"]);
}
