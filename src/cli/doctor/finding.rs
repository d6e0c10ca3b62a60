//! A finding: what was examined, its state, why it matters, and the remedy.

use serde_json::{Value, json};

/// Severity, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// As recommended.
    Good,
    /// Good to know; not a problem.
    Note,
    /// The server runs, but slower or with fewer connections.
    Warning,
    /// The server cannot start, or cannot keep what it promises.
    Failure,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            State::Good => "ok",
            State::Note => "note",
            State::Warning => "warning",
            State::Failure => "FAILURE",
        }
    }
}

/// The result of one examination.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub name: &'static str,
    pub state: State,
    pub found: String,
    pub why: &'static str,
    pub remedy: Option<String>,
}

impl Finding {
    /// A good finding; [`Self::unless`] may change its state.
    pub(super) fn new(name: &'static str, why: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Good, found: found.into(), why, remedy: None }
    }

    /// Sets the state and the remedy unless the condition holds.
    pub(super) fn unless(mut self, good: bool, state: State, remedy: impl Into<String>) -> Self {
        if !good {
            self.state = state;
            self.remedy = Some(remedy.into());
        }
        self
    }

    /// Formats it as JSON, where the remedy is named `cure`.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "state": self.state.name().to_lowercase(),
            "found": self.found,
            "why": self.why,
            "cure": self.remedy,
        })
    }
}

/// Reads a file of `/proc` or `/sys` without its line end; `None` if it does not exist.
pub(super) fn read_kernel_file(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
