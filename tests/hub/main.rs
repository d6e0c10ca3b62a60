//! The hub from outside: clients over real sockets and backends over HTTP, against a server of its
//! own for each test.
//!
//! What belongs here: what is said on the wire, call by call, and what many connections see
//! together. Cuts at any byte, and logs that are late, belong to `tests/simulation`.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
#[path = "../support/mod.rs"]
mod support;

mod api;
mod authentication;
mod bytes;
mod client;
mod closing;
mod commands;
mod document;
mod errors;
mod goodbye;
mod idempotency;
mod identity;
mod order;
mod presence;
mod protocol;
mod recovery;
mod replacement;
mod revocation;
mod rows;
mod slow;
mod tickets;
