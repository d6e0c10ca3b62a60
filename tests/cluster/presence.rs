//! Members of channels on several nodes: lists, joins and leaves, and seats.

use serde_json::{Value, json};

use crate::client::{Client, KEYS, got};
use crate::engine::{Engine, KINDS, Kind, RESUME};
use crate::support::{Server, wait_until};

/// Starts a node on an engine, with presence and tokens. A silent node is soon dead.
fn start_node(engine: &Engine) -> Server {
    Server::start(&format!(
        "{RESUME}[cluster]\nurls = [\"{}\"]\nheartbeat_ms = 200\nnode_ttl_ms = 1000\n{KEYS}\
         [[channel]]\npattern = \"*\"\npresence = true\nhistory = 100\n\
         [[channel]]\npattern = \"small:*\"\nmembers_max = 2\n",
        engine.url()
    ))
}

fn watch(client: &mut Client, channel: &str) -> Value {
    client.get(json!({"type": "subscribe", "channel": channel, "presence": true}), "subscribed")
}

/// The users and the count of a list of members, in its order.
fn users(list: &Value) -> (u64, Vec<String>) {
    let members = list["members"].as_array().expect("a list").iter();
    let users = members.map(|one| one["user"].as_str().unwrap_or_default().to_owned());
    (list["count"].as_u64().expect("a count"), users.collect())
}

fn listed(server: &Server, channel: &str) -> (u64, Vec<String>) {
    users(&got(server, &format!("/v1/channels/{channel}/presence")))
}

fn all(names: &[&str]) -> (u64, Vec<String>) {
    (names.len() as u64, names.iter().map(|name| (*name).to_owned()).collect())
}

/// The next join or leave of another user than `own`.
fn news(client: &mut Client, own: &str) -> (String, String) {
    loop {
        let object = client.next();
        let user = object["member"]["user"].as_str().unwrap_or_default().to_owned();
        if user != own {
            return (object["type"].as_str().expect("a type").to_owned(), user);
        }
    }
}

fn joined(user: &str) -> (String, String) {
    ("join".into(), user.into())
}

fn left(user: &str) -> (String, String) {
    ("leave".into(), user.into())
}

#[test]
fn lists_joins_and_leaves_are_those_of_all_nodes() {
    for kind in KINDS {
        let engine = Engine::start(kind);
        let servers = [(); 2].map(|()| start_node(&engine));
        let mut ann = Client::open_as(&servers[0], "ann");
        assert_eq!(users(&watch(&mut ann, "room")["presence"]), all(&["ann"]));
        let mut bob = Client::open_as(&servers[1], "bob");
        assert_eq!(users(&watch(&mut bob, "room")["presence"]), all(&["ann", "bob"]));
        assert_eq!(news(&mut ann, "ann"), joined("bob"));
        for server in &servers {
            assert_eq!(listed(server, "room"), all(&["ann", "bob"]));
            wait_until("the nodes know each other", || {
                got(server, "/v1/nodes")["nodes"].as_array().is_some_and(|all| all.len() == 2)
            });
            let about = got(server, "/v1/channels/room");
            assert_eq!((&about["members"], &about["users"]), (&json!(2), &json!(2)), "{about}");
        }
        // Another connection of a user is no join, and its end no leave.
        let mut other = Client::open_as(&servers[0], "bob");
        other.subscribe("room");
        wait_until("the later connection is shown", || {
            let list = got(&servers[1], "/v1/channels/room/presence");
            list["members"][1]["connection"] == other.connection()
        });
        assert_eq!(got(&servers[1], "/v1/channels/room")["users"], 2);
        other.close();
        wait_until("a living connection is shown", || {
            let list = got(&servers[0], "/v1/channels/room/presence");
            list["members"][1]["connection"] == bob.connection()
        });
        let mut eve = Client::open_as(&servers[1], "eve");
        eve.subscribe("room");
        assert_eq!(news(&mut ann, "ann"), joined("eve"));
        bob.close();
        assert_eq!(news(&mut ann, "ann"), left("bob"));
        let page = ann.get(json!({"type": "presence", "channel": "room", "limit": 1}), "presence");
        assert_eq!(users(&page), (2, vec!["ann".into()]));
        let next = json!({"type": "presence", "channel": "room", "after": page["next"]});
        assert_eq!(users(&ann.get(next, "presence")), (2, vec!["eve".into()]));
    }
}

#[test]
fn members_of_a_killed_node_leave_and_those_of_a_paused_one_return() {
    for kind in KINDS {
        let engine = Engine::start(kind);
        let servers = [(); 3].map(|()| start_node(&engine));
        let mut watcher = Client::open_as(&servers[0], "ann");
        watch(&mut watcher, "room");
        let mut clients = Vec::new();
        for (server, user) in [(&servers[1], "bob"), (&servers[2], "eve")] {
            let mut client = Client::open_as(server, user);
            client.subscribe("room");
            assert_eq!(news(&mut watcher, "ann"), joined(user));
            clients.push(client);
        }
        servers[1].signal("KILL");
        assert_eq!(news(&mut watcher, "ann"), left("bob"));
        assert_eq!(listed(&servers[2], "room"), all(&["ann", "eve"]));
        servers[2].signal("STOP");
        assert_eq!(news(&mut watcher, "ann"), left("eve"));
        assert_eq!(listed(&servers[0], "room"), all(&["ann"]));
        servers[2].signal("CONT");
        assert_eq!(news(&mut watcher, "ann"), joined("eve"));
        assert_eq!(listed(&servers[2], "room"), all(&["ann", "eve"]));
        wait_until("both sweeps are counted", || {
            let sweeps = [0, 2].map(|at| servers[at].metrics().get("cluster_sweeps_total"));
            sweeps.iter().sum::<u64>() >= 2
        });
    }
}

#[test]
fn an_engine_that_restarts_without_its_data_gets_the_lists_again() {
    let mut engine = Engine::start(Kind::Valkey);
    let servers = [(); 2].map(|()| start_node(&engine));
    let mut ann = Client::open_as(&servers[0], "ann");
    watch(&mut ann, "room");
    let mut bob = Client::open_as(&servers[1], "bob");
    bob.subscribe("room");
    assert_eq!(news(&mut ann, "ann"), joined("bob"));
    engine.restart();
    wait_until("all are listed", || {
        let answer = crate::client::get(&servers[0], "/v1/channels/room/presence");
        answer.0 == 200 && users(&answer.1) == all(&["ann", "bob"])
    });
    loop {
        let object = ann.next();
        if object["type"] == "presence_gap" {
            break;
        }
        assert_ne!(object["type"], "leave", "{object}");
    }
}

#[test]
fn a_client_that_resumes_on_another_node_neither_leaves_nor_joins() {
    let engine = Engine::start(Kind::Redis);
    let servers = [(); 2].map(|()| start_node(&engine));
    let mut watcher = Client::open_as(&servers[0], "ann");
    watch(&mut watcher, "room");
    let mut first = Client::open_as(&servers[0], "bob");
    let joined_at = first.subscribe("room");
    assert_eq!(news(&mut watcher, "ann"), joined("bob"));
    let mut second = Client::open_as(&servers[1], "bob");
    let position = json!({"epoch": joined_at["epoch"], "offset": joined_at["offset"]});
    let resume =
        json!({"type": "resume", "ticket": first.ticket(), "positions": {"room": position}});
    second.get(resume, "resumed");
    assert_eq!(first.closed(), 4409);
    let mut eve = Client::open_as(&servers[1], "eve");
    eve.subscribe("room");
    assert_eq!(news(&mut watcher, "ann"), joined("eve"), "nothing before it");
    let list = got(&servers[0], "/v1/channels/room/presence");
    assert_eq!(list["members"][1]["connection"], second.connection(), "{list}");
}

#[test]
fn a_channel_has_no_more_members_than_seats_on_all_nodes() {
    for kind in KINDS {
        let engine = Engine::start(kind);
        let servers = [(); 2].map(|()| start_node(&engine));
        let mut clients = [0, 1, 1].map(|at| Client::open_as(&servers[at], "ann"));
        let [first, second, third] = &mut clients;
        first.subscribe("small:1");
        second.subscribe("small:1");
        let request = || json!({"type": "subscribe", "channel": "small:1"});
        let message = third.refused(request(), "limit");
        assert!(message.contains("limit of 2 members"), "{message}");
        first.unsubscribe("small:1");
        wait_until("the seat is free", || third.ask(request())["type"] == "subscribed");
        first.refused(request(), "limit");
        // Whatever a dead node had is free as well.
        servers[1].signal("KILL");
        wait_until("the seats are free", || first.ask(request())["type"] == "subscribed");
    }
}
