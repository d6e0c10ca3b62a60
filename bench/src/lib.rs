//! `seawall-bench`: load on a WebSocket server that can be trusted, and the bare echoes as limits.
//!
//! Modules in the order bytes take: `target` makes sockets, `ring` and `buffers` move bytes,
//! `upgrade`, `wire` and `sheet` know the protocol, `client` is one connection, `fleet` is a
//! thread's connections, `echo`, `connect` and `hold` decide what they do, `crew` are the threads,
//! `run` measures them with `cpu` and prints a `report`. Nothing here shares code with the server:
//! a fault of its codec must not be hidden by the same fault on this side.

pub mod bare;
pub mod buffers;
pub mod cli;
pub mod client;
pub mod connect;
pub mod cpu;
pub mod crew;
pub mod echo;
pub mod fleet;
pub mod hold;
pub mod report;
pub mod ring;
pub mod run;
pub mod schedule;
pub mod sheet;
pub mod sys;
pub mod target;
pub mod upgrade;
pub mod wire;
