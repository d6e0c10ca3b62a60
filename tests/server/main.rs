//! The real binary over real sockets, byte by byte: what a codec of our own sees from outside.
//!
//! One file a subject. What a client library can see as well is in `clients`; figures under abuse
//! are in `abuse`.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
#[path = "../support/mod.rs"]
mod support;

mod acme;
mod admin_links;
mod admin_tls;
mod blocking;
mod commands;
mod compression;
mod counters;
mod drain;
mod listeners;
mod logs;
mod messages;
mod no_http;
mod openssl;
mod operators;
mod pages;
mod peers;
mod refusals;
mod shards;
mod signals;
mod startup;
mod tls;
mod tls_malformed;
mod tls_metrics;
mod tls_reload;
