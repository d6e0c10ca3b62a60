//! Names: what is public is used, and a type's name means one thing.

use std::collections::{BTreeMap, BTreeSet};

use crate::{all_files, code_of, rust_files};

const KINDS: [&str; 7] = ["fn", "struct", "enum", "trait", "type", "const", "static"];

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The kind and name that a line defines, and whether other modules may use it.
fn definition(line: &str) -> Option<(&str, &str, bool)> {
    let code = line.trim_start();
    let is_public = code.starts_with("pub");
    let code = match code.strip_prefix("pub(") {
        Some(rest) => rest.split_once(") ")?.1,
        None => code.strip_prefix("pub ").unwrap_or(code),
    };
    let mut found = code.split(' ').skip_while(|word| matches!(*word, "unsafe" | "async"));
    let mut kind = found.next()?;
    let mut rest = found.next()?;
    if kind == "const" && rest == "fn" {
        (kind, rest) = (rest, found.next()?);
    }
    let name = words(rest).next()?;
    KINDS.contains(&kind).then_some((kind, name, is_public))
}

/// The compiler does not see it: rooms are public for the tests.
#[test]
fn what_is_public_is_used() {
    let mut count: BTreeMap<String, u32> = BTreeMap::new();
    for (_, text) in all_files() {
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for word in code.flat_map(words) {
            *count.entry(word.to_owned()).or_default() += 1;
        }
    }
    for (path, text) in rust_files("src") {
        for (kind, name, is_public) in text.lines().filter_map(definition) {
            let is_used = !is_public || count[name] > 1;
            assert!(is_used, "{}: `{kind} {name}` is used nowhere", path.display());
        }
    }
}

#[test]
fn a_type_name_means_one_thing_where_it_is_imported() {
    let mut defined: BTreeMap<String, u32> = BTreeMap::new();
    let mut imported: BTreeSet<String> = BTreeSet::new();
    for (_, text) in rust_files("src") {
        let code = code_of(&text);
        for (kind, name, is_public) in code.lines().filter_map(definition) {
            if is_public && matches!(kind, "struct" | "enum" | "trait" | "type") {
                *defined.entry(name.to_owned()).or_default() += 1;
            }
        }
        for statement in code.split(';').filter_map(|text| text.split_once("use crate::")) {
            imported.extend(words(statement.1).map(str::to_owned));
        }
    }
    let homonyms: Vec<&str> = defined
        .iter()
        .filter(|(name, count)| **count > 1 && imported.contains(*name))
        .map(|(name, _)| name.as_str())
        .collect();
    assert!(homonyms.is_empty(), "names of several types that are imported: {homonyms:?}");
}

/// Types whose state has one owner: their fields are seen by their own module only.
const OWNERS: [(&str, &str); 5] = [
    ("src/shard/connections/mod.rs", "Connections"),
    ("src/shard/connections/slot.rs", "Slot"),
    ("src/shard/connections/receiving.rs", "Receiving"),
    ("src/shard/connections/outbox/mod.rs", "Outbox"),
    ("src/shard/hub/mod.rs", "Hub"),
];

#[test]
fn owners_keep_their_fields_private() {
    for (path, name) in OWNERS {
        let (_, text) = rust_files("src").into_iter().find(|(one, _)| one.ends_with(path)).unwrap();
        let (_, body) = text.split_once(&format!("struct {name} {{\n")).unwrap();
        let (fields, _) = body.split_once("\n}\n").unwrap();
        let code = code_of(fields);
        assert!(code.lines().count() > 2, "{name} has fields");
        for line in code.lines() {
            assert!(!line.trim_start().starts_with("pub"), "{path}: {name} shows {line}");
        }
    }
}
