//! Text from outside: JSON that is passed on unread (`content`), text that is shown to people
//! (`terminal`), and lines of the log that anybody outside can cause (`repeats`).

pub mod content;
pub mod repeats;
pub mod terminal;
