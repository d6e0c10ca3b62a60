//! The homes of several nodes over the model of the engine: whatever fails, lists of members and
//! what watchers have heard agree with the connections that there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::{RETENTION, make_log};
use crate::cluster::model::{ModelEngine, ModelFaults};
use crate::hub::{
    Answer, ChannelName, ConnectionId, Event, Home, HomeOptions, MemberInfo, MemberKey, Origin,
    Out, Publication, Request, Subscribe, Verb,
};

const NODES: u32 = 3;
const CHANNELS: [&str; 2] = ["open", "few"];
/// Of the second channel.
const SEATS: u32 = 4;
const OPTIONS: HomeOptions = HomeOptions {
    channel_ttl_ms: 60_000,
    channels_max: 100,
    recover_messages_max: 100,
    recover_bytes_max: 1 << 20,
    presence_page_max: 100,
    history_page_max: 100,
    keys_max: 100,
    key_ttl_ms: 60_000,
};

/// A connection that has asked to be a member.
#[derive(Clone, Debug)]
struct Client {
    id: ConnectionId,
    channel: usize,
    member: Arc<MemberInfo>,
    watches: bool,
    /// The members that it knows of. `None`: it is not a member yet.
    known: Option<BTreeSet<String>>,
    /// It has to read the list again.
    is_unsure: bool,
}

struct World {
    seed: u64,
    random: u64,
    engine: ModelEngine,
    homes: Vec<Home>,
    clients: BTreeMap<ConnectionId, Client>,
    serial: u32,
    now_ms: u64,
    refused: u64,
    loses_nothing: bool,
    /// Joins and leaves that the clients of the first node have heard.
    heard: Vec<(bool, String)>,
}

impl World {
    fn new(seed: u64, faults: ModelFaults) -> Self {
        let engine = ModelEngine::new(seed * 6151 + 1, faults);
        let homes =
            (0..NODES).map(|node| Home::new(OPTIONS, Box::new(make_log(&engine, node.into()))));
        let homes = homes.collect();
        Self {
            seed,
            random: seed * 2 + 1,
            engine,
            homes,
            clients: BTreeMap::new(),
            serial: 0,
            now_ms: 1_000,
            refused: 0,
            loses_nothing: faults.lose_push + faults.cut + faults.fail_over == 0,
            heard: Vec::new(),
        }
    }

    fn random_below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 33) % bound
    }

    fn ask(&mut self, node: u32, channel: usize, origin: ConnectionId, verb: Verb) {
        let from = Origin::Session { id: origin, request: 0 };
        let channel = ChannelName::new(CHANNELS[channel]);
        let request = Request { from, channel, retention: RETENTION, verb };
        self.homes[node as usize].handle_request(request, self.now_ms);
    }

    /// A connection subscribes; `replaces`: the one that it resumes, as the same member.
    fn join(&mut self, node: u32, channel: usize, user: Option<&str>, old: Option<ConnectionId>) {
        self.serial += 1;
        let id = ConnectionId { node, shard: 0, session: 0, serial: self.serial };
        let key = match user {
            Some(user) => MemberKey::User(user.into()),
            None => MemberKey::Connection(id),
        };
        let info =
            self.serial.is_multiple_of(2).then(|| Arc::from(format!("{{\"n\":{}}}", self.serial)));
        let member = Arc::new(MemberInfo { key, connection: id, info });
        let watches = !self.serial.is_multiple_of(3);
        let subscribe = Subscribe {
            since: None,
            watch: watches,
            restart: None,
            member: Some(member.clone()),
            replaces: old,
            members_max: if channel == 1 { SEATS } else { 0 },
        };
        let client = Client { id, channel, member, watches, known: None, is_unsure: false };
        self.clients.insert(id, client);
        self.ask(node, channel, id, Verb::Subscribe(Box::new(subscribe)));
    }

    fn leave(&mut self, id: ConnectionId) {
        let joined = self.clients.get(&id).is_some_and(|client| client.known.is_some());
        if !joined {
            // A shard ends a subscription once it is confirmed.
            return;
        }
        let client = self.clients.remove(&id).unwrap();
        let verb = Verb::Leave { watch: client.watches, member: Some(client.member) };
        self.ask(id.node, client.channel, id, verb);
    }

    fn any_client(&mut self) -> Option<ConnectionId> {
        let at = self.random_below(self.clients.len().max(1) as u64) as usize;
        self.clients.keys().nth(at).copied()
    }

    fn act(&mut self) {
        let node = self.random_below(NODES.into()) as u32;
        let channel = self.random_below(2) as usize;
        match self.random_below(20) {
            0 => self.join(node, channel, None, None),
            1 | 2 => {
                let user = ["ann", "bob", "eve"][self.random_below(3) as usize];
                self.join(node, channel, Some(user), None);
            }
            3 => {
                if let Some(client) = self.any_client().map(|id| self.clients[&id].clone()) {
                    let user = match &client.member.key {
                        MemberKey::User(user) => Some(user.clone()),
                        MemberKey::Connection(_) => None,
                    };
                    self.join(node, client.channel, user.as_deref(), Some(client.id));
                }
            }
            4..8 => {
                if let Some(id) = self.any_client() {
                    self.leave(id);
                }
            }
            _ => self.engine.step(),
        }
        self.now_ms += self.random_below(20);
        self.engine.set_time(self.now_ms);
        self.drain();
    }

    /// Lets homes process what they have, and hands out what they send.
    fn drain(&mut self) {
        for node in 0..NODES {
            let home = &mut self.homes[node as usize];
            home.expire_channels(self.now_ms, 100);
            while home.process_completions(100) {}
            let out: Vec<_> = home.take_out().map(|(_, out)| out).collect();
            out.into_iter().for_each(|out| self.take(node, out));
        }
    }

    fn take(&mut self, node: u32, out: Out) {
        match out {
            Out::Answer { id, answer: Answer::Subscribed(joined), .. } => {
                let client = self.clients.get_mut(&id).unwrap();
                let page = joined.presence.unwrap_or_default();
                assert!(page.next.is_none(), "the page has room for all");
                let known: BTreeSet<_> = page.members.iter().map(|one| one.key.cursor()).collect();
                // What is lost on the way makes a number inexact; the client hears of that.
                if client.watches && self.loses_nothing {
                    assert_eq!(page.count, known.len() as u64, "seed {}", self.seed);
                }
                client.known = Some(known);
            }
            Out::Answer { id, answer: Answer::Presence(page), .. } => {
                if let Some(client) = self.clients.get_mut(&id) {
                    let known = page.members.iter().map(|one| one.key.cursor());
                    client.known = Some(known.collect());
                }
            }
            Out::Answer { id, answer: Answer::Refused(_), .. } => {
                self.refused += 1;
                match self.clients.get_mut(&id) {
                    Some(client) if client.known.is_none() => drop(self.clients.remove(&id)),
                    Some(client) => client.is_unsure = true,
                    None => {}
                }
            }
            Out::News(publication) => self.hear(node, &publication),
            Out::EpochChanged { .. } | Out::Gap { .. } => {}
            other => panic!("seed {}: unexpected {other:?}", self.seed),
        }
        self.reload_lists();
    }

    fn hear(&mut self, node: u32, publication: &Publication) {
        let channel = publication.channel.as_ref().unwrap().as_str();
        for client in self.clients.values_mut() {
            let is_there = client.id.node == node && CHANNELS[client.channel] == channel;
            if !is_there || !client.watches {
                continue;
            }
            let Some(known) = &mut client.known else { continue };
            match publication.event() {
                Event::Join { member, .. } => drop(known.insert(member.key.cursor())),
                Event::Leave { member, .. } => drop(known.remove(&member.key.cursor())),
                Event::PresenceGap { .. } => client.is_unsure = true,
                other => panic!("unexpected {other:?}"),
            }
        }
        if node == 0 {
            self.heard.extend(match publication.event() {
                Event::Join { member, .. } => Some((true, member.key.cursor())),
                Event::Leave { member, .. } => Some((false, member.key.cursor())),
                _ => None,
            });
        }
    }

    /// Clients that may have missed something ask for the list.
    fn reload_lists(&mut self) {
        let clients = self.clients.values_mut();
        let unsure = clients
            .filter_map(|one| std::mem::take(&mut one.is_unsure).then_some((one.id, one.channel)));
        let unsure: Vec<_> = unsure.collect();
        for (id, channel) in unsure {
            self.ask(id.node, channel, id, Verb::Presence { after: None, limit: 100 });
        }
    }

    /// Lets everything complete, without faults.
    fn settle(&mut self) {
        self.engine.set_faults(ModelFaults::default());
        for round in 0..4 {
            if round > 0 {
                // Positions and revisions are compared from time to time.
                self.now_ms += 25_000;
                self.engine.set_time(self.now_ms);
                self.drain();
            }
            for _ in 0..100_000 {
                self.engine.step();
                // What has failed is repeated after a time.
                self.now_ms += 1;
                self.drain();
                if self.engine.is_quiet() {
                    break;
                }
            }
            if round == 1 {
                self.engine.sweep();
            }
        }
        assert!(self.engine.is_quiet(), "seed {}: something goes round", self.seed);
    }

    /// The list of a channel as a node reads it.
    fn list(&mut self, node: u32, channel: usize) -> Vec<Arc<MemberInfo>> {
        let id = ConnectionId { node, shard: 9, session: 9, serial: 9 };
        self.ask(node, channel, id, Verb::Presence { after: None, limit: 100 });
        for _ in 0..1_000 {
            self.engine.step();
            let home = &mut self.homes[node as usize];
            home.process_completions(100);
            for (_, out) in home.take_out().collect::<Vec<_>>() {
                if let Out::Answer { answer: Answer::Presence(page), .. } = out {
                    assert_eq!(page.count, page.members.len() as u64, "seed {}", self.seed);
                    return page.members;
                }
            }
        }
        panic!("seed {}: no answer", self.seed);
    }

    fn check(&mut self) {
        for channel in 0..2 {
            let lists: Vec<_> = (0..NODES).map(|node| self.list(node, channel)).collect();
            let living: HashMap<_, _> = self
                .clients
                .values()
                .filter(|one| one.channel == channel)
                .map(|one| (one.id, one.clone()))
                .collect();
            let seed = self.seed;
            for list in &lists {
                assert_eq!(*list, lists[0], "seed {seed}: all nodes have one list");
            }
            let listed: BTreeSet<_> = lists[0].iter().map(|one| one.key.cursor()).collect();
            for one in &lists[0] {
                assert!(living.contains_key(&one.connection), "seed {seed}: {one:?} is there");
            }
            let users = living.values().filter_map(|one| match &one.member.key {
                MemberKey::User(_) => Some(one.member.key.cursor()),
                MemberKey::Connection(_) => None,
            });
            let users: BTreeSet<_> = users.collect();
            let is_user = |cursor: &&String| cursor.starts_with("user:");
            let listed_users: BTreeSet<_> = listed.iter().filter(is_user).cloned().collect();
            assert_eq!(listed_users, users, "seed {seed}: users");
            for client in living.values().filter(|one| one.watches) {
                let known = client.known.as_ref().unwrap();
                assert_eq!(known, &listed, "seed {seed}: {:?} knows it", client.id);
            }
        }
    }
}

fn run(seeds: std::ops::Range<u64>, faults: ModelFaults) -> u64 {
    let times = std::env::var("SEAWALL_SEEDS").map_or(1, |times| times.parse().unwrap());
    let mut refused = 0;
    for seed in seeds.start..seeds.start + (seeds.end - seeds.start) * times {
        let mut world = World::new(seed, faults);
        for _ in 0..400 {
            world.act();
        }
        world.settle();
        world.check();
        let all: Vec<_> = world.clients.keys().copied().collect();
        all.into_iter().for_each(|id| world.leave(id));
        world.settle();
        for channel in 0..2 {
            assert_eq!(world.list(1, channel), [], "seed {seed}: all have left");
        }
        // The channel with seats has them all again.
        (0..SEATS).for_each(|_| world.join(2, 1, None, None));
        world.settle();
        assert_eq!(world.clients.len(), SEATS as usize, "seed {seed}: no seat was lost");
        refused += world.refused;
    }
    refused
}

#[test]
fn lists_and_watchers_agree_on_all_nodes() {
    assert!(run(0..60, ModelFaults::default()) > 10, "seats are limited");
}

#[test]
fn lists_converge_whatever_breaks() {
    let faults = ModelFaults { cut: 60, lose_push: 20, fail_over: 150, pause: 150 };
    run(1000..1100, faults);
}

#[test]
fn a_client_that_moves_is_neither_seen_to_leave_nor_to_join() {
    let mut world = World::new(1, ModelFaults::default());
    // Its odd number makes the first one a watcher.
    world.join(0, 0, Some("ann"), None);
    world.settle();
    let watcher = world.any_client().unwrap();
    for user in [Some("bob"), None] {
        world.join(0, 0, user, None);
        world.settle();
        let first = *world.clients.keys().last().unwrap();
        world.heard.clear();
        let mut old = first;
        for node in [1, 2, 1] {
            world.join(node, 0, user, Some(old));
            world.settle();
            let new = *world.clients.keys().find(|id| **id != watcher && **id != old).unwrap();
            world.leave(old);
            world.settle();
            old = new;
        }
        assert_eq!(world.heard, [], "{user:?}");
        world.leave(old);
        world.settle();
        let key = match user {
            Some(user) => format!("user:{user}"),
            None => format!("connection:{first}"),
        };
        assert_eq!(world.heard, [(false, key)], "it is known as it joined");
    }
}

#[test]
fn what_a_dead_node_lists_ends() {
    let mut world = World::new(1, ModelFaults::default());
    world.join(0, 0, Some("ann"), None);
    world.join(1, 0, Some("bob"), None);
    world.join(1, 0, Some("ann"), None);
    world.settle();
    world.heard.clear();
    world.engine.end_node(1);
    world.clients.retain(|id, _| id.node != 1);
    world.settle();
    assert_eq!(world.heard, [(false, "user:bob".to_owned())]);
    let list = world.list(2, 0);
    assert_eq!(list.len(), 1, "{list:?}");
}
