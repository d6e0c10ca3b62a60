//! Mailboxes of shards, their doorbells, and their published loads.
//!
//! Any thread may post; only the shard reads. The doorbell is rung only when the shard may be
//! waiting: the first post after a reading sets `waiting` and rings, the next reading clears it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;
use crossbeam_queue::SegQueue;
use tokio::sync::oneshot;

use super::congested::Congested;
use super::hub_mail::HubMail;
use super::hub_shared::HubShared;
use crate::admission::Admission;
use crate::backend::hook_line::HookLine;
use crate::backend::links::{LinkMail, LinkPosts, LinkTable};
use crate::backend::queue::EventQueues;
use crate::config::Config;
use crate::driver::{Bell, Token};
use crate::hub::ChannelName;
use crate::metrics::Snapshot;
use crate::shard::decisions::ConnectReply;
use crate::shard::forwarded::ForwardedRequests;

/// Mails in one box above which no connections are handed over; other mail is always accepted.
const MAILS_MAX: usize = 4096;

/// A message to a shard.
#[derive(Debug)]
pub enum Mail {
    /// A connection is handed over with this key; its socket arrives through the driver.
    Handover { key: u64, listener: u8, peer: Option<SocketAddr>, accepted_us: u32 },
    /// The handover with this key is cancelled.
    HandoverFailed { key: u64 },
    /// A request for metrics: an empty snapshot, to be filled and sent back.
    Snapshot(Box<Snapshot>, oneshot::Sender<Box<Snapshot>>),
    /// Mail for the hub.
    Hub(Box<HubMail>),
    /// Several mails for the hub, in order: all that one turn or call sends to the shard.
    HubBatch(Vec<HubMail>),
    /// An application has decided on an upgrade.
    Decided { token: Token, reply: Box<ConnectReply> },
    /// The answer to a request that was forwarded, as it is sent.
    Forwarded { token: Token, answer: Box<[u8]> },
    /// From a link to an application.
    Link(Box<LinkMail>),
    /// Switch to another configuration.
    Renew(Arc<Config>),
    /// Close all connections, then end.
    Drain,
    /// End now.
    Stop,
}

impl Mail {
    /// Returns the bytes counted for it while it is queued; 0 unless it is for the hub.
    fn hub_bytes(&self) -> usize {
        match self {
            Self::Hub(mail) => mail.bytes(),
            Self::HubBatch(mails) => mails.iter().map(HubMail::bytes).sum(),
            _ => 0,
        }
    }
}

/// One shard's mailbox and published numbers.
#[derive(Default)]
struct Post {
    mails: SegQueue<Mail>,
    /// Bytes of queued mail for the hub.
    mail_bytes: AtomicUsize,
    /// Bytes of hub mail and publications that the shard has read and not processed.
    backlog_bytes: AtomicUsize,
    /// Mail was posted since the last reading, and the doorbell rung for it.
    waiting: AtomicBool,
    bell: OnceLock<Arc<dyn Bell>>,
    connections: AtomicU32,
    open: AtomicU32,
    /// The epoch of the configuration that the shard runs on.
    epoch: AtomicU64,
    /// The shard has ended: mail to it is dropped.
    closed: AtomicBool,
}

/// The mailboxes of all shards, and the state that they share.
pub struct Directory {
    shards: Vec<Post>,
    admission: Arc<Admission>,
    hub: ArcSwapOption<HubShared>,
    hooks: OnceLock<HookLine>,
    requests: OnceLock<ForwardedRequests>,
    links: Arc<LinkTable>,
    events: Arc<EventQueues>,
    congested: Congested,
}

impl Directory {
    /// Makes a directory for this many shards.
    pub fn new(shards: usize) -> Arc<Self> {
        let events = EventQueues::new(shards);
        let shards = (0..shards).map(|_| Post::default()).collect();
        Arc::new(Self {
            shards,
            admission: Arc::default(),
            hub: ArcSwapOption::empty(),
            hooks: OnceLock::new(),
            requests: OnceLock::new(),
            links: Arc::default(),
            events,
            congested: Congested::default(),
        })
    }

    /// Returns the admission limits and counts, which all shards share.
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// Returns the number of shards.
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Returns whether there are no shards, which is never the case.
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Sets the bell that wakes a shard from other threads. Earlier posts rang no bell, so the
    /// shard must read its mail before it waits for the first time.
    pub fn set_bell(&self, shard: u16, bell: Arc<dyn Bell>) {
        let own = &self.shards[usize::from(shard)];
        assert!(own.bell.set(bell).is_ok(), "a shard has one bell");
        own.waiting.swap(true, Ordering::AcqRel);
    }

    /// Posts mail and wakes the shard, from a thread that has no driver.
    pub fn post(&self, shard: u16, mail: Mail) {
        if self.post_silently(shard, mail)
            && let Some(bell) = self.shards[usize::from(shard)].bell.get()
        {
            bell.ring();
        }
    }

    /// Posts mail; returns whether the caller must ring the shard's doorbell.
    pub fn post_silently(&self, shard: u16, mail: Mail) -> bool {
        self.post_unannounced(shard, mail);
        !self.shards[usize::from(shard)].waiting.swap(true, Ordering::AcqRel)
    }

    /// Posts mail that the shard will read without a doorbell.
    pub fn post_unannounced(&self, shard: u16, mail: Mail) {
        let to = &self.shards[usize::from(shard)];
        let bytes = mail.hub_bytes();
        if bytes > 0 {
            to.mail_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        to.mails.push(mail);
        if to.closed.load(Ordering::SeqCst) {
            while to.mails.pop().is_some() {}
        }
    }

    /// Closes the mailbox of a shard that has ended: drops its mail, now and in future, so that
    /// nothing waits for its replies, and wakes the other shards. If the shard panicked between a
    /// post and its doorbell, their boxes are marked as announced, and later mail, such as the
    /// order to drain, would not wake them.
    pub fn close_mailbox(&self, shard: u16) {
        let own = &self.shards[usize::from(shard)];
        own.closed.store(true, Ordering::SeqCst);
        own.connections.store(0, Ordering::Relaxed);
        own.open.store(0, Ordering::Relaxed);
        own.backlog_bytes.store(0, Ordering::Relaxed);
        while own.mails.pop().is_some() {}
        self.shards.iter().filter_map(|shard| shard.bell.get()).for_each(|bell| bell.ring());
    }

    /// Returns whether no shard has an open WebSocket.
    pub fn is_quiet(&self) -> bool {
        self.shards.iter().all(|shard| shard.open.load(Ordering::Relaxed) == 0)
    }

    /// Returns whether the mailbox has room for a handover.
    pub fn has_room(&self, shard: u16) -> bool {
        self.shards[usize::from(shard)].mails.len() < MAILS_MAX
    }

    /// Returns whether there is mail, and has the next post ring the doorbell.
    pub fn begin_reading(&self, shard: u16) -> bool {
        let from = &self.shards[usize::from(shard)];
        from.waiting.load(Ordering::Acquire) && from.waiting.swap(false, Ordering::AcqRel)
    }

    /// Removes and returns the next mail.
    pub fn next_mail(&self, shard: u16) -> Option<Mail> {
        let from = &self.shards[usize::from(shard)];
        let mail = from.mails.pop()?;
        let bytes = mail.hub_bytes();
        if bytes > 0 {
            from.mail_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        Some(mail)
    }

    /// Returns the bytes of hub mail that a shard has not processed, read or not.
    pub fn mail_bytes(&self, shard: u16) -> usize {
        let own = &self.shards[usize::from(shard)];
        own.mail_bytes.load(Ordering::Relaxed) + own.backlog_bytes.load(Ordering::Relaxed)
    }

    /// Publishes the bytes that a shard has read and not processed.
    pub fn set_backlog(&self, shard: u16, bytes: usize) {
        self.shards[usize::from(shard)].backlog_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Records that a channel is congested on one more shard, or on one less.
    pub fn set_congested(&self, channel: ChannelName, is_congested: bool) {
        self.congested.set_congested(channel, is_congested);
    }

    /// Returns whether a channel is congested: more is published than can be delivered.
    pub fn is_congested(&self, channel: &ChannelName) -> bool {
        self.congested.contains(channel)
    }

    /// Sets the hub state that shards share. Call it before the shards start, and before each
    /// [`Mail::Renew`].
    pub fn set_hub(&self, hub: Arc<HubShared>) {
        self.hub.store(Some(hub));
    }

    /// See [`Self::set_hub`].
    pub fn hub(&self) -> Option<Arc<HubShared>> {
        self.hub.load_full()
    }

    /// Sets the way of questions to applications. Call it once, before the shards start.
    pub fn set_hooks(&self, hooks: HookLine) {
        assert!(self.hooks.set(hooks).is_ok(), "there is one way");
    }

    /// See [`Self::set_hooks`]. `None`: no application is asked.
    pub fn hooks(&self) -> Option<&HookLine> {
        self.hooks.get()
    }

    /// Sets the way of requests that the control thread answers.
    pub fn set_requests(&self, requests: ForwardedRequests) {
        assert!(self.requests.set(requests).is_ok(), "there is one way");
    }

    /// See [`Self::set_requests`]. `None`: there is no control thread that answers.
    pub fn requests(&self) -> Option<&ForwardedRequests> {
        self.requests.get()
    }

    /// Returns the links to applications.
    pub fn links(&self) -> &Arc<LinkTable> {
        &self.links
    }

    /// Returns the event queues of the shards, to attach a consumer.
    pub fn events(&self) -> &Arc<EventQueues> {
        &self.events
    }

    /// Publishes a shard's number of connections, and how many of them are open WebSockets.
    pub fn set_connections(&self, shard: u16, connections: u32, open: u32) {
        let own = &self.shards[usize::from(shard)];
        own.connections.store(connections, Ordering::Relaxed);
        own.open.store(open, Ordering::Relaxed);
    }

    /// Returns a shard's number of connections, as last published.
    pub fn connection_count(&self, shard: u16) -> u32 {
        self.shards[usize::from(shard)].connections.load(Ordering::Relaxed)
    }

    /// Returns a shard's number of open WebSockets, as last published.
    pub fn open_count(&self, shard: u16) -> u32 {
        self.shards[usize::from(shard)].open.load(Ordering::Relaxed)
    }

    /// Records that a shard runs on the configuration of this epoch.
    pub fn set_epoch(&self, shard: u16, epoch: u64) {
        self.shards[usize::from(shard)].epoch.store(epoch, Ordering::Release);
    }

    /// Returns whether all shards run on the configuration of this epoch.
    pub fn all_run_on(&self, epoch: u64) -> bool {
        self.shards.iter().all(|shard| shard.epoch.load(Ordering::Acquire) == epoch)
    }

    /// Counts a connection that is being handed over, so that not all of a burst is handed to the
    /// same shard.
    pub fn expect_connection(&self, shard: u16) {
        self.shards[usize::from(shard)].connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the shard with the fewest connections, and their number.
    pub fn least_loaded(&self) -> (u16, u32) {
        (0..self.shards.len() as u16)
            .map(|shard| (shard, self.connection_count(shard)))
            .min_by_key(|(_, connections)| *connections)
            .expect("there is at least one shard")
    }
}

impl LinkPosts for Directory {
    fn post_link(&self, shard: u16, mail: LinkMail) {
        self.post(shard, Mail::Link(Box::new(mail)));
    }

    fn shard_count(&self) -> u16 {
        self.shards.len() as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Rung(AtomicU32);

    impl Bell for Rung {
        fn ring(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_shard_that_ends_before_it_has_rung_wakes_the_others() {
        let (directory, bell) = (Directory::new(2), Arc::new(Rung::default()));
        directory.set_bell(1, bell.clone());
        directory.begin_reading(1);
        assert!(directory.post_silently(1, Mail::Drain), "shard 0 has to ring, and panics");
        directory.post(1, Mail::Stop);
        assert_eq!(bell.0.load(Ordering::Relaxed), 0, "the box counts as announced");
        directory.close_mailbox(0);
        assert!(bell.0.load(Ordering::Relaxed) > 0);
        assert!(matches!(directory.next_mail(1), Some(Mail::Drain)));
    }
}
