//! Webhooks of apps: as a server library of the Pusher protocol verifies them, and with backends
//! that fail.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use seawall::auth::{AppOptions, PusherApp};
use serde_json::{Value, json};

use crate::application::Folder;
use crate::doctor::{check, examine_config};
use crate::support::scripted::{Received, Scripted, http};
use crate::support::{Raw, Server, raw, wait_until};

const KEY: &str = "key-1";
const SECRET: &str = "secret-of-the-app";

fn sign(secret: &str, text: &str) -> String {
    let options = AppOptions {
        client_events: true,
        client_events_per_s: 0,
        event_bytes_max: 0,
        presence_members_max: 0,
        connections_max: 0,
        activity_timeout_s: 1,
        tls_only: false,
    };
    PusherApp::new("1", KEY, secret.as_bytes(), options).sign(text.as_bytes())
}

fn config(url: &str, rest: &str) -> String {
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\npath = \"/app\"\n\
         handler = \"pusher\"\n[[app]]\nid = \"1\"\nkey = \"{KEY}\"\nsecret = \"{SECRET}\"\n\
         client_events_per_s = 0\nwebhook_url = \"{url}\"\nwebhook_vacate_delay_ms = 0\n{rest}"
    )
}

/// A client of the app.
struct AppClient {
    raw: Raw,
    socket_id: String,
}

impl AppClient {
    fn connect(server: &Server) -> Self {
        let mut raw = Raw::connect(server.address());
        raw.send(&raw::request_with(&format!("/app/{KEY}?protocol=7"), ""));
        raw.switched();
        let mut client = Self { raw, socket_id: String::new() };
        let data = client.await_event("pusher:connection_established");
        let data: Value = serde_json::from_str(data["data"].as_str().unwrap()).unwrap();
        data["socket_id"].as_str().unwrap().clone_into(&mut client.socket_id);
        client
    }

    fn send(&mut self, message: &Value) {
        self.raw.send(&raw::text(message.to_string()));
    }

    fn await_event(&mut self, name: &str) -> Value {
        loop {
            let frame = self.raw.frame();
            let message: Value = serde_json::from_slice(&frame.payload).unwrap();
            assert_ne!(message["event"], "pusher:error", "{message}");
            if message["event"] == name {
                return message;
            }
        }
    }

    /// Subscribes; to a presence channel as this user.
    fn subscribe(&mut self, channel: &str, user: &str) {
        let mut data = json!({"channel": channel});
        let mut text = format!("{}:{channel}", self.socket_id);
        if channel.starts_with("presence-") {
            let member = json!({"user_id": user}).to_string();
            text = format!("{text}:{member}");
            data["channel_data"] = member.into();
        }
        data["auth"] = format!("{KEY}:{}", sign(SECRET, &text)).into();
        self.send(&json!({"event": "pusher:subscribe", "data": data}));
        self.await_event("pusher_internal:subscription_succeeded");
    }

    fn trigger(&mut self, channel: &str, data: &Value) {
        self.send(&json!({"event": "client-move", "channel": channel, "data": data}));
    }

    fn close(mut self) {
        self.raw.send(&raw::close(1000));
        while self.raw.frame().first & 0xf != raw::CLOSE {}
    }
}

/// The backend of an app, in a process of its own.
struct AppBackend {
    child: Child,
    url: String,
    webhooks: Arc<Mutex<Vec<Value>>>,
}

impl AppBackend {
    fn start(secret: &str) -> Self {
        let root = env!("CARGO_MANIFEST_DIR");
        let mut command = Command::new("node");
        command.arg(format!("{root}/tests/backend/pusher.mjs"));
        command.arg(format!("{root}/.cache/node")).args([KEY, secret]).stdout(Stdio::piped());
        let mut child = command.spawn().expect("run scripts/check.sh --install");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let port = lines.next().and_then(Result::ok);
        let port = port.expect("run scripts/check.sh --install if `pusher` is missing");
        let webhooks = Arc::<Mutex<Vec<Value>>>::default();
        let shared = webhooks.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                shared.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, url: format!("http://127.0.0.1:{port}/webhooks"), webhooks }
    }

    fn webhooks(&self) -> Vec<Value> {
        self.webhooks.lock().unwrap().clone()
    }

    fn events(&self) -> Vec<Value> {
        let webhooks = self.webhooks();
        assert!(webhooks.iter().all(|one| one["valid"] == true), "{webhooks:?}");
        webhooks.iter().flat_map(|one| one["events"].as_array().unwrap().clone()).collect()
    }
}

impl Drop for AppBackend {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_server_library_accepts_webhooks_with_every_kind_of_event() {
    let backend = AppBackend::start(SECRET);
    let server = Server::start(&config(&backend.url, ""));
    let mut ann = AppClient::connect(&server);
    ann.subscribe("presence-room", "ann");
    let mut bob = AppClient::connect(&server);
    bob.subscribe("presence-room", "bob");
    bob.subscribe("private-x", "");
    ann.subscribe("private-x", "");
    ann.subscribe("cache-news", "");
    ann.await_event("pusher:cache_miss");
    ann.trigger("presence-room", &json!({"x": 1}));
    ann.trigger("private-x", &json!("hello"));
    bob.await_event("client-move");
    bob.await_event("client-move");
    let (of_ann, of_bob) = (ann.socket_id.clone(), bob.socket_id.clone());
    assert_ne!(of_ann, of_bob);
    ann.close();
    bob.close();
    let of = |name: &str, channel: &str| json!({"name": name, "channel": channel});
    let member =
        |name: &str, user: &str| json!({"name": name, "channel": "presence-room", "user_id": user});
    let sent = |channel: &str, data: &str| {
        json!({"name": "client_event", "channel": channel, "event": "client-move", "data": data,
               "socket_id": of_ann})
    };
    let mut in_room = sent("presence-room", r#"{"x":1}"#);
    in_room["user_id"] = "ann".into();
    let mut expected = vec![
        of("channel_occupied", "presence-room"),
        of("channel_occupied", "private-x"),
        of("channel_occupied", "cache-news"),
        of("cache_miss", "cache-news"),
        of("channel_vacated", "presence-room"),
        of("channel_vacated", "private-x"),
        of("channel_vacated", "cache-news"),
        member("member_added", "ann"),
        member("member_added", "bob"),
        member("member_removed", "ann"),
        member("member_removed", "bob"),
        in_room,
        sent("private-x", "hello"),
    ];
    wait_until("all events", || backend.events().len() >= expected.len());
    let mut found = backend.events();
    let sort = |events: &mut Vec<Value>| events.sort_by_key(Value::to_string);
    sort(&mut found);
    sort(&mut expected);
    assert_eq!(found, expected);
    assert!(backend.webhooks()[0]["time"].as_str().unwrap().starts_with("20"));
    // The library prints before it answers.
    let accepted = || server.metrics().sum("events_accepted_total");
    wait_until("all are accepted", || accepted() == expected.len() as u64);
    assert_eq!(server.metrics().sum("events_lost_total"), 0);
}

fn names(request: &Received) -> Vec<String> {
    let body = request.json();
    let events = body["events"].as_array().unwrap().iter();
    events.map(|event| event["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_backend_that_fails_first_gets_everything_in_order() {
    const SENT: u64 = 2000;
    let requests = AtomicU64::new(0);
    let accepted = Arc::<Mutex<Vec<Received>>>::default();
    let all = accepted.clone();
    let backend = Scripted::start(move |request| match requests.fetch_add(1, Ordering::AcqRel) {
        0 => Some(http("500 Internal Server Error", "", "")),
        1 => Some(http("404 Not Found", "", "")),
        2 => None,
        _ => {
            all.lock().unwrap().push(request.clone());
            Some(http("201 Created", "", "thanks"))
        }
    });
    let server = Server::start(&config(&backend.url(), ""));
    let mut client = AppClient::connect(&server);
    client.subscribe("private-x", "");
    for number in 0..SENT {
        client.trigger("private-x", &json!({"number": number, "filler": "x".repeat(100)}));
    }
    let sent = || -> Vec<Value> {
        let requests = accepted.lock().unwrap();
        let all = requests.iter().flat_map(|one| one.json()["events"].as_array().unwrap().clone());
        all.filter(|event| event["name"] == "client_event").collect()
    };
    wait_until("all events", || sent().len() as u64 >= SENT);
    let number = |event: &Value| {
        let data: Value = serde_json::from_str(event["data"].as_str().unwrap()).unwrap();
        data["number"].as_u64().unwrap()
    };
    let numbers: Vec<u64> = sent().iter().map(number).collect();
    assert!(numbers.iter().copied().eq(0..SENT), "in order, each once: {numbers:?}");
    let received = backend.received();
    assert_eq!(received[0].body, received[1].body, "the same webhook is sent again");
    for request in &received {
        assert!(request.body.len() <= 64 * 1024, "web servers accept it");
        let body = std::str::from_utf8(&request.body).unwrap();
        assert_eq!(request.header("x-pusher-signature"), sign(SECRET, body));
        assert_eq!(request.header("content-type"), "application/json");
    }
    wait_until("nothing waits", || {
        let metrics = server.metrics();
        metrics.sum("events_waiting") == 0 && metrics.sum("events_lost_total") == 0
    });
}

#[test]
fn what_a_backend_never_accepts_is_lost_and_counted() {
    let backend = Scripted::start(|_| Some(http("302 Found", "location: /other\r\n", "")));
    let server = Server::start(&config(&backend.url(), "webhook_retry_for_s = 1\n"));
    let mut client = AppClient::connect(&server);
    client.subscribe("presence-room", "ann");
    wait_until("both events are lost", || server.metrics().sum("events_lost_total") == 2);
    assert!(backend.received().len() >= 2, "it was sent again");
    server.await_log("events lost: not accepted by the backend");
    backend.answer(|_| Some(http("200 OK", "", "")));
    let before = backend.received().len();
    client.subscribe("cache-news", "");
    wait_until("later events arrive", || server.metrics().sum("events_accepted_total") == 2);
    let later = &backend.received()[before..];
    // There is no report of losses.
    let names: Vec<_> = later.iter().flat_map(names).collect();
    assert!(!names.contains(&"events_lost".to_owned()) && !names.is_empty(), "{names:?}");
}

#[test]
fn a_backend_that_hangs_delays_no_client_and_no_shutdown() {
    let backend = Scripted::start(|_| {
        loop {
            std::thread::park();
        }
    });
    let mut server = Server::start(&config(&backend.url(), ""));
    let (mut ann, mut bob) = (AppClient::connect(&server), AppClient::connect(&server));
    ann.subscribe("private-x", "");
    bob.subscribe("private-x", "");
    wait_until("a webhook is under way", || !backend.received().is_empty());
    for _ in 0..1000 {
        ann.trigger("private-x", &json!({}));
        bob.await_event("client-move");
    }
    drop((ann, bob));
    server.signal("TERM");
    assert!(server.wait(Duration::from_secs(30)).success(), "{}", server.log());
    assert!(server.log().contains("ending although a backend lacks events"), "{}", server.log());
}

#[test]
fn a_reload_applies_another_address_another_secret_and_other_kinds() {
    let first = Scripted::start(|_| Some(http("200 OK", "", "")));
    let second = Scripted::start(|_| Some(http("200 OK", "", "")));
    let server = Server::start(&config(&first.url(), ""));
    let mut client = AppClient::connect(&server);
    client.subscribe("cache-news", "");
    wait_until("the first backend has it", || !first.received().is_empty());
    let changed = config(&second.url(), "webhook_events = [\"cache_miss\"]\n");
    server.reload(&changed.replace(SECRET, "another-secret"));
    let before = first.received().len();
    // A shard may apply the reload after it is reported.
    let mut rounds = 0;
    wait_until("the second backend has it", || {
        rounds += 1;
        let mut client = AppClient::connect(&server);
        client.subscribe(&format!("cache-{rounds}"), "");
        !second.received().is_empty()
    });
    assert!(first.received().len() >= before);
    let request = &second.received()[0];
    let body = std::str::from_utf8(&request.body).unwrap();
    assert_eq!(request.header("x-pusher-signature"), sign("another-secret", body));
    wait_until("there is a miss", || {
        second.received().iter().flat_map(names).any(|name| name == "cache_miss")
    });
    let another = "[[app]]\nid = \"2\"\nkey = \"k\"\nsecret = \"long enough\"\n";
    let without = format!("{changed}{another}");
    assert!(!server.reload(&without).contains("restart"), "an app without a webhook");
    let with = format!("{without}webhook_url = \"http://127.0.0.1:1/\"\n");
    assert!(server.reload(&with).contains("restart"), "another webhook");
}

#[test]
fn doctor_examines_webhooks() {
    let backend = AppBackend::start(SECRET);
    let folder = Folder::new();
    let findings = examine_config(&folder, &config(&backend.url, ""));
    check(&findings, "backend", "ok", "status 200 for a webhook");
    check(&findings, "backend signature", "ok", "rejects");
    assert_eq!(findings.len(), 2, "{findings:#?}");
    let other = AppBackend::start("other secret");
    let findings = examine_config(&folder, &config(&other.url, ""));
    check(&findings, "backend", "failure", "status 401");
    assert!(findings[0]["cure"].as_str().unwrap().contains("[[app]]"), "{findings:#?}");
}
