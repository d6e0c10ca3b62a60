//! A client that returns while its old connection still lives replaces it, whatever is limited, and
//! is never rejected because of itself.

use serde_json::{Value, json};

use crate::client::{Client, KEYS, OPEN, got, position, posted, text, token};
use crate::support::{Server, wait_until};

const ROUNDS: usize = 6;

fn resume(ticket: &str, positions: &Value) -> Value {
    json!({"type": "resume", "ticket": ticket, "positions": positions})
}

/// On either shard: connections are spread over both.
#[test]
fn a_user_with_all_its_connections_comes_back_in_place_of_one() {
    let server = Server::start(&format!("{KEYS}{OPEN}[limits]\nconnections_per_user_max = 1\n"));
    let mut client = Client::open_as(&server, "ann");
    let at = position(&client.subscribe("room"));
    let mut ticket = client.ticket();
    let mut shards = std::collections::BTreeSet::new();
    for round in 0..ROUNDS {
        let mut back = Client::open(&server);
        let resumed = back.get(resume(&ticket, &json!({"room": at})), "resumed");
        assert_eq!(client.closed(), 4409, "round {round}");
        back.get(json!({"type": "ping"}), "pong");
        shards.insert((client.shard(), back.shard()));
        wait_until("the new one is counted", || {
            let mut other = Client::open(&server);
            let auth = json!({"type": "auth", "token": token(json!({"sub": "ann"}))});
            other.send(auth.to_string());
            other.closed() == 4429
        });
        back.get(json!({"type": "ping"}), "pong");
        ticket = text(&resumed, "ticket");
        client = back;
    }
    client.close();
    wait_until("its place is free", || {
        let mut next = Client::open(&server);
        next.send(resume(&ticket, &json!({})).to_string());
        next.expect("resumed");
        next.send("{\"type\":\"ping\"}");
        next.next()["type"] == "pong"
    });
    println!("from shard to shard: {shards:?}");
}

/// Without a connection to replace, the limit holds.
#[test]
fn a_ticket_of_a_connection_that_is_gone_takes_nobodys_place() {
    let server = Server::start(&format!("{KEYS}{OPEN}[limits]\nconnections_per_user_max = 1\n"));
    let gone = Client::open_as(&server, "ann");
    let (ticket, id) = (gone.ticket(), gone.connection());
    gone.close();
    wait_until("it is gone", || {
        got(&server, "/v1/connections?user=ann")["connections"] == json!([])
    });
    let mut client = Client::open_as(&server, "ann");
    for _ in 0..ROUNDS {
        let mut other = Client::open(&server);
        other.send(resume(&ticket, &json!({})).to_string());
        assert_eq!(other.closed(), 4429, "{id}");
    }
    client.get(json!({"type": "ping"}), "pong");
    assert_eq!(server.metrics().get("denied_total{reason=\"user_full\"}"), ROUNDS as u64);
}

#[test]
fn a_member_of_a_full_channel_comes_back_in_its_own_place() {
    let server = Server::start(
        "[[channel]]\npattern = \"*\"\nmembers_max = 2\n\
         [[channel]]\npattern = \"unlisted\"\nmembers_max = 2\npresence = false\n",
    );
    for channel in ["room", "unlisted"] {
        let mut other = Client::open(&server);
        other.subscribe(channel);
        let mut client = Client::open(&server);
        let at = position(&client.subscribe(channel));
        let mut positions = json!({});
        positions[channel] = at;
        let mut ticket = client.ticket();
        for _ in 0..ROUNDS {
            let mut back = Client::open(&server);
            let resumed = back.get(resume(&ticket, &positions), "resumed");
            assert!(resumed["channels"][channel]["error"].is_null(), "{resumed}");
            // A second use of the ticket has no place to take.
            let again = Client::open(&server).get(resume(&ticket, &positions), "resumed");
            assert_eq!(again["channels"][channel]["error"]["code"], "limit", "{again}");
            assert_eq!(client.closed(), 4409);
            ticket = text(&resumed, "ticket");
            client = back;
        }
        wait_until("the old ones have left", || {
            got(&server, &format!("/v1/channels/{channel}"))["members"] == 2
        });
        let subscribe = json!({"type": "subscribe", "channel": channel});
        Client::open(&server).refused(subscribe.clone(), "limit");
        client.unsubscribe(channel);
        Client::open(&server).get(subscribe, "subscribed");
    }
}

/// Two connections that resume with one ticket are two members, if it names no user.
#[test]
fn clients_without_a_user_are_listed_each() {
    let server = Server::start("");
    let mut watcher = Client::open(&server);
    let watch = json!({"type": "subscribe", "channel": "room", "presence": true});
    watcher.get(watch, "subscribed");
    let mut old = Client::open(&server);
    let at = position(&old.subscribe("room"));
    let joined = watcher.expect("join")["member"].take();
    assert_eq!(joined["connection"], old.connection());
    let positions = json!({"room": at});
    let mut first = Client::open(&server);
    first.get(resume(&old.ticket(), &positions), "resumed");
    assert_eq!(old.closed(), 4409);
    let sorted = |mut members: Vec<(String, Value)>| {
        members.sort_by(|one, two| one.0.cmp(&two.0));
        members
    };
    let listed = |server: &Server| {
        let page = got(server, "/v1/channels/room/presence");
        let members = page["members"].as_array().unwrap();
        assert_eq!(page["count"], members.len());
        let name = |one: &Value| (text(one, "connection"), one["joined_as"].clone());
        sorted(members.iter().map(name).collect())
    };
    let own = (watcher.connection(), Value::Null);
    let continued = (first.connection(), joined["connection"].clone());
    assert_eq!(listed(&server), sorted(vec![own.clone(), continued.clone()]));
    let mut second = Client::open(&server);
    second.get(resume(&old.ticket(), &positions), "resumed");
    assert_eq!(watcher.expect("join")["member"]["connection"], second.connection());
    let other = (second.connection(), Value::Null);
    assert_eq!(listed(&server), sorted(vec![own.clone(), continued, other.clone()]));
    // By what a watcher has of it: the connection that joined.
    let id = first.connection();
    first.close();
    let left = watcher.expect("leave")["member"].take();
    assert_eq!((&left["connection"], &left["joined_as"]), (&json!(id), &joined["connection"]));
    second.close();
    assert_eq!(watcher.expect("leave")["member"]["connection"], other.0);
    assert_eq!(listed(&server), [own]);
}

/// Whichever of a user's connections goes, and however.
#[test]
fn a_list_names_a_connection_that_lives_with_its_own_info() {
    let server = Server::start(&format!("{KEYS}{OPEN}"));
    let open = |n: usize| {
        let ann = token(json!({"sub": "ann", "info": {"n": n}}));
        let mut client = Client::open_with_token(&server, &ann);
        client.subscribe("room");
        (client, n)
    };
    let is_listed = |client: &Client, n: usize| {
        let page = got(&server, "/v1/channels/room/presence");
        assert_eq!(page["count"], 1, "{page}");
        let member = &page["members"][0];
        member["connection"] == client.connection() && member["info"]["n"] == n
    };
    let (first, _) = open(1);
    let (second, _) = open(2);
    assert!(is_listed(&second, 2), "the latest");
    second.close();
    wait_until("the first is listed", || is_listed(&first, 1));
    let (third, _) = open(3);
    first.close();
    wait_until("the third is listed", || is_listed(&third, 3));
    let at = json!({"room": position(&got(&server, "/v1/channels/room"))});
    let mut back = Client::open(&server);
    back.get(resume(&third.ticket(), &at), "resumed");
    wait_until("it is replaced", || {
        got(&server, "/v1/channels/room")["members"] == 1 && is_listed(&back, 3)
    });
    // A backend reaches the connection that is listed.
    let body = json!({"connection": back.connection()});
    assert_eq!(posted(&server, "/v1/disconnect", &body), json!({"disconnected": 1}));
    // A token with other information is shown at once.
    let (mut fresh, _) = open(5);
    let renewed = token(json!({"sub": "ann", "info": {"n": 6}}));
    fresh.get(json!({"type": "auth", "token": renewed}), "authenticated");
    assert!(is_listed(&fresh, 6));
}
