//! What clients of several nodes see while nothing fails.

use serde_json::json;

use crate::client::{Client, delete, got, position, post, posted};
use crate::engine::{Engine, KINDS, OPEN_CHANNELS, node_config, start_node};
use crate::support::{Server, wait_until};

#[test]
fn channels_have_one_order_on_all_nodes() {
    for kind in KINDS {
        let engine = Engine::start(kind);
        let servers = [(); 3].map(|()| start_node(&engine));
        let mut clients: Vec<_> = servers.iter().map(Client::open).collect();
        let positions: Vec<_> =
            clients.iter_mut().map(|one| position(&one.subscribe("room"))).collect();
        assert!(positions.iter().all(|one| *one == positions[0]), "{positions:?}");
        for round in 0..10 {
            for (at, one) in clients.iter_mut().enumerate() {
                one.publish("room", &json!([round, at]));
            }
        }
        let heard: Vec<_> = clients.iter_mut().map(|one| one.contents(30)).collect();
        assert!(heard.iter().all(|one| *one == heard[0]), "{heard:?}");
        for at in 0..3 {
            let own: Vec<_> = heard[0].iter().filter(|one| one[1] == at).collect();
            let expected: Vec<_> = (0..10).map(|round| json!([round, at])).collect();
            assert_eq!(own, expected.iter().collect::<Vec<_>>(), "a client's own order");
        }
        for server in &servers {
            let metrics = server.metrics();
            // Each command to the engine, and each node's own publishes.
            assert!(metrics.get("engine_round_trip_seconds_count") >= 10, "its publishes");
            assert_eq!(metrics.get("publish_to_arrival_seconds_count"), 10);
            let answer = got(server, "/v1/channels/room/history?limit=100");
            assert_eq!(answer["messages"].as_array().unwrap().len(), 30);
        }
    }
}

#[test]
fn a_client_recovers_on_another_node() {
    for kind in KINDS {
        let engine = Engine::start(kind);
        let servers = [(); 2].map(|()| start_node(&engine));
        let mut first = Client::open(&servers[0]);
        let since = position(&first.subscribe("room"));
        let ticket = first.ticket();
        first.close();
        let body = |n: u32| json!({"channel": "room", "content": n});
        for n in 0..5 {
            posted(&servers[0], "/v1/publish", &body(n));
        }
        let mut second = Client::open(&servers[1]);
        let resumed = second.get(
            json!({"type": "resume", "ticket": ticket, "positions": {"room": since}}),
            "resumed",
        );
        assert_eq!(resumed["channels"]["room"]["recovered"], true, "{resumed}");
        assert_eq!(second.contents(5), [0, 1, 2, 3, 4]);
        posted(&servers[0], "/v1/publish", &body(5));
        assert_eq!(second.contents(1), [5], "and what comes later");
        let (status, _) = delete(&servers[0], "/v1/channels/room/history");
        assert_eq!(status, 200);
        let mut third = Client::open(&servers[1]);
        assert_eq!(third.subscribe_since("room", &since)["recovered"], false, "it was removed");
    }
}

#[test]
fn a_key_is_used_once_on_all_nodes() {
    for kind in KINDS {
        let engine = Engine::start(kind);
        let servers = [(); 2].map(|()| start_node(&engine));
        let body = |content: u32| json!({"channel": "room", "content": content, "key": "one"});
        let first = posted(&servers[0], "/v1/publish", &body(1));
        let again = posted(&servers[1], "/v1/publish", &body(1));
        assert_eq!((position(&again), &again["duplicate"]), (position(&first), &json!(true)));
        let (status, refused) = post(&servers[1], "/v1/publish", &body(2));
        assert_eq!((status, &refused["error"]["code"]), (409, &json!("conflict")));
    }
}

#[test]
fn channels_are_spread_over_several_engines() {
    let engines = KINDS.map(Engine::start);
    let urls = engines.each_ref().map(Engine::url);
    let mut turned = urls.clone();
    turned.reverse();
    let config = |urls: &[String]| node_config(urls, OPEN_CHANNELS);
    let servers = [Server::start(&config(&urls)), Server::start(&config(&turned))];
    let mut member = Client::open(&servers[0]);
    let names: Vec<_> = (0..20).map(|n| format!("room:{n}")).collect();
    for name in &names {
        member.subscribe(name);
        posted(&servers[1], "/v1/publish", &json!({"channel": name, "content": name}));
        assert_eq!(member.contents(1), [json!(name)]);
    }
    for engine in &engines {
        let size = engine.call(&["DBSIZE"]);
        let keys: u32 = size.trim_start_matches(':').parse().unwrap();
        assert!((10..100).contains(&keys), "each has a share: {size}");
    }
}

#[test]
fn messages_expire_and_excess_ones_go() {
    for kind in KINDS {
        let engine = Engine::start(kind);
        let channels = "[[channel]]\npattern = \"few\"\nhistory = 3\n\
                        [[channel]]\npattern = \"none\"\nhistory = 0\n";
        let server = Server::start(&node_config(&[engine.url()], channels));
        let mut client = Client::open(&server);
        for (channel, kept) in [("few", vec![3, 4, 5]), ("none", vec![])] {
            for n in 1..=5 {
                posted(&server, "/v1/publish", &json!({"channel": channel, "content": n}));
            }
            let answer = got(&server, &format!("/v1/channels/{channel}/history"));
            let offsets: Vec<_> = answer["messages"].as_array().unwrap().iter().collect();
            let offsets: Vec<_> =
                offsets.iter().map(|one| one["offset"].as_u64().unwrap()).collect();
            assert_eq!((offsets, &answer["offset"]), (kept, &json!(5)), "{channel}");
            let since = |offset: u64| json!({"epoch": answer["epoch"], "offset": offset});
            let is_recovered = |client: &mut Client, offset| {
                let subscribed = client.subscribe_since(channel, &since(offset));
                client.unsubscribe(channel);
                subscribed["recovered"] == true
            };
            let expected = channel == "few";
            assert_eq!(is_recovered(&mut client, 2), expected, "{channel}");
            assert!(!is_recovered(&mut client, 1) && is_recovered(&mut client, 5), "{channel}");
            if expected {
                assert_eq!(client.contents(3), [3, 4, 5]);
            }
        }
    }
}

#[test]
fn an_engine_that_rejects_writes_for_a_time_costs_no_message() {
    for kind in KINDS {
        let engine = Engine::start(kind);
        let server = start_node(&engine);
        let mut member = Client::open(&server);
        member.subscribe("room");
        let body = |n: u32| json!({"channel": "room", "content": n});
        posted(&server, "/v1/publish", &body(1));
        engine.call(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
        let (status, refused) = post(&server, "/v1/publish", &body(2));
        assert_eq!((status, &refused["error"]["code"]), (503, &json!("unavailable")));
        // A node that has to read what it missed cannot.
        engine.call(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        engine.call(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
        wait_until("a publish succeeds", || post(&server, "/v1/publish", &body(3)).0 == 200);
        assert_eq!(member.contents(2), [1, 3]);
    }
}

#[test]
fn what_was_missed_is_read_in_parts() {
    let engine = Engine::start(crate::engine::Kind::Redis);
    // The member does not read while the node catches up, and must not count as slow.
    let roomy = format!("{OPEN_CHANNELS}[limits]\noutbox_bytes_max = 8_388_608\n");
    let config = node_config(&[engine.url()], &roomy);
    let servers = [(); 2].map(|()| Server::start(&config));
    let mut member = Client::open(&servers[0]);
    member.subscribe("room");
    let long = "x".repeat(60_000);
    let body = |content: &str| json!({"channel": "room", "content": content});
    servers[0].signal("STOP");
    engine.call(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    // More than one read brings.
    for _ in 0..30 {
        posted(&servers[1], "/v1/publish", &body(&long));
    }
    servers[0].signal("CONT");
    posted(&servers[1], "/v1/publish", &body("last"));
    let heard = member.contents(31);
    assert!(heard[..30].iter().all(|one| *one == long) && heard[30] == "last");
    let metrics = servers[0].metrics();
    assert_eq!(
        metrics.sum("cluster_losses_total"),
        metrics.get("cluster_losses_total{cause=\"closed\"}")
    );
    assert!(metrics.sum("cluster_losses_total") >= 1);
    let holes =
        ["filled", "reported"].map(|end| metrics.get(&format!("cluster_holes_{end}_total")));
    assert_eq!(holes, [1, 0], "the connection was lost once");
    assert_eq!(metrics.get("cluster_lineages_total"), 1);
}

#[test]
fn a_channel_stays_subscribed_for_some_time_after_its_last_member() {
    for kind in KINDS {
        let engine = Engine::start(kind);
        let count = |engine: &Engine| engine.call(&["PUBSUB", "CHANNELS", "seawall:c*"]);
        let config = |more: &str| {
            node_config(&[engine.url()], &format!("interest_linger_ms = {more}\n{OPEN_CHANNELS}"))
        };
        let server = Server::start(&config("600_000"));
        let mut member = Client::open(&server);
        let since = position(&member.subscribe("room"));
        member.unsubscribe("room");
        let body = json!({"channel": "room", "content": 1});
        posted(&server, "/v1/publish", &body);
        assert_eq!(count(&engine), "*1");
        assert_eq!(member.subscribe_since("room", &since)["recovered"], true);
        assert_eq!(member.contents(1), [1]);
        let metrics = server.metrics();
        assert_eq!(metrics.get("cluster_tail_reads_total"), 1);
        assert_eq!(metrics.get("cluster_engine_reads_total"), 0);
        drop(server);
        let server = Server::start(&config("100"));
        let mut member = Client::open(&server);
        member.subscribe("room");
        member.unsubscribe("room");
        wait_until("the subscription ends", || count(&engine) == "*0");
    }
}
