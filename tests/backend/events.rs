//! Events as applications receive them, also through outages, with the losses counted exactly.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::application::{Application, Folder, LANGUAGES, SECRET, free_port};
use crate::client::Client;
use crate::support::scripted::{Scripted, http};
use crate::support::tls::Authority;
use crate::support::{Server, raw, wait_until};

fn config(folder: &Folder, url: &str, kinds: &[&str], rest: &str) -> String {
    let secret = folder.write("app.secret", SECRET);
    format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\npath = \"/ws\"\nhandler = \"hub\"\n\
         [[backend]]\nevents_url = \"{url}\"\nevents = {kinds:?}\n\
         secret_files = [{secret:?}]\n{rest}"
    )
}

const ALL: [&str; 9] = [
    "connected",
    "disconnected",
    "subscribed",
    "unsubscribed",
    "channel_occupied",
    "channel_vacated",
    "member_added",
    "member_removed",
    "published",
];

#[test]
fn applications_of_the_guide_receive_every_kind_of_event() {
    for language in LANGUAGES {
        let folder = Folder::new();
        let application = Application::start(&folder, language, free_port());
        let config = config(&folder, &application.url(), &ALL, "vacate_delay_ms = 0\n");
        let mut server = Server::start(&config);
        let mut client = Client::connect(&server);
        client.request(&json!({"type": "subscribe", "id": 1, "channel": "a"}), "subscribed");
        let content = json!({"text": "hello"});
        let publish = json!({"type": "publish", "id": 2, "channel": "a", "content": content});
        client.request(&publish, "published");
        client.close();
        for kind in ALL {
            application.await_event(kind, |event| event["type"] == kind);
        }
        let events = application.events();
        let find = |kind: &str| events.iter().find(|event| event["type"] == kind).unwrap();
        let (connected, ended) = (find("connected"), find("disconnected"));
        assert_eq!(connected["connection"], ended["connection"]);
        assert_eq!((&connected["path"], &ended["code"]), (&json!("/ws"), &json!(1000)));
        assert_eq!(connected["address"], "127.0.0.1");
        let published = find("published");
        assert_eq!((&published["content"], &published["offset"]), (&content, &json!(1)));
        assert_eq!(published["connection"], connected["connection"]);
        assert_eq!(find("member_added")["member"]["connection"], connected["connection"]);
        let ids: BTreeSet<_> = events.iter().map(|event| event["id"].as_str()).collect();
        assert_eq!(ids.len(), events.len(), "{events:?}");
        // It prints before it answers.
        wait_until("all are accepted", || {
            server.metrics().sum("events_accepted_total") == events.len() as u64
        });
        server.signal("TERM");
        assert!(server.wait(Duration::from_secs(30)).success(), "{}", server.log());
    }
}

#[test]
fn certificates_are_verified_on_either_version_of_http() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.write("app", &["localhost"], false);
    for module in ["https", "http2"] {
        let folder = Folder::new();
        let application = Application::start_tls(&folder, module, &authority.paths("app"));
        let with_ca = |authority: &Authority| {
            let ca = format!("ca_file = {:?}\n", folder.write("ca.pem", authority.pem()));
            config(&folder, &application.tls_url(), &ALL[..2], &ca)
        };
        let server = Server::start(&with_ca(&other));
        Client::connect(&server).close();
        server.await_log("the backend does not accept events");
        assert!(server.log().contains("certificate"), "{}", server.log());
        assert!(application.events().is_empty());
        server.reload(&with_ca(&authority));
        wait_until("they are sent again", || server.metrics().sum("events_accepted_total") == 2);
        assert_eq!(application.events().len(), 2);
    }
}

#[test]
fn events_outlast_an_application_that_is_killed_and_started_again() {
    let folder = Folder::new();
    let port = free_port();
    let first = Application::start(&folder, "py", port);
    let server = Server::start(&config(&folder, &first.url(), &ALL[..2], ""));
    Client::connect(&server).close();
    wait_until("the first client", || server.metrics().sum("events_accepted_total") == 2);
    drop(first);
    let mut opened = BTreeSet::new();
    for _ in 0..50 {
        let client = Client::connect(&server);
        client.close();
    }
    server.await_log("the backend does not accept events");
    let second = Application::start(&folder, "py", port);
    wait_until("all events", || second.events().len() >= 100);
    for event in second.events() {
        let connection = event["connection"].as_str().unwrap().to_owned();
        match event["type"].as_str().unwrap() {
            "connected" => assert!(opened.insert(connection), "each once"),
            "disconnected" => assert!(opened.remove(&connection), "after it was opened: {event}"),
            other => panic!("{other}"),
        }
    }
    assert!(opened.is_empty());
    server.await_log("the backend accepts events again");
    assert_eq!(server.metrics().sum("events_lost_total"), 0);
}

#[test]
fn rejected_batches_are_lost_and_their_events_are_counted() {
    let folder = Folder::new();
    let application = Scripted::start(|_| Some(http("400 Bad Request", "", "no")));
    let server = Server::start(&config(&folder, &application.url(), &ALL[..2], ""));
    for _ in 0..20 {
        Client::connect(&server).close();
    }
    wait_until("all are rejected", || server.metrics().sum("events_lost_total") >= 40);
    let lost = server.metrics();
    application.answer(|_| Some(http("200 OK", "", "")));
    // Each lane reports its losses, once.
    let mut reported = 0;
    let mut seen = application.received().len();
    wait_until("the losses are reported", || {
        let received = application.received();
        for request in &received[seen..] {
            for event in request.json()["events"].as_array().unwrap() {
                if event["type"] == "events_lost" {
                    let counts = event["counts"].as_object().unwrap();
                    reported += counts.values().filter_map(Value::as_u64).sum::<u64>();
                }
            }
        }
        seen = received.len();
        reported >= 40
    });
    assert_eq!(reported, lost.sum("events_lost_total"));
    server.await_log("events lost: not accepted by the backend");
}

#[test]
fn only_temporary_failures_are_tried_again() {
    let folder = Folder::new();
    let answers = AtomicU64::new(0);
    let application = Scripted::start(move |_| match answers.fetch_add(1, Ordering::Relaxed) + 1 {
        1 => Some(http("503 Service Unavailable", "retry-after: 1\r\n", "")),
        2 => None,
        3 => Some("HTTP/1.1 garbage\r\n\r\n".into()),
        4 => Some("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort".into()),
        _ => Some(http("500 No", "", &"x".repeat(1 << 20))),
    });
    let server = Server::start(&config(&folder, &application.url(), &ALL[..1], ""));
    let client = Client::connect(&server);
    wait_until("it is accepted", || server.metrics().sum("events_accepted_total") == 1);
    let received = application.received();
    assert_eq!(received.len(), 4, "a status is an answer, whatever follows it");
    let ids: BTreeSet<_> = received.iter().map(|one| one.header("webhook-id").to_owned()).collect();
    let bodies: BTreeSet<_> = received.iter().map(|one| one.body.clone()).collect();
    assert_eq!((ids.len(), bodies.len()), (1, 1), "the same request each time");
    application.answer(|_| Some(http("302 Found", "location: http://127.0.0.1:1/\r\n", "")));
    client.close();
    let client = Client::connect(&server);
    wait_until("a redirect is not followed", || server.metrics().sum("events_lost_total") == 1);
    client.close();
}

#[test]
fn a_reload_changes_url_secrets_and_kinds() {
    let folder = Folder::new();
    let first = Scripted::start(|_| Some(http("204 No Content", "", "")));
    let second = Scripted::start(|_| Some(http("204 No Content", "", "")));
    let server = Server::start(&config(&folder, &first.url(), &ALL[..1], ""));
    let client = Client::connect(&server);
    wait_until("the first application has it", || !first.received().is_empty());
    let other = folder.write("other.secret", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    let changed = config(&folder, &second.url(), &ALL[1..2], "");
    let secrets = format!("secret_files = [{other:?}, ");
    server.reload(&changed.replace("secret_files = [", &secrets));
    client.close();
    // A shard may apply the reload after it is reported.
    wait_until("the second application has it", || {
        Client::connect(&server).close();
        !second.received().is_empty()
    });
    let request = &second.received()[0];
    assert_eq!(request.json()["events"][0]["type"], "disconnected");
    assert_eq!(request.header("webhook-signature").split(' ').count(), 2);
    let other = changed.replace("[[backend]]", "[[backend]]\nname = \"other\"");
    assert!(server.reload(&other).contains("restart"), "another list of backends");
}

#[test]
fn what_waits_is_sent_before_the_server_ends() {
    let folder = Folder::new();
    let application = Scripted::start(|_| Some(http("204 No Content", "", "")));
    let mut server = Server::start(&config(&folder, &application.url(), &ALL[..2], ""));
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(&server)).collect();
    server.signal("TERM");
    for client in &mut clients {
        client.0.send(&raw::close(1000));
    }
    drop(clients);
    assert!(server.wait(Duration::from_secs(30)).success(), "{}", server.log());
    let count = |kind: &str| {
        let requests = application.received();
        let events = requests.iter().filter_map(|one| one.json()["events"].as_array().cloned());
        events.flatten().filter(|event| event["type"] == kind).count()
    };
    assert_eq!((count("connected"), count("disconnected")), (20, 20));
}
