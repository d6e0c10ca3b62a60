//! Channels of several nodes: order, history and idempotency in an engine outside of the process,
//! which all nodes use (Redis 6.2 or newer, or Valkey).
//!
//! Nodes stay stateless, and never connect to each other. A node keeps its clients, and copies that
//! it can lose: each shard's home runs a [`ClusterLog`], which sends commands to the engine and
//! derives from its replies and publications what the [`Log`](crate::hub::Log) contract promises.
//! A thread of its own ([`redis`]) holds the connections to the engine and never waits for a shard.
//!
//! # Order and loss
//!
//! The engine alone assigns positions, in one atomic script for each publish. Members are served
//! only from the engine's publications, so all nodes see one order. Positions reveal every loss on
//! the way: a hole is read again from history, or reported as a gap.
//!
//! An engine may lose its latest writes, for example when a replica that lacks them is promoted,
//! and then reuse their offsets. Every script therefore carries the engine's *lineage*, an id that
//! changes with each restart and each promotion. A channel whose state was written under another
//! lineage starts a new epoch at its first use, so no client is recovered past messages that it
//! does not have. The price is a new epoch where nothing was lost.
//!
//! # A channel on a node
//!
//! The first member has the channel subscribed at the engine. When the engine has confirmed that,
//! the position is read: whatever is published later arrives by the subscription. If the
//! subscription is lost, members keep the position that they have; once it is back, the messages
//! in between are read, or a gap is reported. Requests that need the engine meanwhile wait for a
//! limited time. After the last member has gone the channel stays subscribed for some time, in case
//! that one returns. The newest messages of a watched channel are kept as its *tail*, from which
//! clients that come back get what they missed.
//!
//! # Members
//!
//! Each node lists its members in the engine, under its *incarnation*: a random number that names
//! one life of the node. The engine publishes a join when the first node lists a member, and a
//! leave when the last one ends that. Nodes do not refresh their entries: a node whose heartbeat
//! stops is *swept*, which ends all that its incarnation lists. A node that was swept by mistake,
//! because it was paused, is not allowed to write under that incarnation any more, so it takes a
//! new one and lists its members again. So it does when the engine has another lineage, because the
//! engine may have lost changes.

mod channel;
mod command;
mod envelope;
mod layout;
mod log;
pub mod model;
pub mod redis;
mod roster;
mod settings;
mod tail;
#[cfg(test)]
mod tests;

pub use command::RosterChange;
pub use command::{Action, AppendKey, EngineCommand, EngineEvent, EnginePort, RawMessage, RawPage};
pub use envelope::Envelope;
pub use layout::{Incarnation, Layout, Place};
pub use log::{ClusterLog, LogLimits};
pub use settings::{ClusterSettings, EngineUrl, OnFailover};
