//! Questions to applications: those of the guide, and ones that are slow, dead or lying.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::application::{Application, Folder, LANGUAGES, SECRET, free_port};
use crate::client::Client;
use crate::support::metrics::request;
use crate::support::scripted::{Received, Scripted, http};
use crate::support::{Raw, Server, raw, wait_until};

/// Lets the server wait for an answer until the test lets the application give it.
pub(crate) const PATIENT: &str =
    "hook_timeout_ms = 60_000\n[timeouts]\nhandshake_timeout_ms = 120_000\n";

/// A server whose application decides on everything.
fn config(folder: &Folder, url: &str, rest: &str) -> String {
    let secret = folder.write("app.secret", SECRET);
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[route]]\npath = \"/ws\"\nhandler = \"hub\"\nconnect = \"backend\"\n\
         [[channel]]\npattern = \"private:*\"\nsubscribe = \"backend\"\npublish = \"backend\"\n\
         [[backend]]\nhook_url = \"{url}\"\nsecret_files = [{secret:?}]\n{rest}"
    )
}

#[test]
fn applications_of_the_guide_decide_and_answer() {
    for language in LANGUAGES {
        let folder = Folder::new();
        let application = Application::start(&folder, language, free_port());
        let server = Server::start(&config(&folder, &application.hook_url(), ""));
        let mut unknown = Raw::connect(server.address());
        unknown.send(&raw::request_with("/ws", "Cookie: session=other\r\n"));
        let (status, body) = unknown.answer();
        assert_eq!(status, 401, "{language}: {body}");
        assert!(body.contains("sign in first"), "{body}");

        let (mut ann, welcome) =
            Client::connect_with(&server, "/ws", "Cookie: a=b; session=s-ann\r\n");
        assert_eq!(welcome["offer_ticket"], true, "{welcome}");
        let subscribed = ann.ask(&json!({"type": "subscribe", "id": 1, "channel": "private:ann"}));
        assert_eq!((&subscribed["type"], &subscribed["id"]), (&json!("subscribed"), &json!(1)));
        assert!(subscribed["grant"].is_string(), "{subscribed}");
        let error = ann.ask(&json!({"type": "subscribe", "id": 2, "channel": "private:bob"}));
        assert_eq!((&error["code"], &error["id"]), (&json!("not_yours"), &json!(2)), "{error}");

        ann.send(&json!({"type": "publish", "id": 3, "channel": "private:ann", "content": " hi "}));
        let message = ann.await_type("message");
        assert_eq!((&message["content"], &message["from"]["user"]), (&json!("hi"), &json!("ann")));
        let error = ann.ask(
            &json!({"type": "publish", "id": 4, "channel": "private:ann", "content": ["spam"]}),
        );
        assert_eq!((&error["code"], &error["id"]), (&json!("spam"), &json!(4)), "{error}");

        let sum = ann.ask(&json!({"type": "call", "id": 5, "method": "add", "content": [1, 2]}));
        assert_eq!(sum, json!({"type": "result", "id": 5, "content": 3}));
        let error = ann.ask(&json!({"type": "call", "id": 6, "method": "sub"}));
        assert_eq!((&error["code"], &error["id"]), (&json!("no_method"), &json!(6)), "{error}");
        ann.close();
    }
}

/// Answers every question as an application that allows everything, and names `ann`.
fn allow_all(request: &Received) -> String {
    let answer = match request.json()["type"].as_str() {
        Some("connect") => json!({"user": "ann", "cache_s": 60}),
        Some("subscribe") => json!({"rights": ["subscribe", "publish", "history"]}),
        Some("call") => json!({"content": request.json()["content"]}),
        _ => json!({}),
    };
    http("200 OK", "", &answer.to_string())
}

pub(crate) fn start(application: &Scripted, folder: &Folder, rest: &str) -> Server {
    Server::start(&config(folder, &application.hook_url(), rest))
}

/// Returns the body of each question of a type that the application has received.
pub(crate) fn asked(application: &Scripted, kind: &str) -> Vec<Value> {
    let all = application.received().into_iter().map(|request| request.json());
    all.filter(|question| question["type"] == kind).collect()
}

fn ticket_line(ticket: &str) -> String {
    format!("Sec-WebSocket-Protocol: seawall.v1, seawall.ticket.{ticket}\r\n")
}

fn subscribe(id: u64) -> Value {
    json!({"type": "subscribe", "id": id, "channel": "private:ann"})
}

#[test]
fn questions_have_what_the_application_needs_and_nothing_else() {
    let folder = Folder::new();
    let application = Scripted::start(|request| Some(allow_all(request)));
    let server = start(&application, &folder, "");
    let lines = "Cookie: a=1\r\nX-Secret: s\r\nUser-Agent: test\r\nCookie: b=2\r\n";
    let (mut client, welcome) = Client::connect_with(&server, "/ws?room=5", lines);
    let connect = asked(&application, "connect").remove(0);
    assert_eq!((&connect["path"], &connect["query"]), (&json!("/ws"), &json!("room=5")));
    assert_eq!(connect["headers"], json!({"cookie": "a=1; b=2", "user-agent": "test"}));
    assert_eq!(connect["address"], "127.0.0.1");
    client.ask(&subscribe(1));
    let connection = &welcome["connection"];
    let subscribe = asked(&application, "subscribe").remove(0);
    assert_eq!((&subscribe["user"], &subscribe["channel"]), (&json!("ann"), &json!("private:ann")));
    assert_eq!(&subscribe["connection"], connection);
    let publish = json!({"type": "publish", "id": 2, "channel": "private:ann", "key": "k",
        "content": {"n": 1.50}});
    assert_eq!(client.ask(&publish)["type"], "published");
    let publish = asked(&application, "publish").remove(0);
    assert_eq!((&publish["content"], &publish["key"]), (&json!({"n": 1.5}), &json!("k")));
    let call = json!({"type": "call", "id": 3, "method": "echo", "content": [null]});
    assert_eq!(client.ask(&call)["content"], json!([null]));
    let call = asked(&application, "call").remove(0);
    assert_eq!((&call["method"], &call["user"]), (&json!("echo"), &json!("ann")));
    let ids: BTreeSet<_> =
        application.received().iter().map(|one| one.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), 4, "each question has an id");
    client.close();
}

#[test]
fn a_storm_of_resumptions_asks_nothing() {
    let folder = Folder::new();
    let application = Scripted::start(|request| Some(allow_all(request)));
    let server = start(&application, &folder, "");
    let (mut client, welcome) = Client::connect_with(&server, "/ws", "");
    let subscribed = client.ask(&subscribe(1));
    drop(client);
    let mut ticket = welcome["ticket"].as_str().unwrap().to_owned();
    let since = json!({"epoch": subscribed["epoch"], "offset": subscribed["offset"],
        "grant": subscribed["grant"]});
    let before = application.received().len();
    for _ in 0..20 {
        let (mut client, welcome) = Client::connect_with(&server, "/ws", &ticket_line(&ticket));
        assert_eq!(welcome["offer_ticket"], true);
        let resume = json!({"type": "resume", "id": 9, "ticket": ticket,
            "positions": {"private:ann": since}});
        let resumed = client.ask(&resume);
        assert_eq!(resumed["channels"]["private:ann"]["recovered"], true, "{resumed}");
        ticket = resumed["ticket"].as_str().unwrap().to_owned();
    }
    assert_eq!(application.received().len(), before, "tickets and grants suffice");
    // A ticket that is not valid counts as none.
    let (client, _) = Client::connect_with(&server, "/ws", &ticket_line("bm90aGluZw"));
    client.close();
    let hits = server.metrics().sum("hook_cache_hits_total");
    assert_eq!((application.received().len(), hits), (before, 1), "it was cached");
}

#[test]
fn a_disconnected_user_is_asked_about_again() {
    let folder = Folder::new();
    let application = Scripted::start(|request| Some(allow_all(request)));
    let server = start(&application, &folder, "");
    let (mut client, welcome) = Client::connect_with(&server, "/ws", "");
    let connects = || asked(&application, "connect").len();
    let ticket = ticket_line(welcome["ticket"].as_str().unwrap());
    let (other, _) = Client::connect_with(&server, "/ws", "");
    assert_eq!(connects(), 1, "the answer was cached");
    let body = json!({"user": "ann"}).to_string();
    let headers = format!(
        "Host: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
        server.admin(),
        body.len()
    );
    let stream = TcpStream::connect(server.admin()).unwrap();
    let reply = request(stream, "POST /v1/disconnect", &headers, &body);
    assert_eq!(reply.body, json!({"disconnected": 2}).to_string());
    client.await_type("goodbye");
    assert_eq!(client.0.frame().close_code(), 4403);
    drop((client, other));
    // The answers are forgotten on the way of questions, so no later question overtakes that.
    let (client, _) = Client::connect_with(&server, "/ws", &ticket);
    assert_eq!(connects(), 2, "neither the ticket nor the cached answer is valid any more");
    client.close();
}

#[test]
fn requests_about_a_channel_keep_their_order_and_others_do_not_wait() {
    let folder = Folder::new();
    let (held, gate) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (is_held, opened) = (held.clone(), gate.clone());
    let application = Scripted::start(move |request| {
        if request.json()["type"] == "subscribe" && is_held.swap(false, Ordering::AcqRel) {
            wait_until("the test lets it answer", || opened.load(Ordering::Acquire));
        }
        Some(allow_all(request))
    });
    let rest = format!("{PATIENT}[[channel]]\npattern = \"open\"\n");
    let server = start(&application, &folder, &rest);
    let (mut client, _) = Client::connect_with(&server, "/ws", "");
    let (mut other, _) = Client::connect_with(&server, "/ws", "");
    let requests = [
        json!({"type": "call", "id": 0, "method": "m"}),
        subscribe(1),
        json!({"type": "call", "id": 2, "method": "m"}),
        json!({"type": "subscribe", "id": 3, "channel": "open"}),
        json!({"type": "publish", "id": 4, "channel": "private:ann", "content": 1}),
        json!({"type": "history", "id": 5, "channel": "private:ann"}),
        json!({"type": "unsubscribe", "id": 6, "channel": "private:ann"}),
        // These pass the ones before them.
        json!({"type": "call", "id": 7, "method": "m"}),
        json!({"type": "publish", "id": 8, "channel": "open", "content": 2}),
        json!({"type": "ping", "id": 9}),
    ];
    let text: String = requests.iter().map(Value::to_string).collect();
    client.0.send(&raw::text(text));
    // Calls hold nothing, and are held by nothing.
    let next_reply = |client: &mut Client| {
        let reply = client.await_object(|object| object["id"].is_u64());
        (reply["id"].as_u64().unwrap(), reply)
    };
    let first: BTreeMap<_, _> = (0..6).map(|_| next_reply(&mut client)).collect();
    assert_eq!(first.keys().copied().collect::<Vec<_>>(), [0, 2, 3, 7, 8, 9], "{first:?}");
    let publish = json!({"type": "publish", "id": 1, "channel": "private:ann", "content": 0});
    assert_eq!(other.ask(&publish)["type"], "published", "other clients do not wait");
    gate.store(true, Ordering::Release);
    assert_eq!(next_reply(&mut client).1["type"], "subscribed");
    // The shard itself answers an `unsubscribe`; others are answered by the channel's home.
    let rest: BTreeMap<_, _> = (0..3).map(|_| next_reply(&mut client)).collect();
    let kinds: Vec<_> = rest.values().map(|reply| reply["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["published", "history", "unsubscribed"]);
    let contents = rest[&5]["messages"].as_array().unwrap().iter();
    let contents: Vec<_> = contents.map(|message| &message["content"]).collect();
    assert_eq!(contents, [0, 1], "the history was read after the publish");
    client.close();
}

#[test]
fn answers_that_are_none_fail_the_request_and_change_nothing() {
    let folder = Folder::new();
    let application = Scripted::start(|request| Some(allow_all(request)));
    let server = start(&application, &folder, "");
    let (mut client, _) = Client::connect_with(&server, "/ws", "");
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let long = "x".repeat(70_000);
    let ok = |body: &str| http("200 OK", "", body);
    let lies = [
        ok("not JSON"),
        ok("[]"),
        ok(r#"{"rights": "subscribe"}"#),
        ok(r#"{"rights": ["own"]}"#),
        ok(r#"{"rights": ["publish"]}"#),
        ok(r#"{"expires_in_s": -1}"#),
        ok(r#"{"error": {"code": "NOT OK", "message": ""}}"#),
        ok(&format!(r#"{{"rights": {deep}}}"#)),
        ok(&format!(r#"{{"x": "{long}"}}"#)),
        http("302 Found", "location: http://127.0.0.1:1/\r\n", ""),
        http("404 Not Found", "", ""),
        http("204 No Content", "", ""),
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{}".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let text = lie.clone();
        application.answer(move |request| match request.json()["type"].as_str() {
            Some("subscribe") => Some(text.clone()),
            _ => None,
        });
        let error = client.ask(&subscribe(number as u64));
        let shown = &lie[..lie.len().min(120)];
        assert_eq!(error["code"], "unavailable", "{shown}: {error}");
        assert!(error["retry_after_ms"].as_u64().unwrap() > 0, "{shown}: {error}");
    }
    application.answer(|request| Some(allow_all(request)));
    assert_eq!(client.ask(&subscribe(99))["type"], "subscribed", "nothing is left of them");
    client.close();
}

#[test]
fn without_an_application_clients_get_an_answer_at_once() {
    let folder = Folder::new();
    let port = free_port();
    let rest = "[[channel]]\npattern = \"loose:*\"\npublish = \"backend\"\non_failure = \"allow\"\n\
                [[route]]\npath = \"/open\"\nhandler = \"hub\"\n";
    let server = Server::start(&config(&folder, &format!("http://127.0.0.1:{port}/hooks"), rest));
    let mut raw = Raw::connect(server.address());
    raw.send(&raw::request_with("/ws", ""));
    let head = raw.head();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("Retry-After: "), "{head}");
    let mut client = Client::connect_with(&server, "/open", "").0;
    let error = client.ask(&json!({"type": "call", "id": 1, "method": "m"}));
    assert_eq!((&error["code"], &error["id"]), (&json!("unavailable"), &json!(1)), "{error}");
    let published = json!({"type": "publish", "id": 2, "channel": "loose:a", "content": 1});
    assert_eq!(client.ask(&published)["type"], "published");
    // The breaker opens: questions fail without a request.
    for id in 3..40 {
        client.ask(&json!({"type": "call", "id": id, "method": "m"}));
    }
    wait_until("the metrics say so", || {
        let metrics = server.metrics();
        metrics.sum("hook_breaker_openings_total") >= 1
            && metrics.get("hooks_total{backend=\"app\",kind=\"publish\",outcome=\"allowed\"}") == 1
    });
    // It comes back, and so do its answers.
    let _application = Application::start(&folder, "mjs", port);
    wait_until("it answers", || {
        let call = json!({"type": "call", "id": 50, "method": "add", "content": [1, 2]});
        client.ask(&call)["content"] == 3
    });
    client.close();
}

/// The bug that Seawall was born from: nothing of HTTP is written into an upgraded connection, and
/// nothing at all into one that has closed, whose place another connection has taken.
#[test]
fn late_answers_reach_no_other_connection() {
    let folder = Folder::new();
    let gate = Arc::new(AtomicBool::new(false));
    let opened = gate.clone();
    let application = Scripted::start(move |request| {
        if request.json()["headers"]["cookie"] == "slow" {
            wait_until("the test lets it answer", || opened.load(Ordering::Acquire));
            let refusal = json!({"refuse": {"status": 403, "message": "too late"}});
            return Some(http("200 OK", "", &refusal.to_string()));
        }
        Some(allow_all(request))
    });
    let config = format!("shards = 1\n{}", config(&folder, &application.hook_url(), PATIENT));
    let server = Server::start(&config);
    let mut waiting = Vec::new();
    for n in 0..20 {
        let mut raw = Raw::connect(server.address());
        raw.send(&raw::request_with(&format!("/ws?{n}"), "Cookie: slow\r\n"));
        waiting.push(raw);
    }
    wait_until("all are asked", || asked(&application, "connect").len() == 20);
    drop(waiting);
    wait_until("they have left", || {
        server.metrics().get("hooks_total{backend=\"app\",kind=\"connect\",outcome=\"cancelled\"}")
            == 20
    });
    let mut clients: Vec<_> =
        (0..20).map(|_| Client::connect_with(&server, "/ws", "Cookie: fast\r\n").0).collect();
    gate.store(true, Ordering::Release);
    for round in 0..3 {
        for client in &mut clients {
            let pong = client.ask(&json!({"type": "ping", "id": round}));
            assert_eq!(pong, json!({"type": "pong", "id": round}), "nothing else is received");
        }
        wait_until("the late answers have arrived", || {
            server.metrics().sum("hooks_in_flight") == 0
        });
    }
    clients.into_iter().for_each(Client::close);
}

#[test]
fn identities_and_grants_end_when_the_application_says() {
    let folder = Folder::new();
    let application = Scripted::start(|request| {
        let answer = match request.json()["type"].as_str() {
            Some("connect") => {
                json!({"user": "ann", "expires_in_s": 3, "subscribe": ["room", "private:b"]})
            }
            _ => json!({"expires_in_s": 1}),
        };
        Some(http("200 OK", "", &answer.to_string()))
    });
    let server = start(&application, &folder, "");
    let (mut client, _) = Client::connect_with(&server, "/ws", "");
    let channels = [0, 1].map(|_| client.await_type("subscribed")["channel"].clone());
    assert!(channels.contains(&json!("room")) && channels.contains(&json!("private:b")));
    assert_eq!(client.ask(&subscribe(1))["type"], "subscribed");
    let ended = client.await_type("unsubscribed");
    assert_eq!((&ended["channel"], &ended["reason"]), (&json!("private:ann"), &json!("expired")));
    client.await_object(|object| object["type"] == "goodbye");
    assert_eq!(client.0.frame().close_code(), 4410);
}

#[test]
fn each_route_and_channel_has_its_application() {
    let folder = Folder::new();
    let secret = folder.write("app.secret", SECRET);
    let named = |name: &'static str| {
        Scripted::start(move |request| {
            let answer = match request.json()["type"].as_str() {
                Some("connect") => json!({"user": name}),
                _ => json!({"content": name}),
            };
            Some(http("200 OK", "", &answer.to_string()))
        })
    };
    let (one, two) = (named("one"), named("two"));
    let route =
        |path: &str, rest: &str| format!("[[route]]\npath = \"{path}\"\nhandler = \"hub\"\n{rest}");
    let backend = |name: &str, application: &Scripted| {
        let url = application.hook_url();
        format!("[[backend]]\nname = {name:?}\nhook_url = {url:?}\nsecret_files = [{secret:?}]\n")
    };
    let decides = |name: &str| format!("backend = {name:?}\nconnect = \"backend\"\n");
    let server = Server::start(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n{}{}{}{}{}",
        route("/one", &decides("one")),
        route("/two", &decides("two")),
        route("/none", ""),
        backend("one", &one),
        backend("two", &two),
    ));
    let call = json!({"type": "call", "id": 1, "method": "m"});
    let mut tickets = Vec::new();
    for name in ["one", "two"] {
        let (mut client, welcome) = Client::connect_with(&server, &format!("/{name}"), "");
        assert_eq!(client.ask(&call)["content"], name);
        tickets.push(welcome["ticket"].as_str().unwrap().to_owned());
        client.close();
    }
    let mut client = Client::connect_with(&server, "/none", "").0;
    assert_eq!(client.ask(&call)["code"], "not_found", "no application was asked by mistake");
    // A ticket of one application opens nothing of another, before the upgrade or after it.
    let resume = json!({"type": "resume", "id": 2, "ticket": tickets[0]});
    assert_eq!(client.ask(&resume)["code"], "unauthorized");
    let (mut client, _) = Client::connect_with(&server, "/two", &ticket_line(&tickets[0]));
    assert_eq!(asked(&two, "connect").len(), 2, "the other application is asked");
    assert_eq!(client.ask(&resume)["code"], "unauthorized");
    let (client, _) = Client::connect_with(&server, "/one", &ticket_line(&tickets[0]));
    assert_eq!(asked(&one, "connect").len(), 1);
    client.close();
}

#[test]
fn another_address_is_asked_after_a_reload() {
    let folder = Folder::new();
    let (old, new) = (
        Scripted::start(|request| Some(allow_all(request))),
        Scripted::start(|request| Some(allow_all(request))),
    );
    let server = start(&old, &folder, "");
    let (kept, _) = Client::connect_with(&server, "/ws", "");
    assert_eq!(asked(&old, "connect").len(), 1);
    server.reload(&config(&folder, &new.hook_url(), ""));
    wait_until("the new one is asked", || {
        // A handshake during the reload may be answered with 503.
        let mut raw = Raw::connect(server.address());
        raw.send(&raw::request_with("/ws", ""));
        raw.head();
        !asked(&new, "connect").is_empty()
    });
    assert_eq!(asked(&old, "connect").len(), 1, "what it had allowed to be cached is forgotten");
    kept.close();
}

#[test]
fn more_than_a_connection_holds_waits_unread_and_is_answered_in_order() {
    let folder = Folder::new();
    let gate = Arc::new(AtomicBool::new(false));
    let opened = gate.clone();
    let application = Scripted::start(move |request| {
        if request.json()["type"] == "publish" {
            wait_until("the test lets it answer", || opened.load(Ordering::Acquire));
        }
        Some(allow_all(request))
    });
    let server = start(&application, &folder, PATIENT);
    let (mut client, _) = Client::connect_with(&server, "/ws", "");
    let long = "x".repeat(20_000);
    for id in 0..12 {
        let content = format!("{id}{long}");
        client.send(
            &json!({"type": "publish", "id": id, "channel": "private:ann", "content": content}),
        );
    }
    wait_until("the first is asked about", || asked(&application, "publish").len() == 1);
    gate.store(true, Ordering::Release);
    for id in 0..12 {
        let reply = client.await_object(|object| object["id"].is_u64());
        assert_eq!((&reply["type"], &reply["id"]), (&json!("published"), &json!(id)), "{reply}");
        assert_eq!(reply["offset"], id + 1);
    }
    client.close();
}
