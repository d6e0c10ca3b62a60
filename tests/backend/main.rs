//! Applications that take part: real ones in Python and Node, and ones that misbehave.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
#[path = "../support/mod.rs"]
mod support;

mod application;
mod client;
mod doctor;
mod events;
mod hooks;
mod library;
mod pusher;
