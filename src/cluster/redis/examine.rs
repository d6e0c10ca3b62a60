//! Examines an instance before it is used.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisError, RedisResult};
use tokio::sync::mpsc::unbounded_channel;

use super::bus;
use super::connect::{CONNECT_TIMEOUT, LinkError, ServerFacts, explain, make_client};
use crate::cluster::layout::Layout;
use crate::cluster::settings::{ClusterSettings, EngineUrl};

/// Calls all commands of the other scripts.
const EXAMINE: &str = include_str!("examine.lua");

/// Connections whose lineages are compared.
const LINEAGES: usize = 5;

/// What an examination has found out about an instance.
#[derive(Clone, Debug, Default)]
pub struct InstanceReport {
    /// The program and its version, such as `Valkey 9.1.2`.
    pub version: String,
    /// Why it cannot be used, with the remedy.
    pub unusable: Option<String>,
    /// The servers that several connections have reached.
    pub lineages: usize,
    /// Commands that the server uses and the instance rejects, with the error.
    pub rejected: Vec<(String, String)>,
    pub maxmemory_policy: String,
    /// Of subscribers: hard limit, soft limit (bytes) and seconds; 0: none. `None`: the user may
    /// not read it.
    pub pubsub_limits: Option<[u64; 3]>,
    pub has_aof: bool,
    /// Whether each write is stored before it is acknowledged; `None`: the user may not read it.
    pub syncs_always: Option<bool>,
    pub replicas: u64,
    /// The records of nodes, and the time since they were written (ms).
    pub nodes: Vec<(u64, String)>,
}

/// Examines an instance, as a node with these settings would use it. Leaves nothing there.
///
/// # Errors
/// When it cannot be reached, with the reason.
pub fn examine_instance(
    settings: &ClusterSettings,
    url: &EngineUrl,
) -> Result<InstanceReport, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start a runtime: {error}"))?;
    let error = match runtime.block_on(examine(settings, url)) {
        Ok(report) => return Ok(report),
        Err(error) => explain(&url.name(), &error),
    };
    match error {
        LinkError::Unreachable(reason) => Err(reason),
        LinkError::Unusable(reason) => {
            Ok(InstanceReport { unusable: Some(reason), ..InstanceReport::default() })
        }
    }
}

async fn examine(
    settings: &ClusterSettings,
    url: &EngineUrl,
) -> Result<InstanceReport, RedisError> {
    let client = make_client(settings, url)?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(CONNECT_TIMEOUT));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let info: String = redis::cmd("INFO").query_async(&mut connection).await?;
    let mut report = read_info(&info);
    let checked = ServerFacts::parse(&info).check(&url.name());
    report.unusable = checked.err().map(|error| match error {
        LinkError::Unreachable(text) | LinkError::Unusable(text) => text,
    });
    let mut lineages = BTreeSet::from([find(&info, "master_replid").to_owned()]);
    for _ in 1..LINEAGES {
        let mut other = client.get_multiplexed_async_connection_with_config(&config).await?;
        let info: String = redis::cmd("INFO").arg("replication").query_async(&mut other).await?;
        lineages.insert(find(&info, "master_replid").to_owned());
    }
    report.lineages = lineages.len();
    if report.unusable.is_some() {
        return Ok(report);
    }
    // The user of a server needs no right to read these.
    let read = read_setting(&mut connection, "client-output-buffer-limit").await;
    report.pubsub_limits = read.and_then(|text| parse_pubsub_limits(&text));
    let sync = read_setting(&mut connection, "appendfsync").await;
    report.syncs_always = sync.map(|text| text == "always");
    let (sender, _pushes) = unbounded_channel();
    let subscribing = config.set_push_sender(sender);
    let subscription = client.get_multiplexed_async_connection_with_config(&subscribing).await?;
    report.rejected = try_commands(settings, &mut connection, subscription).await?;
    report.nodes = read_nodes(settings, &mut connection).await.unwrap_or_default();
    Ok(report)
}

/// Returns the value of a field of `INFO`; empty if there is none.
fn find<'i>(info: &'i str, name: &str) -> &'i str {
    let value = |line: &'i str| line.strip_prefix(name)?.strip_prefix(':');
    info.lines().find_map(value).unwrap_or_default().trim_end()
}

fn read_info(info: &str) -> InstanceReport {
    let is_valkey = find(info, "server_name") == "valkey";
    let version = if is_valkey {
        format!("Valkey {}", find(info, "valkey_version"))
    } else {
        format!("Redis {}", find(info, "redis_version"))
    };
    InstanceReport {
        version,
        maxmemory_policy: find(info, "maxmemory_policy").to_owned(),
        has_aof: find(info, "aof_enabled") == "1",
        replicas: find(info, "connected_slaves").parse().unwrap_or_default(),
        ..InstanceReport::default()
    }
}

/// Reads a setting; `None`: the user may not.
async fn read_setting(connection: &mut MultiplexedConnection, name: &str) -> Option<String> {
    let mut get = redis::cmd("CONFIG");
    let read: RedisResult<Vec<(String, String)>> =
        get.arg("GET").arg(name).query_async(connection).await;
    read.ok()?.into_iter().next().map(|(_, value)| value)
}

/// Reads the limits of subscribers from `normal 0 0 0 slave … pubsub 33554432 8388608 60`.
fn parse_pubsub_limits(text: &str) -> Option<[u64; 3]> {
    let mut words = text.split_whitespace().skip_while(|word| *word != "pubsub").skip(1);
    let mut next = || words.next()?.parse().ok();
    Some([next()?, next()?, next()?])
}

/// Calls each command that a server uses; returns those that are rejected.
async fn try_commands(
    settings: &ClusterSettings,
    connection: &mut MultiplexedConnection,
    mut subscription: MultiplexedConnection,
) -> Result<Vec<(String, String)>, RedisError> {
    let layout = Layout::new(&settings.prefix, &["examined".to_owned()]);
    let random = RandomState::new().hash_one("examined");
    let topic = layout.probe_topic(random);
    let mut rejected = Vec::new();
    let mut note = |name: &str, result: RedisResult<()>| match result {
        Err(error) if error.code().is_none() => Err(error),
        Err(error) => {
            rejected.push((name.to_owned(), error.to_string()));
            Ok(())
        }
        Ok(()) => Ok(()),
    };
    note("SUBSCRIBE", subscription.subscribe(topic.clone()).await)?;
    note("UNSUBSCRIBE", subscription.unsubscribe(topic.clone()).await)?;
    let loaded: RedisResult<String> =
        redis::cmd("SCRIPT").arg("LOAD").arg(EXAMINE).query_async(connection).await;
    let hash = match loaded {
        Ok(hash) => hash,
        Err(error) => {
            note("SCRIPT LOAD", Err(error))?;
            return Ok(rejected);
        }
    };
    let key = layout.plain_key(&format!("examined:{random:016x}"));
    let called: RedisResult<Vec<(String, String)>> =
        redis::cmd("EVALSHA").arg(hash).arg(1).arg(key).arg(topic).query_async(connection).await;
    match called {
        Ok(failed) => rejected.extend(failed),
        Err(error) => note("EVALSHA", Err(error))?,
    }
    Ok(rejected)
}

/// Reads the list of nodes.
async fn read_nodes(
    settings: &ClusterSettings,
    connection: &mut MultiplexedConnection,
) -> RedisResult<Vec<(u64, String)>> {
    let layout = Layout::new(&settings.prefix, &["examined".to_owned()]);
    let [nodes, _] = bus::keys(&layout);
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query_async(connection).await?;
    let mut get = redis::cmd("HGETALL");
    let records: Vec<(String, String)> = get.arg(nodes).query_async(connection).await?;
    let read = |(_, record): &(String, String)| {
        let (written_ms, text) = record.split_once(' ')?;
        let age_ms = (seconds * 1000).saturating_sub(written_ms.parse().ok()?);
        Some((age_ms, text.to_owned()))
    };
    Ok(records.iter().filter_map(read).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_commands_of_the_scripts_are_examined() {
        let scripts = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/cluster/redis"));
        let paths = scripts.unwrap().map(|entry| entry.unwrap().path());
        let scripts = paths.filter(|path| path.extension().is_some_and(|one| one == "lua"));
        let mut found = BTreeSet::new();
        for script in scripts {
            let text = std::fs::read_to_string(script).unwrap();
            let calls = text.split("redis.call('").skip(1);
            found.extend(calls.map(|call| call.split('\'').next().unwrap().to_owned()));
        }
        assert!(found.len() > 15 && found.contains("RPUSH"), "{found:?}");
        let is_missing = |name: &&String| !EXAMINE.contains(&format!("try('{name}'"));
        let missing: Vec<_> = found.iter().filter(is_missing).collect();
        assert!(missing.is_empty(), "examine.lua lacks {missing:?}");
    }

    #[test]
    fn what_an_instance_says_is_read() {
        let info = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n\
                    maxmemory_policy:allkeys-lru\r\naof_enabled:1\r\nconnected_slaves:2\r\n";
        let report = read_info(info);
        assert_eq!((&*report.version, &*report.maxmemory_policy), ("Valkey 9.1.2", "allkeys-lru"));
        assert_eq!((report.has_aof, report.replicas), (true, 2));
        assert_eq!(read_info("redis_version:6.2.0\r\n").version, "Redis 6.2.0");
        let limits = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert_eq!(parse_pubsub_limits(limits), Some([33_554_432, 8_388_608, 60]));
        assert_eq!(parse_pubsub_limits("normal 0 0 0"), None);
    }
}
