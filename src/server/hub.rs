//! Makes the hub's shared state from the configuration.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::admission::Admission;
use crate::cluster::redis::Outer;
use crate::cluster::{ClusterLog, ClusterSettings, EngineUrl, Layout, LogLimits};
use crate::config::Config;
use crate::hub::{HistoryBudget, HomeOptions, Log, MemoryLog, Storing};
use crate::outer::OuterThread;
use crate::session::SeawallV1;
use crate::session::hub::{Realm, SessionLimits};
use crate::session::protocol::Protocols;
use crate::session::pusher::PusherV7;
use crate::shard::mail::{HubShared, MakeLog};

/// Channels of the process that stay subscribed without members.
const LINGERING_MAX: usize = 65_536;

/// The hub's state, and the way to other nodes, where there are any.
pub(super) type MadeHub = (Option<Arc<HubShared>>, Option<Arc<Outer>>);

/// Makes the hub's state if a route has sessions. Its log is kept in memory, or in the engine of a
/// cluster.
///
/// # Errors
/// When the engine can never be used.
pub(super) fn make_hub(
    config: &Config,
    admission: Arc<Admission>,
    thread: Option<&OuterThread>,
) -> Result<MadeHub, String> {
    if !config.has_sessions() {
        return Ok((None, None));
    }
    let mut protocols = Protocols::new(&SeawallV1);
    if !config.apps.is_empty() {
        protocols.add(&PusherV7);
    }
    let node = make_node();
    // The logs of a cluster are made once, so they reckon with members behind links.
    let mut storing = protocols.storing();
    storing.protocols += u8::from(config.has_gateway_routes());
    let mut outer = None;
    let make_log: MakeLog = match config.cluster.as_ref().zip(thread) {
        Some((settings, thread)) => {
            let (make_log, started) =
                make_cluster_log(thread, settings, (config.shards, node), storing)?;
            outer = Some(started);
            make_log
        }
        None => {
            let budget = HistoryBudget::new(config.hub.history_bytes_max);
            Arc::new(move |_, _| -> Box<dyn Log> { Box::new(MemoryLog::new(budget.clone())) })
        }
    };
    let realm = make_realm(config, node, admission).with_protocols(protocols);
    Ok((Some(HubShared::new(realm, home_options(config), make_log)), outer))
}

/// Connects to the engine of a cluster, and makes logs over it.
fn make_cluster_log(
    thread: &OuterThread,
    settings: &Arc<ClusterSettings>,
    (shards, node): (u16, u32),
    storing: Storing,
) -> Result<(MakeLog, Arc<Outer>), String> {
    let names: Vec<_> = settings.urls.iter().map(EngineUrl::name).collect();
    let layout = Arc::new(Layout::new(&settings.prefix, &names));
    let origin = RandomState::new().hash_one("origin");
    let ids = (shards.into(), origin, node);
    let outer = Arc::new(Outer::start(thread, settings, &layout, ids)?);
    let limits = LogLimits {
        subscribe_timeout_ms: settings.subscribe_timeout.as_millis() as u64,
        renewal_ms: settings.position_ttl.as_millis() as u64 / 3,
        tail_messages_max: settings.tail_messages_max,
        tail_bytes_max: settings.tail_bytes_max / u64::from(shards).max(1),
        linger_ms: settings.interest_linger.as_millis() as u64,
        epoch_gaps_per_s: settings.epoch_gaps_per_s.div_ceil(u32::from(shards).max(1)),
        lingering_max: LINGERING_MAX / usize::from(shards).max(1),
    };
    let ports = outer.clone();
    let make_log = move |shard, bell| -> Box<dyn Log> {
        let port = ports.port(shard, bell);
        Box::new(ClusterLog::new(port, layout.clone(), limits, storing, origin))
    };
    Ok((Arc::new(make_log), outer))
}

/// Chooses the node's part of connection ids.
pub(super) fn make_node() -> u32 {
    node_id(RandomState::new().hash_one("node") as u32)
}

/// Makes the node's part of connection ids. It comes first in them, and never starts with a hyphen,
/// so that command lines do not take an id for an option.
fn node_id(random: u32) -> u32 {
    const HYPHEN: u32 = 62;
    if random >> 26 == HYPHEN { random ^ 1 << 31 } else { random }
}

/// Makes the hub's state over any log, for these client protocols.
pub fn make_hub_with(
    config: &Config,
    admission: Arc<Admission>,
    make_log: MakeLog,
    protocols: Protocols,
) -> Option<Arc<HubShared>> {
    let make = || {
        let realm = make_realm(config, make_node(), admission).with_protocols(protocols);
        HubShared::new(realm, home_options(config), make_log)
    };
    config.has_sessions().then(make)
}

/// Makes the same hub under another configuration.
pub fn renew_hub(hub: &HubShared, config: &Config) -> Arc<HubShared> {
    let realm = make_realm(config, hub.realm.node, hub.realm.admission.clone());
    hub.renewed(realm, home_options(config))
}

fn make_realm(config: &Config, node: u32, admission: Arc<Admission>) -> Realm {
    let hub = &config.hub;
    let limits = SessionLimits {
        channels_max: hub.channels_per_connection_max,
        requests_max: hub.pending_requests_max,
        auth_timeout_ms: hub.auth_timeout_ms,
        ticket_ttl_s: config.resume.ttl_s,
        presence_page_max: hub.presence_page_max,
        history_page_max: hub.history_page_max,
        message_bytes_max: config.limits.ws.message_bytes_max as u64,
        request_bytes_max: request_bytes_max(config),
        rates: config.rates,
    };
    Realm::new(
        node,
        config.namespaces.clone(),
        config.auth.keys_configured.then(|| config.auth.verifier.clone()),
        config.auth.allow_anonymous,
        config.resume.sealer.clone(),
        limits,
        admission,
    )
    .with_apps(config.apps.clone())
}

/// Length of the longest request that can succeed: a publish of the largest content, or a `resume`
/// with a grant for each channel. Longer ones are rejected unparsed.
fn request_bytes_max(config: &Config) -> usize {
    const ENVELOPE_BYTES: usize = 16 * 1024;
    const POSITION_BYTES: usize = 2 * 1024;
    let namespaces = config.namespaces.iter().chain([config.namespaces.granted()]);
    let content = namespaces.map(|one| one.message_bytes_max as usize).max().unwrap_or_default();
    let positions = config.hub.channels_per_connection_max as usize * POSITION_BYTES;
    ENVELOPE_BYTES + content.max(positions)
}

fn home_options(config: &Config) -> HomeOptions {
    let hub = &config.hub;
    let shards = u32::from(config.shards.max(1));
    HomeOptions {
        channels_max: hub.channels_max.div_ceil(shards).max(1) as usize,
        channel_ttl_ms: u64::from(hub.channel_ttl_s) * 1000,
        recover_messages_max: hub.recover_messages_max,
        recover_bytes_max: hub.recover_bytes_max,
        presence_page_max: hub.presence_page_max,
        history_page_max: hub.history_page_max,
        keys_max: (hub.idempotency_keys_max / shards).max(1) as usize,
        key_ttl_ms: u64::from(hub.idempotency_ttl_s) * 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::SUBPROTOCOL;
    use crate::hub::ConnectionId;
    use crate::session::protocol::ClientProtocol;

    #[test]
    fn routes_of_the_hub_offer_its_protocol() {
        assert_eq!(SeawallV1.subprotocol(), Some(SUBPROTOCOL));
    }

    #[test]
    fn no_id_begins_with_a_hyphen() {
        let first = |node| {
            let id = ConnectionId { node, shard: 1, session: 2, serial: 3 };
            id.to_string().as_bytes()[0]
        };
        assert_eq!(first(62 << 26), b'-');
        let found: std::collections::BTreeSet<u8> =
            (0..64).map(|top| first(node_id(top << 26 | 0x155))).collect();
        assert!(found.len() == 63 && !found.contains(&b'-'), "{found:?}");
    }
}
