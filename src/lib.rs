//! Seawall.
pub mod proto;
