//! Messages between nodes, the list of nodes, and the revocations that all nodes apply, on the
//! first instance.
//!
//! Messages are published to topics of one node or of all; they are lost while the engine is away.
//! Revocations are kept in the engine too, and read with each heartbeat; those that are made while
//! the engine is away are kept here until it is back.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Script, Value};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use crate::cluster::layout::Layout;

const HEARTBEAT: &str = include_str!("heartbeat.lua");
const REVOKE: &str = include_str!("revoke.lua");

/// Revocations kept; more than a node keeps of them in force would be no use.
const REVOCATIONS_MAX: u32 = 65_536;

/// The delay after which a revocation that could not be written is written again.
const REVOKE_AGAIN: Duration = Duration::from_secs(1);

/// What a heartbeat has read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// The records of all nodes, and the time since they were written (ms).
    pub nodes: Vec<(u64, String)>,
    /// Revocations that this node has not read yet, in order.
    pub revocations: Vec<String>,
    /// The number of the last one.
    pub last_revocation: u64,
}

/// Revocations that one heartbeat reads at most.
pub const REVOCATIONS_AT_ONCE: usize = 1024;

/// A request of the control thread.
#[derive(Debug)]
pub(super) enum BusRequest {
    /// Send a message to a node, or to all.
    Send { node: Option<u32>, body: Vec<u8> },
    Heartbeat {
        node: u32,
        record: String,
        forget_ms: u64,
        last_revocation: u64,
        reply: oneshot::Sender<Heartbeat>,
    },
    /// Keep a revocation for a time (ms).
    Revoke { revocation: String, life_ms: u64 },
    /// Remove the node from the list.
    Leave { node: u32, reply: oneshot::Sender<()> },
}

/// The control thread's side.
pub struct Bus {
    requests: UnboundedSender<BusRequest>,
    received: Mutex<Option<UnboundedReceiver<Vec<u8>>>>,
}

/// The outer thread's side.
pub(super) struct BusEnd {
    pub(super) requests: UnboundedReceiver<BusRequest>,
    pub(super) received: UnboundedSender<Vec<u8>>,
    /// Requests that have failed, to be taken again.
    pub(super) again: UnboundedSender<BusRequest>,
    /// The topics of messages to all nodes, and to this one.
    pub(super) topics: [Vec<u8>; 2],
}

impl Bus {
    /// Makes both sides, for the node with this number.
    pub(super) fn new(layout: &Layout, node: u32) -> (Self, BusEnd) {
        let (requests, taken) = unbounded_channel();
        let (sender, received) = unbounded_channel();
        let received = Mutex::new(Some(received));
        let topics = [None, Some(node)].map(|node| layout.node_topic(node));
        let again = requests.clone();
        let end = BusEnd { requests: taken, received: sender, again, topics };
        (Self { requests, received }, end)
    }

    /// Takes the receiver of messages; there is one.
    pub fn take_receiver(&self) -> Option<UnboundedReceiver<Vec<u8>>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn request(&self, request: BusRequest) {
        // The outer thread ends with the process.
        let _ = self.requests.send(request);
    }

    /// Sends a message to a node, or to all nodes, this one included.
    pub fn send(&self, node: Option<u32>, body: Vec<u8>) {
        self.request(BusRequest::Send { node, body });
    }

    /// Records this node, and reads the others. `None`: the engine is away.
    pub async fn beat(
        &self,
        (node, record): (u32, String),
        forget_ms: u64,
        last_revocation: u64,
    ) -> Option<Heartbeat> {
        let (reply, answer) = oneshot::channel();
        let request = BusRequest::Heartbeat { node, record, forget_ms, last_revocation, reply };
        self.request(request);
        answer.await.ok()
    }

    /// Keeps a revocation for nodes that miss the message about it.
    pub fn keep_revocation(&self, revocation: String, life_ms: u64) {
        self.request(BusRequest::Revoke { revocation, life_ms });
    }

    /// Removes this node from the list. Returns once it is done, or cannot be.
    pub async fn leave(&self, node: u32) {
        let (reply, done) = oneshot::channel();
        self.request(BusRequest::Leave { node, reply });
        let _ = done.await;
    }
}

/// Carries out a request on a connection. A revocation that fails is repeated for as long as it
/// matters.
pub(super) async fn carry_out_again(
    connection: MultiplexedConnection,
    keys: [Vec<u8>; 2],
    topic: impl Fn(Option<u32>) -> Vec<u8>,
    request: BusRequest,
    again: UnboundedSender<BusRequest>,
) {
    let repeated = match &request {
        BusRequest::Revoke { revocation, life_ms } => Some((revocation.clone(), *life_ms)),
        _ => None,
    };
    let Err(error) = carry_out(connection, keys, topic, request).await else { return };
    tracing::debug!(%error, "a request between nodes failed");
    let Some((revocation, life_ms)) = repeated else { return };
    tokio::time::sleep(REVOKE_AGAIN).await;
    let life_ms = life_ms.saturating_sub(REVOKE_AGAIN.as_millis() as u64);
    if life_ms > 0 {
        // The outer thread may be ending.
        let _ = again.send(BusRequest::Revoke { revocation, life_ms });
    }
}

/// Carries out a request on a connection.
async fn carry_out(
    mut connection: MultiplexedConnection,
    keys: [Vec<u8>; 2],
    topic: impl Fn(Option<u32>) -> Vec<u8>,
    request: BusRequest,
) -> RedisResult<()> {
    let [nodes, revocations] = keys;
    match request {
        BusRequest::Send { node, body } => {
            let mut publish = redis::cmd("PUBLISH");
            publish.arg(topic(node)).arg(body).query_async(&mut connection).await
        }
        BusRequest::Revoke { revocation, life_ms } => {
            let script = Script::new(REVOKE);
            let mut call = script.key(revocations);
            call.arg(revocation).arg(life_ms).arg(REVOCATIONS_MAX);
            call.invoke_async(&mut connection).await
        }
        BusRequest::Leave { node, reply } => {
            redis::cmd("HDEL").arg(nodes).arg(node).exec_async(&mut connection).await?;
            // The process may have stopped waiting.
            let _ = reply.send(());
            Ok(())
        }
        BusRequest::Heartbeat { node, record, forget_ms, last_revocation, reply } => {
            let script = Script::new(HEARTBEAT);
            let mut call = script.key(nodes);
            call.key(revocations).arg(node).arg(record).arg(forget_ms).arg(last_revocation);
            let read: Vec<Value> = call.invoke_async(&mut connection).await?;
            if let Some(heartbeat) = read_heartbeat(read) {
                // The control thread may have stopped waiting.
                let _ = reply.send(heartbeat);
            }
            Ok(())
        }
    }
}

fn read_text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        Value::Double(number) => Some(number.to_string()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}

fn read_heartbeat(read: Vec<Value>) -> Option<Heartbeat> {
    let mut read = read.into_iter();
    let last_revocation = read_text(read.next()?)?.parse::<f64>().ok()? as u64;
    let Value::Array(entries) = read.next()? else { return None };
    let revocations = entries.into_iter().filter_map(read_text).filter_map(|entry| {
        // Expiry and number precede the text.
        entry.splitn(3, ' ').nth(2).map(str::to_owned)
    });
    let revocations = revocations.collect();
    let mut nodes = Vec::new();
    while let (Some(age), Some(record)) = (read.next(), read.next()) {
        nodes.push((read_text(age)?.parse().ok()?, read_text(record)?));
    }
    Some(Heartbeat { nodes, revocations, last_revocation })
}

/// The keys of the list of nodes and of the revocations.
pub(super) fn keys(layout: &Layout) -> [Vec<u8>; 2] {
    [layout.plain_key("nodes"), layout.plain_key("revoked")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_read() {
        let text = |text: &str| Value::BulkString(text.into());
        let read = vec![
            text("7"),
            Value::Array(vec![text("99 7 {\"a b\":1}")]),
            text("12"),
            text("{\"node\":1}"),
        ];
        let expected = Heartbeat {
            nodes: vec![(12, "{\"node\":1}".into())],
            revocations: vec!["{\"a b\":1}".into()],
            last_revocation: 7,
        };
        assert_eq!(read_heartbeat(read), Some(expected));
    }
}
