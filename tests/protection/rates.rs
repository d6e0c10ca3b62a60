//! Rate limits, and what happens to messages above them.

use crate::support::raw::{FIN, PING, PONG, TEXT, frame, request_with};
use crate::support::{Raw, Server, wait_until};
use crate::{hub, said, say};

fn echo(server: &Server) -> Raw {
    let mut raw = Raw::connect(server.address());
    raw.send(&request_with("/echo", ""));
    raw.switched();
    raw
}

/// Sends this many small messages at once, and returns how many come back before the answer to a
/// ping behind them; `limits` must leave room for the ping.
fn come_back(raw: &mut Raw, messages: usize) -> usize {
    let mut bytes = Vec::new();
    (0..messages).for_each(|_| bytes.extend(frame(FIN | TEXT, b"hello")));
    raw.send(&bytes);
    std::thread::sleep(std::time::Duration::from_millis(300));
    raw.send(&frame(FIN | PING, b"end"));
    let mut echoes = 0;
    loop {
        let answer = raw.frame();
        match answer.first {
            first if first == FIN | TEXT => echoes += 1,
            first if first == FIN | PONG => return echoes,
            _ => panic!("{answer:?}"),
        }
    }
}

#[test]
fn messages_above_the_rate_are_dropped_and_counted() {
    let server =
        Server::start("[rates]\nconnection_messages = 10\nburst_ms = 2000\nexcess = \"drop\"\n");
    let mut raw = echo(&server);
    let echoes = come_back(&mut raw, 100);
    assert!((20..100).contains(&echoes), "two seconds' worth, and what is earned: {echoes}");
    let dropped = server.metrics().get("over_rate_total{kind=\"messages\"}");
    assert!(dropped >= 100 - echoes as u64, "{dropped}");
    assert!(come_back(&mut echo(&server), 10) == 10, "another connection has its own");
}

#[test]
fn too_much_closes_where_that_is_the_policy() {
    let server = Server::start("[rates]\nconnection_bytes = 1000\nexcess = \"close\"\n");
    let mut raw = echo(&server);
    let text = "x".repeat(900);
    raw.echo(&text);
    raw.echo(&text);
    raw.send(&frame(FIN | TEXT, text.as_bytes()));
    assert_eq!(raw.frame().close_code(), 4429);
    assert_eq!(server.metrics().get("over_rate_total{kind=\"bytes\"}"), 1);

    let mut publisher = hub(&server, "");
    let text = format!("{{\"type\":\"ping\"{}}}", " ".repeat(900));
    say(&mut publisher, &text);
    assert_eq!(said(&mut publisher)["type"], "pong");
    say(&mut publisher, &text);
    assert_eq!(said(&mut publisher)["type"], "pong");
    say(&mut publisher, &text);
    let goodbye = said(&mut publisher);
    assert_eq!((&goodbye["type"], &goodbye["code"]), (&"goodbye".into(), &4429.into()));
    assert!(goodbye["retry_after_ms"].as_u64().unwrap() > 0, "{goodbye}");
    assert_eq!(publisher.frame().close_code(), 4429);
}

#[test]
fn each_request_above_the_rate_gets_its_error() {
    let server = Server::start("[rates]\nconnection_publishes = 1\nconnection_subscribes = 2\n");
    let mut raw = hub(&server, "");
    let mut outcomes = |kind: &str, more: &str| {
        let mut refused = 0;
        for n in 0..20 {
            let id = format!("{kind}{n}");
            let request =
                format!("{{\"type\":\"{kind}\",\"id\":\"{id}\",\"channel\":\"c{n}\"{more}}}");
            say(&mut raw, &request);
            let answer = said(&mut raw);
            assert_eq!(answer["id"], id.as_str(), "{answer}");
            if answer["type"] == "error" {
                assert_eq!(answer["code"], "rate_limited", "{answer}");
                assert!(answer["message"].as_str().unwrap().contains("wait"), "{answer}");
                refused += 1;
            }
        }
        refused
    };
    assert!((1..=18).contains(&outcomes("publish", ",\"content\":1")));
    assert!((1..=16).contains(&outcomes("subscribe", "")));
    let metrics = server.metrics();
    assert!(metrics.get("over_rate_total{kind=\"publishes\"}") >= 1);
    assert!(metrics.get("over_rate_total{kind=\"subscribes\"}") >= 1);
    say(&mut raw, "{\"type\":\"ping\",\"id\":\"p\"}");
    assert_eq!(said(&mut raw)["type"], "pong", "the connection lives");
}

/// A `resume` is as many subscriptions as it names.
#[test]
fn no_resume_passes_by_the_rate_of_subscriptions() {
    let server = Server::start("[rates]\nconnection_subscribes = 1\nburst_ms = 4000\n");
    let mut raw = hub(&server, "");
    for n in 0..4 {
        for kind in ["subscribe", "unsubscribe"] {
            say(&mut raw, &format!("{{\"type\":\"{kind}\",\"channel\":\"c{n}\"}}"));
            assert_eq!(said(&mut raw)["type"], format!("{kind}d"), "{kind}");
        }
    }
    let place = "{\"epoch\":\"\",\"offset\":0}";
    let places: Vec<_> = (0..60).map(|n| format!("\"c{n}\":{place}")).collect();
    let resume = |places: &str| {
        format!("{{\"type\":\"resume\",\"ticket\":\"x\",\"positions\":{{{places}}}}}")
    };
    say(&mut raw, &resume(&places.join(",")));
    assert_eq!(said(&mut raw)["code"], "rate_limited");
    say(&mut raw, &resume(""));
    assert_eq!(said(&mut raw)["code"], "unauthorized", "a connection without channels is reviewed");
    // After a rest, as on a new connection, more than a burst may come at once.
    say(&mut hub(&server, ""), &resume(&places.join(",")));
    assert!(server.metrics().get("over_rate_total{kind=\"subscribes\"}") == 1);
}

#[test]
fn a_user_has_one_budget_for_all_its_connections() {
    let secret = "0123456789abcdef0123456789abcdef";
    let server = Server::start(&format!(
        "[rates]\nuser_publishes = 5\nburst_ms = 4000\n[[key]]\nsecret = \"{secret}\"\n\
         [[channel]]\npattern = \"*\"\nsubscribe = \"anyone\"\npublish = \"anyone\"\n"
    ));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_seawall"));
    let key = format!("--key-secret={secret}");
    let token = command.args(["token", "--user", "ann", &key]).output().unwrap().stdout;
    let bearer = format!("Authorization: Bearer {}\r\n", String::from_utf8(token).unwrap().trim());
    let mut connections: Vec<_> = (0..4).map(|_| hub(&server, &bearer)).collect();
    let (mut published, mut refused) = (0, 0);
    for _ in 0..25 {
        for raw in &mut connections {
            say(raw, "{\"type\":\"publish\",\"id\":\"1\",\"channel\":\"c\",\"content\":1}");
            match said(raw) {
                answer if answer["type"] == "published" => published += 1,
                answer if answer["code"] == "rate_limited" => refused += 1,
                answer => panic!("{answer}"),
            }
        }
    }
    assert!(published >= 20 && refused > 0, "{published} published, {refused} refused");
}

/// What passes in T seconds is at most rate * T + burst, also of messages that cost less than any
/// unit of time: small ones against a high rate.
#[test]
fn small_messages_do_not_pass_below_a_users_rate() {
    let secret = "0123456789abcdef0123456789abcdef";
    let (rate, burst, size) = (200_000_u64, 200_000_u64, 4_u64);
    let server = Server::start(&format!(
        "[rates]\nuser_bytes = {rate}\nburst_ms = 1000\nexcess = \"drop\"\n\
         [[key]]\nsecret = \"{secret}\"\n"
    ));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_seawall"));
    let key = format!("--key-secret={secret}");
    let token = command.args(["token", "--user", "ann", &key]).output().unwrap().stdout;
    let bearer = format!("Authorization: Bearer {}\r\n", String::from_utf8(token).unwrap().trim());
    let began = std::time::Instant::now();
    let mut connections: Vec<_> = (0..3).map(|_| hub(&server, &bearer)).collect();
    let pings = frame(FIN | PING, &[7; 4]).repeat(1_000);
    let sent = 3 * 100 * 1_000;
    for raw in &mut connections {
        (0..100).for_each(|_| raw.send(&pings));
    }
    let received = || server.metrics().get("pings_received_total");
    wait_until("all were handled", || received() == sent);
    let dropped = server.metrics().get("over_rate_total{kind=\"bytes\"}");
    let passed = (sent - dropped) * size;
    let allowed = burst + (rate as f64 * began.elapsed().as_secs_f64()).ceil() as u64;
    assert!(passed >= burst && passed <= allowed, "{passed} bytes passed, {allowed} allowed");
    assert!(dropped > 0, "more was sent than may pass");
}
