//! Ends what dead nodes list.
//!
//! A node whose heartbeats have stopped is dead, as is an incarnation that no node claims any more.
//! The node that notices first sweeps it, partition by partition. Before that, it is barred at the
//! instance: a node that was only paused cannot list anything under that incarnation afterwards.
//!
//! Signs of life count only while the own heartbeats are steady: after an outage of the engine all
//! nodes look dead until each has had the time for a heartbeat.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, RedisResult};
use tokio::time::Instant;

use super::roster_scripts::{incarnations_key, swept_key};
use super::wire::NamedScript;
use crate::cluster::layout::{Incarnation, Layout};

/// Entries that one call of the script ends, so that the engine is not blocked for long.
const ENTRIES_MAX: u32 = 200;
/// Partitions that are swept by one round trip.
const PARTITIONS_MAX: usize = 64;
/// How long a swept incarnation stays barred (s): longer than a node is ever paused.
const BARRED_S: u64 = 86_400;
/// How long others leave a sweep to its node without hearing of progress (ms).
const LOCK_MS: u64 = 10_000;

/// What heartbeats have shown of all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LifeSigns {
    pub alive: HashSet<Incarnation>,
    /// Of nodes that have been silent for too long.
    pub lost: HashSet<Incarnation>,
}

/// Decides which incarnations are dead.
#[derive(Debug, Default)]
pub(super) struct DeathWatch {
    /// Incarnations that no node claims, and since when.
    unclaimed: HashMap<Incarnation, Instant>,
}

impl DeathWatch {
    /// Returns the dead among those that list something at the instance. One that no node claims
    /// may be new, so it is given some time.
    pub(super) fn find_dead(
        &mut self,
        listing: &[Incarnation],
        signs: &LifeSigns,
        own: Incarnation,
        (now, grace): (Instant, Duration),
    ) -> Vec<Incarnation> {
        let is_alive = |one: &Incarnation| *one == own || signs.alive.contains(one);
        self.unclaimed.retain(|one, _| listing.contains(one) && !is_alive(one));
        let mut dead = Vec::new();
        for one in listing.iter().filter(|one| !is_alive(one)) {
            let since = *self.unclaimed.entry(*one).or_insert(now);
            if signs.lost.contains(one) || now.duration_since(since) >= grace {
                dead.push(*one);
            }
        }
        dead
    }
}

/// What an instance says of incarnations.
#[derive(Debug)]
pub(super) struct Listing {
    /// The own one, when it was asked about.
    pub(super) own: Incarnation,
    /// Those that list something.
    pub(super) listing: Vec<Incarnation>,
    /// Whether the own one was swept.
    pub(super) is_swept: bool,
}

/// Reads what an instance says of incarnations.
pub(super) async fn read_listing(
    mut connection: MultiplexedConnection,
    layout: Arc<Layout>,
    own: Incarnation,
) -> RedisResult<Listing> {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("SMEMBERS").arg(incarnations_key(&layout));
    pipeline.cmd("EXISTS").arg(swept_key(&layout, own));
    let (texts, is_swept): (Vec<String>, bool) = pipeline.query_async(&mut connection).await?;
    let listing = texts.iter().filter_map(|text| Incarnation::parse(text)).collect();
    Ok(Listing { own, listing, is_swept })
}

/// Sweeps an incarnation at an instance, unless another node does. Returns whether it did.
pub(super) async fn sweep(
    mut connection: MultiplexedConnection,
    layout: Arc<Layout>,
    (script, revision_ttl_ms): (NamedScript, u64),
    dead: Incarnation,
) -> RedisResult<bool> {
    let lock = layout.plain_key(&format!("sweeping:{dead}"));
    let mut take = redis::cmd("SET");
    take.arg(&lock).arg(1).arg("NX").arg("PX").arg(LOCK_MS);
    if !take.query_async::<bool>(&mut connection).await? {
        return Ok(false);
    }
    let mut bar = redis::cmd("SET");
    bar.arg(swept_key(&layout, dead)).arg(1).arg("EX").arg(BARRED_S);
    bar.exec_async(&mut connection).await?;
    redis::cmd("SCRIPT").arg("LOAD").arg(&script.text).exec_async(&mut connection).await?;
    // Also those that are another instance's now: it may not have been one then.
    let mut remaining: Vec<_> = layout.places().collect();
    while !remaining.is_empty() {
        let from = remaining.len().saturating_sub(PARTITIONS_MAX);
        let part = remaining.split_off(from);
        let mut pipeline = Pipeline::new();
        pipeline.cmd("PEXPIRE").arg(&lock).arg(LOCK_MS).ignore();
        for (place, tag) in &part {
            let call = pipeline.cmd("EVALSHA").arg(&script.hash).arg(1);
            call.arg(layout.listed_key(*place, dead)).arg(dead.to_string()).arg(layout.prefix());
            call.arg(tag).arg(revision_ttl_ms).arg(ENTRIES_MAX);
        }
        let left: Vec<u64> = pipeline.query_async(&mut connection).await?;
        let unfinished = part.into_iter().zip(left).filter(|(_, left)| *left > 0);
        remaining.extend(unfinished.map(|(place, _)| place));
    }
    let mut end = Pipeline::new();
    end.cmd("SREM").arg(incarnations_key(&layout)).arg(dead.to_string());
    end.cmd("DEL").arg(&lock);
    end.exec_async(&mut connection).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_dead_are_swept() {
        let [own, alive, lost, unclaimed] = [1, 2, 3, 4].map(Incarnation);
        let signs = LifeSigns { alive: [alive].into(), lost: [lost].into() };
        let (mut watch, start) = (DeathWatch::default(), Instant::now());
        let second = Duration::from_secs(1);
        let mut find = |signs: &LifeSigns, seconds: u32| {
            let at = (start + seconds * second, 10 * second);
            watch.find_dead(&[own, alive, lost, unclaimed], signs, own, at)
        };
        assert_eq!(find(&signs, 0), [lost]);
        assert_eq!(find(&signs, 9), [lost]);
        assert_eq!(find(&signs, 10), [lost, unclaimed], "no node has claimed it");
        // It is claimed after all, and then no more: the time begins again.
        let claimed = LifeSigns { alive: [alive, unclaimed].into(), lost: [].into() };
        assert_eq!(find(&claimed, 11), [lost], "no node claims it either");
        assert_eq!(find(&signs, 12), [lost], "the other has some time again");
    }
}
