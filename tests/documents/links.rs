//! Links: relative ones lead to files that exist, and to headings that they have.

use std::collections::BTreeSet;
use std::path::Path;

use crate::{Document, documents, root};

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(document: &Document) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for line in document.prose().lines() {
        let Some(title) = line.strip_prefix('#').map(|rest| rest.trim_start_matches('#')) else {
            continue;
        };
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let text: String = title.trim().to_lowercase().chars().filter(kept).collect();
        let anchor = text.replace(' ', "-");
        let mut unique = anchor.clone();
        let mut number = 0;
        while !anchors.insert(unique.clone()) {
            number += 1;
            unique = format!("{anchor}-{number}");
        }
    }
    anchors
}

/// Where a document's links lead.
fn targets(document: &Document) -> Vec<String> {
    let prose = document.prose();
    let links = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    links.map(|(target, _)| target.to_owned()).collect()
}

#[test]
fn relative_links_lead_somewhere() {
    let documents = documents();
    let mut count = 0;
    for document in &documents {
        let folder = Path::new(&document.path).parent().unwrap();
        for target in targets(document) {
            if target.contains("://") {
                continue;
            }
            count += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() {
                document.path.clone()
            } else {
                let full = root().join(folder).join(file).canonicalize();
                let full = full.unwrap_or_else(|e| panic!("{}: {target}: {e}", document.path));
                full.strip_prefix(root()).expect("within the repository").display().to_string()
            };
            if !anchor.is_empty() {
                let other = documents.iter().find(|other| other.path == path);
                let other = other.unwrap_or_else(|| panic!("{}: {target}", document.path));
                let has = anchors(other).contains(anchor);
                assert!(has, "{}: {path} has no heading for #{anchor}", document.path);
            }
        }
    }
    assert!(count >= 30, "only {count} links were found");
}

#[test]
fn anchors_are_those_of_github() {
    let text = "# A `code` title\n\n## Two, three\n\n```sh\n# no heading\n```\n\n## Two, three\n";
    let document = Document { path: "a.md".into(), text: text.into() };
    let expected = ["a-code-title", "two-three", "two-three-1"].map(str::to_owned);
    assert_eq!(anchors(&document), BTreeSet::from(expected));
}
