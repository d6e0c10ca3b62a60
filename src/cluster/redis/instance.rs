//! One instance of the engine: connects for ever, and keeps commands while it is away.
//!
//! Commands wait for a limited time, and then fail. Those that were sent when the connection broke
//! fail at once, because it is not known whether they were carried out: they are never repeated
//! here.

use std::collections::VecDeque;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Weak, mpsc};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, sleep_until};

use super::bus::{BusEnd, BusRequest};
use super::connect::{LinkError, connect};
use super::port::{Shared, Submitted};
use super::sweep::DeathWatch;
use super::topics::{TopicReceiver, Topics};
use crate::cluster::command::{Action, EngineEvent};
use crate::cluster::layout::Layout;
use crate::cluster::settings::ClusterSettings;

/// Delays between attempts to connect: a random one up to a bound that doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A connection that lasted this long ends a series of failures.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// Revocations kept while the engine is away.
const HELD_MAX: usize = 65_536;

/// The delay that a failed command suggests (ms).
const RETRY_AFTER_MS: u32 = 1000;

/// The next request of the control thread, where the instance takes them.
pub(super) async fn next_request(bus: &mut Option<BusEnd>) -> BusRequest {
    match bus {
        Some(bus) => match bus.requests.recv().await {
            Some(request) => request,
            None => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// All ports were dropped: the process ends.
pub(super) struct Closed;

/// The configuration, the names of keys, and the queues of the shards.
pub(super) type World = (Arc<ClusterSettings>, Arc<Layout>, Weak<Shared>);

/// See the module.
pub(super) struct Instance {
    pub(super) index: u8,
    pub(super) settings: Arc<ClusterSettings>,
    pub(super) layout: Arc<Layout>,
    pub(super) shared: Weak<Shared>,
    pub(super) origin: u64,
    /// Of the first instance.
    pub(super) bus: Option<BusEnd>,
    /// Revocations that wait for the engine.
    pub(super) held: Vec<BusRequest>,
    pub(super) commands: UnboundedReceiver<Submitted>,
    /// Commands that are not sent yet, with the time at which they fail, in order.
    pub(super) waiting: VecDeque<(Instant, Submitted)>,
    pub(super) topics: Topics,
    /// The lineage of the last connection.
    pub(super) lineage: Option<String>,
    pub(super) deaths: DeathWatch,
    /// Why dead nodes could not be swept, which is logged once.
    pub(super) sweep_error: Option<String>,
    /// Reports the first attempt to connect.
    attempted: Option<mpsc::Sender<Result<(), LinkError>>>,
    random: RandomState,
}

impl Instance {
    pub(super) fn new(
        index: usize,
        (settings, layout, shared): World,
        (origin, bus): (u64, Option<BusEnd>),
        (commands, attempted): (UnboundedReceiver<Submitted>, mpsc::Sender<Result<(), LinkError>>),
    ) -> Self {
        Self {
            index: index as u8,
            settings,
            layout,
            shared,
            origin,
            bus,
            held: Vec::new(),
            commands,
            waiting: VecDeque::new(),
            topics: Topics::default(),
            lineage: None,
            deaths: DeathWatch::default(),
            sweep_error: None,
            attempted: Some(attempted),
            random: RandomState::new(),
        }
    }

    pub(super) fn name(&self) -> String {
        self.settings.urls[usize::from(self.index)].name()
    }

    /// Runs until all ports are dropped.
    pub(super) async fn run(mut self) {
        let mut attempts = 0;
        let mut known_error = None;
        let mut known_reason = None;
        loop {
            let (settings, index) = (self.settings.clone(), usize::from(self.index));
            let attempt = async move { connect(&settings, &settings.urls[index]).await };
            let Ok(result) = self.wait_for(attempt).await else { return };
            if let Some(attempted) = self.attempted.take() {
                let first = result.as_ref().map(|_| ()).map_err(Clone::clone);
                // The start may have stopped waiting.
                let _ = attempted.send(first);
            }
            match result {
                Ok(link) => {
                    // A connection that ends again and again for the same reason is logged once.
                    if known_reason.is_none() {
                        tracing::info!(engine = self.name(), "connected to the cluster's engine");
                    }
                    known_error = None;
                    let begun = Instant::now();
                    let ended = self.serve(link).await;
                    let is_stable = begun.elapsed() >= STABLE_AFTER;
                    if is_stable {
                        (attempts, known_reason) = (0, None);
                    }
                    match ended {
                        Ok(reason) if known_reason.as_ref() == Some(&reason) => {}
                        Ok(reason) => {
                            let (engine, text) = (self.name(), &reason.text);
                            tracing::warn!(engine, reason = %text, "lost the cluster's engine");
                            known_reason = (!is_stable).then_some(reason);
                        }
                        Err(Closed) => return,
                    }
                }
                Err(error) => {
                    // An engine that stays away is logged once, not at each attempt.
                    if known_error.as_ref() != Some(&error) {
                        tracing::warn!(%error, "cannot use the cluster's engine; trying again");
                        known_error = Some(error);
                    }
                }
            }
            let delay = self.choose_delay(attempts);
            attempts += 1;
            if self.wait_for(sleep(delay)).await.is_err() {
                return;
            }
        }
    }

    /// Keeps a revocation until the engine is back. Other requests are dropped: nodes do not wait
    /// for what was sent while it was away.
    fn hold_request(&mut self, request: BusRequest) {
        if matches!(request, BusRequest::Revoke { .. }) && self.held.len() < HELD_MAX {
            self.held.push(request);
        }
    }

    fn choose_delay(&self, attempts: u32) -> Duration {
        let most = BACKOFF_MIN.saturating_mul(1 << attempts.min(10)).min(BACKOFF_MAX);
        // Nodes that lost the engine together come back spread out.
        self.choose_part(most)
    }

    /// Chooses a random part of a time.
    fn choose_part(&self, most: Duration) -> Duration {
        let random = self.random.hash_one(Instant::now()) % 1000;
        most.mul_f64(random as f64 / 1000.0)
    }

    /// Chooses when to begin to subscribe on a new connection: nodes that lost the engine together
    /// do not do so at once.
    pub(super) fn choose_start(&self) -> Instant {
        Instant::now() + self.choose_part(self.settings.resubscribe_spread)
    }

    /// Waits for a future while the engine is away; meanwhile, commands are accepted and expire.
    async fn wait_for<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Closed> {
        tokio::pin!(future);
        loop {
            let due = self.waiting.front().map(|(due, _)| *due);
            tokio::select! {
                result = &mut future => return Ok(result),
                request = next_request(&mut self.bus) => self.hold_request(request),
                command = self.commands.recv() => match command {
                    Some(command) => self.accept(command),
                    None => return Err(Closed),
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.expire_waiting();
                }
            }
        }
    }

    /// Accepts a command: changes of subscriptions are noted, others wait to be sent.
    pub(super) fn accept(&mut self, submitted: Submitted) {
        let Submitted { shard, command, bytes, .. } = &submitted;
        let topic = || self.layout.topic(command.place, &command.channel);
        match command.action {
            Action::Watch => {
                let (channel, token) = (command.channel.clone(), command.token);
                let receiver = TopicReceiver { channel, shard: *shard, token };
                self.topics.subscribe(topic(), receiver);
            }
            Action::Unwatch => self.topics.unsubscribe(topic()),
            _ => {
                let due = Instant::now() + self.settings.command_timeout;
                return self.waiting.push_back((due, submitted));
            }
        }
        if let Some(shared) = self.shared.upgrade() {
            shared.note_completion(command, *bytes);
        }
    }

    /// Fails the commands that have waited too long.
    pub(super) fn expire_waiting(&mut self) {
        let now = Instant::now();
        while let Some((_, submitted)) = self.waiting.pop_front_if(|(due, _)| *due <= now) {
            self.fail(&submitted);
        }
    }

    /// Fails a command.
    pub(super) fn fail(&self, submitted: &Submitted) {
        let token = submitted.command.token;
        let retry_after_ms = Some(RETRY_AFTER_MS);
        self.complete(submitted, EngineEvent::Failed { token, retry_after_ms });
    }

    /// Completes a command with its event.
    pub(super) fn complete(&self, submitted: &Submitted, event: EngineEvent) {
        if let Some(shared) = self.shared.upgrade() {
            shared.note_completion(&submitted.command, submitted.bytes);
            if !matches!(event, EngineEvent::Failed { .. }) {
                shared.record_round_trip(submitted.since);
            }
            shared.send_event(submitted.shard, event);
        }
    }
}
