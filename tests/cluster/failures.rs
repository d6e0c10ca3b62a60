//! Nodes and engines that are killed, stopped and cut off, with clients that roam.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{call, got};
use crate::engine::{Engine, KINDS, Kind, start_node};
use crate::roamer::{Addresses, Roamer, Truth};
use crate::support::{Server, wait_until};

const CHANNEL: &str = "room";

/// The nodes, the engine, the clients and the publisher.
struct World {
    engine: Engine,
    nodes: Arc<Mutex<Vec<Option<Server>>>>,
    addresses: Addresses,
    truth: Truth,
    roamers: Vec<Roamer>,
    ends: Arc<AtomicBool>,
    publisher: JoinHandle<Vec<(Value, Value)>>,
}

/// Publishes one message after another, each until it is acknowledged, with a key. Returns contents
/// and positions.
fn publish(nodes: &Mutex<Vec<Option<Server>>>, ends: &AtomicBool) -> Vec<(Value, Value)> {
    let mut acknowledged = Vec::new();
    let mut node = 0;
    for n in 0.. {
        let body = json!({"channel": CHANNEL, "content": n, "key": n.to_string()}).to_string();
        loop {
            if ends.load(Ordering::Relaxed) {
                return acknowledged;
            }
            node += 1;
            let answer = {
                let nodes = nodes.lock().unwrap();
                let all: Vec<_> = nodes.iter().flatten().collect();
                let headers = "Content-Type: application/json\r\n";
                call(all[node % all.len()], "POST /v1/publish", headers, &body)
            };
            if answer.status == 200 {
                let position = serde_json::from_str(&answer.body).expect("an answer is JSON");
                acknowledged.push((json!(n), position));
                // What is missed in five seconds can be recovered.
                std::thread::sleep(Duration::from_millis(5));
                break;
            }
            assert_eq!(answer.status, 503, "{}", answer.body);
        }
    }
    unreachable!("the numbers do not end")
}

impl World {
    fn start(kind: Kind) -> Self {
        let engine = Engine::start_with(kind, &["--appendonly", "yes", "--appendfsync", "always"]);
        let servers: Vec<_> = (0..3).map(|_| Some(start_node(&engine))).collect();
        let addresses = servers.iter().flatten().map(|server| Some(server.address())).collect();
        let addresses: Addresses = Arc::new(Mutex::new(addresses));
        let truth = Truth::default();
        let roam = |at| Roamer::start(at, CHANNEL, addresses.clone(), truth.clone());
        let roamers = (0..6).map(roam).collect();
        let (nodes, ends) = (Arc::new(Mutex::new(servers)), Arc::new(AtomicBool::new(false)));
        let (own, flag) = (nodes.clone(), ends.clone());
        let publisher = std::thread::spawn(move || publish(&own, &flag));
        Self { engine, nodes, addresses, truth, roamers, ends, publisher }
    }

    /// Waits until every client has received more.
    fn await_progress(&self, after: &str) {
        let heard = |roamer: &Roamer| roamer.heard.load(Ordering::Relaxed);
        let before: Vec<_> = self.roamers.iter().map(heard).collect();
        wait_until(&format!("all clients receive messages after {after}"), || {
            self.roamers.iter().zip(&before).all(|(own, before)| heard(own) > before + 20)
        });
    }

    fn restart_node(&self, at: usize) {
        self.addresses.lock().unwrap()[at] = None;
        // The publisher continues with the others meanwhile.
        let gone = self.nodes.lock().unwrap()[at].take();
        drop(gone);
        let fresh = start_node(&self.engine);
        self.addresses.lock().unwrap()[at] = Some(fresh.address());
        self.nodes.lock().unwrap()[at] = Some(fresh);
    }

    /// Ends all, and checks what was acknowledged against the history.
    fn finish(self, loses_nothing: bool) {
        self.ends.store(true, Ordering::Relaxed);
        let acknowledged = self.publisher.join().expect("the publisher ends");
        let outcomes: Vec<_> = self.roamers.into_iter().map(Roamer::finish).collect();
        let nodes = self.nodes.lock().unwrap();
        let node = nodes.iter().flatten().next().expect("there is a node");
        let end = got(node, &format!("/v1/channels/{CHANNEL}"));
        let (epoch, last) = (&end["epoch"], end["offset"].as_u64().expect("a position"));
        let mut kept: HashMap<u64, Value> = HashMap::new();
        let mut offset = 0;
        while offset < last {
            let epoch = epoch.as_str().expect("a position has an epoch");
            let path =
                format!("/v1/channels/{CHANNEL}/history?limit=100&epoch={epoch}&offset={offset}");
            let page = got(node, &path);
            let messages = page["messages"].as_array().expect("a page has messages").clone();
            assert!(!messages.is_empty(), "no hole in the history: {offset} of {last}");
            for one in messages {
                offset = one["offset"].as_u64().expect("a message has an offset");
                kept.insert(offset, one["content"].clone());
            }
        }
        let mut in_epoch = 0;
        for (content, position) in acknowledged.iter().filter(|one| one.1["epoch"] == *epoch) {
            let offset = position["offset"].as_u64().expect("a position");
            assert_eq!(kept.get(&offset), Some(content), "it was acknowledged at {position}");
            in_epoch += 1;
        }
        assert!(in_epoch > 10, "{in_epoch} of {} in the last epoch", acknowledged.len());
        let truth = self.truth.lock().unwrap();
        for ((of, offset), content) in truth.iter() {
            if epoch == of {
                assert_eq!(kept.get(offset), Some(content), "clients have received the history");
            }
        }
        let gaps: u64 = outcomes.iter().map(|one| one.gaps).sum();
        if loses_nothing {
            assert_eq!((gaps, in_epoch), (0, acknowledged.len()), "{outcomes:?}");
        }
        assert!(outcomes.iter().any(|one| one.recoveries > 0), "{outcomes:?}");
    }
}

#[test]
fn broken_connections_and_restarted_nodes_lose_nothing() {
    for kind in KINDS {
        let world = World::start(kind);
        world.await_progress("the start");
        for command in [
            &["CLIENT", "KILL", "TYPE", "pubsub"][..],
            &["CLIENT", "KILL", "TYPE", "normal"],
            &["SCRIPT", "FLUSH"],
        ] {
            world.engine.call(command);
            world.await_progress(&command.join(" "));
        }
        for node in 0..3 {
            world.restart_node(node);
            world.await_progress("a node was killed");
        }
        world.finish(true);
    }
}

#[test]
fn an_engine_or_node_that_stops_for_a_while_loses_nothing() {
    for kind in KINDS {
        let world = World::start(kind);
        world.await_progress("the start");
        world.engine.signal("STOP");
        std::thread::sleep(Duration::from_secs(5));
        world.engine.signal("CONT");
        world.await_progress("the engine was stopped");
        let pid = world.nodes.lock().unwrap()[1].as_ref().expect("it runs").pid();
        // The publisher would wait for the stopped node.
        let node = world.nodes.lock().unwrap()[1].take().expect("it runs");
        node.signal("STOP");
        std::thread::sleep(Duration::from_secs(5));
        node.signal("CONT");
        assert_eq!(node.pid(), pid);
        world.nodes.lock().unwrap()[1] = Some(node);
        world.await_progress("a node was stopped");
        world.finish(true);
    }
}

#[test]
fn an_engine_that_restarts_continues_in_a_new_epoch() {
    for kind in KINDS {
        let mut world = World::start(kind);
        world.await_progress("the start");
        world.engine.restart();
        world.await_progress("a restart with its data");
        world.engine.call(&["FLUSHALL"]);
        world.engine.restart();
        world.await_progress("a restart without its data");
        world.finish(false);
    }
}
