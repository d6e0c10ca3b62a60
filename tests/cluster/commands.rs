//! Calls on connections of other nodes, and revocations that hold on all.

use serde_json::{Value, json};

use crate::client::{Client, KEYS, OPEN, get, got, position, post, posted, text};
use crate::engine::{Engine, KINDS, Kind, node_config};
use crate::support::{Server, wait_until};

/// Two nodes whose clients need tokens, and that know each other.
fn start_pair(engine: &Engine) -> [Server; 2] {
    let config = node_config(&[engine.url()], &format!("heartbeat_ms = 200\n{KEYS}{OPEN}"));
    let servers = [(); 2].map(|()| Server::start(&config));
    for server in &servers {
        wait_until("both nodes are listed", || count_nodes(server) == 2);
    }
    servers
}

fn count_nodes(server: &Server) -> usize {
    let answer = got(server, "/v1/nodes");
    let nodes = answer["nodes"].as_array().expect("a list").clone();
    nodes.iter().filter(|one| one["lost"] == false).count()
}

#[test]
fn calls_reach_users_and_connections_of_all_nodes() {
    for kind in KINDS {
        let engine = Engine::start(kind);
        let servers = start_pair(&engine);
        let mut clients = servers.each_ref().map(|server| Client::open_as(server, "ann"));
        let sent = posted(&servers[0], "/v1/send", &json!({"user": "ann", "content": 1}));
        assert_eq!(sent, json!({"delivered": 2}));
        let sent = posted(&servers[0], "/v1/send", &json!({"all": true, "content": 2}));
        assert_eq!(sent, json!({"delivered": 2}));
        let one = json!({"connection": clients[1].connection(), "content": 3});
        assert_eq!(posted(&servers[0], "/v1/send", &one), json!({"delivered": 1}));
        assert_eq!(clients[0].contents(2), [1, 2]);
        assert_eq!(clients[1].contents(3), [1, 2, 3]);
        let subscribed =
            posted(&servers[1], "/v1/subscribe", &json!({"user": "ann", "channel": "room"}));
        assert_eq!(subscribed, json!({"subscribed": 2}));
        clients.iter_mut().for_each(|one| drop(one.expect("subscribed")));
        let described = got(&servers[0], "/v1/channels/room");
        assert_eq!(described["members"], 2, "{described}");
        let listed = got(&servers[1], "/v1/channels");
        assert_eq!(listed["channels"]["room"]["members"], 2, "{listed}");
        let removed =
            posted(&servers[0], "/v1/unsubscribe", &json!({"user": "ann", "channel": "room"}));
        assert_eq!(removed, json!({"unsubscribed": 2}));
        clients.iter_mut().for_each(|one| drop(one.expect("unsubscribed")));
        let gone = posted(&servers[0], "/v1/disconnect", &json!({"user": "ann"}));
        assert_eq!(gone, json!({"disconnected": 2}));
        clients.into_iter().for_each(|mut one| assert_eq!(one.closed(), 4403));
    }
}

#[test]
fn connections_of_all_nodes_are_listed_and_described() {
    let engine = Engine::start(Kind::Redis);
    let servers = start_pair(&engine);
    let clients: Vec<_> =
        (0..6).map(|n| Client::open_as(&servers[n % 2], &format!("user{n}"))).collect();
    let mut ids: Vec<_> = clients.iter().map(Client::connection).collect();
    ids.sort();
    for server in &servers {
        for limit in [1, 2, 4, 100] {
            let (mut found, mut after): (Vec<String>, Option<String>) = (Vec::new(), None);
            loop {
                let cursor = after.map_or(String::new(), |after| format!("&after={after}"));
                let page = got(server, &format!("/v1/connections?limit={limit}{cursor}"));
                let listed = page["connections"].as_array().expect("a list");
                assert!(listed.len() <= limit, "{page}");
                found.extend(listed.iter().map(|one| text(one, "connection")));
                match page["next"].as_str() {
                    Some(next) => after = Some(next.to_owned()),
                    None => break,
                }
            }
            found.sort();
            assert_eq!(found, ids, "pages of {limit}");
        }
        for (n, id) in clients.iter().map(Client::connection).enumerate() {
            let info = got(server, &format!("/v1/connections/{id}"));
            assert_eq!(info["user"], format!("user{n}"), "{info}");
        }
        let (status, _) = get(server, "/v1/connections/AAAAAAAAAAAAAAAAAAA");
        assert_eq!(status, 404);
    }
}

/// Resumes with a ticket on a node; returns the answer.
fn resume(server: &Server, ticket: &str, channel: &str, since: &Value) -> Value {
    let mut client = Client::open_with(server.address(), "/ws", "");
    client.ask(json!({"type": "resume", "ticket": ticket, "positions": {channel: since}}))
}

#[test]
fn a_revocation_holds_on_nodes_that_missed_it() {
    for kind in KINDS {
        let mut engine = Engine::start_with(kind, &["--appendonly", "yes"]);
        let servers = start_pair(&engine);
        let mut ann = Client::open_as(&servers[0], "ann");
        let mut bob = Client::open_as(&servers[1], "bob");
        let since = position(&ann.subscribe("room"));
        bob.subscribe("room");
        let tickets = [ann.ticket(), bob.ticket()];
        // A node that starts afterwards has received no call.
        let gone = posted(&servers[1], "/v1/disconnect", &json!({"user": "ann"}));
        assert_eq!(gone["disconnected"], 1);
        let more = format!("heartbeat_ms = 200\n{KEYS}{OPEN}");
        let third = Server::start(&node_config(&[engine.url()], &more));
        wait_until("the third node is listed", || count_nodes(&third) == 3);
        for server in [&servers[0], &servers[1], &third] {
            let answer = resume(server, &tickets[0], "room", &since);
            assert_eq!(
                (&answer["type"], &answer["code"]),
                (&json!("error"), &json!("unauthorized"))
            );
        }
        let answer = resume(&third, &tickets[1], "room", &since);
        assert_eq!(answer["type"], "resumed", "others are not concerned: {answer}");
        engine.restart();
        let fresh = Server::start(&node_config(&[engine.url()], &more));
        wait_until("the node is listed", || count_nodes(&fresh) >= 1);
        let answer = resume(&fresh, &tickets[0], "room", &since);
        assert_eq!(answer["code"], "unauthorized", "the engine keeps it: {answer}");
    }
}

#[test]
fn disconnecting_a_connection_voids_its_users_tickets_on_all_nodes() {
    let engine = Engine::start(Kind::Valkey);
    let servers = start_pair(&engine);
    let mut first = Client::open_as(&servers[0], "ann");
    let mut second = Client::open_as(&servers[1], "ann");
    let old = second.ticket();
    let since = position(&second.subscribe("room"));
    let target = json!({"connection": first.connection()});
    assert_eq!(posted(&servers[1], "/v1/disconnect", &target), json!({"disconnected": 1}));
    first.closed();
    let renewed = text(&second.expect("ticket"), "ticket");
    // Both nodes have voided the others by the time of the answer.
    for server in &servers {
        assert_eq!(resume(server, &old, "room", &since)["code"], "unauthorized");
    }
    assert_eq!(resume(&servers[0], &renewed, "room", &since)["type"], "resumed");
}

#[test]
fn a_connection_that_resumes_elsewhere_replaces_the_old_one() {
    let engine = Engine::start(Kind::Redis);
    let servers = start_pair(&engine);
    let mut old = Client::open_as(&servers[0], "ann");
    let since = position(&old.subscribe("room"));
    let answer = resume(&servers[1], &old.ticket(), "room", &since);
    assert_eq!(answer["type"], "resumed", "{answer}");
    assert_eq!(old.closed(), 4409);
}

#[test]
fn a_node_that_is_gone_is_not_waited_for() {
    let engine = Engine::start(Kind::Redis);
    let [first, mut second] = start_pair(&engine);
    let mut client = Client::open_as(&first, "ann");
    let send = || posted(&first, "/v1/send", &json!({"user": "ann", "content": 1}));
    let count_unanswered = || first.metrics().get("cluster_unanswered_total");
    second.signal("STOP");
    assert_eq!(send()["unanswered"], 1);
    assert_eq!((client.contents(1), count_unanswered()), (vec![json!(1)], 1));
    second.signal("CONT");
    second.signal("TERM");
    second.wait(std::time::Duration::from_mins(1));
    wait_until("it has left the list", || count_nodes(&first) == 1);
    assert_eq!(send(), json!({"delivered": 1}), "and no unanswered node");
    assert_eq!((client.contents(1), count_unanswered()), (vec![json!(1)], 1));
    let (status, refused) = post(&first, "/v1/send", &json!({"content": 1}));
    assert_eq!((status, &refused["error"]["code"]), (400, &json!("bad_request")));
}
