//! Serves commands and subscriptions on a connection, until it breaks.
//!
//! Commands are sent in batches, one at a time: what arrives during a batch forms the next. So the
//! order of commands is theirs in the engine, whatever fails, and the load itself sets the size of
//! batches.

use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushInfo, PushKind, RedisError, RedisResult, Value};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::bus;
use super::connect::{Link, read_lineage};
use super::instance::{Closed, Instance, next_request};
use super::port::Submitted;
use super::roster_scripts::is_swept;
use super::scripts::{Scripts, parse_publication, read_reply};
use super::sweep::{LifeSigns, Listing, read_listing, sweep};
use super::topics::{Change, TopicReceiver};
use crate::cluster::command::{Action, EngineEvent};
use crate::cluster::envelope::read_own_time;
use crate::cluster::layout::Incarnation;
use crate::metrics::EngineLoss;

/// Commands in a batch, and publications that are processed in a row.
const BATCH_MAX: usize = 1024;
/// Bytes of history that the reads of a batch may return, beyond those of one read.
const REPLY_BYTES_MAX: u64 = 16 << 20;
/// The interval of probes: publications to a topic of the node's own, which show that the
/// subscription works.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// The time without any publication after which a connection counts as dead.
const SILENCE_MAX: Duration = Duration::from_secs(3);

type Work<T> = Pin<Box<dyn Future<Output = T>>>;

/// Something that is under way at the engine, if anything is.
async fn finish<T>(work: &mut Option<Work<T>>) -> T {
    let Some(running) = work else { return pending().await };
    let result = running.await;
    *work = None;
    result
}

/// Waits for a time; `None`: for ever.
async fn reach(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) cause: EngineLoss,
    pub(super) text: String,
}

impl Reason {
    fn new(cause: EngineLoss, text: impl Into<String>) -> Self {
        Self { cause, text: text.into() }
    }

    /// Something failed at the connection.
    fn of_error(text: &str, error: &RedisError) -> Self {
        let cause = if error.is_timeout() { EngineLoss::Silent } else { EngineLoss::Closed };
        Self { cause, text: format!("{text}{error}") }
    }

    fn replica() -> Self {
        Self::new(EngineLoss::Replica, "the engine has become a replica")
    }
}

/// The state of one connection.
struct Serving {
    commands: MultiplexedConnection,
    subscription: MultiplexedConnection,
    lineage: String,
    scripts: Scripts,
    /// The scripts have to be loaded before the next batch.
    must_load: bool,
    /// The commands of the batch under way, with the times at which they would have failed.
    sent: Vec<(Instant, Submitted)>,
    /// The incarnation that they name.
    sent_by: Incarnation,
    /// The code of the last error of a command, which is logged once.
    rejected: Option<String>,
    batch: Option<Work<RedisResult<Vec<Value>>>>,
    /// The subscription command under way.
    change: Option<Work<RedisResult<()>>>,
    /// When subscriptions of channels begin, unless they have.
    subscribes_at: Option<Instant>,
    heartbeat: Option<Work<RedisResult<Option<String>>>>,
    /// The look for incarnations that are dead.
    listing: Option<Work<RedisResult<Listing>>>,
    sweep: Option<Work<RedisResult<bool>>>,
    /// When something was last received by the subscription.
    heard: Instant,
}

impl Instance {
    /// Serves on a connection until it breaks, and then fails what was under way.
    pub(super) async fn serve(&mut self, link: Link) -> Result<Reason, Closed> {
        let Link { commands, subscription, mut pushes, lineage } = link;
        let Some(shared) = self.shared.upgrade() else { return Err(Closed) };
        let incarnation = shared.incarnation();
        let before = self.lineage.replace(lineage.clone());
        if before.as_ref() != Some(&lineage) {
            shared.count_lineage();
        }
        if before.is_some_and(|before| before != lineage) {
            // The engine may have lost changes of what this node lists, and have kept others.
            shared.renew_incarnation(incarnation);
        }
        let mut life_signs = shared.watch_life_signs();
        drop(shared);
        let position_ttl_ms = self.settings.position_ttl.as_millis() as u64;
        let mut serving = Serving {
            commands,
            subscription,
            scripts: Scripts::new(lineage.clone(), position_ttl_ms),
            lineage,
            must_load: true,
            sent: Vec::new(),
            sent_by: incarnation,
            rejected: None,
            batch: None,
            change: None,
            subscribes_at: (!self.topics.is_empty()).then(|| self.choose_start()),
            heartbeat: None,
            listing: None,
            sweep: None,
            heard: Instant::now(),
        };
        self.topics.restart();
        self.note_state(true);
        for request in std::mem::take(&mut self.held) {
            self.carry_out(serving.commands.clone(), request);
        }
        let ended = self.run_on(&mut serving, &mut pushes, &mut life_signs).await;
        self.note_state(false);
        if let Some(shared) = self.shared.upgrade() {
            let instance = self.index;
            shared.send_to_all(|| EngineEvent::Lost { instance });
            if let Ok(reason) = &ended {
                shared.count_loss(reason.cause);
            }
        }
        for (_, submitted) in &serving.sent {
            self.fail(submitted);
        }
        ended
    }

    fn note_state(&self, is_connected: bool) {
        if let Some(shared) = self.shared.upgrade() {
            shared.set_connected(is_connected);
        }
    }

    async fn run_on(
        &mut self,
        serving: &mut Serving,
        pushes: &mut UnboundedReceiver<PushInfo>,
        life_signs: &mut watch::Receiver<Option<Arc<LifeSigns>>>,
    ) -> Result<Reason, Closed> {
        let mut probes = interval(PROBE_INTERVAL);
        let mut heartbeats = interval(self.settings.heartbeat);
        for timer in [&mut probes, &mut heartbeats] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        self.subscribe_to_own_topics(serving);
        let (mut arrived, mut pushed) = (Vec::new(), Vec::new());
        loop {
            self.begin_work(serving);
            let reason = tokio::select! {
                count = pushes.recv_many(&mut pushed, BATCH_MAX) => {
                    if count == 0 {
                        Some(Reason::new(EngineLoss::Closed, "the subscription has ended"))
                    } else {
                        serving.heard = Instant::now();
                        self.take_pushes(&mut pushed)
                    }
                }
                count = self.commands.recv_many(&mut arrived, BATCH_MAX) => {
                    if count == 0 {
                        return Err(Closed);
                    }
                    arrived.drain(..).for_each(|command| self.accept(command));
                    None
                }
                request = next_request(&mut self.bus) => {
                    self.carry_out(serving.commands.clone(), request);
                    None
                }
                () = reach(serving.subscribes_at) => {
                    serving.subscribes_at = None;
                    None
                }
                replies = finish(&mut serving.batch) => self.take_replies(serving, replies),
                result = finish(&mut serving.change) => {
                    result.err().map(|error| Reason::of_error("cannot subscribe: ", &error))
                }
                lineage = finish(&mut serving.heartbeat) => check_lineage(serving, lineage),
                Ok(()) = life_signs.changed() => {
                    self.look_for_dead(serving);
                    None
                }
                listing = finish(&mut serving.listing) => {
                    self.take_listing(serving, listing, life_signs.borrow().as_deref());
                    None
                }
                swept = finish(&mut serving.sweep) => {
                    self.end_sweep(serving, swept);
                    None
                }
                _ = heartbeats.tick() => {
                    self.begin_heartbeat(serving);
                    None
                }
                _ = probes.tick() => {
                    self.send_probe(serving);
                    check_silence(serving)
                }
            };
            if let Some(reason) = reason {
                return Ok(reason);
            }
        }
    }

    /// Subscribes to the topics of the node itself.
    fn subscribe_to_own_topics(&self, serving: &mut Serving) {
        let mut topics = vec![self.layout.probe_topic(self.origin)];
        if let Some(bus) = &self.bus {
            topics.extend(bus.topics.iter().cloned());
        }
        let connection = serving.subscription.clone();
        serving.change = Some(Box::pin(subscribe_to(connection, topics)));
    }

    /// Begins to check the engine's lineage.
    fn begin_heartbeat(&self, serving: &mut Serving) {
        let (connection, keep) = (serving.commands.clone(), self.settings.on_failover);
        let check = |mut connection| async move { read_lineage(&mut connection, keep).await };
        serving.heartbeat.get_or_insert_with(|| Box::pin(check(connection)));
    }

    /// Publishes to a topic of the node itself, to see that the subscription works.
    fn send_probe(&self, serving: &Serving) {
        let mut connection = serving.commands.clone();
        let topic = self.layout.probe_topic(self.origin);
        tokio::task::spawn_local(async move {
            // A failure shows as silence.
            let mut probe = redis::cmd("PUBLISH");
            let _: RedisResult<()> = probe.arg(topic).arg("").query_async(&mut connection).await;
        });
    }

    /// Sends the next batch and the next change of subscriptions, if none is under way.
    fn begin_work(&mut self, serving: &mut Serving) {
        if serving.change.is_none() && serving.subscribes_at.is_none() {
            let connection = serving.subscription.clone();
            serving.change = self.topics.next_change().map(|change| -> Work<RedisResult<()>> {
                match change {
                    Change::Subscribe(topics) => Box::pin(subscribe_to(connection, topics)),
                    Change::Unsubscribe(topics) => Box::pin(unsubscribe_from(connection, topics)),
                }
            });
        }
        if serving.batch.is_some() || self.waiting.is_empty() {
            return;
        }
        let mut pipeline = Pipeline::new();
        if serving.must_load {
            serving.scripts.push_loads(&mut pipeline);
        }
        if let Some(shared) = self.shared.upgrade() {
            serving.sent_by = shared.incarnation();
        }
        let mut reply_bytes = 0;
        while serving.sent.len() < BATCH_MAX
            && reply_bytes < REPLY_BYTES_MAX
            && let Some((due, submitted)) = self.waiting.pop_front()
        {
            reply_bytes += match &submitted.command.action {
                Action::Read { range, .. } => {
                    range.bytes_max * u64::from(range.messages_max.min(1))
                }
                Action::Members { range } => range.bytes_max * u64::from(range.members_max.min(1)),
                _ => 0,
            };
            let names = (&*self.layout, serving.sent_by);
            serving.scripts.push_call(&mut pipeline, names, &submitted.command);
            serving.sent.push((due, submitted));
        }
        let mut connection = serving.commands.clone();
        serving.batch = Some(Box::pin(async move {
            let count = pipeline.len();
            connection.send_packed_commands(&pipeline, 0, count).await
        }));
    }

    /// Completes the commands of a batch. Returns why the connection is to be dropped, if it is.
    fn take_replies(
        &mut self,
        serving: &mut Serving,
        replies: RedisResult<Vec<Value>>,
    ) -> Option<Reason> {
        let mut replies = match replies {
            Ok(replies) => replies,
            Err(error) => return Some(Reason::of_error("", &error)),
        };
        if std::mem::take(&mut serving.must_load) {
            let loads = serving.scripts.loads().min(replies.len());
            for reply in replies.drain(..loads) {
                if let Value::ServerError(error) = reply {
                    let text = format!("cannot load scripts: {error}");
                    return Some(Reason::new(EngineLoss::Invalid, text));
                }
            }
        }
        let sent = std::mem::take(&mut serving.sent);
        let is_missing = |reply: &Value| is_error(reply, "NOSCRIPT");
        if let Some(first) = replies.iter().position(is_missing) {
            serving.must_load = true;
            if replies[first..].iter().all(is_missing) {
                // None of them was carried out: they are sent again, in their order.
                return self.send_again(sent, replies, first);
            }
        }
        let mut reason = None;
        for ((_, submitted), reply) in sent.iter().zip(replies) {
            if let Value::ServerError(error) = &reply {
                if error.code() == "READONLY" {
                    reason = Some(Reason::replica());
                } else if serving.rejected.as_deref() != Some(error.code()) {
                    tracing::warn!(%error, "the cluster's engine rejects commands");
                    serving.rejected = Some(error.code().to_owned());
                }
                self.fail(submitted);
                continue;
            }
            if is_swept(&submitted.command, &reply) {
                self.renew_incarnation(serving.sent_by);
                self.fail(submitted);
                continue;
            }
            match read_reply(&submitted.command, reply) {
                Some(event) => self.complete(submitted, event),
                None => {
                    self.fail(submitted);
                    let text = "the engine sends replies that are none of the scripts'";
                    reason = Some(Reason::new(EngineLoss::Invalid, text));
                }
            }
        }
        reason
    }

    fn renew_incarnation(&self, old: Incarnation) {
        if let Some(shared) = self.shared.upgrade() {
            shared.renew_incarnation(old);
        }
    }

    /// Begins to look for incarnations that are dead.
    fn look_for_dead(&self, serving: &mut Serving) {
        let Some(shared) = self.shared.upgrade() else { return };
        let (own, connection) = (shared.incarnation(), serving.commands.clone());
        let layout = self.layout.clone();
        serving.listing.get_or_insert_with(|| Box::pin(read_listing(connection, layout, own)));
    }

    /// Logs that dead nodes cannot be swept. The connection stays: probes show whether it works.
    fn report_failed_sweep(&mut self, error: &RedisError) {
        let text = error.to_string();
        if self.sweep_error.as_ref() != Some(&text) {
            tracing::warn!(engine = self.name(), %error, "cannot end what dead nodes list");
            self.sweep_error = Some(text);
        }
    }

    /// A sweep has ended: there may be others to sweep.
    fn end_sweep(&mut self, serving: &mut Serving, swept: RedisResult<bool>) {
        match swept {
            Ok(true) => {
                if let Some(shared) = self.shared.upgrade() {
                    shared.count_sweep();
                }
                self.look_for_dead(serving);
            }
            Ok(false) => {}
            Err(error) => self.report_failed_sweep(&error),
        }
    }

    /// Sweeps one of the dead, if there are any.
    fn take_listing(
        &mut self,
        serving: &mut Serving,
        listing: RedisResult<Listing>,
        signs: Option<&LifeSigns>,
    ) {
        let Listing { own, listing, is_swept } = match listing {
            Ok(listing) => listing,
            Err(error) => {
                self.report_failed_sweep(&error);
                return;
            }
        };
        if is_swept {
            return self.renew_incarnation(own);
        }
        let Some(signs) = signs else { return };
        let at = (Instant::now(), self.settings.node_ttl);
        let dead = self.deaths.find_dead(&listing, signs, own, at);
        if let (Some(dead), None) = (dead.first(), &serving.sweep) {
            let engine = self.name();
            tracing::info!(engine, incarnation = %dead, "ending what a dead node lists");
            let (connection, layout) = (serving.commands.clone(), self.layout.clone());
            let script = serving.scripts.sweep_script().clone();
            let about = (script, serving.scripts.position_ttl_ms);
            serving.sweep = Some(Box::pin(sweep(connection, layout, about, *dead)));
        }
    }

    /// Completes the commands before `first`, and queues the others again.
    fn send_again(
        &mut self,
        sent: Vec<(Instant, Submitted)>,
        replies: Vec<Value>,
        first: usize,
    ) -> Option<Reason> {
        let mut again = Vec::new();
        for (at, ((due, submitted), reply)) in sent.into_iter().zip(replies).enumerate() {
            if at >= first {
                again.push((due, submitted));
            } else if let Some(event) = read_reply(&submitted.command, reply) {
                self.complete(&submitted, event);
            } else {
                self.fail(&submitted);
            }
        }
        again.into_iter().rev().for_each(|one| self.waiting.push_front(one));
        None
    }

    /// Carries out a request of the control thread, beside the commands.
    fn carry_out(&self, connection: MultiplexedConnection, request: bus::BusRequest) {
        let Some(bus) = &self.bus else { return };
        let (keys, layout) = (bus::keys(&self.layout), self.layout.clone());
        let again = bus.again.clone();
        tokio::task::spawn_local(async move {
            let topic = |node| layout.node_topic(node);
            bus::carry_out_again(connection, keys, topic, request, again).await;
        });
    }

    /// Passes on what the subscription has received.
    fn take_pushes(&mut self, pushed: &mut Vec<PushInfo>) -> Option<Reason> {
        let shared = self.shared.upgrade()?;
        for PushInfo { kind, data } in pushed.drain(..) {
            let mut data = data.into_iter();
            let (topic, payload) = match (kind, data.next(), data.next()) {
                (PushKind::Disconnection, ..) => {
                    return Some(Reason::new(EngineLoss::Closed, "the connection has ended"));
                }
                (PushKind::Subscribe, Some(Value::BulkString(topic)), _) => (topic, None),
                (
                    PushKind::Message,
                    Some(Value::BulkString(topic)),
                    Some(Value::BulkString(payload)),
                ) => (topic, Some(payload)),
                _ => continue,
            };
            if let Some(bus) = &self.bus
                && let Some(message) = &payload
                && bus.topics.contains(&topic)
            {
                // The control thread may have ended.
                let _ = bus.received.send(message.clone());
                continue;
            }
            let Some(TopicReceiver { channel, shard, token }) = self.topics.find(&topic) else {
                continue;
            };
            let parsed = payload.as_deref().map(|payload| parse_publication(&channel, payload));
            let event = match parsed {
                None => EngineEvent::Watching { token },
                Some(Some(event)) => event,
                Some(None) => {
                    tracing::warn!(%channel, "the cluster's engine published something foreign");
                    continue;
                }
            };
            if let EngineEvent::Pushed { message, .. } = &event
                && let Some(accepted_ns) = read_own_time(&message.envelope, self.origin)
            {
                shared.record_arrival(accepted_ns);
            }
            shared.send_event(shard, event);
        }
        None
    }
}

fn is_error(reply: &Value, code: &str) -> bool {
    matches!(reply, Value::ServerError(error) if error.code() == code)
}

/// Returns why the connection is to be dropped, if the engine is not the one that was connected to.
fn check_lineage(serving: &Serving, lineage: RedisResult<Option<String>>) -> Option<Reason> {
    match lineage {
        Ok(Some(lineage)) if lineage == serving.lineage => None,
        Ok(Some(_)) => Some(Reason::new(EngineLoss::Lineage, "the engine has another lineage")),
        Ok(None) => Some(Reason::replica()),
        Err(error) => Some(Reason::of_error("", &error)),
    }
}

/// Returns why the connection is to be dropped, if nothing was heard for too long.
fn check_silence(serving: &Serving) -> Option<Reason> {
    let text = "nothing arrives by the subscription";
    let is_silent = serving.heard.elapsed() > SILENCE_MAX;
    is_silent.then(|| Reason::new(EngineLoss::Silent, text))
}

async fn subscribe_to(
    mut connection: MultiplexedConnection,
    topics: Vec<Vec<u8>>,
) -> RedisResult<()> {
    connection.subscribe(topics).await
}

async fn unsubscribe_from(
    mut connection: MultiplexedConnection,
    topics: Vec<Vec<u8>>,
) -> RedisResult<()> {
    connection.unsubscribe(topics).await
}
