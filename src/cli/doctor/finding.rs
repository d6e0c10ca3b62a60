//! One thing looked at: its state, why it matters, and the command that mends it.

use serde_json::{Value, json};

/// How bad it is, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// As it should be.
    Good,
    /// Worth knowing; nothing is wrong.
    Note,
    /// The server runs, but less well or with fewer connections.
    Warning,
    /// The server cannot start.
    Failure,
}

impl State {
    pub(super) fn word(self) -> &'static str {
        match self {
            State::Good => "ok",
            State::Note => "note",
            State::Warning => "warning",
            State::Failure => "FAILURE",
        }
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub name: &'static str,
    pub state: State,
    pub found: String,
    pub why: &'static str,
    pub cure: Option<String>,
}

impl Finding {
    /// Something looked at, with its state and cure to be told if it is not as it should be.
    pub(super) fn new(name: &'static str, why: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Good, found: found.into(), why, cure: None }
    }

    /// Sets the state and the cure where the condition holds.
    pub(super) fn unless(mut self, good: bool, state: State, cure: impl Into<String>) -> Self {
        if !good {
            self.state = state;
            self.cure = Some(cure.into());
        }
        self
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "name": self.name,
            "state": self.state.word().to_lowercase(),
            "found": self.found,
            "why": self.why,
            "cure": self.cure,
        })
    }
}

/// A file of the kernel's, without its line end; `None` where there is none.
pub(super) fn kernel_file(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}
