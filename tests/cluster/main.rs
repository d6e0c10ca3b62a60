//! Several nodes over real engines, Redis and Valkey, which the tests start and end themselves.

#[allow(dead_code, unused_imports, reason = "each test program uses its part of it")]
#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "each test program uses its part of it")]
#[path = "../hub/client.rs"]
mod client;

#[allow(dead_code, reason = "each test program uses its part of it")]
#[path = "../gateway/application.rs"]
mod application;

mod balanced;
mod commands;
mod doctor;
mod engine;
mod events;
mod failures;
mod gateway;
mod nodes;
mod notices;
mod presence;
mod roamer;
mod rolling;
mod scripts;
mod start;

/// The longest wait for what an application says.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_mins(2);
