//! Applications that take part over HTTP: they receive events.
//!
//! `BACKEND.md` is the guide for developers of applications. Shards queue events
//! ([`queue`]), and never wait. A task on the [outer thread](crate::outer) encodes
//! events, and sends them in signed batches (`events`).
//!
//! Files: `settings`, `signature`, `queue`, `client` (HTTP), `events`.

mod client;
pub mod events;
pub mod queue;
mod settings;
mod signature;

pub use settings::BackendSettings;
pub use signature::Signer;
