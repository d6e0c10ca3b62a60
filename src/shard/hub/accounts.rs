//! The hub's memory, counted for metrics and `/v1/memory`, and the list of everything that grows.
//!
//! Every table of the server has a bound, is counted, and removes expired entries even if nothing
//! else happens. Below: each table, its bound and the effect of reaching it, its class in
//! `/v1/memory`, and what removes entries. All of it is part of the process's memory, which is
//! compared with `limits.memory_bytes_max`.
//!
//! - **Slots, sessions, timers** of a shard: `limits.connections_per_shard_max`, else 503. Classes
//!   `connections` and `sessions`. Timeouts of connections.
//! - **Channels** at their home ([`crate::hub::Home`]): `hub.channels_max`; above it, the unused
//!   channel that expires first is evicted; if all are used, the request fails with `limit`. Class
//!   `channels`. By deadline, `hub.channel_ttl_s` after the last use.
//! - **Messages kept** ([`crate::hub::MemoryLog`]): `channel.history` and `hub.history_bytes_max`,
//!   oldest first. Class `history`. By deadline and at each read, `channel.history_ttl_s`.
//! - **Channels that stay subscribed without members**, in a cluster: 65,536 of the process; the
//!   earliest subscription ends. Class `channels`. By deadline, `cluster.interest_linger_ms`.
//! - **Channels that wait to report a new epoch**, in a cluster: channels. Class `channels`. At
//!   `cluster.epoch_gaps_per_s`.
//! - **Presence**: members of the channel. Class `presence`. With its member.
//! - **Seats** of channels with `members_max`: members. Class `channels`. With its member.
//! - **Members** of a shard's channels, and indexes of sessions with many subscriptions:
//!   `hub.channels_per_connection_max`, else `limit`. Classes `subscriptions` and `channels`. With
//!   the connection.
//! - **Idempotency keys**: `hub.idempotency_keys_max`; evicts the oldest of the owner with most.
//!   Class `idempotency_keys`. By deadline, `hub.idempotency_ttl_s`.
//! - **Requests pending at a home**: `hub.pending_requests_max` for each connection, then reading
//!   pauses; calls of the API: `engine.mailbox_bytes_max`, else 503. Class `mailboxes`.
//! - **Mail and unfinished fan-outs**: at `engine.mailbox_bytes_max` reading from publishers
//!   pauses, at twice that publications are dropped with a gap. Class `mailboxes`.
//! - **Gaps to be reported** (`lagging`): channels of the home, until their shard has caught up.
//! - **Outboxes and backlogs**: `limits.outbox_bytes_max`, `limits.outbox_shard_bytes_max`. Class
//!   `outboxes`. Sent, or closed with 4413.
//! - **Unfinished requests and messages**, and input received before an upgrade is decided:
//!   `limits.partial_shard_bytes_max`, else close 1013, or 503 before the upgrade. Class
//!   `unfinished_messages`. Timeouts of connections.
//! - **Upgrades that are being decided**: `limits.handshakes_per_shard_max`, else 503. By deadline,
//!   `timeouts.handshake_timeout_ms`.
//! - **Sessions of a user** (`users`): connections. Class `sessions`. With the connection.
//! - **Paused connections** (`throttled`, `congested`): connections, some words each. With the
//!   connection, at the latest a second later.
//! - **Actions on all connections, lists of channels, subscriptions by backends**: calls in
//!   progress at the admin address.
//! - **Connections on their way to another shard**: no handover to a full mailbox. They arrive, or
//!   fail.
//! - **Counts and rates** by address, user and route ([`crate::admission`]): tables of fixed size
//!   whose entries are used again.
//! - **Revoked tickets and grants**: three tables of 65,536 entries, about 200 bytes each; evicts
//!   the oldest. Class `revocations`. With the next revocation after the revoked ticket or grant
//!   has expired.
//! - **Fetched keys of tokens**: 256 KiB of JSON. Replaced by the next fetch.
//! - **Connections to the admin address**: 264, or a quarter of the open files; the one without a
//!   request for longest is closed. 64 KiB of a head each. 10 s for a head, 75 s idle.
//! - **Bodies of calls**: 16 MiB each; long ones 128 MiB together, then they wait. 60 s.
//! - **Lines of the log**: 1 MiB, then dropped and counted.
//! - **Events for applications**: in the queue of each shard ([`crate::backend::queue`]) 65,536 and
//!   16 MiB; on their way ([`crate::backend::events`]) `backend.events_bytes_max` for each
//!   application. Beyond that they are dropped and counted by kind. Class `events`. Until the
//!   application accepts them, for `backend.retry_for_s` at most.
//! - **Messages that an application has not acknowledged** (`shard/gateway`):
//!   `backend.unacked_messages_max` and `backend.unacked_bytes_max` for each client, then it is not
//!   read from. Class `links`. With the acknowledgement, or with the client's session.
//! - **The same of closed connections**: 64 MiB of each shard, then they are dropped and counted.
//!   Class `sessions`. By deadline, 5 minutes; without a link, `backend.hold_ms`.
//! - **Records for links**: `backend.link_queue_bytes_max`, then clients are not read from and new
//!   ones get 503; at four times that and 64 MiB the link ends. Class `links`. Sent.
//! - **Records of links**: 64 MiB of the process, then links are not read from. Class `links`.
//! - **Commands of applications**: 16 MiB, then they are rejected.
//! - **Messages that a `sent` is wanted for**: outboxes. With the outbox, or a move.
//! - **Questions to applications**: on the way to the outer thread ([`crate::backend::hook_line`])
//!   65,536 and 64 MiB; at each application's desk ([`crate::hooks`]) 262,144, of which
//!   `backend.hook_waiting_max` distinct ones, and 64 MiB, may wait beyond the
//!   `backend.hook_concurrency_max` that were sent; past any of these, they fail at once. Each ends
//!   with `backend.hook_timeout_ms`. Cached answers: 100,000 and 64 MiB for each application, for
//!   `backend.hook_cache_max_s` at most. Class `hooks`.

use super::{Hub, SUBSCRIPTION_BYTES};
use crate::hub::Local;
use crate::metrics::{Counters, Gauges};
use crate::shard::connections::Connections;

impl Hub {
    /// Returns the memory of sessions and of the lists of users' connections (bytes).
    fn session_bytes(&self) -> u64 {
        let users = self.users.capacity() * size_of::<(std::sync::Arc<str>, Vec<u32>)>();
        (self.sessions.bytes() + users) as u64
    }

    /// Returns the memory of the tables of channels that have members here (bytes).
    fn channel_table_bytes(&self) -> u64 {
        (self.members.len() * (size_of::<Local>() + 2 * size_of::<u64>())) as u64
    }

    /// Writes the home's counts into the counters of a reading.
    pub(in crate::shard) fn fill_counters(&self, counters: &mut Counters) {
        let stats = self.home.stats();
        counters.publishes = stats.publishes;
        counters.publish_duplicates = stats.duplicates;
        counters.idempotency_keys_evicted = stats.keys_evicted;
        counters.recoveries = stats.recovered;
        counters.recoveries_failed = stats.not_recovered;
        counters.cluster_tail_reads = stats.log.tail_reads;
        counters.cluster_engine_reads = stats.log.engine_reads;
        counters.cluster_holes_filled = stats.log.holes_filled;
        counters.cluster_holes_reported = stats.log.holes_reported;
        counters.cluster_epochs_reported = stats.log.epochs_reported;
        counters.channels_opened = stats.channels_opened;
        counters.channels_forgotten = stats.channels_forgotten;
    }

    /// Adds the gauges of home and mailbox.
    pub(in crate::shard) fn fill_gauges(
        &self,
        connections: &Connections,
        gauges: Gauges,
    ) -> Gauges {
        let own = self.home.gauges();
        Gauges {
            channels: own.channels,
            channel_members: own.members,
            history_messages: own.history_messages,
            history_bytes: own.history_bytes,
            roster_changes: self.home.stats().log.roster_changes,
            idempotency_keys: own.keys,
            channel_bytes: own.channel_bytes + self.channel_table_bytes(),
            subscription_bytes: own.members * SUBSCRIPTION_BYTES + self.index_bytes as u64,
            presence_bytes: own.presence_bytes,
            idempotency_bytes: own.key_bytes,
            session_bytes: self.session_bytes() + connections.session_due_bytes(),
            mailbox_bytes: connections.directory().mail_bytes(self.id) as u64,
            ..gauges
        }
    }
}
