//! The application side of gateway routes: the libraries for Node and Python against a Seawall that
//! the tests script, record by record, and against a real one; the real one against backends that
//! fail; and what the documents of links show.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
#[path = "../support/mod.rs"]
mod support;

mod application;
mod chat;
mod dialing;
mod document;
mod endings;
mod handshake;
mod live;
mod live_chat;
mod live_members;
mod live_outages;
mod live_redeploys;
mod live_scripted;
mod live_services;
mod live_slow;
mod members;
mod messages;
mod moves;
mod peer;
mod questions;
mod record;

/// The longest wait for anything, on a loaded machine too.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_mins(2);
