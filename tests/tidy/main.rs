//! The rules of the house that a compiler does not check.

mod imports;
mod names;
mod scripts;
mod words;

use std::fs;
use std::path::{Path, PathBuf};

/// Files that may be longer than [`FILE_LINES_MAX`], each pinned to its size: it may only shrink.
const LONG_FILES: [(&str, usize); 0] = [];
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 100;

fn rust_files(under: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(under)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if !matches!(name, "target" | "node_modules" | "corpus" | "artifacts") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root).unwrap().to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty(), "{under} has Rust files");
    found
}

fn all_files() -> Vec<(PathBuf, String)> {
    ["src", "tests", "bench"].iter().flat_map(|under| rust_files(under)).collect()
}

/// The room of `src/` that a file belongs to.
fn room_of(path: &Path) -> &str {
    path.iter().nth(1).unwrap().to_str().unwrap().trim_end_matches(".rs")
}

/// Code without comments and without the tests at its end.
fn code_of(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//")).fold(
        String::new(),
        |mut code, line| {
            code.push_str(line);
            code.push('\n');
            code
        },
    )
}

#[test]
fn the_protocol_knows_no_sockets_and_no_clock() {
    for (path, text) in rust_files("src/proto") {
        for word in ["TcpStream", "TcpListener", "Instant::now", "SystemTime", "std::thread"] {
            assert!(!text.contains(word), "{} uses {word}", path.display());
        }
    }
}

#[test]
fn unsafe_stays_in_its_room() {
    let fenced = ["src/driver/", "src/proto/ws/deflate/zlib.rs"];
    for (path, text) in rust_files("src") {
        let name = path.to_str().unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        if !fenced.iter().any(|fence| name.starts_with(fence)) {
            let found = code.into_iter().find(|line| line.contains("unsafe "));
            assert_eq!(found, None, "{name} is not where unsafe lives");
        }
    }
}

#[test]
fn files_have_a_head_and_a_bounded_size() {
    for (path, text) in all_files() {
        let name = path.to_str().unwrap();
        assert!(text.starts_with("//!"), "{name} begins without saying its idea");
        let lines = text.lines().count();
        let pinned = LONG_FILES.iter().find(|(file, _)| *file == name);
        let most = pinned.map_or(FILE_LINES_MAX, |(_, lines)| *lines);
        assert!(lines <= most, "{name} has {lines} lines, more than {most}");
        for (number, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            assert!(columns <= COLUMNS_MAX, "{name}:{}: {columns} columns", number + 1);
            for word in [concat!("FIX", "ME"), concat!("XX", "X"), concat!("todo", "!(")] {
                assert!(!line.contains(word), "{name}:{}: {word}", number + 1);
            }
        }
    }
}

#[test]
fn functions_fit_on_a_page() {
    for (path, text) in all_files() {
        let lines: Vec<&str> = text.lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let code = line.trim_start();
            let indent = line.len() - code.len();
            let is_function = code.starts_with("fn ")
                || (code.starts_with("pub")
                    || code.starts_with("async")
                    || code.starts_with("const")
                    || code.starts_with("unsafe"))
                    && code.contains(" fn ");
            if !is_function {
                continue;
            }
            // A declaration in a trait has no body.
            if lines[start..]
                .iter()
                .find(|line| line.ends_with(['{', ';']))
                .is_some_and(|line| line.ends_with(';'))
            {
                continue;
            }
            let close = format!("{}}}", " ".repeat(indent));
            let end = lines[start..].iter().position(|line| *line == close).unwrap_or(0);
            assert!(
                end < FUNCTION_LINES_MAX,
                "{}:{}: a function of {} lines",
                path.display(),
                start + 1,
                end + 1
            );
        }
    }
}

#[test]
fn every_dependency_has_a_line_of_reason() {
    for manifest in ["Cargo.toml", "bench/Cargo.toml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(manifest);
        let text = fs::read_to_string(path).unwrap();
        let mut in_dependencies = false;
        let mut reason = false;
        for line in text.lines() {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies");
            } else if in_dependencies && !line.is_empty() {
                let comment = line.starts_with('#');
                // A group may share its reason: a line directly below another dependency.
                assert!(comment || reason, "{manifest}: `{line}` has no reason above it");
                reason = true;
            } else {
                reason = false;
            }
        }
    }
}

#[test]
fn files_that_comments_name_exist() {
    let files = all_files();
    let paths: Vec<&str> = files.iter().map(|(path, _)| path.to_str().unwrap()).collect();
    for (path, text) in files.iter().filter(|(path, _)| path.starts_with("src")) {
        for (at, _) in text.match_indices(".rs`") {
            let start = text[..at].rfind('`').unwrap() + 1;
            let name = &text[start..at + ".rs".len()];
            let exists = paths.iter().any(|one| Path::new(one).ends_with(name));
            assert!(exists, "{} names {name}, which does not exist", path.display());
        }
    }
}
