//! A simulated hub client that checks its messages: each channel's in order, each once, and every
//! gap reported, however often its connection is cut.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::Cursor;
use std::rc::Rc;

use seawall::driver::sim::{Network, Peer};
use serde_json::{Value, json};
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, OpCode};

use crate::client::frame;

/// State that all members must agree on.
#[derive(Default)]
pub(crate) struct Truth {
    /// By channel, epoch and offset: the content.
    pub(crate) places: HashMap<(String, String, u64), String>,
    /// By content: where it is.
    pub(crate) contents: HashMap<String, (String, String, u64)>,
    pub(crate) recovered: u64,
    pub(crate) resumed: u64,
    pub(crate) gaps: u64,
    /// Requests that the log did not carry out.
    pub(crate) failed: u64,
}

impl Truth {
    fn see(&mut self, seed: u64, place: &(String, String, u64), content: &str) {
        let earlier = self.places.entry(place.clone()).or_insert_with(|| content.to_owned());
        assert_eq!(earlier, content, "seed {seed}: one place holds one message: {place:?}");
        let earlier = self.contents.entry(content.to_owned()).or_insert_with(|| place.clone());
        assert_eq!(earlier, place, "seed {seed}: a message has one place");
    }

    /// The last offset of a channel's epoch.
    pub(crate) fn last(&self, channel: &str, epoch: &str) -> u64 {
        let own = self.places.keys().filter(|(name, own, _)| name == channel && own == epoch);
        own.map(|(.., offset)| *offset).max().unwrap_or(0)
    }
}

#[derive(Debug, Default)]
struct Sub {
    /// The place up to which everything was seen.
    position: Option<(String, u64)>,
    live: bool,
    /// A request is out.
    asked: bool,
}

pub(crate) struct Member {
    name: usize,
    peer: Peer,
    out: VecDeque<u8>,
    incoming: Vec<u8>,
    upgraded: bool,
    welcome: bool,
    resuming: bool,
    ticket: Option<String>,
    subs: BTreeMap<String, Sub>,
    next_id: u64,
    /// Publishes without an answer: by id.
    unanswered: BTreeMap<u64, (String, String)>,
    /// What each request was for.
    requests: HashMap<u64, String>,
    published: u64,
    lazy: u32,
    pub(crate) leaving: bool,
    gone: bool,
    truth: Rc<RefCell<Truth>>,
}

const CHANNELS: [&str; 4] = ["news", "chat:a", "chat:b", "x/1"];

impl Member {
    pub(crate) fn connect(
        network: &Network,
        name: usize,
        shard: u16,
        truth: Rc<RefCell<Truth>>,
    ) -> Self {
        let mut member = Self {
            name,
            peer: network.connect(shard, 0, Some(([127, 0, 0, 1], 999).into())),
            out: VecDeque::new(),
            incoming: Vec::new(),
            upgraded: false,
            welcome: false,
            resuming: false,
            ticket: None,
            subs: BTreeMap::new(),
            next_id: 1,
            unanswered: BTreeMap::new(),
            requests: HashMap::new(),
            published: 0,
            lazy: 0,
            leaving: false,
            gone: false,
            truth,
        };
        member.begin();
        member
    }

    fn begin(&mut self) {
        let request = "GET /ws HTTP/1.1\r\nHost: sim\r\nConnection: Upgrade\r\n\
            Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        self.out = request.bytes().collect();
    }

    fn say(&mut self, network: &Network, mut object: Value) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        object["id"] = id.into();
        if let Some(channel) = object["channel"].as_str() {
            self.requests.insert(id, channel.to_owned());
        }
        self.out.extend(frame(network, 0x81, object.to_string().as_bytes()));
        id
    }

    /// Whether nothing is under way.
    pub(crate) fn is_settled(&self) -> bool {
        self.gone
            || (self.welcome
                && !self.resuming
                && self.out.is_empty()
                && self.unanswered.is_empty()
                && self.subs.values().all(|sub| !sub.asked))
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone
    }

    /// Every live subscription has everything there is.
    pub(crate) fn check_complete(&self, seed: u64) {
        let truth = self.truth.borrow();
        for (channel, sub) in self.subs.iter().filter(|(_, sub)| sub.live) {
            let (epoch, offset) = sub.position.as_ref().unwrap();
            let last = truth.last(channel, epoch);
            assert!(*offset >= last, "seed {seed}: {} is at {offset} of {last}", self.name);
        }
    }

    pub(crate) fn live_on(&self, channel: &str) -> bool {
        !self.gone && self.subs.get(channel).is_some_and(|sub| sub.live)
    }

    /// The connection breaks; another is made, on any shard.
    fn cut(&mut self, network: &Network, shards: u16) {
        self.peer.send_reset();
        self.peer = network.connect(
            network.random_below(u64::from(shards)) as u16,
            0,
            Some(([127, 0, 0, 1], 999).into()),
        );
        self.incoming.clear();
        (self.upgraded, self.welcome, self.resuming) = (false, false, false);
        for sub in self.subs.values_mut() {
            sub.asked = false;
            sub.live = false;
        }
        self.begin();
    }

    /// After a welcome: takes up where the last connection ended.
    fn come_back(&mut self, network: &Network, fresh: String) {
        let known: Vec<_> = self
            .subs
            .iter()
            .filter_map(|(channel, sub)| Some((channel.clone(), sub.position.clone()?)))
            .collect();
        match self.ticket.take() {
            Some(ticket) if network.random_below(3) > 0 => {
                let positions: serde_json::Map<_, _> = known
                    .iter()
                    .map(|(channel, (epoch, offset))| {
                        (channel.clone(), json!({"epoch": epoch, "offset": offset}))
                    })
                    .collect();
                self.resuming = true;
                known.iter().for_each(|(channel, _)| {
                    self.subs.get_mut(channel).unwrap().asked = true;
                });
                let object = json!({"type": "resume", "ticket": ticket, "positions": positions});
                self.say(network, object);
                // The same keys: what was taken already is not taken twice.
                let again: Vec<_> = std::mem::take(&mut self.unanswered).into_values().collect();
                for (channel, content) in again {
                    self.publish(network, channel, content);
                }
            }
            _ => {
                // Another client, as the server sees it: its keys are others.
                self.unanswered.clear();
                self.ticket = Some(fresh);
                for (channel, (epoch, offset)) in known {
                    self.subs.get_mut(&channel).unwrap().asked = true;
                    let since = json!({"epoch": epoch, "offset": offset});
                    let object = json!({"type": "subscribe", "channel": channel, "since": since});
                    self.say(network, object);
                }
            }
        }
    }

    fn publish(&mut self, network: &Network, channel: String, content: String) {
        let key = content.split('x').next();
        let object = json!({"type": "publish", "channel": channel, "content": content, "key": key});
        let id = self.say(network, object);
        self.unanswered.insert(id, (channel, content));
    }

    /// Does something, if it may.
    pub(crate) fn act(&mut self, network: &Network, seed: u64, shards: u16, quiet: bool) {
        if self.gone {
            return;
        }
        if !quiet && network.random_below(150) == 0 {
            self.cut(network, shards);
        }
        if self.welcome && !self.resuming && !quiet && network.random_below(4) == 0 {
            self.choose(network);
        }
        if self.leaving && self.welcome && self.out.is_empty() {
            self.peer.send_reset();
            self.gone = true;
            return;
        }
        let len = self.out.len().min(1 + network.random_below(600) as usize);
        let bytes: Vec<u8> = self.out.drain(..len).collect();
        self.peer.write(&bytes);
        if quiet {
            self.lazy = 0;
        }
        if self.lazy > 0 {
            self.lazy -= 1;
            self.peer.set_window(3000);
            return;
        }
        self.peer.set_window(usize::MAX);
        self.incoming.extend(self.peer.read(usize::MAX));
        self.understand(network, seed);
        if self.peer.is_ended() && self.incoming.is_empty() {
            self.cut(network, shards);
        }
    }

    fn choose(&mut self, network: &Network) {
        let channel = CHANNELS[network.random_below(4) as usize].to_owned();
        let sub = self.subs.entry(channel.clone()).or_default();
        match network.random_below(8) {
            0 if sub.live && !sub.asked => {
                sub.asked = true;
                sub.live = false;
                sub.position = None;
                self.say(network, json!({"type": "unsubscribe", "channel": channel}));
            }
            1 | 2 if !sub.live && !sub.asked => {
                sub.asked = true;
                self.say(network, json!({"type": "subscribe", "channel": channel}));
            }
            3 if sub.live && !sub.asked && network.random_below(4) == 0 => {
                // Starts again at its position.
                let (epoch, offset) = sub.position.clone().unwrap();
                // What is on its way from before comes again.
                (sub.asked, sub.live) = (true, false);
                let since = json!({"epoch": epoch, "offset": offset});
                let object = json!({"type": "subscribe", "channel": channel, "since": since});
                self.say(network, object);
            }
            4 => self.lazy = network.random_below(60) as u32,
            _ => {
                self.published += 1;
                let filler = "x".repeat(network.random_below(200) as usize);
                let content = format!("{}:{}:{filler}", self.name, self.published);
                self.publish(network, channel, content);
            }
        }
    }

    fn understand(&mut self, network: &Network, seed: u64) {
        if !self.upgraded {
            let Some(end) = self.incoming.windows(4).position(|four| four == b"\r\n\r\n") else {
                return;
            };
            let head = String::from_utf8(self.incoming.drain(..end + 4).collect()).unwrap();
            assert!(head.starts_with("HTTP/1.1 101"), "seed {seed}: {head}");
            self.upgraded = true;
        }
        loop {
            let mut cursor = Cursor::new(&self.incoming);
            let Some((header, len)) = FrameHeader::parse(&mut cursor).unwrap() else { return };
            let start = cursor.position() as usize;
            if self.incoming.len() < start + len as usize {
                return;
            }
            let payload = self.incoming[start..start + len as usize].to_vec();
            self.incoming.drain(..start + len as usize);
            match header.opcode {
                OpCode::Control(Control::Ping) => self.out.extend(frame(network, 0x8A, &payload)),
                OpCode::Data(_) => {
                    let object: Value = serde_json::from_slice(&payload).unwrap();
                    self.hear(network, seed, &object);
                }
                OpCode::Control(_) => {}
            }
        }
    }

    fn hear(&mut self, network: &Network, seed: u64, object: &Value) {
        let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        let id = object["id"].as_u64().unwrap_or(0);
        match object["type"].as_str().unwrap() {
            "welcome" => {
                self.welcome = true;
                self.come_back(network, text("ticket"));
            }
            "resumed" => {
                self.truth.borrow_mut().resumed += 1;
                self.resuming = false;
                self.ticket = Some(text("ticket"));
                for (channel, outcome) in object["channels"].as_object().unwrap() {
                    self.taken_up(seed, channel, outcome);
                }
            }
            "subscribed" => {
                let channel = text("channel");
                self.taken_up(seed, &channel, object);
            }
            "unsubscribed" => {
                let sub = self.subs.get_mut(&text("channel")).unwrap();
                (sub.asked, sub.live) = (false, false);
            }
            "published" => {
                let (channel, content) = self.unanswered.remove(&id).unwrap();
                let place = (channel, text("epoch"), object["offset"].as_u64().unwrap());
                self.truth.borrow_mut().see(seed, &place, &content);
            }
            "message" => self.message(seed, object),
            "gap" => {
                self.truth.borrow_mut().gaps += 1;
                let sub = self.subs.get_mut(&text("channel")).unwrap();
                let offset = object["offset"].as_u64().unwrap();
                if let Some((_, own)) = sub.position.as_mut().filter(|_| sub.live) {
                    assert!(offset > *own, "seed {seed}: a gap lies ahead");
                    *own = offset;
                }
            }
            "error" => self.was_refused(network, seed, id, object),
            _ => {}
        }
    }

    /// The log failed: a publish is repeated with its key, and a subscription has ended.
    fn was_refused(&mut self, network: &Network, seed: u64, id: u64, error: &Value) {
        assert_eq!(error["code"], "unavailable", "seed {seed}: member {}: {error}", self.name);
        assert!(error["retry_after_ms"].as_u64().is_none_or(|ms| ms < 1000), "{error}");
        self.truth.borrow_mut().failed += 1;
        let channel = self.requests.remove(&id).expect("a request is answered once");
        if let Some((channel, content)) = self.unanswered.remove(&id) {
            return self.publish(network, channel, content);
        }
        let sub = self.subs.get_mut(&channel).unwrap();
        assert!(sub.asked, "seed {seed}: a subscription is answered once");
        (sub.asked, sub.live) = (false, false);
    }

    fn taken_up(&mut self, seed: u64, channel: &str, outcome: &Value) {
        if let Some(error) = outcome.get("error") {
            assert_eq!(error["code"], "unavailable", "seed {seed}: {error}");
            self.truth.borrow_mut().failed += 1;
            let sub = self.subs.get_mut(channel).unwrap();
            (sub.asked, sub.live) = (false, false);
            return;
        }
        let offset = outcome["offset"].as_u64();
        let offset = offset.unwrap_or_else(|| panic!("seed {seed}: {outcome}"));
        let sub = self.subs.get_mut(channel).unwrap();
        (sub.asked, sub.live) = (false, true);
        let recovered = outcome["recovered"].as_bool().unwrap();
        if recovered {
            self.truth.borrow_mut().recovered += 1;
            let (epoch, own) = sub.position.as_mut().expect("only what was known is recovered");
            assert!(*own <= offset, "seed {seed}");
            if *own == 0 {
                // Its channel may have been forgotten and opened again.
                outcome["epoch"].as_str().unwrap().clone_into(epoch);
            }
        } else {
            sub.position = Some((outcome["epoch"].as_str().unwrap().to_owned(), offset));
        }
    }

    fn message(&mut self, seed: u64, object: &Value) {
        let channel = object["channel"].as_str().unwrap();
        let offset = object["offset"].as_u64().unwrap();
        let content = object["content"].as_str().unwrap();
        let sub = self.subs.get_mut(channel).unwrap();
        // What was on its way when the subscription ended, or started again.
        if !sub.live {
            return;
        }
        let (epoch, own) = sub.position.as_mut().unwrap();
        assert_eq!(
            offset,
            *own + 1,
            "seed {seed}: {} on {channel}: in order, each once",
            self.name
        );
        *own = offset;
        let place = (channel.to_owned(), epoch.clone(), offset);
        self.truth.borrow_mut().see(seed, &place, content);
    }
}
