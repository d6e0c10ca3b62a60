//! Events of several nodes for one application.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Client;
use crate::engine::{Engine, Kind, RESUME};
use crate::support::scripted::{Received, Scripted, http};
use crate::support::secrets::webhook_secret_file;
use crate::support::{Server, wait_until};

fn start_node(engine: &Engine, application: &Scripted) -> Server {
    Server::start(&format!(
        "{RESUME}[cluster]\nurls = [\"{}\"]\nheartbeat_ms = 200\nnode_ttl_ms = 1000\n\
         [[backend]]\nevents_url = \"{}\"\nsecret_files = [{:?}]\n\
         events = [\"connected\", \"disconnected\", \"published\", \"node_lost\"]\n",
        engine.url(),
        application.url(),
        webhook_secret_file()
    ))
}

/// Returns all events of a kind, and the node that sent each.
fn events(application: &Scripted, kind: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for batch in application.received().iter().map(Received::json) {
        let node = batch["node"].as_str().unwrap().to_owned();
        let all = batch["events"].as_array().unwrap().iter();
        let own = all.filter(|event| event["type"] == kind);
        found.extend(own.map(|event| (node.clone(), event.clone())));
    }
    found
}

#[test]
fn each_node_sends_its_events_and_a_dead_one_is_reported() {
    let engine = Engine::start(Kind::Valkey);
    let application = Scripted::start(|_| Some(http("204 No Content", "", "")));
    let mut nodes: Vec<_> = (0..3).map(|_| start_node(&engine, &application)).collect();
    let mut clients: Vec<_> = nodes.iter().map(Client::open).collect();
    for client in &mut clients {
        client.get(json!({"type": "subscribe", "channel": "a"}), "subscribed");
    }
    clients[0].get(json!({"type": "publish", "channel": "a", "content": 7}), "published");
    wait_until("each node has reported its client", || {
        events(&application, "connected").len() == 3
    });
    let connected = events(&application, "connected");
    let senders: BTreeSet<_> = connected.iter().map(|(node, _)| node).collect();
    assert_eq!(senders.len(), 3, "{connected:?}");
    wait_until("the message is reported", || !events(&application, "published").is_empty());
    // The node of the second client dies; what is known of its connections is void.
    let gone = clients.remove(1);
    let victim = connected.iter().find(|(_, event)| event["connection"] == gone.connection());
    let victim = &victim.expect("it was reported").0;
    nodes.remove(1).signal("KILL");
    wait_until("its loss is reported", || !events(&application, "node_lost").is_empty());
    let lost = events(&application, "node_lost");
    assert!(lost.iter().all(|(_, event)| event["node"] == **victim), "{lost:?}");
    let ids: BTreeSet<_> = lost.iter().map(|(_, event)| event["id"].as_str()).collect();
    assert_eq!(ids.len(), 1, "repeats have the same id");
    // A node that ends in order reports its connections itself.
    let mut last = nodes.pop().expect("two are there");
    last.signal("TERM");
    wait_until("its client is reported", || !events(&application, "disconnected").is_empty());
    assert_eq!(events(&application, "published").len(), 1, "the accepting node reports it");
    assert!(last.wait(Duration::from_mins(1)).success());
}
