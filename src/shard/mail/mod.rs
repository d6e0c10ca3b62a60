//! Mail between threads: its types, the mailboxes, and the state that all shards share.
//!
//! It is independent of connections and the driver's engines, so that shards, the control thread
//! and tests can use it.

mod congested;
mod directory;
mod hub_mail;
mod hub_shared;

pub use directory::{Directory, Mail};
pub use hub_mail::{
    Act, Channels, ConnectionInfo, ConnectionTarget, CountReply, Filter, HubMail, Listed,
    LookReply, Reached,
};
pub use hub_shared::{HubShared, MakeLog, Replacement};
