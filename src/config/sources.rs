//! Records where each option was set.

use std::collections::BTreeMap;
use std::fmt;

use super::file::table::{Row, Section};

/// The place where an option was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    File { name: String, line: usize },
    Variable(String),
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File { name, line } => write!(f, "{name}: line {line}"),
            Source::Variable(name) => write!(f, "environment: {name}"),
            Source::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// The places where options were set; an option without one has its default.
#[derive(Clone, Debug, Default)]
pub struct Sources(BTreeMap<String, Source>);

impl Sources {
    pub(super) fn note(
        &mut self,
        section: &Section,
        row: &Row,
        index: Option<usize>,
        source: Source,
    ) {
        let key = match index {
            Some(index) => format!("{}.{index}.{}", section.name, row.key),
            None => section.path(row),
        };
        self.0.insert(key, source);
    }

    /// Returns the source of an option such as `limits.headers_max` or `listener.0.address`.
    pub fn of(&self, key: &str) -> Option<&Source> {
        self.0.get(key)
    }

    /// Iterates over all options that are set, in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.0.iter().map(|(key, source)| (key.as_str(), source))
    }
}
