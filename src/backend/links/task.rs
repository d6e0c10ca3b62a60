//! The task of a link: it says hello, writes what shards queue, and passes what arrives to them.
//!
//! Reading and writing are two futures, so that a blocked write stops no reading: if both sides
//! only wrote, neither would get further. A third one pings, and ends a link that is silent, or has
//! drained.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};
use tungstenite::protocol::CloseFrame;
use tungstenite::{Bytes, Message};

use super::commands::CommandLine;
use super::ending::LinkEnd;
use super::inbound::{LinkNotice, Sorter};
use super::numbers::{LinkCounters, RoundTrips};
use super::outbound::{Outbound, count_records};
use super::stream::{LastHeard, LinkStream};
use super::table::{BackendLink, LinkMail, LinkPosts, LinkTable};
use crate::backend::settings::LinkSettings;
use crate::link::{
    BackendHello, HelloLimits, LINK_VERSION, LinkRecord, LinkSession, NodeHello, RecordKind,
    Records, append_record, decode_hello, encode_node_hello,
};

const PING_INTERVAL: Duration = Duration::from_secs(1);
/// How long the close of a link may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of records about the link that wait to be sent; further pings are not answered.
const NOTICE_BYTES_MAX: usize = 4096;

/// What the tasks of all links share.
pub(super) struct LinkContext {
    pub(super) table: Arc<LinkTable>,
    /// Gone when the server ends.
    pub(super) posts: Weak<dyn LinkPosts>,
    /// This node's name in `hello`.
    pub(super) node: String,
    pub(super) round_trips: Arc<RoundTrips>,
    pub(super) commands: Arc<CommandLine>,
}

impl LinkContext {
    /// Posts mail to every shard.
    fn broadcast(&self, mail: impl Fn() -> LinkMail) {
        if let Some(posts) = self.posts.upgrade() {
            (0..posts.shard_count()).for_each(|shard| posts.post_link(shard, mail()));
        }
    }
}

/// What both sides have said.
#[derive(Debug)]
pub(super) struct Greeting {
    pub(super) hello: BackendHello,
    /// Records that came with it.
    rest: Bytes,
}

/// Says hello, and reads the application's.
pub(super) async fn exchange_hellos(
    stream: &mut LinkStream,
    node: &str,
    settings: &LinkSettings,
    record_bytes_max: usize,
) -> Result<Greeting, LinkEnd> {
    let limits = HelloLimits {
        unacked_messages_max: settings.unacked_messages_max,
        unacked_bytes_max: settings.unacked_bytes_max,
        record_bytes_max: record_bytes_max as u64,
    };
    let hello = NodeHello { node, version: env!("CARGO_PKG_VERSION"), limits };
    let body = encode_node_hello(&hello);
    let mut bytes = Vec::new();
    let record = LinkRecord::new(RecordKind::Hello, LinkSession::NONE, LINK_VERSION, &body);
    append_record(&mut bytes, &record);
    let broken = |error: tungstenite::Error| LinkEnd::from_error(&error);
    stream.send(Message::Binary(bytes.into())).await.map_err(broken)?;
    loop {
        if let Some(message) = next_message(stream.next().await)? {
            return read_hello(&message, record_bytes_max);
        }
    }
}

fn read_hello(message: &Bytes, record_bytes_max: usize) -> Result<Greeting, LinkEnd> {
    let first = Records::new(message, record_bytes_max).next();
    let record = first.ok_or(LinkEnd::Wrong(NO_HELLO))?;
    let record = record.map_err(|error| LinkEnd::Wrong(error.reason()))?;
    if record.known_kind() != Some(RecordKind::Hello) {
        return Err(LinkEnd::Wrong(NO_HELLO));
    }
    if record.number != LINK_VERSION {
        return Err(LinkEnd::Wrong("a `hello` of another version: its number must be 1"));
    }
    let hello = decode_hello(record.body).map_err(|error| LinkEnd::Wrong(error.0))?;
    let rest = message.slice(record.wire_bytes()..);
    Ok(Greeting { hello, rest })
}

const NO_HELLO: &str = "a first record that is no `hello`";

/// Returns the bytes of a message; `None` if it is not for applications.
fn next_message(
    read: Option<Result<Message, tungstenite::Error>>,
) -> Result<Option<Bytes>, LinkEnd> {
    match read {
        Some(Ok(Message::Binary(bytes))) => Ok(Some(bytes)),
        Some(Ok(Message::Text(_))) => {
            Err(LinkEnd::Wrong("a text message: records go in binary messages"))
        }
        Some(Ok(Message::Close(frame))) => {
            let code = frame.as_ref().map(|frame| frame.code.into());
            let reason = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
            Err(LinkEnd::Closed { code, reason })
        }
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(LinkEnd::from_error(&error)),
        None => Err(LinkEnd::Closed { code: None, reason: String::new() }),
    }
}

/// A link that has said hello, as its task and the flow share it.
pub(super) struct OpenLink {
    pub(super) link: Arc<BackendLink>,
    context: Rc<LinkContext>,
    counters: Arc<LinkCounters>,
    timeout: Duration,
    body_bytes_max: usize,
    /// Records about the link itself, which go first.
    notices: RefCell<Vec<u8>>,
    /// When it began to drain, and how long that may take.
    draining: Cell<Option<(Instant, Duration)>>,
    is_finishing: Cell<bool>,
    /// Wakes the writing future for what is not in the link's queue.
    changed: Notify,
    /// Pings carry the time since then.
    epoch: Instant,
}

/// A drain that the application has begun takes as long as it wants.
const UNBOUNDED: Duration = Duration::MAX;

impl OpenLink {
    pub(super) fn new(
        link: Arc<BackendLink>,
        context: &Rc<LinkContext>,
        counters: &Arc<LinkCounters>,
        timeout: Duration,
        body_bytes_max: usize,
    ) -> Rc<Self> {
        Rc::new(Self {
            link,
            context: context.clone(),
            counters: counters.clone(),
            timeout,
            body_bytes_max,
            notices: RefCell::default(),
            draining: Cell::new(None),
            is_finishing: Cell::new(false),
            changed: Notify::new(),
            epoch: Instant::now(),
        })
    }

    /// Sends the application `drain`: there will be no new sessions.
    pub(super) fn announce_drain(&self) {
        self.notify(RecordKind::Drain, &[]);
    }

    /// Moves the link's sessions to others, and then ends it; after `most` in any case.
    pub(super) fn retire(&self, most: Duration) {
        if !self.link.is_draining() {
            self.announce_drain();
        }
        self.begin_drain(most);
    }

    /// Ends the link once everything that is queued was sent.
    pub(super) fn finish(&self) {
        self.is_finishing.set(true);
        self.changed.notify_one();
    }

    fn begin_drain(&self, most: Duration) {
        let (since, before) = self.draining.get().unwrap_or((Instant::now(), UNBOUNDED));
        // This node's own drain bounds one that the application has begun.
        let most = since.elapsed().saturating_add(most).min(before);
        self.draining.set(Some((since, most)));
        if !self.link.is_draining() {
            self.link.begin_drain();
            self.context.broadcast(|| LinkMail::Draining);
        }
    }

    /// Queues a record about the link. It is dropped if the application does not read.
    fn notify(&self, kind: RecordKind, body: &[u8]) {
        let mut notices = self.notices.borrow_mut();
        if notices.len() < NOTICE_BYTES_MAX {
            append_record(&mut notices, &LinkRecord::new(kind, LinkSession::NONE, 0, body));
            self.changed.notify_one();
        }
    }

    /// Runs the link until it ends. `drained` is called when it begins to drain.
    pub(super) async fn run(
        &self,
        stream: LinkStream,
        greeting: Greeting,
        drained: &dyn Fn(),
    ) -> LinkEnd {
        self.context.table.add(self.link.clone());
        self.context.broadcast(|| LinkMail::Ready);
        let heard = stream.get_ref().heard();
        let (mut sink, mut source) = stream.split();
        let end = tokio::select! {
            end = self.read(&mut source, &greeting.rest, &heard, drained) => end,
            end = self.write(&mut sink) => end,
            end = self.watch(&heard) => end,
        };
        self.link.close();
        self.context.table.remove(self.link.facts().id);
        let id = self.link.facts().id;
        self.context.broadcast(|| LinkMail::Lost { link: id });
        close(&mut sink, &mut source, end.close_frame()).await;
        end
    }

    async fn read(
        &self,
        source: &mut SplitStream<LinkStream>,
        rest: &Bytes,
        heard: &LastHeard,
        drained: &dyn Fn(),
    ) -> LinkEnd {
        let Some(shards) = self.context.posts.upgrade().map(|posts| posts.shard_count()) else {
            return LinkEnd::Finished;
        };
        let mut sorter = Sorter::new(shards, self.body_bytes_max);
        let mut message = Some(rest.clone());
        loop {
            if let Some(message) = message
                && let Err(end) = self.deliver(&mut sorter, &message, drained)
            {
                return end;
            }
            // What is not read because shards are busy is not silence of the application.
            self.wait_inbound(heard).await;
            message = match next_message(source.next().await) {
                Ok(message) => message,
                Err(end) => return end,
            };
        }
    }

    async fn wait_inbound(&self, heard: &LastHeard) {
        let room = self.context.table.wait_inbound();
        tokio::pin!(room);
        loop {
            tokio::select! {
                biased;
                () = &mut room => return,
                () = tokio::time::sleep(PING_INTERVAL / 4) => heard.note(),
            }
        }
    }

    /// Passes the records of a message to shards.
    fn deliver(
        &self,
        sorter: &mut Sorter,
        message: &[u8],
        drained: &dyn Fn(),
    ) -> Result<(), LinkEnd> {
        let mut drains = false;
        let count = sorter.sort(message, |notice| match notice {
            LinkNotice::Drain => drains = true,
            LinkNotice::Ping(body) => self.notify(RecordKind::Pong, body),
            LinkNotice::Pong(body) => self.take_pong(body),
            LinkNotice::Answer(number, body) => self.link.questions().answer(number, body),
            LinkNotice::Command(number, body) => {
                self.context.commands.pass(&self.link, number, body);
            }
        });
        LinkCounters::add(&self.counters.records_in, count.map_err(LinkEnd::Wrong)?);
        let Some(posts) = self.context.posts.upgrade() else { return Err(LinkEnd::Finished) };
        while let Some((shard, records)) = sorter.take() {
            self.context.table.add_inbound(records.len());
            posts.post_link(shard, LinkMail::Records { link: self.link.clone(), records });
        }
        if drains && !self.link.is_draining() {
            self.begin_drain(UNBOUNDED);
            drained();
        }
        Ok(())
    }

    fn take_pong(&self, body: &[u8]) {
        let sent = body.try_into().map(u64::from_be_bytes).map(Duration::from_nanos);
        // Anything else is no answer to a ping of ours.
        if let Some(time) = sent.ok().and_then(|sent| self.epoch.elapsed().checked_sub(sent)) {
            self.context.round_trips.record(time);
        }
    }

    async fn write(&self, sink: &mut SplitSink<LinkStream, Message>) -> LinkEnd {
        let mut outbound = Outbound::default();
        loop {
            if let Some(reason) = self.link.fault() {
                return LinkEnd::Wrong(reason);
            }
            let notices = std::mem::take(&mut *self.notices.borrow_mut());
            let message = Some(notices).filter(|notices| !notices.is_empty());
            let message = message.or_else(|| outbound.next_message(|| self.link.take_records()));
            let Some(message) = message else {
                if self.is_finishing.get() {
                    return LinkEnd::Finished;
                }
                tokio::select! {
                    () = self.link.wait() => {}
                    () = self.changed.notified() => {}
                }
                continue;
            };
            if self.link.begin_room() {
                self.context.broadcast(|| LinkMail::Room);
            }
            LinkCounters::add(&self.counters.records_out, count_records(&message));
            if let Err(error) = sink.send(Message::Binary(message.into())).await {
                return LinkEnd::from_error(&error);
            }
        }
    }

    /// Pings, and returns when the link is to end although nothing fails.
    async fn watch(&self, heard: &LastHeard) -> LinkEnd {
        // Three within the time of silence, so that a late answer to one ends no link.
        let interval = PING_INTERVAL.min(self.timeout / 3);
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticked = Instant::now();
        loop {
            ticks.tick().await;
            let since = std::mem::replace(&mut ticked, Instant::now()).elapsed();
            if since > 2 * PING_INTERVAL {
                // This process was stopped: what has arrived meanwhile was not read yet.
                heard.note();
            }
            if heard.get().elapsed() >= self.timeout {
                return LinkEnd::Silent(self.timeout);
            }
            // A blocked write does not hide it.
            if let Some(reason) = self.link.fault() {
                return LinkEnd::Wrong(reason);
            }
            if let Some((since, most)) = self.draining.get() {
                let time = since.elapsed();
                // A shard may have chosen the link just before.
                let is_empty = self.link.sessions() == 0
                    && self.link.queue_bytes() == 0
                    && self.link.questions().is_empty()
                    && time >= PING_INTERVAL;
                if is_empty || time >= most {
                    return LinkEnd::Drained;
                }
            }
            if self.notices.borrow().is_empty() {
                let time = self.epoch.elapsed().as_nanos() as u64;
                self.notify(RecordKind::Ping, &time.to_be_bytes());
            }
        }
    }
}

/// Closes the socket, after what was being written; the peer may be gone.
async fn close(
    sink: &mut SplitSink<LinkStream, Message>,
    source: &mut SplitStream<LinkStream>,
    frame: Option<CloseFrame>,
) {
    let closing = async {
        let sent = match frame {
            Some(frame) => sink.send(Message::Close(Some(frame))).await,
            // Answers the peer's close.
            None => sink.flush().await,
        };
        while sent.is_ok() && source.next().await.is_some_and(|read| read.is_ok()) {}
    };
    // Without an end within this time, the drop of the socket ends it.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
}
