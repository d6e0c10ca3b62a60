//! Links to applications: their table, and the tasks that keep them.
//!
//! Files: `table` (what shards and tasks share), `flow` (which links there are), `targets` (which
//! addresses they go to), `slot` (keeps one), `dial`, `accepted` (the application dials),
//! `task`, `inbound` and `outbound` (its messages), `questions`, `commands`, `stream` (its
//! socket), `ending` (why it ended), `numbers`, `examine` (`seawall doctor`).

mod accepted;
mod commands;
mod dial;
mod ending;
mod examine;
mod flow;
mod inbound;
mod numbers;
mod outbound;
mod questions;
mod slot;
mod stream;
mod table;
mod targets;
mod task;
#[cfg(test)]
mod tests;

pub use accepted::AcceptedSocket;
pub(crate) use commands::LinkCommand;
pub use examine::{LinkReport, examine_links};
pub use flow::LinkFlow;
pub use table::{BackendLink, Choice, LinkFacts, LinkMail, LinkPosts, LinkTable, hash_text};
