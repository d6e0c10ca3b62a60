//! Connects to an instance, and checks that it can be used.

use std::fmt;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    PushInfo, RedisConnectionInfo, RedisError, TlsCertificates,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::cluster::settings::{ClusterSettings, EngineUrl, OnFailover};

pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The oldest version of Redis that has all commands.
const VERSION_MIN: (u32, u32) = (6, 2);

/// Why an instance cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LinkError {
    /// It may be reached later.
    Unreachable(String),
    /// Only a change of the configuration helps.
    Unusable(String),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(reason) | Self::Unusable(reason) => f.write_str(reason),
        }
    }
}

/// The two connections to an instance: a subscribed connection would delay replies behind its
/// publications.
pub(super) struct Link {
    pub(super) commands: MultiplexedConnection,
    pub(super) subscription: MultiplexedConnection,
    /// What the subscription receives.
    pub(super) pushes: UnboundedReceiver<PushInfo>,
    /// See [`read_lineage`].
    pub(super) lineage: String,
}

/// Connects to an instance.
pub(super) async fn connect(
    settings: &ClusterSettings,
    url: &EngineUrl,
) -> Result<Link, LinkError> {
    let name = url.name();
    let failed = |error: &RedisError| explain(&name, error);
    let client = make_client(settings, url).map_err(|error| failed(&error))?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(settings.command_timeout));
    let (sender, pushes) = unbounded_channel();
    let subscribing = config.clone().set_push_sender(sender);
    let commands = client.get_multiplexed_async_connection_with_config(&config);
    let mut commands = commands.await.map_err(|error| failed(&error))?;
    let subscription = client.get_multiplexed_async_connection_with_config(&subscribing);
    let mut subscription = subscription.await.map_err(|error| failed(&error))?;
    let facts = read_facts(&mut commands).await.map_err(|error| failed(&error))?;
    facts.check(&name)?;
    let lineage = facts.lineage(settings.on_failover);
    let others = read_facts(&mut subscription).await.map_err(|error| failed(&error))?;
    if others.lineage(settings.on_failover) != lineage {
        // A proxy, or an address that changes to another server right now.
        let reason = format!(
            "cluster: two connections to {name} reach different servers; name a server itself, or \
             set cluster.on_failover = \"keep\" for a store that loses no acknowledged write"
        );
        return Err(LinkError::Unreachable(reason));
    }
    Ok(Link { commands, subscription, pushes, lineage })
}

pub(super) fn make_client(
    settings: &ClusterSettings,
    url: &EngineUrl,
) -> Result<Client, RedisError> {
    let EngineUrl { host, port, tls } = url.clone();
    let address = if tls {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    let mut server = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("seawall", env!("CARGO_PKG_VERSION"));
    if let Some(password) = &settings.password {
        server = server.set_password(password);
        if !settings.user.is_empty() {
            server = server.set_username(&settings.user);
        }
    }
    let info = address.into_connection_info()?.set_redis_settings(server);
    if tls {
        let certificates = TlsCertificates { client_tls: None, root_cert: settings.ca.clone() };
        return Client::build_with_tls(info, certificates);
    }
    Client::open(info)
}

/// Explains an error of an instance, with a remedy.
pub(super) fn explain(name: &str, error: &RedisError) -> LinkError {
    let text = format!("cluster: {name}: {error}");
    match error.kind() {
        ErrorKind::AuthenticationFailed => {
            LinkError::Unusable(format!("{text}; check cluster.user and cluster.password_file"))
        }
        ErrorKind::RESP3NotSupported => LinkError::Unusable(format!(
            "{text}; Redis {}.{} or newer, or Valkey, is needed",
            VERSION_MIN.0, VERSION_MIN.1
        )),
        ErrorKind::InvalidClientConfig => LinkError::Unusable(text),
        _ if matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => {
            LinkError::Unusable(format!("{text}; check cluster.user and cluster.password_file"))
        }
        _ => LinkError::Unreachable(text),
    }
}

/// What an instance says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerFacts {
    version: String,
    role: String,
    replication: String,
    is_cluster: bool,
    is_loading: bool,
}

async fn read_facts(connection: &mut MultiplexedConnection) -> Result<ServerFacts, RedisError> {
    let text: String = redis::cmd("INFO").query_async(connection).await?;
    Ok(ServerFacts::parse(&text))
}

/// Reads the lineage of an instance: it changes with each restart and each promotion. `None`: the
/// instance is no primary.
pub(super) async fn read_lineage(
    connection: &mut MultiplexedConnection,
    on_failover: OnFailover,
) -> Result<Option<String>, RedisError> {
    let text: String = redis::cmd("INFO").arg("replication").query_async(connection).await?;
    let facts = ServerFacts::parse(&text);
    Ok((facts.role == "master").then(|| facts.lineage(on_failover)))
}

impl ServerFacts {
    pub(super) fn parse(info: &str) -> Self {
        let mut facts = Self::default();
        for line in info.lines() {
            let Some((key, value)) = line.split_once(':') else { continue };
            let value = value.trim_end();
            match key {
                "redis_version" => value.clone_into(&mut facts.version),
                "role" => value.clone_into(&mut facts.role),
                "master_replid" => value.clone_into(&mut facts.replication),
                "loading" => facts.is_loading = value == "1",
                "cluster_enabled" => facts.is_cluster = value == "1",
                _ => {}
            }
        }
        facts
    }

    pub(super) fn check(&self, name: &str) -> Result<(), LinkError> {
        let mut parts = self.version.split('.').map(|part| part.parse().unwrap_or_default());
        let version = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let unusable = |text: String| Err(LinkError::Unusable(format!("cluster: {name} {text}")));
        if version < VERSION_MIN {
            return unusable(format!(
                "is Redis {}: {}.{} or newer, or Valkey, is needed",
                self.version, VERSION_MIN.0, VERSION_MIN.1
            ));
        }
        if self.is_cluster {
            return unusable(
                "is part of a Redis Cluster, which is not supported; name one or several servers \
                 without it in cluster.urls"
                    .into(),
            );
        }
        if self.is_loading {
            return Err(LinkError::Unreachable(format!("cluster: {name} is loading its data")));
        }
        if self.role != "master" {
            let text = format!("cluster: {name} is a replica; name its primary in cluster.urls");
            return Err(LinkError::Unreachable(text));
        }
        Ok(())
    }

    fn lineage(&self, on_failover: OnFailover) -> String {
        match on_failover {
            OnFailover::Keep => "kept".into(),
            // 64 bits of 160.
            OnFailover::NewEpoch => self.replication.chars().take(16).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make_facts(version: &str, role: &str, is_cluster: bool) -> ServerFacts {
        let info = format!(
            "# Server\r\nredis_version:{version}\r\nrole:{role}\r\n\
             master_replid:0123456789abcdef0123\r\ncluster_enabled:{}\r\n",
            u8::from(is_cluster)
        );
        ServerFacts::parse(&info)
    }

    #[test]
    fn an_instance_that_cannot_be_used_is_rejected_with_a_remedy() {
        for (version, usable) in
            [("6.2.0", true), ("7.0.15", true), ("10.0", true), ("6.0.16", false)]
        {
            assert_eq!(
                make_facts(version, "master", false).check("a").is_ok(),
                usable,
                "{version}"
            );
        }
        let reject = |facts: ServerFacts| facts.check("a:1/0").unwrap_err();
        let replica = reject(make_facts("7.0", "slave", false));
        assert!(matches!(&replica, LinkError::Unreachable(text) if text.contains("primary")));
        let cluster = reject(make_facts("7.0", "master", true));
        assert!(matches!(&cluster, LinkError::Unusable(text) if text.contains("Cluster")));
    }

    #[test]
    fn the_lineage_is_that_of_the_replication() {
        let facts = make_facts("7.0", "master", false);
        assert_eq!(facts.lineage(OnFailover::NewEpoch), "0123456789abcdef");
        assert_eq!(facts.lineage(OnFailover::Keep), "kept");
    }
}
