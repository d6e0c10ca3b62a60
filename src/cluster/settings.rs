//! Settings of the cluster, as validated.

use std::time::Duration;

/// An instance of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineUrl {
    /// Host name or address, without brackets.
    pub host: String,
    pub port: u16,
    pub tls: bool,
}

impl EngineUrl {
    /// Returns the name by which logs and the [`Layout`](super::Layout) identify it. Whether TLS is
    /// used does not matter.
    pub fn name(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') {
            return format!("[{host}]:{port}");
        }
        format!("{host}:{port}")
    }
}

/// How channels continue after the engine has restarted, or a replica was promoted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailover {
    /// In a new epoch: messages may have been lost.
    #[default]
    NewEpoch,
    /// In the same epoch: the engine loses no acknowledged write.
    Keep,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct ClusterSettings {
    pub urls: Vec<EngineUrl>,
    /// The beginning of all keys and topics.
    pub prefix: String,
    pub user: String,
    pub password: Option<String>,
    /// Authorities that sign the engine's certificate, as PEM; `None`: those of the host.
    pub ca: Option<Vec<u8>>,
    pub heartbeat: Duration,
    /// The silence after which a node counts as dead.
    pub node_ttl: Duration,
    /// How long a command waits for the engine.
    pub command_timeout: Duration,
    /// How long a subscription waits for the engine.
    pub subscribe_timeout: Duration,
    /// The time over which nodes spread the start of subscribing on a new connection.
    pub resubscribe_spread: Duration,
    /// Channels to whose members a new epoch is reported, a second.
    pub epoch_gaps_per_s: u32,
    /// How long the engine keeps the position of a channel that is not in use.
    pub position_ttl: Duration,
    pub in_flight_bytes_max: u64,
    /// How long a channel stays subscribed after its last member.
    pub interest_linger: Duration,
    /// Messages in the tail of a channel, and bytes of all tails of the process.
    pub tail_messages_max: u32,
    pub tail_bytes_max: u64,
    pub on_failover: OnFailover,
}
