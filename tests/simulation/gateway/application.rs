//! An application behind simulated links. It follows the document of the wire format, and knows
//! nothing of the server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use seawall::backend::links::{BackendLink, LinkFacts, LinkMail, LinkPosts};
use seawall::driver::sim::Network;
use seawall::link::{
    LinkRecord, LinkSession, RecordFlags, RecordKind, Records, append_record, sessions_of_many,
};
use seawall::shard::mail::Directory;

/// What the application keeps of a client, on whichever link it is.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The messages that were handled, without repeats.
    pub(crate) messages: Vec<Vec<u8>>,
    /// The highest number that was handled.
    handled: u32,
    /// Messages sent to the client so far.
    pub(crate) sent: u32,
    pub(crate) closed: Option<u32>,
}

/// A session on a link.
#[derive(Debug)]
struct OnLink {
    connection: String,
    /// The number of the last message that arrived on this link, or of the `open`.
    arrived: u32,
    acknowledged: u32,
    /// Bytes that are not acknowledged.
    unacked: Vec<(u32, usize)>,
    /// The channels that it was reported to be a member of.
    channels: BTreeSet<String>,
}

/// A link, as the application sees it.
struct End {
    link: Arc<BackendLink>,
    sessions: BTreeMap<LinkSession, OnLink>,
    is_draining: bool,
}

/// The application.
pub(crate) struct Application {
    directory: Arc<Directory>,
    network: Network,
    ends: Vec<End>,
    next_id: u32,
    pub(crate) known: BTreeMap<String, Known>,
    /// Messages that arrived again with the flag for that.
    pub(crate) redelivered: u64,
    /// Opens with the flag for moved sessions.
    pub(crate) moved: u64,
    /// Whether `open` is answered with what is no `accept`.
    pub(crate) answers_wrongly: bool,
    /// Whether messages are acknowledged.
    pub(crate) acknowledges: bool,
    pub(crate) limits: (usize, usize),
    pub(crate) seed: u64,
}

impl Application {
    pub(crate) fn new(directory: Arc<Directory>, network: Network, seed: u64) -> Self {
        Self {
            directory,
            network,
            ends: Vec::new(),
            next_id: 0,
            known: BTreeMap::new(),
            redelivered: 0,
            moved: 0,
            answers_wrongly: false,
            acknowledges: true,
            limits: (4, 2000),
            seed,
        }
    }

    fn chance(&self, percent: u64) -> bool {
        self.network.random_below(100) < percent
    }

    fn post_all(&self, mail: impl Fn() -> LinkMail) {
        (0..self.directory.shard_count()).for_each(|to| self.directory.post_link(to, mail()));
    }

    /// A link says hello.
    pub(crate) fn connect(&mut self) {
        self.next_id += 1;
        let link = BackendLink::new(LinkFacts {
            id: self.next_id,
            backend: 0,
            application: "app".into(),
            instance: format!("app-{}", self.next_id).into(),
            capacity: 100,
            queue_bytes_max: 4000,
        });
        self.directory.links().add(link.clone());
        self.post_all(|| LinkMail::Ready);
        self.ends.push(End { link, sessions: BTreeMap::new(), is_draining: false });
    }

    pub(crate) fn link_count(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn sessions_by_link(&self) -> Vec<usize> {
        self.ends.iter().map(|end| end.sessions.len()).collect()
    }

    /// The number of links that the node wants to end.
    pub(crate) fn faults(&self) -> usize {
        self.ends.iter().filter(|end| end.link.fault().is_some()).count()
    }

    /// The first of them.
    pub(crate) fn faulty(&self) -> Option<usize> {
        self.ends.iter().position(|end| end.link.fault().is_some())
    }

    pub(crate) fn session_count(&self) -> usize {
        self.ends.iter().map(|end| end.sessions.len()).sum()
    }

    /// Cuts a link: what is under way on it is lost, in both directions.
    pub(crate) fn cut(&mut self, at: usize) {
        let end = self.ends.remove(at);
        end.link.close();
        self.directory.links().remove(end.link.facts().id);
        let link = end.link.facts().id;
        self.post_all(|| LinkMail::Lost { link });
    }

    /// Drains a link.
    pub(crate) fn drain(&mut self, at: usize) {
        self.ends[at].is_draining = true;
        self.ends[at].link.begin_drain();
        self.post_all(|| LinkMail::Draining);
    }

    /// Cuts drained links without sessions, as a process that exits.
    pub(crate) fn retire_drained(&mut self) {
        for at in (0..self.ends.len()).rev() {
            if self.ends[at].is_draining && self.ends[at].sessions.is_empty() {
                self.read(at, usize::MAX);
                if self.ends[at].sessions.is_empty() {
                    self.cut(at);
                }
            }
        }
    }

    /// Acts at random: reads, acknowledges, sends.
    pub(crate) fn act(&mut self) {
        for at in 0..self.ends.len() {
            assert_eq!(self.ends[at].link.fault(), None, "seed {}: no record is wrong", self.seed);
            if self.chance(70) {
                self.read(at, 1 + self.network.random_below(3) as usize);
            }
            self.work(at, 50);
        }
    }

    /// Handles all there is, until nothing more comes.
    pub(crate) fn settle(&mut self) {
        for at in 0..self.ends.len() {
            self.read(at, usize::MAX);
            self.work(at, 100);
        }
    }

    fn read(&mut self, at: usize, buffers: usize) {
        for _ in 0..buffers {
            let Some(records) = self.ends[at].link.take_records() else { break };
            for record in Records::new(&records, 1 << 20) {
                self.take(at, &record.expect("records are whole"));
            }
        }
        if self.ends[at].link.begin_room() {
            self.post_all(|| LinkMail::Room);
        }
    }

    fn take(&mut self, at: usize, record: &LinkRecord<'_>) {
        let seed = self.seed;
        match record.known_kind().unwrap() {
            RecordKind::Open => self.open(at, record),
            RecordKind::Text => self.handle(at, record),
            RecordKind::Close if record.flags.contains(RecordFlags::MOVED) => {
                let Some(own) = self.ends[at].sessions.remove(&record.session) else {
                    // It was forced to move before.
                    return;
                };
                assert!(self.known.contains_key(&own.connection), "seed {seed}");
                let close = LinkRecord::new(RecordKind::Close, record.session, 0, b"");
                self.send(at, &close.with(RecordFlags::MOVED));
            }
            RecordKind::Close => {
                // Messages before it are acknowledged all the same.
                if self.ends[at].sessions.contains_key(&record.session) {
                    self.acknowledge(at, record.session);
                }
                if let Some(own) = self.ends[at].sessions.remove(&record.session) {
                    self.known.get_mut(&own.connection).unwrap().closed = Some(record.number);
                }
            }
            // A session that moves may still be reported on after it was confirmed.
            RecordKind::Slow | RecordKind::Ready | RecordKind::Sent => {}
            RecordKind::Joined => {
                let channel = str::from_utf8(record.body).unwrap().to_owned();
                if let Some(own) = self.ends[at].sessions.get_mut(&record.session) {
                    own.channels.insert(channel);
                }
            }
            RecordKind::Left => {
                let left: serde_json::Value = serde_json::from_slice(record.body).unwrap();
                assert_eq!(left["reason"], "server", "seed {seed}: nothing else ends it: {left}");
                if let Some(own) = self.ends[at].sessions.get_mut(&record.session) {
                    own.channels.remove(left["channel"].as_str().unwrap());
                }
            }
            other => panic!("seed {seed}: {other:?} is not for applications"),
        }
    }

    fn open(&mut self, at: usize, record: &LinkRecord<'_>) {
        let seed = self.seed;
        let body: serde_json::Value = serde_json::from_slice(record.body).unwrap();
        let connection = body["connection"].as_str().unwrap().to_owned();
        assert_eq!(body["path"], "/echo", "seed {seed}");
        let is_moved = record.flags.contains(RecordFlags::MOVED);
        self.moved += u64::from(is_moved);
        if is_moved {
            assert!(body.get("headers").is_none(), "seed {seed}: the handshake is not repeated");
            assert_eq!(body["user"], "u", "seed {seed}");
            assert_eq!(body["state"]["n"], 1, "seed {seed}: the state comes along");
            assert!(self.known.contains_key(&connection), "seed {seed}: it was open before");
        } else {
            assert_eq!(record.number, 0, "seed {seed}");
        }
        self.known.entry(connection.clone()).or_default();
        let own = OnLink {
            connection,
            arrived: record.number,
            acknowledged: record.number,
            unacked: Vec::new(),
            channels: BTreeSet::new(),
        };
        let earlier = self.ends[at].sessions.insert(record.session, own);
        assert!(earlier.is_none(), "seed {seed}: a session is opened once on a link");
        if !is_moved {
            let right: &[u8] = br#"{"user":"u","state":{"n":1}}"#;
            let body = if self.answers_wrongly { b"[]" } else { right };
            self.send(at, &LinkRecord::new(RecordKind::Accept, record.session, 0, body));
        }
    }

    /// Handles a message, and checks the order and the bounds.
    fn handle(&mut self, at: usize, record: &LinkRecord<'_>) {
        let (seed, limits) = (self.seed, self.limits);
        // What comes after the application's own close is not handled.
        let Some(own) = self.ends[at].sessions.get_mut(&record.session) else { return };
        assert_eq!(record.number, own.arrived + 1, "seed {seed}: numbers have no gap");
        own.arrived = record.number;
        own.unacked.push((record.number, record.body.len()));
        let bytes: usize = own.unacked.iter().map(|(_, bytes)| bytes).sum();
        assert!(own.unacked.len() <= limits.0, "seed {seed}: the bound of messages");
        let last = record.body.len();
        assert!(bytes < limits.1 + last, "seed {seed}: the bound of bytes, and one message");
        let known = self.known.get_mut(&own.connection).unwrap();
        let is_again = record.flags.contains(RecordFlags::REDELIVERED);
        self.redelivered += u64::from(is_again);
        if record.number <= known.handled {
            assert!(is_again, "seed {seed}: repeats have the flag");
            assert_eq!(known.messages[record.number as usize - 1], record.body, "seed {seed}");
        } else {
            assert_eq!(record.number, known.handled + 1, "seed {seed}: no message is lost");
            known.handled = record.number;
            known.messages.push(record.body.to_vec());
        }
    }

    /// Acknowledges and sends, each with this chance.
    fn work(&mut self, at: usize, percent: u64) {
        let sessions: Vec<LinkSession> = self.ends[at].sessions.keys().copied().collect();
        for session in sessions {
            if self.chance(percent) {
                self.acknowledge(at, session);
            }
            if percent < 100 && self.chance(20) {
                self.greet(at, session);
            }
        }
    }

    fn acknowledge(&mut self, at: usize, session: LinkSession) {
        let own = self.ends[at].sessions.get_mut(&session).unwrap();
        if own.acknowledged == own.arrived || !self.acknowledges {
            return;
        }
        own.acknowledged = own.arrived;
        own.unacked.clear();
        let number = own.arrived;
        self.send(at, &LinkRecord::new(RecordKind::Ack, session, number, b""));
    }

    /// Sends the client its next number.
    fn greet(&mut self, at: usize, session: LinkSession) {
        let own = &self.ends[at].sessions[&session];
        let known = self.known.get_mut(&own.connection).unwrap();
        known.sent += 1;
        let text = format!("{}", known.sent);
        let record = LinkRecord::new(RecordKind::Text, session, known.sent, text.as_bytes());
        let wants_receipt = self.chance(30);
        self.send(at, &if wants_receipt { record.with(RecordFlags::RECEIPT) } else { record });
    }

    fn send(&self, at: usize, record: &LinkRecord<'_>) {
        let link = self.ends[at].link.clone();
        let mut records = Vec::new();
        append_record(&mut records, record);
        self.directory.links().add_inbound(records.len());
        let mail = LinkMail::Records { link, records };
        self.directory.post_link(record.session.shard, mail);
    }

    /// Sends one text to all sessions of a link.
    pub(crate) fn broadcast(&self, at: usize, text: &str) {
        self.broadcast_again(at, text, 1);
    }

    /// The same this many times, with one record for each shard.
    pub(crate) fn broadcast_again(&self, at: usize, text: &str, times: usize) {
        for shard in 0..self.directory.shard_count() {
            let of_shard = self.ends[at].sessions.keys().filter(|id| id.shard == shard);
            let ids = of_shard.copied().collect::<Vec<LinkSession>>().repeat(times);
            let mut body: Vec<u8> = ids.iter().flat_map(|id| id.encode()).collect();
            body.extend_from_slice(text.as_bytes());
            assert!(sessions_of_many(&body, ids.len() as u32).is_some());
            let session = LinkSession { shard, ..LinkSession::NONE };
            self.send(at, &LinkRecord::new(RecordKind::Many, session, ids.len() as u32, &body));
        }
    }

    /// Has each session join or leave a channel, with this chance.
    pub(crate) fn change_members(&mut self, channel: &str, joins: bool, percent: u64) {
        for at in 0..self.ends.len() {
            let sessions: Vec<LinkSession> = self.ends[at].sessions.keys().copied().collect();
            for session in sessions.into_iter().filter(|_| self.chance(percent)) {
                let kind = if joins { RecordKind::Join } else { RecordKind::Leave };
                self.send(at, &LinkRecord::new(kind, session, 5, channel.as_bytes()));
            }
        }
    }

    /// Returns whether all sessions are reported to be in these channels, and in no other.
    pub(crate) fn are_all_in(&self, channels: &[&str]) -> bool {
        let mut sessions = self.ends.iter().flat_map(|end| end.sessions.values());
        sessions.all(|own| own.channels.iter().eq(channels))
    }

    /// Names the user of all clients, though they are open already.
    pub(crate) fn name_all(&self, user: &str) {
        let body = format!(r#"{{"user":"{user}","state":{{"n":1}}}}"#);
        for (at, end) in self.ends.iter().enumerate() {
            for session in end.sessions.keys() {
                let kind = RecordKind::Accept;
                self.send(at, &LinkRecord::new(kind, *session, 0, body.as_bytes()));
            }
        }
    }

    /// Closes all clients.
    pub(crate) fn close_all(&mut self, code: u32) {
        for at in 0..self.ends.len() {
            let sessions = std::mem::take(&mut self.ends[at].sessions);
            for session in sessions.into_keys() {
                self.send(at, &LinkRecord::new(RecordKind::Close, session, code, b"done"));
            }
        }
    }

    /// The links' own counts: sessions, and bytes that are not acknowledged.
    pub(crate) fn counts(&self) -> (u32, usize) {
        let sessions = self.ends.iter().map(|end| end.link.sessions()).sum();
        (sessions, self.ends.iter().map(|end| end.link.unacked_bytes()).sum())
    }
}
