//! Documents: what the Markdown files of the repository show works, and what they name exists.
//!
//! A fenced block of commands or code is run, unless its first line says `not-run: REASON`; blocks
//! of configuration are read by the program that they are for.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
#[path = "../support/mod.rs"]
mod support;

mod commands;
mod examples;
mod facts;
mod links;

use std::fs;
use std::path::{Path, PathBuf};

/// Languages of blocks, and the tests that check them.
const LANGUAGES: [(&str, &str); 17] = [
    ("sh", "commands.rs runs it"),
    ("js", "examples.rs runs it"),
    ("ts", "examples.rs compiles and runs it"),
    ("html", "examples.rs opens it in a browser"),
    ("python", "examples.rs runs it"),
    ("go", "examples.rs runs it"),
    ("php", "examples.rs runs it"),
    ("py", "tests/backend/application.rs or tests/gateway runs it"),
    ("mjs", "tests/backend/application.rs or tests/gateway runs it"),
    ("toml", "facts.rs validates it"),
    ("yaml", "facts.rs has promtool check it"),
    ("ini", "facts.rs has systemd check it"),
    ("nginx", "tests/clients/proxy.rs runs it"),
    ("haproxy", "tests/cluster/balanced.rs checks it"),
    ("json", "an answer or a frame"),
    ("http", "a request"),
    ("text", "an output or a sketch"),
];

pub(crate) struct Document {
    /// Its path in the repository.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A fenced block.
pub(crate) struct Block {
    /// Its document and line.
    pub(crate) place: String,
    pub(crate) language: String,
    /// Why it is not run, where that is said.
    pub(crate) not_run: Option<String>,
    pub(crate) text: String,
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder of this process that is empty.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let name = format!("documents-{}-{name}", std::process::id());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    // It may be there from another process with this id.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Every Markdown file, but for what is built or installed.
pub(crate) fn documents() -> Vec<Document> {
    let mut found = Vec::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if !matches!(name, "target" | "node_modules" | ".cache" | ".git") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push(Document { path, text });
            }
        }
    }
    found.sort_by(|one, two| one.path.cmp(&two.path));
    found
}

impl Document {
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks: Vec<Block> = Vec::new();
        let mut open = false;
        for (number, line) in self.text.lines().enumerate() {
            let Some(info) = line.trim_start().strip_prefix("```") else {
                if let (true, Some(block)) = (open, blocks.last_mut()) {
                    block.text.push_str(line);
                    block.text.push('\n');
                }
                continue;
            };
            open = !open;
            if open {
                let (language, rest) = info.split_once(' ').unwrap_or((info, ""));
                blocks.push(Block {
                    place: format!("{}:{}", self.path, number + 1),
                    language: language.to_owned(),
                    not_run: rest.strip_prefix("not-run:").map(|reason| reason.trim().to_owned()),
                    text: String::new(),
                });
            }
        }
        assert!(!open, "{}: a block does not end", self.path);
        blocks
    }

    /// The text without its fenced blocks.
    pub(crate) fn prose(&self) -> String {
        let parts = self.text.split("\n```").enumerate();
        let parts = parts.filter(|(number, _)| number % 2 == 0);
        // What follows the closing fence on its line belongs to none.
        parts.map(|(_, part)| part).collect::<Vec<_>>().join("\n")
    }
}

pub(crate) fn all_blocks() -> Vec<Block> {
    documents().iter().flat_map(Document::blocks).collect()
}

/// A block is run, checked by a test, or marked with a reason; commands are in fenced blocks.
#[test]
fn every_block_has_a_language_that_a_test_knows() {
    let languages = LANGUAGES.map(|(language, _)| language);
    for block in all_blocks() {
        let Block { place, language, not_run, text } = &block;
        assert!(
            languages.contains(&language.as_str()) || language == "mermaid",
            "{place}: no test checks blocks of `{language}`"
        );
        assert!(!text.trim().is_empty(), "{place}: an empty block");
        if let Some(reason) = not_run {
            assert!(reason.split(' ').count() >= 3, "{place}: not-run needs its reason");
        }
        if matches!(language.as_str(), "text" | "json" | "http") {
            let commands = ["seawall ", "scripts/", "cargo ", "curl ", "$ ", "npm ", "apt"];
            let line = text.lines().find(|line| commands.iter().any(|c| line.starts_with(c)));
            assert_eq!(line, None, "{place}: commands belong into a block of `sh`");
        }
    }
    for document in documents() {
        let prose = document.prose();
        let indented = prose.lines().find(|line| {
            let code = line.strip_prefix("    ").unwrap_or_default();
            ["seawall", "scripts/", "cargo ", "curl ", "$ "].iter().any(|c| code.starts_with(c))
        });
        assert_eq!(indented, None, "{}: a command outside of a fenced block", document.path);
    }
}

/// What a newcomer sees first is short, and the only document at the top.
#[test]
fn the_readme_is_short() {
    let documents = documents();
    let top: Vec<_> = documents.iter().filter(|document| !document.path.contains('/')).collect();
    assert_eq!(top.len(), 1, "README.md is the only document at the top");
    let readme = &top[0].text;
    assert!(readme.len() <= 8 * 1024, "README.md has {} bytes, more than 8 KiB", readme.len());
    let first = readme.lines().position(|line| line.starts_with("## "));
    assert!(first.is_some_and(|line| line <= 60), "the first screen has 60 lines");
}
