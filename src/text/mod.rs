//! Text from outside: JSON that is passed on verbatim (`content`), JSON read in a single pass
//! (`plain`), strings of JSON (`quoted`), text shown on terminals (`terminal`), and log lines that
//! clients can cause (`repeats`).

pub mod content;
pub mod plain;
pub mod quoted;
pub mod repeats;
pub mod terminal;
