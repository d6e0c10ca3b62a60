//! Clients of two protocols on one hub: each gets the same messages, in its own words.

use std::io::Cursor;
use std::sync::Arc;

use seawall::auth::SlowReader;
use seawall::config::file::{Channel, HandlerName, Route};
use seawall::driver::sim::{Faults, Peer};
use seawall::hub::{HistoryBudget, Log, MemoryLog};
use seawall::session::SeawallV1;
use seawall::session::protocol::Protocols;
use serde_json::{Value, json};
use tungstenite::protocol::frame::FrameHeader;

use super::crowd::until;
use super::line::LineV1;
use crate::client::frame;
use crate::codec::Codec;
use crate::world::World;

fn world(seed: u64) -> World {
    let budget = HistoryBudget::new(1 << 20);
    let make_log =
        Arc::new(move |_: u16, _| -> Box<dyn Log> { Box::new(MemoryLog::new(budget.clone())) });
    let mut protocols = Protocols::new(&SeawallV1);
    protocols.add(&LineV1);
    World::with_protocols(seed, 2, Faults::default(), (make_log, protocols), 8, |file| {
        file.limits.outbox_bytes_max = 4 * 1024;
        file.routes = vec![Route {
            path: "/ws".into(),
            handler: HandlerName::Hub,
            subprotocols: vec!["seawall.v1".into(), "line.v1".into()],
            compression_bytes_min: 1,
            ..Route::default()
        }];
        file.channels = vec![Channel {
            pattern: "*".into(),
            history: 10,
            presence: true,
            slow_reader: SlowReader::DropOldest,
            ..Channel::default()
        }];
    })
}

struct Talker {
    peer: Peer,
    bytes: Vec<u8>,
    codec: Option<Codec>,
    is_open: bool,
    texts: Vec<String>,
}

impl Talker {
    fn connect(world: &World, shard: u16, protocol: &str, compresses: bool) -> Self {
        let offer = if compresses {
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n"
        } else {
            ""
        };
        let peer = world.network.connect(shard, 0, Some(([127, 0, 0, 1], 999).into()));
        let head = format!(
            "GET /ws HTTP/1.1\r\nHost: sim\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Protocol: {protocol}\r\n{offer}\r\n"
        );
        peer.write(head.as_bytes());
        Self { peer, bytes: Vec::new(), codec: None, is_open: false, texts: Vec::new() }
    }

    fn say(&self, world: &World, text: &str) {
        self.peer.write(&frame(&world.network, 0x81, text.as_bytes()));
    }

    /// Reads what has come; the texts of messages are kept.
    fn read(&mut self) {
        self.bytes.extend(self.peer.read(usize::MAX));
        if !self.is_open {
            let Some(at) = self.bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
                return;
            };
            let head: Vec<u8> = self.bytes.drain(..at + 4).collect();
            let head = String::from_utf8(head).unwrap();
            assert!(head.starts_with("HTTP/1.1 101"), "{head}");
            self.codec = Codec::agreed(&head);
            self.is_open = true;
        }
        loop {
            let mut cursor = Cursor::new(&self.bytes[..]);
            let Some((header, len)) = FrameHeader::parse(&mut cursor).unwrap() else { return };
            let at = cursor.position() as usize;
            let end = at + len as usize;
            if self.bytes.len() < end {
                return;
            }
            let frame: Vec<u8> = self.bytes.drain(..end).collect();
            let payload = match &mut self.codec {
                Some(codec) if header.rsv1 => codec.unpack(&frame[at..], 64 * 1024),
                _ => frame[at..].to_vec(),
            };
            if u8::from(header.opcode) == 1 {
                self.texts.push(String::from_utf8(payload).unwrap());
            }
        }
    }

    /// Turns until a text has come that begins like this, and returns it.
    #[track_caller]
    fn hear(&mut self, world: &mut World, start: &str) -> String {
        let mut found = None;
        until(world, start, |_| {
            self.read();
            found = self.texts.iter().find(|text| text.starts_with(start)).cloned();
            found.is_some()
        });
        found.unwrap()
    }

    /// The texts that are messages of a channel.
    fn messages(&self) -> Vec<&str> {
        let is_one = |text: &&String| text.starts_with("= ") || text.contains("\"message\"");
        self.texts.iter().filter(is_one).map(String::as_str).collect()
    }
}

fn content_of(text: &str) -> Value {
    serde_json::from_str::<Value>(text).unwrap()["content"].take()
}

#[test]
fn clients_of_two_protocols_share_a_channel() {
    for seed in 0..6 {
        let mut world = world(seed);
        let mut json_one = Talker::connect(&world, 0, "seawall.v1", seed % 2 == 0);
        let mut lines: Vec<_> =
            (0..3).map(|n| Talker::connect(&world, n % 2, "line.v1, seawall.v1", n == 2)).collect();
        json_one.say(&world, &json!({"type": "subscribe", "channel": "a"}).to_string());
        json_one.hear(&mut world, "{\"type\":\"subscribed\"");
        for (n, line) in lines.iter_mut().enumerate() {
            line.say(&world, if n == 0 { "1 watch a" } else { "1 sub a" });
            let joined = line.hear(&mut world, "1 in ");
            assert!(joined.ends_with(" 0 false"), "{joined}");
            assert_eq!(line.texts[0], joined, "the protocol has no welcome");
        }
        let word = "word ".repeat(50);
        let publish = json!({"type": "publish", "channel": "a", "content": word, "id": 1});
        json_one.say(&world, &publish.to_string());
        json_one.hear(&mut world, "{\"type\":\"published\"");
        lines[1].say(&world, "2 pub a [\"from a line\"]");
        lines[1].hear(&mut world, "2 at 2");
        let expected =
            [format!("= a 1 \"{}\"", word.to_uppercase()), "= a 2 [\"FROM A LINE\"]".to_owned()];
        for line in &mut lines {
            line.hear(&mut world, "= a 2");
            assert_eq!(line.messages(), expected);
        }
        json_one.hear(&mut world, "{\"type\":\"message\",\"channel\":\"a\",\"offset\":2");
        let contents: Vec<_> = json_one.messages().into_iter().map(content_of).collect();
        assert_eq!(contents, [json!(word), json!(["from a line"])]);
        lines[2].say(&world, "3 past a");
        let past = lines[2].hear(&mut world, "3 was ");
        assert_eq!(past, format!("3 was \"{word}\",[\"from a line\"]"), "as it was published");
        lines[2].say(&world, "4 what");
        assert_eq!(lines[2].hear(&mut world, "4 no"), "4 no bad_request");
        let joins = lines[0].texts.iter().filter(|text| text.starts_with("+ a ")).count();
        assert_eq!(joins, 2, "those that came after it; the protocol has no leaves");
        world.drain();
        lines[0].read();
        assert_eq!(lines[0].texts.last().map(String::as_str), Some("- bye 1001"));
        world.check_laws(true);
    }
}

#[test]
fn a_position_of_one_protocol_is_recovered_in_another() {
    let mut world = world(3);
    let mut first = Talker::connect(&world, 0, "line.v1", false);
    first.say(&world, "1 sub a");
    let joined = first.hear(&mut world, "1 in ");
    let epoch = joined.split(' ').nth(2).unwrap().to_owned();
    for n in 0..5 {
        first.say(&world, &format!("2 pub a {n}"));
    }
    first.hear(&mut world, "= a 5");
    first.peer.send_reset();
    let mut line = Talker::connect(&world, 1, "line.v1", false);
    line.say(&world, &format!("1 sub a {epoch} 2"));
    line.hear(&mut world, "= a 5");
    assert_eq!(line.texts[0], format!("1 in {epoch} 5 true"));
    assert_eq!(line.messages(), ["= a 3 2", "= a 4 3", "= a 5 4"]);
    let mut object = Talker::connect(&world, 1, "seawall.v1", false);
    let since = json!({"epoch": epoch, "offset": 3});
    let subscribe = json!({"type": "subscribe", "channel": "a", "since": since});
    object.say(&world, &subscribe.to_string());
    object.hear(&mut world, "{\"type\":\"message\",\"channel\":\"a\",\"offset\":5");
    let contents: Vec<_> = object.messages().into_iter().map(content_of).collect();
    assert_eq!(contents, [json!(3), json!(4)]);
    world.drain();
    world.check_laws(true);
}

#[test]
fn a_slow_client_is_told_of_its_gap_in_its_own_words() {
    let mut world = world(4);
    let mut slow = Talker::connect(&world, 0, "line.v1", false);
    slow.say(&world, "1 sub a");
    slow.hear(&mut world, "1 in ");
    slow.peer.set_window(2_000);
    let mut publisher = Talker::connect(&world, 1, "line.v1", false);
    let long = "x".repeat(1000);
    let mut n = 0;
    while world.totals().counters.dropped_oldest == 0 {
        n += 1;
        assert!(n < 10_000, "the queue has a bound");
        publisher.say(&world, &format!("{n} pub a \"{long}\""));
        publisher.hear(&mut world, &format!("{n} at {n}"));
        publisher.texts.clear();
    }
    slow.peer.set_window(usize::MAX);
    let gap = slow.hear(&mut world, "! a ");
    let lost: usize = gap.rsplit(' ').next().unwrap().parse().unwrap();
    slow.hear(&mut world, &format!("= a {n} "));
    let places = slow.messages().into_iter().map(|text| text.split(' ').nth(2).unwrap());
    let places: Vec<usize> = places.map(|place| place.parse().unwrap()).collect();
    let missing: Vec<usize> = (1..=n).filter(|place| !places.contains(place)).collect();
    assert!(places.is_sorted() && !missing.is_empty());
    assert_eq!(missing.last(), Some(&lost), "the gap names the last one that is missing");
    world.drain();
    world.check_laws(true);
}

/// The protocol has no leaves: they neither wait for its client nor close it.
#[test]
fn events_that_a_protocol_has_no_word_for_do_not_wait() {
    let mut world = world(5);
    let others: Vec<_> = (0..200)
        .map(|n| {
            let mut other = Talker::connect(&world, n % 2, "seawall.v1", false);
            other.say(&world, &json!({"type": "subscribe", "channel": "a"}).to_string());
            other.hear(&mut world, "{\"type\":\"subscribed\"");
            other
        })
        .collect();
    let mut slow = Talker::connect(&world, 0, "line.v1", false);
    slow.say(&world, "1 watch a");
    slow.hear(&mut world, "1 in ");
    slow.peer.set_window(1);
    let mut publisher = Talker::connect(&world, 1, "line.v1", false);
    publisher.say(&world, "1 pub a \"first\"");
    publisher.hear(&mut world, "1 at 1");
    others.iter().for_each(|other| other.peer.send_reset());
    until(&mut world, "the others are gone", |world| world.totals().gauges.channel_members == 1);
    publisher.say(&world, "2 pub a \"last\"");
    publisher.hear(&mut world, "2 at 2");
    slow.peer.set_window(usize::MAX);
    slow.hear(&mut world, "= a 2 \"LAST\"");
    assert_eq!(slow.messages(), ["= a 1 \"FIRST\"", "= a 2 \"LAST\""]);
    world.drain();
    world.check_laws(true);
}

/// Requests that come at once wait for each other, a frame at a time.
#[test]
fn requests_of_one_read_are_answered_in_their_order() {
    let mut world = world(6);
    let mut line = Talker::connect(&world, 0, "line.v1", false);
    line.say(&world, "1 sub a");
    line.say(&world, "2 sub a");
    line.say(&world, "");
    (3..40).for_each(|n| line.say(&world, &format!("{n} pub a {n}")));
    line.say(&world, "40 pub a 1,\"from\":{}");
    line.say(&world, "41 past a");
    line.hear(&mut world, "41 was ");
    let is_answer = |text: &&String| !text.starts_with(['=', '+']);
    let answers: Vec<_> = line.texts.iter().filter(is_answer).collect();
    assert!(answers[0].starts_with("1 in "), "{answers:?}");
    assert_eq!(answers[1], "2 no conflict");
    assert_eq!(answers[2], " no bad_request");
    // Errors are answered at once; homes answer in the order of requests.
    let published: Vec<_> = answers.iter().filter(|text| text.contains(" at ")).collect();
    let expected: Vec<_> = (3..40).map(|n| format!("{n} at {}", n - 2)).collect();
    assert!(published.into_iter().copied().eq(&expected), "{answers:?}");
    let has_rejected = answers.iter().any(|text| **text == "40 no bad_request");
    assert!(has_rejected, "content is JSON, whatever the protocol: {answers:?}");
    let contents: Vec<_> = (30..40).map(|n| n.to_string()).collect();
    assert_eq!(**answers.last().unwrap(), format!("41 was {}", contents.join(",")));
    world.drain();
    world.check_laws(true);
}
