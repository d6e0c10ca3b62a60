//! Order, as many publishers and many subscribers on several shards see it together.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::client::{Client, got, posted};
use crate::support::Server;

const PUBLISHERS: u64 = 6;
const EACH: u64 = 150;
const CHANNELS: [&str; 3] = ["a", "b", "c"];

/// A publish as its publisher saw it: its place, and how far every channel was known to be when it
/// was sent.
struct Done {
    channel: usize,
    offset: u64,
    content: String,
    after: u64,
}

fn publish(server: &Server, number: u64) -> Vec<Done> {
    let mut client = Client::open(server);
    let mut known = [0; CHANNELS.len()];
    let mut done = Vec::new();
    for n in 0..EACH {
        let channel = ((number + n) % CHANNELS.len() as u64) as usize;
        let content = format!("{number}:{n}");
        let published = client.publish(CHANNELS[channel], &json!(content));
        let offset = published["offset"].as_u64().unwrap();
        done.push(Done { channel, offset, content, after: known[channel] });
        known[channel] = offset;
    }
    done
}

/// All that a subscriber sees, channel by channel: contents in the order of their coming.
fn listen(server: &Server, ready: &std::sync::Barrier) -> Vec<Vec<String>> {
    let mut client = Client::open(server);
    CHANNELS.iter().for_each(|channel| drop(client.subscribe(channel)));
    ready.wait();
    let mut seen = vec![Vec::new(); CHANNELS.len()];
    for _ in 0..PUBLISHERS * EACH {
        let message = client.expect("message");
        let channel = CHANNELS.iter().position(|one| message["channel"] == *one).unwrap();
        seen[channel].push(message["content"].as_str().unwrap().to_owned());
        assert_eq!(message["offset"], seen[channel].len(), "dense, and in order");
    }
    CHANNELS.iter().for_each(|channel| client.is_silent(channel));
    seen
}

#[test]
fn everybody_sees_the_same_order_and_each_publishers_own_is_kept() {
    let arguments = ["--listen", "127.0.0.1:0", "--shards", "4"];
    let server = Server::start_with(&arguments, "");
    let listeners = 6;
    let ready = std::sync::Barrier::new(listeners + PUBLISHERS as usize);
    let (done, seen) = std::thread::scope(|scope| {
        let listening: Vec<_> =
            (0..listeners).map(|_| scope.spawn(|| listen(&server, &ready))).collect();
        let publishing: Vec<_> = (0..PUBLISHERS)
            .map(|number| {
                let (server, ready) = (&server, &ready);
                scope.spawn(move || {
                    ready.wait();
                    publish(server, number)
                })
            })
            .collect();
        let done: Vec<Done> = publishing.into_iter().flat_map(|one| one.join().unwrap()).collect();
        let seen: Vec<_> = listening.into_iter().map(|one| one.join().unwrap()).collect();
        (done, seen)
    });
    for other in &seen[1..] {
        assert_eq!(*other, seen[0], "one order for all");
    }
    let mut offsets = vec![BTreeSet::new(); CHANNELS.len()];
    for one in &done {
        assert!(one.offset > one.after, "an answered publish precedes later requests");
        assert!(offsets[one.channel].insert(one.offset), "one place, one message");
        let found = &seen[0][one.channel][one.offset as usize - 1];
        assert_eq!(*found, one.content, "it is at the position its publisher got");
    }
    for (channel, offsets) in offsets.iter().enumerate() {
        assert!(offsets.iter().copied().eq(1..=seen[0][channel].len() as u64), "no holes");
    }
}

#[test]
fn a_member_on_each_shard_hears_of_channels_of_every_home() {
    let arguments = ["--listen", "127.0.0.1:0", "--shards", "3"];
    let server = Server::start_with(&arguments, "");
    let mut clients: Vec<Client> = Vec::new();
    let mut shards = BTreeSet::new();
    while shards.len() < 3 {
        assert!(clients.len() < 200, "connections are spread");
        let client = Client::open(&server);
        shards.insert(client.shard());
        clients.push(client);
    }
    let channels: Vec<_> = (0..20).map(|n| format!("c{n}")).collect();
    for client in &mut clients {
        channels.iter().for_each(|channel| drop(client.subscribe(channel)));
    }
    let body = json!({"channels": channels, "content": "to all"});
    let results = posted(&server, "/v1/broadcast", &body);
    assert_eq!(results["results"].as_array().unwrap().len(), 20);
    let last = clients.len() - 1;
    for (at, client) in clients.iter_mut().enumerate() {
        let heard: BTreeSet<String> = (0..20)
            .map(|_| client.expect("message")["channel"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(heard.len(), 20, "client {at} of {last}");
    }
    let listed = got(&server, "/v1/channels?limit=1000");
    let expected: serde_json::Map<String, Value> =
        channels.iter().map(|name| (name.clone(), json!({"members": clients.len()}))).collect();
    assert_eq!(listed["channels"], Value::Object(expected));
}
