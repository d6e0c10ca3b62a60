//! Mail between threads: what is written, the boxes it waits in, and what all shards share.
//!
//! It knows neither connections nor the driver: shards, the control thread and tests use it alike.

mod congested;
mod directory;
mod hub_mail;
mod hub_shared;

pub use directory::{Directory, Mail};
pub use hub_mail::{
    Act, Channels, ConnectionInfo, ConnectionTarget, CountReply, Filter, HubMail, Listed,
    LookReply, Reached,
};
pub use hub_shared::{HubShared, MakeLog};
