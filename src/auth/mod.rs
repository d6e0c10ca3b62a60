//! Authentication and authorization of clients.
//!
//! A token proves an [`Identity`]: a user, public info about it, and rights to channels. The
//! operator's [`Namespaces`] define what a channel requires. [`decide`] combines the two; it is the
//! only place where a client's verb is allowed or rejected.
//!
//! A returning client sends a [`Ticket`] instead of a token: its identity, sealed by a [`Sealer`].
//!
//! Nothing here uses sockets, configuration files or the clock, except the [`Fetcher`], which
//! fetches keys from a URL: the time is an argument, in seconds since 1970.

mod api_keys;
mod claims;
mod error;
mod examine;
mod fetch;
mod identity;
mod jwks;
mod keys;
mod name;
mod namespaces;
mod pattern;
mod policy;
mod pusher_app;
mod pusher_apps;
mod seal;
mod ticket;
mod verifier;
mod wanted;

pub use api_keys::ApiKeys;
pub use claims::{BackendClaims, Expected, INFO_BYTES_MAX, TOKEN_BYTES_MAX, USER_BYTES_MAX};
pub use error::AuthError;
pub use examine::Examination;
pub use fetch::{Fetcher, JwksSource};
pub use identity::{ChannelGrant, Identity, Right, Rights};
pub use jwks::Jwks;
pub use keys::{Fingerprint, Key, KeyAlgorithm, SigningKey};
pub use name::{CHANNEL_BYTES_MAX, check_channel};
pub use namespaces::{Access, Namespace, Namespaces, OnFailure, SlowReader};
pub use pattern::Pattern;
pub use policy::{Permission, PolicyRefusal, RefusalKind, decide};
#[cfg(test)]
pub(crate) use pusher_app::tests as tests_of_apps;
pub use pusher_app::{APP_ID_BYTES_MAX, AppOptions, CACHED_CHANNELS, EVENT_BATCH_MAX, PusherApp};
pub use pusher_apps::PusherApps;
pub use seal::{SEAL_KEY_BYTES, SealError, Sealer, random_seal_key};
pub use ticket::{Grant, Subject, Ticket};
pub use verifier::{KeyStanding, Verifier};
