//! Takes events from the shards and sends them to applications: a task on the outer thread.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

use super::encode::{EventSource, describe_counts, lane_key};
use super::outbox::{Delivery, EventBatch, EventOutbox, LANES, LostCounts, Settled};
use super::vacancies::Vacancies;
use crate::backend::client::{BackendClient, HttpFailure, HttpReply, SignedRequest};
use crate::backend::form::RequestForm;
use crate::backend::queue::{EventBounds, EventQueues, Events, Happening, ShardEvent};
use crate::backend::settings::BackendSettings;
use crate::driver::Bell;
use crate::events::EventKind;
use crate::metrics::EventNumbers;
use crate::outer::OuterThread;

/// Bounds of the queue of each shard, which the dispatcher empties at once.
const QUEUE_BOUNDS: EventBounds = EventBounds { events_max: 65_536, bytes_max: 16 << 20 };
/// How long an application may take to accept a batch.
const BATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long events are left in their queues, so that a busy shard rings the bell less often.
const TAKE_INTERVAL: Duration = Duration::from_millis(5);
/// Events that are encoded before other tasks of the thread get their turn.
const ENCODED_AT_ONCE: usize = 1000;
/// The interval at which numbers are published while events are on their way.
const NUMBERS_INTERVAL_MS: u64 = 250;

/// Wakes the dispatcher from shards.
#[derive(Default)]
struct NotifyBell(Notify);

impl Bell for NotifyBell {
    fn ring(&self) {
        self.0.notify_one();
    }
}

enum Order {
    Renew(Vec<Arc<BackendSettings>>),
    /// Report an event to all applications that want it.
    Report(Happening),
    /// Send everything that waits.
    Finish(oneshot::Sender<()>),
}

/// The way to the dispatcher, which ends with this.
pub struct EventFlow {
    orders: mpsc::UnboundedSender<Order>,
    numbers: Arc<Mutex<Vec<StreamNumbers>>>,
    queues: Arc<EventQueues>,
}

/// Numbers of an application, and since when its oldest event waits.
type StreamNumbers = (EventNumbers, Option<Instant>);

impl EventFlow {
    /// Attaches to the shards' queues and starts the dispatcher. `None`: there are no applications.
    ///
    /// # Errors
    /// When the host's authorities cannot be used.
    pub fn start(
        thread: &OuterThread,
        queues: &Arc<EventQueues>,
        node: u32,
        backends: &[Arc<BackendSettings>],
    ) -> Result<Option<Arc<Self>>, String> {
        if backends.is_empty() {
            return Ok(None);
        }
        let mut streams = Vec::new();
        for settings in backends {
            streams.push(Stream::new(settings)?);
        }
        let bell = Arc::new(NotifyBell::default());
        let Some(events) = queues.attach(QUEUE_BOUNDS, bell.clone()) else {
            return Err("events have another consumer already".into());
        };
        let incarnation = RandomState::new().hash_one("incarnation");
        let (orders, ordered) = mpsc::unbounded_channel();
        let numbers = Arc::<Mutex<Vec<StreamNumbers>>>::default();
        let (shared, sources) = (numbers.clone(), queues.clone());
        thread.spawn(move || {
            let dispatcher = Dispatcher {
                source: EventSource { node, incarnation },
                events,
                queues: sources,
                bell,
                streams,
                sends: JoinSet::new(),
                epoch: Instant::now(),
                numbers: shared,
                published_ms: 0,
                finishing: None,
            };
            dispatcher.run(ordered)
        });
        Ok(Some(Arc::new(Self { orders, numbers, queues: queues.clone() })))
    }

    /// Applies the settings of a reload: of the same applications, in the same order.
    pub fn renew(&self, backends: &[Arc<BackendSettings>]) {
        // Fails only when the process is ending.
        let _ = self.orders.send(Order::Renew(backends.to_vec()));
    }

    /// Reports that a node of the cluster has ended without a drain. `incarnation` names the time
    /// of its life in which it was lost.
    pub fn report_lost_node(&self, node: u32, incarnation: &str) {
        // Fails only when the process is ending.
        let incarnation = incarnation.into();
        let _ = self.orders.send(Order::Report(Happening::NodeLost { node, incarnation }));
    }

    /// Sends what waits, for a limited time.
    pub async fn finish(&self, timeout: Duration) {
        let (done, finished) = oneshot::channel();
        if self.orders.send(Order::Finish(done)).is_ok()
            && tokio::time::timeout(timeout, finished).await.is_err()
        {
            for EventNumbers { backend, waiting, .. } in self.numbers() {
                tracing::warn!(backend, waiting, "ending although a backend lacks events");
            }
        }
    }

    /// Returns the state of all applications' events.
    pub fn numbers(&self) -> Vec<EventNumbers> {
        let numbers = self.numbers.lock().map(|numbers| numbers.clone()).unwrap_or_default();
        let lag = |since: Option<Instant>| since.map_or(Duration::ZERO, |since| since.elapsed());
        numbers.into_iter().map(|(own, since)| EventNumbers { lag: lag(since), ..own }).collect()
    }

    /// Returns the bytes of events, in the queues of shards and on their way to applications.
    pub fn bytes(&self) -> u64 {
        let queued = (0..self.queues.shard_count()).map(|shard| self.queues.queued_bytes(shard));
        queued.sum::<usize>() as u64 + self.numbers().iter().map(|one| one.bytes).sum::<u64>()
    }
}

/// A batch that is sent, or waits to be sent again.
#[derive(Clone)]
struct Sending {
    id: String,
    body: Bytes,
}

/// The events of one application.
struct Stream {
    client: Arc<BackendClient>,
    outbox: EventOutbox,
    vacancies: Vacancies,
    /// Batches that wait to be sent again, with their time (ms), by lane.
    retries: BTreeMap<usize, (u64, Sending)>,
    /// The last failure, which is logged once, and the lanes whose last attempt has failed.
    failure: Option<String>,
    failing: BTreeSet<usize>,
}

impl Stream {
    fn new(settings: &Arc<BackendSettings>) -> Result<Self, String> {
        let client = BackendClient::new(settings.clone())
            .map_err(|error| format!("backend {}: {error}", settings.name))?;
        let retry_for_ms = settings.retry_for.as_millis() as u64;
        Ok(Self {
            client: Arc::new(client),
            outbox: EventOutbox::new(
                settings.form.batch_bytes_max(),
                settings.events_bytes_max,
                retry_for_ms,
            ),
            vacancies: Vacancies::default(),
            retries: BTreeMap::new(),
            failure: None,
            failing: BTreeSet::new(),
        })
    }

    fn renew(&mut self, settings: &Arc<BackendSettings>) {
        match BackendClient::new(settings.clone()) {
            Ok(client) => self.client = Arc::new(client),
            Err(error) => {
                let backend = &settings.name;
                return tracing::error!(backend, %error, "cannot apply the settings of a backend");
            }
        }
        let retry_for_ms = settings.retry_for.as_millis() as u64;
        self.outbox.set_bounds(settings.events_bytes_max, retry_for_ms);
    }

    /// Appends an event, unless it waits to be sure.
    fn take(&mut self, source: &EventSource, now_ms: u64, time_ms: u64, event: &Happening) {
        if !self.client.settings().form.carries(event) {
            return;
        }
        match event {
            Happening::ChannelVacated { channel } => {
                let delay_ms = self.client.settings().vacate_delay.as_millis() as u64;
                self.vacancies.note_vacated(channel.clone(), now_ms + delay_ms, time_ms);
            }
            Happening::ChannelOccupied { channel } if !self.vacancies.note_occupied(channel) => {}
            event => self.push(source, now_ms, time_ms, event),
        }
    }

    fn push(&mut self, source: &EventSource, now_ms: u64, time_ms: u64, event: &Happening) {
        let mut hasher = DefaultHasher::new();
        lane_key(event).hash(&mut hasher);
        let lane = (hasher.finish() % LANES as u64) as usize;
        let form = &self.client.settings().form;
        self.outbox.push(now_ms, lane, event.kind(), |number| {
            form.encode_event(&source.event_id(lane, number, event), time_ms, event)
        });
    }

    fn next_due_ms(&self) -> Option<u64> {
        let retries = self.retries.values().map(|(due_ms, _)| *due_ms).min();
        [self.outbox.next_due_ms(), self.vacancies.next_due_ms(), retries]
            .into_iter()
            .flatten()
            .min()
    }

    fn is_over_bound(&self) -> bool {
        let bytes_max = self.client.settings().events_bytes_max;
        self.outbox.bytes() + self.vacancies.bytes() > bytes_max
    }

    fn is_empty(&self) -> bool {
        self.outbox.oldest_ms().is_none() && self.vacancies.next_due_ms().is_none()
    }

    fn log_failure(&mut self, lane: usize, failure: String) {
        self.failing.insert(lane);
        if self.failure.as_ref() != Some(&failure) {
            let backend = &self.client.settings().name;
            tracing::warn!(backend, %failure, "the backend does not accept events; trying again");
            self.failure = Some(failure);
        }
    }

    fn log_success(&mut self, lane: usize) {
        self.failing.remove(&lane);
        if self.failing.is_empty() && self.failure.take().is_some() {
            let backend = &self.client.settings().name;
            tracing::info!(backend, "the backend accepts events again");
        }
    }
}

/// The end of an attempt to send a batch.
struct Sent {
    stream: usize,
    lane: usize,
    sending: Sending,
    result: Result<HttpReply, HttpFailure>,
}

/// See the module.
struct Dispatcher {
    source: EventSource,
    events: Events,
    queues: Arc<EventQueues>,
    bell: Arc<NotifyBell>,
    /// In the order of the configuration.
    streams: Vec<Stream>,
    sends: JoinSet<Sent>,
    epoch: Instant,
    numbers: Arc<Mutex<Vec<StreamNumbers>>>,
    /// When they were last published (ms).
    published_ms: u64,
    /// The server ends, and waits until everything was sent.
    finishing: Option<oneshot::Sender<()>>,
}

impl Dispatcher {
    async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            self.take_events().await;
            self.send_due();
            let is_empty = self.streams.iter().all(Stream::is_empty);
            let numbers_due_ms = self.published_ms + NUMBERS_INTERVAL_MS;
            if is_empty || numbers_due_ms <= self.now_ms() {
                self.publish_numbers();
            }
            if is_empty && let Some(done) = self.finishing.take() {
                let _ = done.send(());
            }
            let due_ms = self.streams.iter().filter_map(Stream::next_due_ms).min();
            let due_ms = due_ms.map(|due_ms| due_ms.min(self.published_ms + NUMBERS_INTERVAL_MS));
            let due = due_ms.map(|due_ms| self.epoch + Duration::from_millis(due_ms));
            let due = tokio::time::Instant::from_std(due.unwrap_or(self.epoch));
            tokio::select! {
                () = self.bell.0.notified() => tokio::time::sleep(TAKE_INTERVAL).await,
                Some(sent) = self.sends.join_next() => {
                    // A panic of a send is one of the dispatcher: it is not caught.
                    self.settle(sent.expect("sending does not panic"));
                }
                order = orders.recv() => match order {
                    Some(Order::Renew(settings)) => {
                        let streams = self.streams.iter_mut().zip(&settings);
                        streams.for_each(|(stream, settings)| stream.renew(settings));
                    }
                    Some(Order::Report(event)) => self.report(&event),
                    Some(Order::Finish(done)) => {
                        self.finishing = Some(done);
                        // One more attempt at once; then the usual waits.
                        let retries = self.streams.iter_mut().flat_map(|one| &mut one.retries);
                        retries.for_each(|(_, (due_ms, _))| *due_ms = 0);
                    }
                    None => return,
                },
                () = tokio::time::sleep_until(due), if due_ms.is_some() => {}
            }
        }
    }

    fn report(&mut self, event: &Happening) {
        let (now_ms, time_ms) = (self.now_ms(), unix_ms());
        for stream in &mut self.streams {
            if stream.client.settings().node_events.contains(event.kind()) {
                stream.push(&self.source, now_ms, time_ms, event);
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    /// Moves the events of all shards to their lanes.
    async fn take_events(&mut self) {
        let now_ms = self.now_ms();
        let mut taken = 0;
        for shard in 0..self.queues.shard_count() {
            for event in self.events.take(shard) {
                taken += 1;
                if taken % ENCODED_AT_ONCE == 0 {
                    tokio::task::yield_now().await;
                }
                match event {
                    ShardEvent::Happened { backend, time_ms, event } => {
                        if let Some(stream) = self.streams.get_mut(usize::from(backend)) {
                            stream.take(&self.source, now_ms, time_ms, &event);
                        }
                    }
                    ShardEvent::Lost(counts) => {
                        let mut lost: BTreeMap<u8, LostCounts> = BTreeMap::new();
                        for ((backend, kind), count) in counts.0 {
                            lost.entry(backend).or_default().insert(kind, count);
                        }
                        for (backend, counts) in lost {
                            if let Some(stream) = self.streams.get_mut(usize::from(backend)) {
                                stream.outbox.push_loss(now_ms, &counts);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Starts to send everything that is due.
    fn send_due(&mut self) {
        let (now_ms, at_once) = (self.now_ms(), self.finishing.is_some());
        for index in 0..self.streams.len() {
            let stream = &mut self.streams[index];
            // Beyond the bound, vacancies become events, which are dropped by their class.
            while let Some((channel, time_ms)) =
                stream.vacancies.take_due(now_ms, at_once || stream.is_over_bound())
            {
                let event = Happening::ChannelVacated { channel };
                stream.push(&self.source, now_ms, time_ms, &event);
            }
            while let Some(batch) = stream.outbox.take_batch(now_ms, at_once) {
                let EventBatch { lane, number, parts } = batch;
                let form = &stream.client.settings().form;
                let Some(body) = form.encode_batch(&self.source, lane, &parts, unix_ms()) else {
                    stream.outbox.settle(now_ms, lane, Delivery::Accepted, 0);
                    continue;
                };
                let sending = Sending { id: self.source.batch_id(lane, number), body: body.into() };
                send(&mut self.sends, &stream.client, index, lane, sending);
            }
            let is_due = |_: &usize, retry: &mut (u64, Sending)| retry.0 <= now_ms;
            for (lane, (_, sending)) in stream.retries.extract_if(.., is_due).collect::<Vec<_>>() {
                send(&mut self.sends, &stream.client, index, lane, sending);
            }
        }
    }

    /// Applies the end of an attempt.
    fn settle(&mut self, sent: Sent) {
        let (now_ms, random) = (self.now_ms(), RandomState::new().hash_one(sent.lane));
        let Sent { stream, lane, sending, result } = sent;
        let Some(stream) = self.streams.get_mut(stream) else { return };
        let delivery = judge(&stream.client.settings().form, &result);
        match (delivery, &result) {
            (Delivery::Accepted, _) => stream.log_success(lane),
            (_, Ok(reply)) => {
                stream.log_failure(lane, format!("status {}", reply.status.as_u16()));
            }
            (_, Err(failure)) => stream.log_failure(lane, failure.to_string()),
        }
        let lost = stream.outbox.counts().lost.clone();
        match stream.outbox.settle(now_ms, lane, delivery, random) {
            Settled::RetryAt(due_ms) => {
                stream.retries.insert(lane, (due_ms, sending));
            }
            Settled::Done => {
                let mut newly = stream.outbox.counts().lost.clone();
                newly.retain(|kind, count| {
                    *count -= lost.get(kind).copied().unwrap_or_default();
                    *count > 0
                });
                if !newly.is_empty() {
                    let (backend, events) =
                        (&stream.client.settings().name, describe_counts(&newly));
                    tracing::warn!(backend, %events, "events lost: not accepted by the backend");
                }
            }
        }
    }

    fn publish_numbers(&mut self) {
        self.published_ms = self.now_ms();
        let number = |stream: &Stream| {
            let numbers = EventNumbers {
                backend: stream.client.settings().name.clone(),
                accepted: list_counts(&stream.outbox.counts().accepted),
                lost: list_counts(&stream.outbox.counts().lost),
                retries: stream.outbox.counts().retries,
                waiting: stream.outbox.waiting() as u64,
                bytes: (stream.outbox.bytes() + stream.vacancies.bytes()) as u64,
                lag: Duration::ZERO,
            };
            let oldest_ms = stream.outbox.oldest_ms();
            (numbers, oldest_ms.map(|since_ms| self.epoch + Duration::from_millis(since_ms)))
        };
        if let Ok(mut numbers) = self.numbers.lock() {
            *numbers = self.streams.iter().map(number).collect();
        }
    }
}

fn send(
    sends: &mut JoinSet<Sent>,
    client: &Arc<BackendClient>,
    stream: usize,
    lane: usize,
    sending: Sending,
) {
    let client = client.clone();
    sends.spawn_local(async move {
        let settings = client.settings();
        let request = SignedRequest {
            url: &settings.events_url,
            id: &sending.id,
            body: &sending.body,
            timeout: BATCH_TIMEOUT,
        };
        let result = client.post(request).await;
        Sent { stream, lane, sending, result }
    });
}

/// Decides what an answer means: what may pass is tried again, and what cannot is dropped.
fn judge(form: &RequestForm, result: &Result<HttpReply, HttpFailure>) -> Delivery {
    let Ok(HttpReply { status, retry_after, .. }) = result else {
        return Delivery::Failed { retry_after_ms: 0 };
    };
    if status.is_success() {
        Delivery::Accepted
    } else if form.is_temporary(*status) {
        let retry_after_ms = retry_after.unwrap_or_default().as_millis() as u64;
        Delivery::Failed { retry_after_ms }
    } else {
        Delivery::Rejected
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Returns the counts of all kinds.
fn list_counts(counts: &LostCounts) -> Vec<(EventKind, u64)> {
    let count = |kind| (kind, counts.get(&kind).copied().unwrap_or_default());
    EventKind::ALL.into_iter().map(count).collect()
}
