//! TLS: handshakes, and a record layer whose connections cost next to nothing while idle.
//!
//! rustls speaks the handshake. When it is over, it gives its secrets away and is dropped: what
//! stays of a connection is a [`Session`] of 232 bytes, plain data without buffers. No sockets and
//! no clock: bytes in, bytes out.
//!
//! How much is our own, and why. An idle connection may cost 512 bytes with its slot. One of
//! rustls' unbuffered connections alone takes 3.7 KB, so its record layer cannot stay. Tried next,
//! rustls' ciphers, made again from the secrets whenever a connection talks: they cannot be had for
//! this. Its encrypters of AES-GCM hold a key that counts nonces from the first that it is given,
//! so that one made in the middle of a connection refuses most of those that follow (a test shows
//! it); and a key for AES-128 can be made of bytes only inside rustls. So records go through
//! [`aws_lc_rs::aead`], the same cipher one layer below. Nonces, the data authenticated beside the
//! content, and the removal of padding are still functions of rustls, and later keys follow from
//! its HKDF.
//!
//! - No nonce is used twice: sealing uses up a `RecordNumber`, which is neither `Clone` nor `Copy`
//!   and comes from the one counter of its key. A sealed record is sent, or the connection ends.
//! - Before a key of AES-GCM has sealed 2^24 records, it is changed (TLS 1.3) or the connection is
//!   to be closed (1.2).
//! - There is no early data, no compression, no renegotiation.
//! - Secrets are cleared when they are dropped, and no text shows them.

pub mod certificates;
pub mod challenges;
pub mod development;
mod failure;
pub mod fuzz;
pub mod handshake;
mod key_log;
pub mod keys;
mod record;
mod secrets;
pub mod session;
pub mod settings;
mod suite;
pub mod tickets;

pub use failure::HandshakeFailure;
pub use handshake::{HandshakeError, HandshakeFacts, TlsHandshake};
pub use keys::KeyCache;
pub use record::CONTENT_BYTES_MAX;
/// Why a connection ends, as TLS names it.
pub use rustls::AlertDescription as Alert;
pub use session::{Opened, Record, Session};
pub use settings::ListenerTls;
pub use suite::Version;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
