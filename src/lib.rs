//! Seawall.
pub mod cli;
pub mod config;
mod control;
pub mod driver;
pub mod metrics;
pub mod proto;
pub mod server;
pub mod session;
pub mod shard;
