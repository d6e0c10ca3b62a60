//! Text from outside: JSON that is passed on unread (`content`), and text that is shown to people
//! (`terminal`).

pub mod content;
pub mod terminal;
