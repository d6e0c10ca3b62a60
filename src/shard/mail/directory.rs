//! Mail between threads: a queue a shard, a doorbell, and the shards' loads.
//!
//! Anybody may post; only the shard reads. The doorbell is rung only when the reader may be
//! asleep: `waiting` is set by the first post after a reading and cleared before the next one.

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
use crate::config::Config;
use crate::driver::{Bell, Token};
use crate::hub::ChannelName;
use crate::metrics::Snapshot;
use crate::shard::connect::{ConnectBackend, ConnectReply};
use crate::shard::events::EventQueues;

/// Mails that may wait in one box. Handovers past it are not made; commands always fit.
const MAILS_MAX: usize = 4096;

/// A message to a shard.
#[derive(Debug)]
pub enum Mail {
    /// A connection comes over under this key; its socket arrives through the driver.
    Handover { key: u64, listener: u8, peer: Option<SocketAddr>, accepted_us: u32 },
    /// That connection does not come after all.
    HandoverFailed { key: u64 },
    /// Somebody wants the numbers: an empty snapshot, to be filled and sent back.
    Snapshot(Box<Snapshot>, oneshot::Sender<Box<Snapshot>>),
    /// Something about channels or connections.
    Hub(Box<HubMail>),
    /// The same, in order: all that one turn or call has for the shard.
    HubBatch(Vec<HubMail>),
    /// The backend has decided an upgrade.
    Decided { token: Token, reply: Box<ConnectReply> },
    /// Go on by another configuration.
    Renew(Arc<Config>),
    /// Close all connections, then end.
    Drain,
    /// End now.
    Stop,
}

impl Mail {
    /// What it counts for in the box, if it is about channels (bytes).
    fn hub_bytes(&self) -> usize {
        match self {
            Self::Hub(mail) => mail.bytes(),
            Self::HubBatch(mails) => mails.iter().map(HubMail::bytes).sum(),
            _ => 0,
        }
    }
}

/// One shard, as the others see it.
#[derive(Default)]
struct Post {
    mails: SegQueue<Mail>,
    /// Of mail about channels (bytes).
    mail_bytes: AtomicUsize,
    /// Of what the shard has read of it and not worked through (bytes).
    backlog_bytes: AtomicUsize,
    waiting: AtomicBool,
    bell: OnceLock<Arc<dyn Bell>>,
    connections: AtomicU32,
    open: AtomicU32,
    /// Of the configuration that the shard runs on.
    epoch: AtomicU64,
    /// The shard has ended: mail to it is dropped.
    closed: AtomicBool,
}

/// All shards.
pub struct Directory {
    shards: Vec<Post>,
    admission: Arc<Admission>,
    hub: ArcSwapOption<HubShared>,
    connect_backend: OnceLock<Arc<dyn ConnectBackend>>,
    events: Arc<EventQueues>,
    congested: Congested,
}

impl Directory {
    /// Room for this many shards.
    pub fn new(shards: usize) -> Arc<Self> {
        let events = EventQueues::new(shards);
        let shards = (0..shards).map(|_| Post::default()).collect();
        Arc::new(Self {
            shards,
            admission: Arc::default(),
            hub: ArcSwapOption::empty(),
            connect_backend: OnceLock::new(),
            events,
            congested: Congested::default(),
        })
    }

    /// Who is let in: one for all shards.
    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// Number of shards.
    pub fn len(&self) -> usize {
        self.shards.len()
    }

    /// Whether there are none; there always are.
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Tells how to wake a shard from outside. Who posted before could not: the shard must read its
    /// mail before it waits for the first time.
    pub fn set_bell(&self, shard: u16, bell: Arc<dyn Bell>) {
        let own = &self.shards[usize::from(shard)];
        assert!(own.bell.set(bell).is_ok(), "a shard has one bell");
        own.waiting.swap(true, Ordering::AcqRel);
    }

    /// Posts and wakes the shard, from a thread that has no ring.
    pub fn post(&self, shard: u16, mail: Mail) {
        if self.post_silently(shard, mail)
            && let Some(bell) = self.shards[usize::from(shard)].bell.get()
        {
            bell.ring();
        }
    }

    /// Posts; returns whether the shard's doorbell must be rung.
    pub fn post_silently(&self, shard: u16, mail: Mail) -> bool {
        self.post_unannounced(shard, mail);
        !self.shards[usize::from(shard)].waiting.swap(true, Ordering::AcqRel)
    }

    /// Posts what the shard will look for by itself.
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

    /// The shard has ended: drops its mail, now and from now on, so that nothing waits for answers,
    /// and wakes the others. One that panicked may have posted to them without ringing; their boxes
    /// then count as announced, and no later mail, such as the order to drain, would wake them.
    pub fn close(&self, shard: u16) {
        let own = &self.shards[usize::from(shard)];
        own.closed.store(true, Ordering::SeqCst);
        own.connections.store(0, Ordering::Relaxed);
        own.open.store(0, Ordering::Relaxed);
        own.backlog_bytes.store(0, Ordering::Relaxed);
        while own.mails.pop().is_some() {}
        self.shards.iter().filter_map(|shard| shard.bell.get()).for_each(|bell| bell.ring());
    }

    /// Whether no shard has an open WebSocket.
    pub fn is_quiet(&self) -> bool {
        self.shards.iter().all(|shard| shard.open.load(Ordering::Relaxed) == 0)
    }

    /// Whether the box takes one more handover.
    pub fn has_room(&self, shard: u16) -> bool {
        self.shards[usize::from(shard)].mails.len() < MAILS_MAX
    }

    /// Whether there is mail; the next posts ring again.
    pub fn begin_reading(&self, shard: u16) -> bool {
        let from = &self.shards[usize::from(shard)];
        from.waiting.load(Ordering::Acquire) && from.waiting.swap(false, Ordering::AcqRel)
    }

    /// The next mail.
    pub fn read(&self, shard: u16) -> Option<Mail> {
        let from = &self.shards[usize::from(shard)];
        let mail = from.mails.pop()?;
        let bytes = mail.hub_bytes();
        if bytes > 0 {
            from.mail_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        Some(mail)
    }

    /// What waits for a shard about channels, read or not (bytes).
    pub fn mail_bytes(&self, shard: u16) -> usize {
        let own = &self.shards[usize::from(shard)];
        own.mail_bytes.load(Ordering::Relaxed) + own.backlog_bytes.load(Ordering::Relaxed)
    }

    /// Tells how much a shard has read and not worked through (bytes).
    pub fn set_backlog(&self, shard: u16, bytes: usize) {
        self.shards[usize::from(shard)].backlog_bytes.store(bytes, Ordering::Relaxed);
    }

    /// On one more shard, or one less, a channel is congested.
    pub fn set_congested(&self, channel: ChannelName, is_congested: bool) {
        self.congested.set(channel, is_congested);
    }

    /// Whether more is published to a channel than its members can be handed.
    pub fn is_congested(&self, channel: &ChannelName) -> bool {
        self.congested.contains(channel)
    }

    /// Sets what the shards share about channels, where there are any: before they start, and
    /// before they receive [`Mail::Renew`].
    pub fn set_hub(&self, hub: Arc<HubShared>) {
        self.hub.store(Some(hub));
    }

    /// See [`Self::set_hub`].
    pub fn hub(&self) -> Option<Arc<HubShared>> {
        self.hub.load_full()
    }

    /// Lets a backend decide upgrades. It is set once, before the shards start.
    pub fn set_connect_backend(&self, backend: Arc<dyn ConnectBackend>) {
        assert!(self.connect_backend.set(backend).is_ok(), "there is one backend");
    }

    /// See [`Self::set_connect_backend`].
    pub fn connect_backend(&self) -> Option<&dyn ConnectBackend> {
        self.connect_backend.get().map(|backend| &**backend)
    }

    /// What happens in the shards, for a consumer that attaches.
    pub fn events(&self) -> &Arc<EventQueues> {
        &self.events
    }

    /// Publishes a shard's number of connections, and how many of them are open WebSockets.
    pub fn set_connections(&self, shard: u16, connections: u32, open: u32) {
        let own = &self.shards[usize::from(shard)];
        own.connections.store(connections, Ordering::Relaxed);
        own.open.store(open, Ordering::Relaxed);
    }

    /// A shard's number of connections, as last published.
    pub fn connections(&self, shard: u16) -> u32 {
        self.shards[usize::from(shard)].connections.load(Ordering::Relaxed)
    }

    /// A shard's number of open WebSockets, as last published.
    pub fn open(&self, shard: u16) -> u32 {
        self.shards[usize::from(shard)].open.load(Ordering::Relaxed)
    }

    /// The shard has taken over the configuration of this epoch.
    pub fn set_epoch(&self, shard: u16, epoch: u64) {
        self.shards[usize::from(shard)].epoch.store(epoch, Ordering::Release);
    }

    /// Whether all shards run on the configuration of this epoch.
    pub fn all_run_on(&self, epoch: u64) -> bool {
        self.shards.iter().all(|shard| shard.epoch.load(Ordering::Acquire) == epoch)
    }

    /// Takes a connection that is on its way into account, so that a burst is not sent to one
    /// shard whole.
    pub fn expect_connection(&self, shard: u16) {
        self.shards[usize::from(shard)].connections.fetch_add(1, Ordering::Relaxed);
    }

    /// The shard with the fewest connections, and how many.
    pub fn least_loaded(&self) -> (u16, u32) {
        (0..self.shards.len() as u16)
            .map(|shard| (shard, self.connections(shard)))
            .min_by_key(|(_, connections)| *connections)
            .expect("there is at least one shard")
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
        directory.close(0);
        assert!(bell.0.load(Ordering::Relaxed) > 0);
        assert!(matches!(directory.read(1), Some(Mail::Drain)));
    }
}
