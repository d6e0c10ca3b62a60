//! The links of this node, as shards and the tasks of links share them.
//!
//! A task on the outer thread owns a link's socket. Shards choose links, and queue records for
//! them; a link's task writes them, and passes what it reads to shards by mail. A link that ends is
//! first marked as closed and removed from the table; then each shard gets mail. So a shard that
//! has read this mail chooses it no more.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use crossbeam_queue::SegQueue;
use tokio::sync::{Notify, oneshot};

use super::questions::OpenQuestions;
use crate::link::{LinkRecord, LinkSession, RecordKind, append_record};

/// Clients of a full link are not read from, but what was accepted before, results and moves are
/// still queued: the link ends when its queue is so many times as long, and one record.
const FULL_TIMES: usize = 4;
const RECORD_BYTES_MAX: usize = 64 << 20;

/// What a link is, from its `hello` on.
#[derive(Clone, Debug)]
pub struct LinkFacts {
    /// Unique in this process.
    pub id: u32,
    /// The application, by its place in the configuration.
    pub backend: u8,
    /// The application's name in the configuration.
    pub application: Arc<str>,
    /// The process behind the link, as it calls itself.
    pub instance: Arc<str>,
    /// Its share of new sessions, relative to other links.
    pub capacity: u32,
    /// Bytes of queued records from which on the link is full.
    pub queue_bytes_max: usize,
}

/// A link that has said hello.
#[derive(Debug)]
pub struct BackendLink {
    facts: LinkFacts,
    queue: SegQueue<Vec<u8>>,
    queue_bytes: AtomicUsize,
    /// A shard waits until the queue has room.
    is_awaited: AtomicBool,
    sessions: AtomicU32,
    unacked_bytes: AtomicUsize,
    is_draining: AtomicBool,
    is_closed: AtomicBool,
    /// Why a shard wants the link to end.
    fault: OnceLock<&'static str>,
    questions: OpenQuestions,
    wake: Notify,
}

impl BackendLink {
    /// Makes a link.
    pub fn new(facts: LinkFacts) -> Arc<Self> {
        Arc::new(Self {
            facts,
            queue: SegQueue::new(),
            queue_bytes: AtomicUsize::new(0),
            is_awaited: AtomicBool::new(false),
            sessions: AtomicU32::new(0),
            unacked_bytes: AtomicUsize::new(0),
            is_draining: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            fault: OnceLock::new(),
            questions: OpenQuestions::default(),
            wake: Notify::new(),
        })
    }

    /// Returns the questions that await their answers.
    pub(super) fn questions(&self) -> &OpenQuestions {
        &self.questions
    }

    /// See [`LinkFacts`].
    pub fn facts(&self) -> &LinkFacts {
        &self.facts
    }

    /// Queues whole records. They are dropped if the link is closed: its sessions move, with all
    /// messages that are not acknowledged.
    pub fn send(&self, records: Vec<u8>) {
        if records.is_empty() || self.is_closed() {
            return;
        }
        let queued = self.queue_bytes.fetch_add(records.len(), Ordering::SeqCst) + records.len();
        self.queue.push(records);
        if queued > FULL_TIMES * self.facts.queue_bytes_max + RECORD_BYTES_MAX {
            self.fail("the link is not read");
        }
        self.wake.notify_one();
    }

    /// Sends a question to the application. The answer is its JSON; an error means that the link
    /// was lost.
    pub(crate) fn ask(&self, body: &[u8]) -> oneshot::Receiver<Vec<u8>> {
        let (sender, receiver) = oneshot::channel();
        if let Some(number) = self.questions.add(sender) {
            self.send_record(&LinkRecord::new(RecordKind::Ask, LinkSession::NONE, number, body));
        }
        receiver
    }

    /// Sends the result of a command.
    pub(crate) fn send_result(&self, number: u32, json: &str) {
        let (none, json) = (LinkSession::NONE, json.as_bytes());
        self.send_record(&LinkRecord::new(RecordKind::Result, none, number, json));
    }

    /// Queues one record.
    pub(crate) fn send_record(&self, record: &LinkRecord<'_>) {
        let mut bytes = Vec::new();
        append_record(&mut bytes, record);
        self.send(bytes);
    }

    /// Takes queued records; for the link's task.
    pub fn take_records(&self) -> Option<Vec<u8>> {
        let records = self.queue.pop()?;
        self.queue_bytes.fetch_sub(records.len(), Ordering::SeqCst);
        Some(records)
    }

    /// Waits until records are queued or the link is to end; for the link's task. It may return
    /// without a cause.
    pub async fn wait(&self) {
        self.wake.notified().await;
    }

    /// Returns the bytes of queued records.
    pub fn queue_bytes(&self) -> usize {
        self.queue_bytes.load(Ordering::SeqCst)
    }

    /// Returns whether the queue is full: the link's clients are not read from. The task then posts
    /// [`LinkMail::Room`] to every shard once there is room.
    pub fn is_full(&self) -> bool {
        if self.queue_bytes() < self.facts.queue_bytes_max {
            return false;
        }
        self.is_awaited.store(true, Ordering::SeqCst);
        // The task may have emptied the queue just before.
        self.queue_bytes() >= self.facts.queue_bytes_max / 2
    }

    /// Returns whether shards are to be notified that the queue has room again; for the link's
    /// task, after it has taken records.
    pub fn begin_room(&self) -> bool {
        self.queue_bytes() < self.facts.queue_bytes_max / 2
            && self.is_awaited.load(Ordering::SeqCst)
            && self.is_awaited.swap(false, Ordering::SeqCst)
    }

    /// Counts a session that is opened on the link.
    pub fn enter(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a session that has ended or moved.
    pub fn leave(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Returns the number of sessions.
    pub fn sessions(&self) -> u32 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Counts bytes of messages that were sent and not acknowledged.
    pub fn add_unacked(&self, bytes: usize) {
        self.unacked_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that were acknowledged, or moved to another link.
    pub fn remove_unacked(&self, bytes: usize) {
        self.unacked_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes of messages that were sent and not acknowledged.
    pub fn unacked_bytes(&self) -> usize {
        self.unacked_bytes.load(Ordering::Relaxed)
    }

    /// Marks the link as draining: it gets no new sessions. For the link's task, before it posts
    /// [`LinkMail::Draining`].
    pub fn begin_drain(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// Returns whether the link drains.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }

    /// Marks the link as closed, and drops what is queued; for the link's task.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        while self.take_records().is_some() {}
        self.questions.close();
    }

    /// Returns whether the link is closed.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Ends the link, because the application has sent a wrong record.
    pub fn fail(&self, reason: &'static str) {
        // The first reason counts.
        let _ = self.fault.set(reason);
        self.wake.notify_one();
    }

    /// Returns why the link is to end.
    pub fn fault(&self) -> Option<&'static str> {
        self.fault.get().copied()
    }

    fn is_open_for(&self, backend: u8) -> bool {
        self.facts.backend == backend && !self.is_draining() && !self.is_closed()
    }

    /// Returns the load, in the order in which links are preferred.
    fn load(&self) -> (bool, u64, u64) {
        let per_capacity = |load: u64| load * 1_000_000 / u64::from(self.facts.capacity.max(1));
        let is_full = self.queue_bytes() >= self.facts.queue_bytes_max;
        // A few bytes under way are no difference.
        let unacked = self.unacked_bytes() as u64 / 4096;
        (is_full, per_capacity(unacked), per_capacity(self.sessions().into()))
    }
}

/// How a link is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    pub backend: u8,
    /// Two random numbers.
    pub random: [u32; 2],
    /// A hash of the user, where its sessions belong to one instance.
    pub affinity: Option<u64>,
    /// The link that a session leaves.
    pub except: Option<u32>,
}

/// All links that have said hello, and how much they have read.
#[derive(Debug, Default)]
pub struct LinkTable {
    links: ArcSwap<Vec<Arc<BackendLink>>>,
    /// Bytes of records on their way to shards.
    inbound_bytes: AtomicUsize,
    inbound_room: Notify,
}

/// Bytes of records on their way to shards above which links are not read from.
const INBOUND_BYTES_MAX: usize = 64 << 20;

impl LinkTable {
    /// Adds a link that has said hello. Only one task at a time may add or remove.
    pub fn add(&self, link: Arc<BackendLink>) {
        let mut links = Vec::clone(&self.links.load());
        links.push(link);
        self.links.store(Arc::new(links));
    }

    /// Removes a link that has ended. Only one task at a time may add or remove.
    pub fn remove(&self, id: u32) {
        let mut links = Vec::clone(&self.links.load());
        links.retain(|link| link.facts.id != id);
        self.links.store(Arc::new(links));
    }

    /// Returns all links.
    pub fn links(&self) -> Arc<Vec<Arc<BackendLink>>> {
        self.links.load_full()
    }

    /// Chooses a link for a session: of two random ones, the one with fewer unacknowledged bytes,
    /// then with fewer sessions, relative to its capacity. With an affinity: a link of the instance
    /// with the highest hash together with the user (rendezvous hashing), so that an instance that
    /// comes or goes moves only its own users. `None`: no link is open.
    pub fn choose(&self, choice: &Choice) -> Option<Arc<BackendLink>> {
        let links = self.links.load();
        let open = |link: &&Arc<BackendLink>| {
            link.is_open_for(choice.backend) && choice.except != Some(link.facts.id)
        };
        if let Some(user) = choice.affinity {
            let weight = |link: &Arc<BackendLink>| mix(hash_text(&link.facts.instance) ^ user);
            let best = links.iter().filter(open).map(weight).max()?;
            let of_instance = links.iter().filter(open).filter(|link| weight(link) == best);
            return of_instance.min_by_key(|link| link.load()).cloned();
        }
        let count = links.iter().filter(open).count() as u64;
        let pick = |random: u32| {
            let at = (u64::from(random) * count) >> 32;
            links.iter().filter(open).nth(at as usize)
        };
        // Between counting and picking, a link may close or drain.
        let picked = choice.random.map(pick).into_iter().flatten();
        picked.min_by_key(|link| link.load()).or_else(|| links.iter().find(open)).cloned()
    }

    /// Chooses the link of an application with the lowest load, for what belongs to no session.
    pub(crate) fn choose_any(&self, backend: u8) -> Option<Arc<BackendLink>> {
        let links = self.links.load();
        let open = links.iter().filter(|link| link.is_open_for(backend));
        // While all links drain, they still answer.
        let any = || links.iter().filter(|link| link.facts.backend == backend && !link.is_closed());
        open.min_by_key(|link| link.load()).or_else(|| any().next()).cloned()
    }

    /// Counts records that are posted to a shard; for the links' tasks.
    pub fn add_inbound(&self, bytes: usize) {
        self.inbound_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts records that a shard has processed.
    pub fn remove_inbound(&self, bytes: usize) {
        let before = self.inbound_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if before >= INBOUND_BYTES_MAX / 2 && before - bytes < INBOUND_BYTES_MAX / 2 {
            self.inbound_room.notify_waiters();
        }
    }

    /// Returns the bytes of records on their way to shards.
    pub fn inbound_bytes(&self) -> usize {
        self.inbound_bytes.load(Ordering::Relaxed)
    }

    /// Waits until shards have room for more records; for the links' tasks, before each reading.
    pub async fn wait_inbound(&self) {
        while self.inbound_bytes() >= INBOUND_BYTES_MAX {
            let room = self.inbound_room.notified();
            if self.inbound_bytes() >= INBOUND_BYTES_MAX {
                room.await;
            }
        }
    }
}

/// FNV-1a: the same in every process, so that all nodes choose the same instance for a user.
pub fn hash_text(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The finalizer of `SplitMix64`, which spreads every bit.
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// What a link's task reports to a shard.
#[derive(Debug)]
pub enum LinkMail {
    /// A link has said hello: sessions that wait for one may move there.
    Ready,
    /// Whole records for sessions of this shard, in order. They were counted with
    /// [`LinkTable::add_inbound`].
    Records { link: Arc<BackendLink>, records: Vec<u8> },
    /// The link's queue has room again.
    Room,
    /// The link gets no new sessions, and its sessions move when they can.
    Draining,
    /// The link has ended, and is not in the table any more.
    Lost { link: u32 },
}

/// Where mail to shards goes.
pub trait LinkPosts: Send + Sync {
    /// Posts mail to a shard.
    fn post_link(&self, shard: u16, mail: LinkMail);
    /// Returns the number of shards.
    fn shard_count(&self) -> u16;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Records;

    fn link(id: u32, backend: u8, instance: &str) -> Arc<BackendLink> {
        BackendLink::new(LinkFacts {
            id,
            backend,
            application: "app".into(),
            instance: instance.into(),
            capacity: 100,
            queue_bytes_max: 1000,
        })
    }

    fn choose(table: &LinkTable, random: [u32; 2]) -> Option<u32> {
        let choice = Choice { backend: 0, random, affinity: None, except: None };
        table.choose(&choice).map(|link| link.facts().id)
    }

    #[test]
    fn of_two_links_the_one_with_the_lower_load_is_chosen() {
        let table = LinkTable::default();
        assert_eq!(choose(&table, [0, 0]), None);
        let links = [link(1, 0, "a"), link(2, 1, "other"), link(3, 0, "b")];
        links.iter().for_each(|one| table.add(one.clone()));
        links[0].enter();
        assert_eq!(choose(&table, [0, u32::MAX]), Some(3));
        assert_eq!(choose(&table, [0, 0]), Some(1), "both random numbers chose it");
        links[2].add_unacked(100_000);
        assert_eq!(choose(&table, [0, u32::MAX]), Some(1), "bytes count before sessions");
        links[0].begin_drain();
        assert_eq!(choose(&table, [0, 0]), Some(3));
        table.remove(3);
        assert_eq!(choose(&table, [0, 0]), None);
    }

    #[test]
    fn an_instance_that_ends_moves_only_its_own_users() {
        let table = LinkTable::default();
        let links: Vec<_> = (0..4).map(|id| link(id, 0, &format!("app-{id}"))).collect();
        links.iter().for_each(|one| table.add(one.clone()));
        let chosen = || -> Vec<u32> {
            let of_user = |user: u32| {
                let affinity = Some(hash_text(&format!("user{user}")));
                let choice = Choice { backend: 0, random: [0, 0], affinity, except: None };
                table.choose(&choice).unwrap().facts().id
            };
            (0..1000).map(of_user).collect()
        };
        let before = chosen();
        links[2].begin_drain();
        let after = chosen();
        for (before, after) in before.iter().zip(&after) {
            assert!(before == after || *before == 2);
        }
        for id in 0..4 {
            let count = before.iter().filter(|one| **one == id).count();
            assert!((150..350).contains(&count), "{count} of 1000 users");
        }
    }

    #[test]
    fn a_full_queue_is_reported_once_it_has_room() {
        let link = link(1, 0, "a");
        link.send(vec![0; 600]);
        assert!(!link.is_full() && !link.begin_room());
        link.send(vec![0; 600]);
        assert!(link.is_full());
        link.take_records();
        assert!(!link.begin_room(), "600 of 1000 bytes are queued");
        link.take_records();
        assert!(link.begin_room() && !link.begin_room(), "once");
        link.close();
        link.send(vec![0; 10]);
        assert_eq!((link.queue_bytes(), link.take_records()), (0, None));
    }

    #[test]
    fn answers_reach_their_questions_and_the_end_of_the_link_all_others() {
        let link = link(1, 0, "a");
        let (mut first, mut second) = (link.ask(b"{}"), link.ask(b"{}"));
        let number_of_next = || {
            let records = link.take_records().unwrap();
            let record = Records::new(&records, 1000).next().unwrap().unwrap();
            (record.known_kind(), record.number)
        };
        let kind = Some(RecordKind::Ask);
        assert_eq!((number_of_next(), number_of_next()), ((kind, 1), (kind, 2)));
        link.questions().answer(2, b"two");
        link.questions().answer(2, b"again");
        link.questions().answer(7, b"unasked");
        assert_eq!(second.try_recv().unwrap(), b"two");
        link.close();
        assert!(first.try_recv().is_err());
        assert!(link.ask(b"{}").try_recv().is_err(), "nothing answers");
    }
}
