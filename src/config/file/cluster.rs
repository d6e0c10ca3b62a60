//! Options of the engine that several nodes share.

use super::table::{Kind, OptionType, section};
use crate::cluster::OnFailover;

section! {
    /// An engine that several nodes use: channels then have one order and one history on all of
    /// them. All nodes need equal values, and equal `[resume] keys`.
    Cluster "cluster" repeated false;

    /// Servers of Redis 6.2 or newer, or Valkey, as `redis://HOST[:PORT]`, or `rediss://` for
    /// TLS. Empty = none: channels belong to this process. Channels are spread over several.
    urls: Vec<String> = Vec::new(),
    "Set where several nodes serve the same channels. Add servers where one core of one is busy; \
     channels that move to another server start a new epoch.";

    /// Beginning of the names of all keys and topics.
    prefix: String = "seawall".into(),
    "Set where other programs, or other clusters, use the same servers.";

    /// User (ACL) at the engine; empty = the default user.
    user: String = String::new(),
    "Set together with `password_file`.";

    /// File with the password; other users must not have access. Empty = none.
    password_file: String = String::new(),
    "Required where the engine requires one: URLs cannot contain it.";

    /// File with the authorities that sign the engine's certificate, as PEM; empty = the host's.
    ca_file: String = String::new(),
    "For `rediss://` with a private authority.";

    /// Interval at which a node shows that it is alive, and checks the engine's identity.
    heartbeat_ms: u32 = 2_000 => "milliseconds" in 100..=60_000,
    "Lower to notice a failover without a broken connection sooner.";

    /// The silence after which a node counts as dead: its members leave. At least three times
    /// `heartbeat_ms`.
    node_ttl_ms: u32 = 10_000 => "milliseconds" in 1_000..=600_000,
    "Raise where nodes are paused for longer, as by live migration of virtual machines.";

    /// How long a request waits for the engine while that is away; past it: `unavailable`.
    command_timeout_ms: u32 = 5_000 => "milliseconds" in 100..=60_000,
    "Lower where backends have better things to do than to wait.";

    /// How long a new subscription waits for the engine; past it: `unavailable`.
    subscribe_timeout_ms: u32 = 10_000 => "milliseconds" in 100..=120_000,
    "Raise where failovers of the engine take longer.";

    /// How long a node stays subscribed to a channel after its last member there has gone: one that
    /// returns meanwhile needs no call of the engine. 0 = not at all.
    interest_linger_ms: u32 = 10_000 => "milliseconds" in 0..=600_000,
    "Raise where clients come and go often; lower where very many channels are used briefly.";

    /// After a reconnection, nodes begin to subscribe again after a random time up to this, so that
    /// they do not all load the engine at once.
    resubscribe_spread_ms: u32 = 500 => "milliseconds" in 0..=60_000,
    "Raise with the number of nodes times the channels of each.";

    /// Channels to whose members a node reports a new epoch, a second: clients then load the
    /// present state from backends. The others keep their position until their turn.
    epoch_gaps_per_s: u32 = 5_000 => "channels a second" in 1..=1_000_000,
    "Lower where backends cannot serve as many loads of the state after a failover.";

    /// How long the engine keeps the position of a channel without members and messages; a minute
    /// if it was only read.
    position_ttl_s: u32 = 3_600 => "seconds" in 60..=604_800,
    "Raise where clients return after hours to channels that are used rarely.";

    /// Bytes of messages on their way to the engine above which further ones are rejected.
    in_flight_bytes_max: u64 = 16 << 20 => "bytes" in 1_048_576..=1_099_511_627_776,
    "Raise for bursts of large messages.";

    /// The newest messages of each channel with members that a node keeps, to serve clients that
    /// come back without asking the engine. 0 = none.
    tail_messages_max: u32 = 256 => "messages" in 0..=100_000,
    "Raise where many clients come back after having missed more.";

    /// Memory of these messages in all channels.
    tail_bytes_max: u64 = 64 << 20 => "bytes" in 0..=1_099_511_627_776,
    "Raise where a node has many busy channels.";

    /// Whether channels start a new epoch after the engine has restarted or failed over, because it
    /// may have lost messages (`new_epoch`), or not, because it never does (`keep`).
    on_failover: OnFailover = OnFailover::NewEpoch,
    "`keep` only for a store that loses no acknowledged write, and for proxies in front of one.";
}

impl OptionType for OnFailover {
    const KIND: Kind = Kind::Choice(&["new_epoch", "keep"]);
}
