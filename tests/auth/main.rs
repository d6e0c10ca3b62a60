//! Tokens, key sets, tickets and the API's keys, from outside: as a library, and as an operator
//! meets them.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
#[path = "../support/mod.rs"]
mod support;

mod admin;
mod command;
mod fetched;
mod key_sets;
mod keys;
mod tickets;
mod tokens;
