//! Examines the engine of a cluster: each instance, as a node would use it.

use std::time::Duration;

use super::finding::{Finding, State};
use crate::cluster::redis::{InstanceReport, examine_instance};
use crate::cluster::{ClusterSettings, OnFailover};
use crate::config::Config;

/// Limits at which the engine disconnects a subscriber by default: hard, soft (bytes) and seconds.
const PUBSUB_LIMITS: [u64; 3] = [32 << 20, 8 << 20, 60];

pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let Some(settings) = &config.cluster else { return Vec::new() };
    let mut findings = Vec::new();
    for (index, url) in settings.urls.iter().enumerate() {
        let name = url.name();
        match examine_instance(settings, url) {
            Ok(report) => {
                findings.extend(examine_report(&name, &report, settings));
                // The list of nodes is on the first instance.
                findings.extend((index == 0).then(|| examine_nodes(&report, settings.node_ttl)));
            }
            Err(error) => {
                let remedy = format!(
                    "start {name}, or correct cluster.urls; until it is reached, `serve` starts, \
                     and channels are `unavailable`"
                );
                let found = error.trim_start_matches("cluster: ");
                findings.push(Finding::new("cluster engine", ENGINE, found).unless(
                    false,
                    State::Warning,
                    remedy,
                ));
            }
        }
    }
    findings
}

const ENGINE: &str = "Nodes share channels through it: it orders and keeps their messages";

fn examine_report(name: &str, report: &InstanceReport, settings: &ClusterSettings) -> Vec<Finding> {
    if let Some(reason) = &report.unusable {
        let reason = reason.trim_start_matches("cluster: ");
        let other = "name a server of Redis 6.2 or newer, or Valkey, in cluster.urls";
        let (reason, remedy) = reason.split_once("; ").unwrap_or((reason, other));
        return vec![Finding::new("cluster engine", ENGINE, reason).unless(
            false,
            State::Failure,
            remedy,
        )];
    }
    let found = format!("{name}: {}, a primary", report.version);
    vec![
        Finding::new("cluster engine", ENGINE, found),
        examine_lineages(name, report, settings.on_failover),
        examine_rights(name, report, settings),
        examine_eviction(name, report),
        examine_limits(name, report),
        examine_persistence(name, report, settings.on_failover),
    ]
}

/// Several connections must reach the same server.
fn examine_lineages(name: &str, report: &InstanceReport, on_failover: OnFailover) -> Finding {
    let why = "Behind a proxy, a failover is not noticed, and clients would be recovered past lost \
               messages";
    let found = match report.lineages {
        1 => format!("{name}: all connections reach the same server"),
        count => format!("{name}: connections reach {count} servers"),
    };
    Finding::new("cluster server", why, found).unless(
        report.lineages == 1 || on_failover == OnFailover::Keep,
        State::Failure,
        "name the servers themselves in cluster.urls; or set cluster.on_failover = \"keep\" for a \
         store that loses no acknowledged write",
    )
}

fn examine_rights(name: &str, report: &InstanceReport, settings: &ClusterSettings) -> Finding {
    let why = "Scripts call these commands; one that is rejected fails publishes, subscriptions or \
               revocations";
    let Some((_, error)) = report.rejected.first() else {
        let found = format!("{name}: all commands are allowed");
        return Finding::new("cluster rights", why, found);
    };
    let mut commands: Vec<_> = report.rejected.iter().map(|(command, _)| &**command).collect();
    commands.dedup();
    let found = format!("{name}: rejected: {} ({error})", commands.join(" "));
    let (user, prefix) = (&settings.user, &settings.prefix);
    let user = if user.is_empty() { "default" } else { user };
    let granted: Vec<_> =
        commands.iter().map(|one| format!("+{}", one.to_lowercase().replace(' ', "|"))).collect();
    let remedy = format!(
        "where it is for want of rights: ACL SETUSER {user} ~{prefix}:* &{prefix}:* {}",
        granted.join(" ")
    );
    Finding::new("cluster rights", why, found).unless(false, State::Failure, remedy)
}

fn examine_eviction(name: &str, report: &InstanceReport) -> Finding {
    let policy = &report.maxmemory_policy;
    Finding::new(
        "cluster eviction",
        "When its memory is full, an engine that evicts keys of any kind loses members and \
         revocations as well; volatile-* evicts histories, positions and idempotency keys only",
        format!("{name}: maxmemory-policy {policy}"),
    )
    .unless(
        policy == "noeviction" || policy.starts_with("volatile-"),
        State::Failure,
        "CONFIG SET maxmemory-policy noeviction, and in its configuration file",
    )
}

fn examine_limits(name: &str, report: &InstanceReport) -> Finding {
    let found = match report.pubsub_limits {
        Some([hard, soft, seconds]) => {
            format!("{name}: client-output-buffer-limit pubsub {hard} {soft} {seconds}")
        }
        None => format!("{name}: client-output-buffer-limit is unknown: the user may not read it"),
    };
    // 0: no limit.
    let is_low = |(limit, least): (&u64, &u64)| *limit > 0 && limit < least;
    let limits = report.pubsub_limits.unwrap_or(PUBSUB_LIMITS);
    let is_enough = !limits.iter().zip(&PUBSUB_LIMITS).any(is_low);
    let [hard, soft, seconds] = PUBSUB_LIMITS;
    Finding::new(
        "cluster output limit",
        "A node whose connection exceeds it during a burst is disconnected, and reads again what \
         it missed",
        found,
    )
    .unless(
        is_enough,
        State::Warning,
        format!("CONFIG SET client-output-buffer-limit \"pubsub {hard} {soft} {seconds}\""),
    )
}

/// What the engine keeps, against what is expected of it.
fn examine_persistence(name: &str, report: &InstanceReport, on_failover: OnFailover) -> Finding {
    let stored = match (report.has_aof, report.syncs_always) {
        (false, _) => "no append-only file",
        (true, Some(true)) => "append-only file, synced at each write",
        (true, Some(false)) => "append-only file, not synced at each write",
        (true, None) => "append-only file",
    };
    let replicas = match report.replicas {
        0 => "no replica".to_owned(),
        1 => "1 replica".to_owned(),
        count => format!("{count} replicas"),
    };
    let keeps = on_failover == OnFailover::Keep;
    let option = if keeps { "keep" } else { "new_epoch" };
    let is_durable = report.has_aof && report.syncs_always != Some(false);
    Finding::new(
        "cluster durability",
        "With cluster.on_failover = \"keep\", the loss of messages by the engine is not reported",
        format!("{name}: {stored}, {replicas}; cluster.on_failover = \"{option}\""),
    )
    .unless(
        !keeps || is_durable,
        State::Warning,
        "set cluster.on_failover = \"new_epoch\"; or appendonly yes and appendfsync always. \
         Replicas alone lose the latest writes",
    )
}

fn examine_nodes(report: &InstanceReport, node_ttl: Duration) -> Finding {
    let read = |(age_ms, text): &(u64, String)| {
        let record: serde_json::Value = serde_json::from_str(text).ok()?;
        (u128::from(*age_ms) <= node_ttl.as_millis())
            .then(|| record["version"].as_str().unwrap_or("?").to_owned())
    };
    let mut versions: Vec<_> = report.nodes.iter().filter_map(read).collect();
    let count = versions.len();
    versions.sort();
    versions.dedup();
    let own = env!("CARGO_PKG_VERSION");
    let found = match count {
        0 => "none yet".to_owned(),
        count => format!("{count}, of version {}", versions.join(" and ")),
    };
    Finding::new(
        "cluster nodes",
        "Nodes of different versions work together during an upgrade; new features need all of \
         them",
        found,
    )
    .unless(
        versions.iter().all(|version| version == own),
        State::Note,
        format!("upgrade all nodes to the same version; this is {own}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make_report() -> InstanceReport {
        InstanceReport {
            version: "Redis 7.0.15".into(),
            lineages: 1,
            maxmemory_policy: "noeviction".into(),
            ..InstanceReport::default()
        }
    }

    #[test]
    fn durability_is_compared_with_what_is_expected() {
        let state = |has_aof, syncs_always, on_failover| {
            let report = InstanceReport { has_aof, syncs_always, replicas: 1, ..make_report() };
            examine_persistence("a:1", &report, on_failover).state
        };
        assert_eq!(state(false, None, OnFailover::NewEpoch), State::Good);
        assert_eq!(state(false, None, OnFailover::Keep), State::Warning);
        assert_eq!(state(true, Some(false), OnFailover::Keep), State::Warning);
        assert_eq!(state(true, Some(true), OnFailover::Keep), State::Good);
    }

    #[test]
    fn different_servers_behind_one_name_are_a_failure() {
        let report = InstanceReport { lineages: 2, ..make_report() };
        assert_eq!(examine_lineages("a:1", &report, OnFailover::NewEpoch).state, State::Failure);
        assert_eq!(examine_lineages("a:1", &report, OnFailover::Keep).state, State::Good);
    }

    #[test]
    fn only_low_limits_are_a_warning() {
        let state = |pubsub_limits| {
            examine_limits("a:1", &InstanceReport { pubsub_limits, ..make_report() }).state
        };
        assert_eq!(state(None), State::Good);
        assert_eq!(state(Some(PUBSUB_LIMITS)), State::Good);
        assert_eq!(state(Some([0, 0, 0])), State::Good);
        assert_eq!(state(Some([1 << 20, 1 << 20, 60])), State::Warning);
    }

    #[test]
    fn present_nodes_of_other_versions_are_noted() {
        let record = |version: &str| format!("{{\"node\":1,\"version\":\"{version}\"}}");
        let own = record(env!("CARGO_PKG_VERSION"));
        let state = |nodes| {
            examine_nodes(&InstanceReport { nodes, ..make_report() }, Duration::from_secs(10)).state
        };
        assert_eq!(state(vec![]), State::Good);
        assert_eq!(state(vec![(10, own.clone()), (20_000, record("0.0.1"))]), State::Good);
        assert_eq!(state(vec![(10, own), (20, record("0.0.1"))]), State::Note);
    }
}
