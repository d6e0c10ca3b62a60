//! Presence: joins and leaves, users with several connections, and no members without a connection.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::client::{Client, KEYS, OPEN, get, got, posted, text, token};
use crate::support::{Server, wait_until};

fn watch(client: &mut Client, channel: &str) -> Value {
    client.get(json!({"type": "subscribe", "channel": channel, "presence": true}), "subscribed")
}

/// Users, or connections where there is none, as the API lists them.
fn listed(server: &Server, channel: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut path = format!("/v1/channels/{channel}/presence?limit=3");
    loop {
        let page = got(server, &path);
        for member in page["members"].as_array().unwrap() {
            all.push(
                member["user"].as_str().map_or_else(|| text(member, "connection"), Into::into),
            );
        }
        let Some(next) = page["next"].as_str() else {
            assert_eq!(page["count"], all.len());
            return all;
        };
        path = format!("/v1/channels/{channel}/presence?limit=3&after={next}");
    }
}

#[test]
fn joins_and_leaves_are_told_to_those_who_want_them() {
    let server = Server::start("");
    let (mut ann, mut bob) = (Client::open(&server), Client::open(&server));
    let subscribed = watch(&mut ann, "room");
    let own = json!({"connection": ann.connection()});
    let member = &subscribed["presence"]["members"][0];
    assert_eq!(member["connection"], own["connection"]);
    assert_eq!(subscribed["presence"]["count"], 1);
    let plain = bob.subscribe("room");
    assert!(plain["presence"].is_null(), "it did not ask: {plain}");
    let join = ann.expect("join");
    assert_eq!(
        (&join["channel"], &join["member"]["connection"]),
        (&json!("room"), &json!(bob.connection()))
    );
    let page = bob.get(json!({"type": "presence", "channel": "room"}), "presence");
    assert_eq!((&page["count"], page["members"].as_array().unwrap().len()), (&json!(2), 2));
    bob.unsubscribe("room");
    let leave = ann.expect("leave");
    assert_eq!(leave["member"], join["member"]);
    bob.is_silent("room");
}

#[test]
fn connections_of_one_user_count_once() {
    let server = Server::start(&format!("{KEYS}{OPEN}"));
    let mut watcher = Client::open_as(&server, "eve");
    watch(&mut watcher, "room");
    let ann = token(json!({"sub": "ann", "info": {"age": 7}}));
    let mut anns: Vec<_> = (0..4).map(|_| Client::open_with_token(&server, &ann)).collect();
    anns.iter_mut().for_each(|one| drop(one.subscribe("room")));
    let join = watcher.expect("join");
    assert_eq!(
        (&join["member"]["user"], &join["member"]["info"]),
        (&json!("ann"), &json!({"age": 7}))
    );
    let described = got(&server, "/v1/channels/room");
    assert_eq!((&described["members"], &described["users"]), (&json!(5), &json!(2)));
    let last = anns.pop().unwrap();
    anns.into_iter().for_each(Client::close);
    wait_until("three have left", || got(&server, "/v1/channels/room")["members"] == 2);
    watcher.is_silent("room");
    last.close();
    assert_eq!(watcher.expect("leave")["member"]["user"], "ann");
    assert_eq!(listed(&server, "room"), ["eve"]);
}

#[test]
fn nobody_stays_who_is_gone_however_it_went() {
    let server = Server::start("");
    let mut watcher = Client::open(&server);
    watch(&mut watcher, "room");
    let ways: [(&str, fn(Client, &Server)); 5] = [
        ("close", |client, _| client.close()),
        ("reset", |client, _| client.reset()),
        ("end", |client, _| drop(client)),
        ("half close", |client, _| client.raw.half_close()),
        ("disconnect", |mut client, server| {
            posted(server, "/v1/disconnect", &json!({"connection": client.connection()}));
            client.closed();
        }),
    ];
    for (way, leave) in ways {
        let mut client = Client::open(&server);
        client.subscribe("room");
        let id = client.connection();
        assert_eq!(watcher.expect("join")["member"]["connection"], id, "{way}");
        leave(client, &server);
        assert_eq!(watcher.expect("leave")["member"]["connection"], id, "{way}");
    }
    // Gone before its subscription was answered.
    for _ in 0..50 {
        let mut client = Client::open(&server);
        client.send("{\"type\":\"subscribe\",\"channel\":\"room\"}");
        client.reset();
    }
    wait_until("only the watcher is left", || {
        server.metrics().get("channel_members") == 1 && listed(&server, "room").len() == 1
    });
    assert_eq!(got(&server, "/v1/channels/room")["members"], 1);
}

#[test]
fn members_are_listed_in_pages() {
    let server = Server::start(&format!("{KEYS}{OPEN}[hub]\npresence_page_max = 5\n"));
    let users: Vec<_> = (0..23).map(|n| format!("user {n:02} é/?&")).collect();
    let mut clients: Vec<_> = users.iter().map(|user| Client::open_as(&server, user)).collect();
    clients.iter_mut().for_each(|one| drop(one.subscribe("room")));
    let (mut all, mut after) = (Vec::new(), Value::Null);
    loop {
        let object = json!({"type": "presence", "channel": "room", "after": after, "limit": 100});
        let page = clients[0].get(object, "presence");
        assert_eq!(page["count"], 23);
        assert!(page["members"].as_array().unwrap().len() <= 5, "{page}");
        all.extend(page["members"].as_array().unwrap().iter().map(|one| text(one, "user")));
        after = page["next"].clone();
        if after.is_null() {
            break;
        }
    }
    assert_eq!(all, users);
}

/// Also in the reply to a subscription, whatever information the members carry.
#[test]
fn pages_are_bounded_in_bytes_too() {
    const BYTES: usize = 10_000;
    let server = Server::start(&format!("{KEYS}{OPEN}[hub]\nrecover_bytes_max = {BYTES}\n"));
    let open = |n: usize| {
        let claims = json!({"sub": format!("user {n}"), "info": "i".repeat(3_000)});
        Client::open_with_token(&server, &token(claims))
    };
    let mut clients: Vec<_> = (0..10).map(open).collect();
    clients.iter_mut().for_each(|one| drop(one.subscribe("room")));
    let mut watcher = open(10);
    let first = watch(&mut watcher, "room")["presence"].take();
    let mut page = first;
    let mut seen = 0;
    loop {
        assert!(page.to_string().len() <= BYTES, "{} bytes", page.to_string().len());
        assert_eq!(page["count"], 11);
        seen += page["members"].as_array().unwrap().len();
        let Some(next) = page["next"].as_str() else { break };
        let object = json!({"type": "presence", "channel": "room", "after": next});
        let other =
            got(&server, &format!("/v1/channels/room/presence?after={}", next.replace(' ', "%20")));
        page = watcher.get(object, "presence");
        assert_eq!(page["members"], other["members"]);
    }
    assert_eq!(seen, 11);
}

#[test]
fn a_channel_without_presence_has_no_list() {
    let server = Server::start("[[channel]]\npattern = \"*\"\npresence = false\n");
    let mut client = Client::open(&server);
    client.subscribe("room");
    client.refused(json!({"type": "presence", "channel": "room"}), "not_found");
    let (status, answer) = get(&server, "/v1/channels/room/presence");
    assert_eq!((status, &answer["error"]["code"]), (404, &json!("not_found")));
}

/// Joins and leaves end with the right to them, by a new token or by a reload.
#[test]
fn joins_and_leaves_end_with_the_right_to_them() {
    let config = |presence: bool| {
        format!(
            "{KEYS}[[channel]]\npattern = \"*\"\nsubscribe = \"token\"\npresence = {presence}\n"
        )
    };
    let server = Server::start(&config(true));
    let with = |user: &str, rights: &[&str]| {
        let channels = json!([{"pattern": "room", "rights": rights}]);
        token(json!({"sub": user, "channels": channels}))
    };
    let mut ann = Client::open_with_token(&server, &with("ann", &["subscribe", "presence"]));
    let mut bob = Client::open_with_token(&server, &with("bob", &["subscribe", "presence"]));
    watch(&mut ann, "room");
    watch(&mut bob, "room");
    ann.expect("join");
    ann.get(json!({"type": "auth", "token": with("ann", &["subscribe"])}), "authenticated");
    let mut other = Client::open_with_token(&server, &with("cat", &["subscribe"]));
    other.subscribe("room");
    bob.expect("join");
    let alive = |client: &mut Client| {
        posted(&server, "/v1/publish", &json!({"channel": "room", "content": 1}));
        assert_eq!(client.contents(1), [1], "nothing else has come");
    };
    alive(&mut ann);
    bob.contents(1);
    server.reload(&config(false));
    wait_until("the shards have the new configuration", || {
        other.unsubscribe("room");
        other.subscribe("room");
        posted(&server, "/v1/publish", &json!({"channel": "room", "content": 1}));
        std::iter::repeat_with(|| bob.next()).take_while(|one| one["type"] != "message").count()
            == 0
    });
}

#[test]
fn a_resumption_is_no_leave_and_no_join() {
    let server = Server::start("");
    let mut watcher = Client::open(&server);
    watch(&mut watcher, "room");
    let mut old = Client::open(&server);
    let at = old.subscribe("room");
    watcher.expect("join");
    let mut new = Client::open(&server);
    let at = json!({"epoch": at["epoch"], "offset": at["offset"], "presence": true});
    let positions = json!({"room": at});
    new.get(json!({"type": "resume", "ticket": old.ticket(), "positions": positions}), "resumed");
    assert_eq!(old.closed(), 4409);
    wait_until("the old one is gone", || got(&server, "/v1/channels/room")["members"] == 2);
    watcher.is_silent("room");
    // The new one watches, as it said.
    let mut third = Client::open(&server);
    third.subscribe("room");
    assert_eq!(new.expect("join")["member"]["connection"], third.connection());
}

#[test]
fn who_names_itself_is_listed_under_its_name() {
    let config = format!("{KEYS}{OPEN}[auth]\nallow_anonymous = true\n");
    let server = Server::start(&config);
    let mut client = Client::open(&server);
    client.subscribe("room");
    assert_eq!(listed(&server, "room"), [client.connection()]);
    client.get(json!({"type": "auth", "token": token(json!({"sub": "ann"}))}), "authenticated");
    assert_eq!(listed(&server, "room"), ["ann"]);
    // A member listed without a user returns as a user, in a connection of its own.
    let ticket = Client::open_as(&server, "bob").ticket();
    let mut other = Client::open(&server);
    other.subscribe("else");
    other.unsubscribe("else");
    other.get(json!({"type": "resume", "ticket": ticket}), "resumed");
    other.subscribe("else");
    assert_eq!(listed(&server, "else"), ["bob"]);
    other.close();
    wait_until("it is gone", || listed(&server, "else").is_empty());
}

/// A small random generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % bound
    }
}

const USERS: [&str; 4] = ["ann", "bob", "cat", ""];

/// Connections with and without users come and go, in every way; a watcher's events add
/// up to what a model says, and so does the list.
#[test]
fn what_is_told_adds_up_over_a_random_run() {
    let config = format!("{KEYS}{OPEN}[auth]\nallow_anonymous = true\n");
    let server = Server::start(&config);
    let mut watcher = Client::open(&server);
    watch(&mut watcher, "room");
    let mut random = Random(0x5ea_3a11);
    let mut live: Vec<(String, Client)> = Vec::new();
    let mut model: BTreeMap<String, usize> = BTreeMap::new();
    model.insert(watcher.connection(), 1);
    let mut received: BTreeSet<String> = model.keys().cloned().collect();
    let mut expect_change = |watcher: &mut Client, kind: &str, name: &str| {
        let news = watcher.expect(kind);
        let member = &news["member"];
        let found = member["user"].as_str().map_or_else(|| text(member, "connection"), Into::into);
        assert_eq!(found, name);
        let changed = if kind == "join" { received.insert(found) } else { received.remove(&found) };
        assert!(changed, "{name}: {kind} is news");
    };
    for _ in 0..250 {
        let join = live.len() < 2 || (live.len() < 12 && random.below(2) == 0);
        if join {
            let user = USERS[random.below(USERS.len())];
            let mut client = match user {
                "" => Client::open(&server),
                user => Client::open_as(&server, user),
            };
            let name = if user.is_empty() { client.connection() } else { user.to_owned() };
            client.subscribe("room");
            let count = model.entry(name.clone()).or_insert(0);
            *count += 1;
            if *count == 1 {
                expect_change(&mut watcher, "join", &name);
            }
            live.push((name, client));
            continue;
        }
        let (name, mut client) = live.swap_remove(random.below(live.len()));
        let count = model.get_mut(&name).unwrap();
        *count -= 1;
        let last = *count == 0;
        if last {
            model.remove(&name);
        }
        match random.below(4) {
            0 => client.close(),
            1 => client.reset(),
            2 => drop(client),
            _ => drop(client.unsubscribe("room")),
        }
        if last {
            expect_change(&mut watcher, "leave", &name);
        } else {
            let members: usize = model.values().sum();
            wait_until("it has left", || got(&server, "/v1/channels/room")["members"] == members);
        }
        let mut all = listed(&server, "room");
        all.sort();
        assert_eq!(all, model.keys().cloned().collect::<Vec<_>>());
    }
    assert!(received.iter().eq(model.keys()), "{received:?} {model:?}");
    watcher.is_silent("room");
}
