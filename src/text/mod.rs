//! Text from outside: JSON passed on unparsed (`content`), text shown to people (`terminal`), and
//! log lines that clients can cause (`repeats`).

pub mod content;
pub mod repeats;
pub mod terminal;
