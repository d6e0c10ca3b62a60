//! Words: those that hide what happens give way to the field's own.

use crate::rust_files;

/// Words of `src/`, and how often each may stand there: the counts may only fall. Behind each, what
/// to write instead.
const COUNTS: [(&[&str], usize, &str); 13] = [
    (&["tell", "tells", "told"], 0, "serialize, log, report, send, or what happens"),
    (&["whoever", "somebody", "nobody"], 2, "the thing in the program: the caller, the client"),
    (&["who is", "who has", "who was"], 0, "the client, the connection"),
    (&["what is left", "what was left"], 0, "the rest, the remaining"),
    (&["go on", "goes on", "went on"], 0, "continue, resume"),
    (&["stands", "stand", "stood"], 0, "is, lies, is queued"),
    (&["condemned", "condemn"], 0, "evict, close"),
    (&["crowded", "crowds", "crowd"], 0, "congested"),
    (&["chore", "chores", "upkeep"], 1, "deferred work"),
    (&["cure", "cures"], 2, "remedy"),
    (&["anew"], 0, "again"),
    (&["amid"], 0, "in the middle of, during"),
    (&["mend", "mended"], 0, "fix, correct"),
];

#[test]
fn words_that_hide_what_happens_become_fewer() {
    let mut text = String::new();
    for (_, file) in rust_files("src") {
        // Comments, and prose in strings: a line break may stand for a space.
        for line in file.lines() {
            let line = line.trim_start().trim_start_matches("//!").trim_start_matches("///");
            text.push_str(line.trim_start_matches("//").trim());
            text.push(' ');
        }
    }
    let text = text.to_lowercase();
    let words: Vec<&str> =
        text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    for (phrases, most, instead) in COUNTS {
        let count: usize = phrases
            .iter()
            .map(|phrase| {
                let phrase: Vec<&str> = phrase.split(' ').collect();
                words.windows(phrase.len()).filter(|found| **found == phrase[..]).count()
            })
            .sum();
        assert!(count <= most, "{phrases:?} stands {count} times, not {most}: write {instead}");
        assert!(
            count == most,
            "{phrases:?} stands only {count} times: lower its count in this file"
        );
    }
}
