//! Publishes that are repeated under one key take effect once.

use serde_json::{Value, json};

use crate::client::{Client, KEYS, OPEN, call, got, position, post, posted};
use crate::support::Server;

fn keyed(channel: &str, content: &str, key: &str) -> Value {
    json!({"type": "publish", "channel": channel, "content": content, "key": key})
}

#[test]
fn a_repeat_answers_the_first_position() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    client.subscribe("room");
    let first = client.get(keyed("room", "a", "k"), "published");
    assert!(first["duplicate"].is_null(), "{first}");
    let again = client.get(keyed("room", "a", "k"), "published");
    assert_eq!((&again["duplicate"], position(&again)), (&json!(true), position(&first)));
    client.refused(keyed("room", "b", "k"), "conflict");
    let other = client.get(keyed("room", "b", "k2"), "published");
    let elsewhere = client.get(keyed("other", "b", "k"), "published");
    assert_eq!((&other["offset"], &elsewhere["offset"]), (&json!(2), &json!(1)));
    assert_eq!(client.contents(2), ["a", "b"]);
    client.is_silent("room");
}

#[test]
fn repeats_in_one_frame_wait_for_the_first() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    client.subscribe("room");
    let frame = keyed("room", "once", "k").to_string().repeat(20);
    client.send(frame);
    let mut duplicates = 0;
    for _ in 0..21 {
        let object = client.next();
        assert_eq!(object["offset"], 1, "{object}");
        duplicates += u32::from(object["duplicate"] == true);
    }
    assert_eq!(duplicates, 19);
    client.is_silent("room");
}

#[test]
fn keys_belong_to_users_connections_and_the_api_apart() {
    let config = format!("{KEYS}{OPEN}[auth]\nallow_anonymous = true\n");
    let server = Server::start(&config);
    let mut offsets = Vec::new();
    let mut publish = |client: &mut Client| {
        let published = client.get(keyed("room", "a", "k"), "published");
        offsets.push((published["offset"].as_u64().unwrap(), published["duplicate"] == true));
    };
    let mut nobody = Client::open(&server);
    publish(&mut Client::open_as(&server, "ann"));
    publish(&mut Client::open_as(&server, "ann"));
    publish(&mut Client::open_as(&server, "bob"));
    publish(&mut nobody);
    publish(&mut Client::open(&server));
    // A user may be called like the API, or like a connection.
    publish(&mut Client::open_as(&server, "api"));
    publish(&mut Client::open_as(&server, &nobody.connection()));
    assert_eq!(
        offsets,
        [(1, false), (1, true), (2, false), (3, false), (4, false), (5, false), (6, false)]
    );
    let body = json!({"channel": "room", "content": "a", "key": "k"});
    assert_eq!(posted(&server, "/v1/publish", &body)["offset"], 7);
    let again = posted(&server, "/v1/publish", &body);
    assert_eq!((&again["offset"], &again["duplicate"]), (&json!(7), &json!(true)));
    let other = json!({"channel": "room", "content": "b", "key": "k"});
    let (status, refusal) = post(&server, "/v1/publish", &other);
    assert_eq!((status, &refusal["error"]["code"]), (409, &json!("conflict")));
}

#[test]
fn an_unnamed_client_keeps_its_keys_over_resumptions() {
    let server = Server::start("");
    let mut old = Client::open(&server);
    let first = old.get(keyed("room", "a", "k"), "published");
    let mut ticket = old.ticket();
    for _ in 0..3 {
        let mut new = Client::open(&server);
        let resumed = new.get(json!({"type": "resume", "ticket": ticket}), "resumed");
        ticket = resumed["ticket"].as_str().unwrap().to_owned();
        let again = new.get(keyed("room", "a", "k"), "published");
        assert_eq!((position(&again), &again["duplicate"]), (position(&first), &json!(true)));
    }
}

/// Two backends choose their keys without knowing of each other.
#[test]
fn each_api_key_has_keys_of_its_own() {
    let (one, two) = ("the-first-backend-key", "the-second-backend-key");
    let server = Server::start(&format!(
        "[[api_key]]\nname = \"one\"\nsecret = \"{one}\"\n\
         [[api_key]]\nname = \"two\"\nsecret = \"{two}\"\n"
    ));
    let publish = |secret: &str, path: &str, body: &Value| {
        let headers =
            format!("Authorization: Bearer {secret}\r\nContent-Type: application/json\r\n");
        let answer = call(&server, &format!("POST {path}"), &headers, &body.to_string());
        assert_eq!(answer.status, 200, "{}", answer.body);
        serde_json::from_str::<Value>(&answer.body).unwrap()
    };
    let body = json!({"channel": "room", "content": 1, "key": "k"});
    assert_eq!(publish(one, "/v1/publish", &body)["offset"], 1);
    assert_eq!(publish(two, "/v1/publish", &body)["offset"], 2);
    assert_eq!(publish(one, "/v1/publish", &body)["offset"], 1);
    let several = json!({"channels": ["room", "else"], "content": 1, "key": "k"});
    let results = publish(two, "/v1/broadcast", &several);
    assert_eq!(results["results"][0]["offset"], 2);
    let batch = json!({"commands": [{"publish": body}, {"broadcast": several}]});
    let results = publish(one, "/v1/batch", &batch);
    assert_eq!(results["results"][0]["offset"], 1);
    assert_eq!(results["results"][1]["results"][0]["offset"], 1);
}

#[test]
fn keys_are_forgotten_past_their_number() {
    let server = Server::start("[hub]\nidempotency_keys_max = 8\n");
    let mut client = Client::open(&server);
    client.get(keyed("room", "a", "first"), "published");
    for n in 0..20 {
        client.get(keyed("room", "a", &format!("k{n}")), "published");
    }
    let again = client.get(keyed("room", "a", "first"), "published");
    assert!(again["duplicate"].is_null(), "{again}");
    let last = client.get(keyed("room", "a", "k19"), "published");
    assert_eq!(last["duplicate"], true);
    assert_eq!(got(&server, "/v1/channels/room")["offset"], 22);
}

/// However many keys one client uses, those of another are remembered for their time.
#[test]
fn a_client_evicts_its_own_keys_only() {
    let server = Server::start("[hub]\nidempotency_keys_max = 100\n");
    let (mut modest, mut greedy) = (Client::open(&server), Client::open(&server));
    let first = modest.get(keyed("room", "a", "k"), "published");
    for n in 0..10 {
        let frame: String =
            (0..100).map(|m| keyed("room", "a", &format!("{n} {m}")).to_string()).collect();
        greedy.send(frame);
        (0..100).for_each(|_| drop(greedy.expect("published")));
    }
    let again = modest.get(keyed("room", "a", "k"), "published");
    assert_eq!((position(&again), &again["duplicate"]), (position(&first), &json!(true)));
    // The home of the channel has half of them.
    assert_eq!(server.metrics().get("idempotency_keys_evicted_total"), 1_000 + 1 - 50);
}
