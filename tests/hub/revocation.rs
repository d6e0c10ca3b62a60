//! Every way to revoke a right, and its effect: the table of PROTOCOL.md, cell by cell.

use seawall::auth::SigningKey;
use serde_json::{Value, json};

use crate::client::{Client, KEYS, OPEN, got, now_s, position, posted, text, token};
use crate::support::{Server, wait_until};

const SECOND: &str = "a second secret of thirty-two bytes";

/// Two keys, unless the second is withdrawn; `token` says who may subscribe to `token:*`.
fn config(has_second: bool, token: &str) -> String {
    let second = format!("[[key]]\nid = \"second\"\nsecret = \"{SECOND}\"\n");
    let second = if has_second { second.as_str() } else { "" };
    format!(
        "{KEYS}{second}\
         [[channel]]\npattern = \"open:*\"\n\
         [[channel]]\npattern = \"token:*\"\nsubscribe = \"{token}\"\n\
         [[channel]]\npattern = \"server:*\"\nsubscribe = \"server\"\n"
    )
}

/// A token by the second key.
fn by_second(mut claims: Value) -> String {
    claims["exp"] = (now_s() + 3600).into();
    SigningKey::from_secret("second", SECOND.as_bytes()).sign(&claims).unwrap()
}

/// A client with all that can be taken away. It has resumed once, so that it has a lineage.
struct Held {
    client: Client,
    /// The ticket of its first connection, and that of its present one.
    tickets: [String; 2],
    /// The backend's grant for `server:a`, and that of a channel token for `extra:a`.
    grants: [(Value, Value); 2],
}

fn entry(at: &Value, grant: &Value) -> Value {
    let mut entry = position(at);
    if !grant.is_null() {
        entry["grant"] = grant.clone();
    }
    entry
}

fn resume(ticket: &str, positions: &Value) -> Value {
    json!({"type": "resume", "ticket": ticket, "positions": positions})
}

fn hold(server: &Server) -> Held {
    let claims = json!({"sub": "ann", "channels": ["token:*"]});
    let mut first = Client::open_with_token(server, &by_second(claims));
    let at_token = first.subscribe("token:a");
    let at_open = first.subscribe("open:a");
    posted(server, "/v1/subscribe", &json!({"user": "ann", "channel": "server:a"}));
    let at_server = first.expect("subscribed");
    let earlier = first.ticket();
    first.reset();
    let mut client = Client::open(server);
    let positions = json!({
        "open:a": position(&at_open),
        "token:a": position(&at_token),
        "server:a": entry(&at_server, &at_server["grant"]),
    });
    let resumed = client.get(resume(&earlier, &positions), "resumed");
    let grant = resumed["channels"]["server:a"]["grant"].clone();
    assert!(grant.is_string(), "a grant is renewed with the ticket: {resumed}");
    let extra = by_second(json!({"sub": "ann", "channel": "extra:a"}));
    let subscribe = json!({"type": "subscribe", "channel": "extra:a", "token": extra});
    let at_extra = client.get(subscribe, "subscribed");
    Held {
        client,
        tickets: [earlier, text(&resumed, "ticket")],
        grants: [(at_server, grant), (at_extra.clone(), at_extra["grant"].clone())],
    }
}

/// What is left, in words.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    /// Of the open connection: the code it was closed with, or its subscriptions.
    open: &'static str,
    /// What resuming is answered with: by its first ticket, and by the present one.
    tickets: [&'static str; 2],
    /// And what the channels of its grants are, to a client that has authenticated again.
    grants: [&'static str; 2],
    /// What subscribing to `token:b` is answered with.
    identity: &'static str,
}

/// The code of an error, or else the type.
fn outcome(answer: &Value) -> String {
    answer["code"].as_str().or(answer["type"].as_str()).unwrap_or_default().to_owned()
}

#[track_caller]
fn check(server: &Server, mut held: Held, what: &str, left: &Left) {
    if let Ok(code) = left.open.parse::<u16>() {
        assert_eq!(held.client.closed(), code, "{what}");
        assert_eq!(left.identity, "closed", "{what}");
    } else {
        let path = format!("/v1/connections/{}", held.client.connection());
        let mut subscriptions = String::new();
        wait_until(what, || {
            let listed = got(server, &path)["subscriptions"].take();
            let mut listed: Vec<_> =
                listed.as_array().unwrap().iter().filter_map(Value::as_str).collect();
            listed.sort_unstable();
            subscriptions = listed.join(" ");
            subscriptions == left.open
        });
        let answer = held.client.ask(json!({"type": "subscribe", "channel": "token:b"}));
        assert_eq!(outcome(&answer), left.identity, "{what}: {answer}");
    }
    // One that was authenticated by the other key, and by a token alone may do nothing.
    let names = ["server:a", "extra:a"];
    let mut anew = Client::open_as(server, "ann");
    let positions: serde_json::Map<_, _> = names
        .iter()
        .zip(&held.grants)
        .map(|(name, (at, grant))| ((*name).to_owned(), entry(at, grant)))
        .collect();
    let ticket = anew.ticket();
    let resumed = anew.get(resume(&ticket, &positions.into()), "resumed");
    for (name, expected) in names.iter().zip(left.grants) {
        let found = &resumed["channels"][*name];
        let code = found["error"]["code"].as_str().unwrap_or("subscribed");
        assert_eq!(code, expected, "{what}: grant for {name}: {resumed}");
    }
    for (ticket, expected) in held.tickets.iter().zip(left.tickets) {
        let answer = Client::open(server).ask(resume(ticket, &json!({})));
        assert_eq!(outcome(&answer), expected, "{what}: ticket: {answer}");
    }
}

/// An act that takes something away.
type Act = fn(&Server, &mut Held);

fn unsubscribe_user(server: &Server, _: &mut Held) {
    let body = json!({"user": "ann", "channel": "server:a"});
    assert_eq!(posted(server, "/v1/unsubscribe", &body), json!({"unsubscribed": 1}));
}

fn unsubscribe_connection(server: &Server, held: &mut Held) {
    let body = json!({"connection": held.client.connection(), "channel": "server:a"});
    assert_eq!(posted(server, "/v1/unsubscribe", &body), json!({"unsubscribed": 1}));
}

fn disconnect_connection(server: &Server, held: &mut Held) {
    let body = json!({"connection": held.client.connection()});
    assert_eq!(posted(server, "/v1/disconnect", &body), json!({"disconnected": 1}));
}

fn disconnect_user(server: &Server, _: &mut Held) {
    let body = json!({"user": "ann"});
    assert_eq!(posted(server, "/v1/disconnect", &body), json!({"disconnected": 1}));
}

fn narrow_rights(server: &Server, _: &mut Held) {
    let said = server.reload(&config(true, "server"));
    assert!(said.contains("reloaded"), "{said}");
}

fn withdraw_key(server: &Server, _: &mut Held) {
    let said = server.reload(&config(false, "token"));
    assert!(said.contains("reloaded"), "{said}");
}

fn refresh_with_fewer_rights(_: &Server, held: &mut Held) {
    let fewer = by_second(json!({"sub": "ann", "channels": ["token:c"]}));
    held.client.get(json!({"type": "auth", "token": fewer}), "authenticated");
}

#[test]
fn the_table_of_what_revokes_what() {
    let all = "extra:a open:a server:a token:a";
    let nothing = Left {
        open: all,
        tickets: ["resumed"; 2],
        grants: ["subscribed"; 2],
        identity: "subscribed",
    };
    let unsubscribed = || Left {
        open: "extra:a open:a token:a",
        tickets: ["resumed"; 2],
        grants: ["forbidden", "subscribed"],
        identity: "subscribed",
    };
    let disconnected = || Left {
        open: "4403",
        tickets: ["unauthorized"; 2],
        grants: ["forbidden"; 2],
        identity: "closed",
    };
    let table: [(&str, Act, Left); 8] = [
        ("nothing", |_, _| (), nothing),
        ("unsubscribe by user", unsubscribe_user, unsubscribed()),
        ("unsubscribe by connection", unsubscribe_connection, unsubscribed()),
        ("disconnect by connection", disconnect_connection, disconnected()),
        ("disconnect by user", disconnect_user, disconnected()),
        (
            "reload of rights",
            narrow_rights,
            Left {
                open: "extra:a open:a server:a",
                tickets: ["resumed"; 2],
                grants: ["subscribed"; 2],
                identity: "forbidden",
            },
        ),
        (
            "key withdrawn",
            withdraw_key,
            Left {
                open: "4410",
                tickets: ["unauthorized"; 2],
                grants: ["subscribed", "unauthorized"],
                identity: "closed",
            },
        ),
        (
            "token with fewer rights",
            refresh_with_fewer_rights,
            Left {
                open: "extra:a open:a server:a",
                tickets: ["unauthorized"; 2],
                grants: ["subscribed"; 2],
                identity: "forbidden",
            },
        ),
    ];
    for (what, act, left) in table {
        let server = Server::start(&config(true, "token"));
        let mut held = hold(&server);
        act(&server, &mut held);
        check(&server, held, what, &left);
    }
}

#[test]
fn what_was_granted_after_a_revocation_is_good() {
    let server = Server::start(&config(true, "token"));
    let mut held = hold(&server);
    unsubscribe_user(&server, &mut held);
    held.client.expect("unsubscribed");
    posted(&server, "/v1/subscribe", &json!({"user": "ann", "channel": "server:a"}));
    let again = held.client.expect("subscribed");
    let positions = json!({"server:a": entry(&again, &again["grant"])});
    let mut back = Client::open(&server);
    let resumed = back.get(resume(&held.tickets[1], &positions), "resumed");
    assert!(resumed["channels"]["server:a"]["error"].is_null(), "{resumed}");
    // The same for tickets.
    disconnect_user(&server, &mut held);
    let anew = Client::open_as(&server, "ann").ticket();
    Client::open(&server).get(resume(&anew, &json!({})), "resumed");
}

/// The user's other connections stay, and are given tickets that hold.
#[test]
fn disconnecting_one_connection_leaves_the_others_of_its_user() {
    let server = Server::start(&config(true, "token"));
    let others = [0, 1, 2, 3].map(|_| Client::open_as(&server, "ann"));
    let bob = Client::open_as(&server, "bob").ticket();
    posted(&server, "/v1/subscribe", &json!({"user": "ann", "channel": "server:a"}));
    let mut held = hold(&server);
    let before: Vec<_> = others.iter().map(Client::ticket).collect();
    disconnect_connection(&server, &mut held);
    assert_eq!(held.client.closed(), 4403);
    for mut other in others {
        let at = other.expect("subscribed");
        // The one more call of the backend does not subscribe it again.
        let renewed = other.expect("ticket");
        let positions = json!({"server:a": entry(&at, &renewed["grants"]["server:a"])});
        let mut back = Client::open(&server);
        let resumed = back.get(resume(&text(&renewed, "ticket"), &positions), "resumed");
        assert!(resumed["channels"]["server:a"]["error"].is_null(), "{resumed}");
        assert_eq!(other.closed(), 4409);
    }
    for ticket in before.iter().chain(&held.tickets) {
        Client::open(&server).refused(resume(ticket, &json!({})), "unauthorized");
    }
    Client::open(&server).get(resume(&bob, &json!({})), "resumed");
}

#[test]
fn a_connection_that_has_ended_can_be_disconnected() {
    let server = Server::start(&config(true, "token"));
    let ann = Client::open_as(&server, "ann");
    let (id, ticket) = (ann.connection(), ann.ticket());
    ann.close();
    wait_until("it has ended", || {
        got(&server, "/v1/connections?user=ann")["connections"] == json!([])
    });
    let answer = posted(&server, "/v1/disconnect", &json!({"connection": id}));
    assert_eq!(answer, json!({"disconnected": 0}));
    Client::open(&server).refused(resume(&ticket, &json!({})), "unauthorized");
}

/// Of one user's identities the one that ends later stays, whichever came with the ticket.
#[test]
fn a_resume_keeps_the_later_identity() {
    let server = Server::start(&config(true, "token"));
    let with = |channel: &str, seconds: u64| {
        token(json!({"sub": "ann", "exp": now_s() + seconds, "channels": [channel]}))
    };
    let old = Client::open_with_token(&server, &with("token:old", 600)).ticket();
    let new = with("token:new", 3600);
    let mut ann = Client::open_with_token(&server, &new);
    ann.get(resume(&old, &json!({})), "resumed");
    ann.subscribe("token:new");
    ann.refused(json!({"type": "subscribe", "channel": "token:old"}), "forbidden");
    // The other way round.
    let new = Client::open_with_token(&server, &new).ticket();
    let mut ann = Client::open_with_token(&server, &with("token:old", 600));
    ann.get(resume(&new, &json!({})), "resumed");
    ann.subscribe("token:new");
    ann.refused(json!({"type": "subscribe", "channel": "token:old"}), "forbidden");
}

/// A ticket is a bearer's: it may be used again, and each use ends the connection that it names.
#[test]
fn a_ticket_that_is_used_again_gives_one_more_connection() {
    let server = Server::start("");
    let mut old = Client::open(&server);
    let at = old.subscribe("room");
    let positions = json!({"room": position(&at)});
    let mut both = [0, 1].map(|_| Client::open(&server));
    for client in &mut both {
        client.get(resume(&old.ticket(), &positions), "resumed");
    }
    assert_eq!(old.closed(), 4409);
    posted(&server, "/v1/publish", &json!({"channel": "room", "content": "for both"}));
    for client in &mut both {
        assert_eq!(client.contents(1), ["for both"]);
    }
    let [one, mut other] = both;
    let listed = other.get(json!({"type": "presence", "channel": "room"}), "presence");
    assert_eq!(listed["count"], 2, "each is listed: {listed}");
    // The backend ends one of them: none of their tickets is good any more.
    let body = json!({"connection": one.connection()});
    assert_eq!(posted(&server, "/v1/disconnect", &body), json!({"disconnected": 1}));
    Client::open(&server).refused(resume(&old.ticket(), &json!({})), "unauthorized");
    other.get(json!({"type": "ping"}), "pong");
}

/// A backend that takes back what it has just given finds it taken back.
#[test]
fn a_subscription_that_is_not_answered_yet_can_be_taken_back() {
    let server = Server::start(&config(true, "token"));
    let ann = Client::open_as(&server, "ann");
    let id = ann.connection();
    let mut commands = Vec::new();
    for n in 0..50 {
        let body = json!({"connection": id, "channel": format!("server:{n}")});
        commands.push(json!({"subscribe": body}));
        commands.push(json!({"unsubscribe": body}));
    }
    let results = posted(&server, "/v1/batch", &json!({"commands": commands}))["results"].take();
    for pair in results.as_array().unwrap().chunks(2) {
        assert_eq!(pair, [json!({"subscribed": 1}), json!({"unsubscribed": 1})]);
    }
    wait_until("all have ended", || {
        got(&server, &format!("/v1/connections/{id}"))["subscriptions"] == json!([])
            && server.metrics().get("channel_members") == 0
    });
}

#[test]
fn only_those_who_have_authenticated_are_sent_something() {
    let server = Server::start(&format!("{KEYS}{OPEN}"));
    let mut nobody = Client::open(&server);
    let mut ann = Client::open_as(&server, "ann");
    let to_all = json!({"all": true, "content": "for users"});
    assert_eq!(posted(&server, "/v1/send", &to_all), json!({"delivered": 1}));
    assert_eq!(ann.contents(1), ["for users"]);
    let id = nobody.connection();
    let to_it = json!({"connection": id, "content": 1});
    assert_eq!(posted(&server, "/v1/send", &to_it), json!({"delivered": 0}));
    let subscribe = json!({"connection": id, "channel": "open:a"});
    assert_eq!(posted(&server, "/v1/subscribe", &subscribe), json!({"subscribed": 0}));
    nobody.send(json!({"type": "ping"}).to_string());
    // And nothing before it.
    nobody.expect("pong");
    let bob = token(json!({"sub": "bob"}));
    nobody.get(json!({"type": "auth", "token": bob}), "authenticated");
    assert_eq!(posted(&server, "/v1/send", &to_all), json!({"delivered": 2}));
    assert_eq!(nobody.contents(1), ["for users"]);
}

/// A server that asks for tokens from now on: those who came without lose all but the connection.
#[test]
fn keys_that_a_reload_brings_end_anonymous_subscriptions() {
    let server = Server::start("");
    let mut client = Client::open(&server);
    client.subscribe("open:a");
    server.reload(&config(true, "token"));
    let ended = client.expect("unsubscribed");
    assert_eq!((&ended["channel"], &ended["reason"]), (&json!("open:a"), &json!("rights")));
    client.refused(json!({"type": "subscribe", "channel": "open:a"}), "unauthorized");
    client.get(json!({"type": "auth", "token": token(json!({"sub": "ann"}))}), "authenticated");
    client.subscribe("open:a");
}

/// Tickets and grants are renewed before they end, as long as the connection lives.
#[test]
fn tickets_and_grants_outlast_their_time_with_the_connection() {
    let server = Server::start(&format!("{}[resume]\nttl_s = 2\n", config(true, "token")));
    let mut ann = Client::open_as(&server, "ann");
    posted(&server, "/v1/subscribe", &json!({"user": "ann", "channel": "server:a"}));
    let at = ann.expect("subscribed");
    let first = ann.ticket();
    // They come a second apart.
    let renewed = [0, 1, 2].map(|_| ann.expect("ticket"))[2].take();
    Client::open(&server).refused(resume(&first, &json!({})), "expired");
    let positions = json!({"server:a": entry(&at, &renewed["grants"]["server:a"])});
    let mut back = Client::open(&server);
    let resumed = back.get(resume(&text(&renewed, "ticket"), &positions), "resumed");
    assert_eq!(resumed["channels"]["server:a"]["recovered"], true, "{resumed}");
}
