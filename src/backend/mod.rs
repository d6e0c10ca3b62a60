//! Applications that take part over HTTP: they receive events, and answer questions.
//!
//! `BACKEND.md` is the guide for developers of applications. Shards queue events ([`queue`]) and
//! questions ([`hook_line`]), and never wait. Two tasks on the [outer thread](crate::outer) encode
//! events and send them in signed batches (`events`), and ask the questions (`hooking`).
//!
//! Files: `settings`, `form` (of requests), `signature`, `queue`, `hook_line`, `handshake` (what
//! applications see of one), `client` (HTTP), `events`, `hooking`, `links`, `examine` (`seawall
//! doctor`).

mod client;
pub mod events;
mod examine;
mod form;
mod handshake;
pub mod hook_line;
pub mod hooking;
pub mod links;
pub mod queue;
mod settings;
mod signature;

pub use examine::{UrlReport, examine_backend};
pub use form::RequestForm;
pub use handshake::HandshakeView;
pub use settings::{BackendSettings, HookSettings, LinkSettings, LinkToken, LinkUrl};
pub use signature::Signer;
