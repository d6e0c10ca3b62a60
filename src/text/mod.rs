//! Text from outside: JSON passed on unparsed (`content`), JSON read in one pass (`plain`), text
//! shown to people (`terminal`), and log lines that clients can cause (`repeats`).

pub mod content;
pub mod plain;
pub mod repeats;
pub mod terminal;
