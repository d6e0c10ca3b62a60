//! Identities and their effects: tokens in three places, tokens for single channels, and rights
//! that change.

use serde_json::{Value, json};

use crate::client::{Client, KEYS, OPEN, now_s, position, posted, token};
use crate::support::raw::request_with;
use crate::support::{Raw, Server};

const TOKENS: &str = "[[channel]]\npattern = \"*\"\nsubscribe = \"token\"\npublish = \"token\"\n";

#[test]
fn a_token_may_come_in_the_header_the_query_or_a_frame() {
    let server = Server::start(&format!("{KEYS}{OPEN}"));
    let ann = token(json!({"sub": "ann"}));
    let header = Client::open_as(&server, "ann");
    let query = Client::open_with(server.address(), &format!("/ws?token={ann}"), "");
    let mut frame = Client::open(&server);
    let answer = frame.get(json!({"type": "auth", "token": ann}), "authenticated");
    assert_eq!(answer["user"], "ann");
    for mut client in [header, query, frame] {
        client.subscribe("room");
        client.publish("room", &json!(1));
        assert_eq!(client.expect("message")["from"]["user"], "ann");
        client.close();
    }
}

/// A proxy with a login of its own passes on credentials that are not meant for this server.
#[test]
fn credentials_of_other_schemes_stand_in_no_token_s_way() {
    let server = Server::start(&format!("{KEYS}{OPEN}"));
    let ann = token(json!({"sub": "ann"}));
    let basic = "Authorization: Basic dXNlcjpwYXNz\r\n";
    let query = Client::open_with(server.address(), &format!("/ws?token={ann}"), basic);
    let both = format!("{basic}Authorization: Bearer {ann}\r\n");
    let header = Client::open_with(server.address(), "/ws", &both);
    let mut frame = Client::open_with(server.address(), "/ws", basic);
    frame.get(json!({"type": "auth", "token": ann}), "authenticated");
    for mut client in [query, header, frame] {
        client.subscribe("room");
        client.publish("room", &json!(1));
        assert_eq!(client.expect("message")["from"]["user"], "ann");
        client.close();
    }
    let mut wrong = Raw::connect(server.address());
    wrong.send(&request_with("/ws", "Authorization: Bearer x.y.z\r\n"));
    assert_eq!(wrong.answer().0, 401);
}

#[test]
fn the_query_is_not_looked_at_where_that_is_switched_off() {
    let server = Server::start(&format!("{KEYS}{OPEN}[auth]\ntoken_query = false\n"));
    let target = format!("/ws?token={}", token(json!({"sub": "ann"})));
    let mut client = Client::open_with(server.address(), &target, "");
    client.refused(json!({"type": "subscribe", "channel": "room"}), "unauthorized");
}

#[test]
fn a_token_for_a_channel_opens_that_channel_for_its_user() {
    let server = Server::start(&format!("{KEYS}{TOKENS}"));
    let mut ann = Client::open_as(&server, "ann");
    ann.refused(json!({"type": "subscribe", "channel": "room"}), "forbidden");
    let subscribe = |token: &str| json!({"type": "subscribe", "channel": "room", "token": token});
    let claims = |more: Value| {
        let mut claims = json!({"sub": "ann", "channel": "room", "rights": ["subscribe"]});
        let object = claims.as_object_mut().unwrap();
        object.extend(more.as_object().unwrap().clone());
        token(claims)
    };
    ann.refused(subscribe(&claims(json!({"channel": "other"}))), "forbidden");
    ann.refused(subscribe(&claims(json!({"sub": "bob"}))), "forbidden");
    ann.refused(subscribe(&claims(json!({"exp": now_s() - 60}))), "expired");
    ann.refused(subscribe(&claims(json!({"rights": ["history"]}))), "forbidden");
    ann.refused(subscribe("a.b.c"), "unauthorized");
    let subscribed = ann.get(subscribe(&claims(json!({}))), "subscribed");
    assert!(subscribed["grant"].is_string(), "{subscribed}");
    ann.refused(json!({"type": "publish", "channel": "room", "content": 1}), "forbidden");
    posted(&server, "/v1/publish", &json!({"channel": "room", "content": "for members"}));
    assert_eq!(ann.contents(1), ["for members"]);
    // It went with the subscription.
    ann.unsubscribe("room");
    ann.refused(json!({"type": "subscribe", "channel": "room"}), "forbidden");
}

#[test]
fn a_grant_brings_the_channel_back_and_nobody_elses() {
    let server = Server::start(&format!("{KEYS}{TOKENS}"));
    let mut ann = Client::open_as(&server, "ann");
    let own = token(json!({"sub": "ann", "channel": "room"}));
    let subscribe = json!({"type": "subscribe", "channel": "room", "token": own});
    let subscribed = ann.get(subscribe, "subscribed");
    posted(&server, "/v1/subscribe", &json!({"user": "ann", "channel": "served"}));
    let served = ann.expect("subscribed");
    assert_eq!((&served["channel"], &served["id"]), (&json!("served"), &Value::Null));
    let at = |from: &Value, grant: &Value| {
        let mut at = position(from);
        at["grant"] = grant.clone();
        at
    };
    let positions = json!({
        "room": at(&subscribed, &subscribed["grant"]),
        "served": at(&served, &served["grant"]),
        "bare": at(&subscribed, &Value::Null),
        "moved": at(&subscribed, &subscribed["grant"]),
        "broken": at(&subscribed, &json!("grant")),
    });
    let resume = |ticket: &str| json!({"type": "resume", "ticket": ticket, "positions": positions});
    let ticket = ann.ticket();
    ann.reset();
    posted(&server, "/v1/publish", &json!({"channel": "served", "content": "missed"}));
    let mut back = Client::open(&server);
    let resumed = back.get(resume(&ticket), "resumed");
    let channels = &resumed["channels"];
    assert_eq!(channels["room"]["recovered"], true);
    assert_eq!(channels["served"]["recovered"], true);
    for (channel, code) in
        [("bare", "forbidden"), ("moved", "forbidden"), ("broken", "unauthorized")]
    {
        assert_eq!(channels[channel]["error"]["code"], code, "{channels}");
    }
    assert_eq!(back.contents(1), ["missed"]);
    // In another's hands they open nothing.
    let bob = Client::open_as(&server, "bob").ticket();
    let mut bob_back = Client::open(&server);
    let resumed = bob_back.get(resume(&bob), "resumed");
    for channel in ["room", "served"] {
        assert_eq!(resumed["channels"][channel]["error"]["code"], "forbidden", "{resumed}");
    }
}

#[test]
fn a_renewed_token_takes_what_it_does_not_grant() {
    let server = Server::start(&format!("{KEYS}{TOKENS}"));
    let with = |channels: Value| token(json!({"sub": "ann", "channels": channels}));
    let mut ann = Client::open_with_token(&server, &with(json!(["a", "b"])));
    ann.subscribe("a");
    ann.subscribe("b");
    ann.get(json!({"type": "auth", "token": with(json!(["b", "c"]))}), "authenticated");
    let ended = ann.expect("unsubscribed");
    assert_eq!((&ended["channel"], &ended["id"]), (&json!("a"), &Value::Null));
    assert_eq!(ended["reason"], "rights");
    ann.refused(json!({"type": "subscribe", "channel": "a"}), "forbidden");
    ann.subscribe("c");
    posted(&server, "/v1/broadcast", &json!({"channels": ["a", "b", "c"], "content": 1}));
    let mut heard = [0, 1].map(|_| ann.expect("message")["channel"].take());
    heard.sort_by_key(ToString::to_string);
    assert_eq!(heard, ["b", "c"]);
}

#[test]
fn what_a_channels_token_granted_ends_with_it() {
    let server = Server::start(&format!("{KEYS}{TOKENS}"));
    let mut ann = Client::open_as(&server, "ann");
    let short = token(json!({"sub": "ann", "channel": "room", "exp": now_s() + 2}));
    ann.get(json!({"type": "subscribe", "channel": "room", "token": short}), "subscribed");
    let ended = ann.expect("unsubscribed");
    assert_eq!((&ended["channel"], &ended["id"]), (&json!("room"), &Value::Null));
    assert_eq!(ended["reason"], "expired");
    ann.ask(json!({"type": "ping"}));
}

/// The server's word lets a client listen; what it may say is for its own rights.
#[test]
fn a_subscription_by_the_server_opens_no_publishing() {
    let server = Server::start(&format!("{KEYS}{TOKENS}"));
    let mut ann = Client::open_as(&server, "ann");
    let body = json!({"user": "ann", "channel": "room"});
    assert_eq!(posted(&server, "/v1/subscribe", &body), json!({"subscribed": 1}));
    assert_eq!(ann.expect("subscribed")["channel"], "room");
    ann.get(json!({"type": "history", "channel": "room"}), "history");
    ann.refused(json!({"type": "publish", "channel": "room", "content": 1}), "forbidden");
    posted(&server, "/v1/publish", &json!({"channel": "room", "content": 2}));
    assert_eq!(ann.contents(1), [2]);
}

/// The tolerance holds for channel tokens too, and each rejection of one, or of a grant, is counted
/// by its kind.
#[test]
fn channel_tokens_count_within_the_tolerance_and_their_rejections_are_counted() {
    let server = Server::start(&format!("{KEYS}{TOKENS}[auth]\nleeway_s = 60\n"));
    let mut ann = Client::open_as(&server, "ann");
    let subscribe = |channel: &str, claims: Value| {
        let token = token(claims);
        json!({"type": "subscribe", "channel": channel, "token": token})
    };
    let late = |channel: &str, s: u64| json!({"channel": channel, "exp": now_s() - s});
    let subscribed = ann.get(subscribe("a", late("a", 20)), "subscribed");
    ann.publish("a", &json!(1));
    assert_eq!(ann.contents(1), [1]);
    // Its grant is as good as the token.
    let mut again = Client::open_as(&server, "ann");
    let mut place = position(&subscribed);
    place["grant"] = subscribed["grant"].clone();
    let resume = json!({"type": "resume", "ticket": again.ticket(), "positions": {"a": place}});
    let resumed = again.get(resume, "resumed");
    assert_eq!(resumed["channels"]["a"]["offset"], 1, "{resumed}");
    for (claims, code, kind) in [
        (late("b", 100), "expired", "expired"),
        (json!({"channel": "c"}), "forbidden", "channel"),
        (json!({"channel": "b", "sub": "bob"}), "forbidden", "subject"),
        (json!({"channel": "b", "nbf": now_s() + 100}), "unauthorized", "not_yet_valid"),
        (json!({"channel": 1}), "unauthorized", "claims"),
    ] {
        let name = format!("auth_failures_total{{kind=\"{kind}\"}}");
        let count = |server: &Server| server.metrics().find(&name).unwrap_or_default();
        let before = count(&server);
        ann.refused(subscribe("b", claims), code);
        assert_eq!(count(&server), before + 1, "{kind}");
    }
    let mut other = Client::open_as(&server, "ann");
    let forged = json!({"a": {"epoch": "0", "offset": 0, "grant": "AAAA"}});
    let resume = json!({"type": "resume", "ticket": other.ticket(), "positions": forged});
    let resumed = other.get(resume, "resumed");
    assert_eq!(resumed["channels"]["a"]["error"]["code"], "unauthorized");
    assert_eq!(server.metrics().get("auth_failures_total{kind=\"grant\"}"), 1);
}
