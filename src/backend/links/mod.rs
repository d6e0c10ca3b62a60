//! Links to applications: their table, and the tasks that keep them.

mod table;

pub use table::{Choice, Link, LinkFacts, LinkMail, LinkPosts, LinkTable, hash_text};
