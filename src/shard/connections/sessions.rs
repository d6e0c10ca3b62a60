//! What connections ask of the layer of sessions above them.
//!
//! A session belongs to an open connection and says what its messages mean. The layer calls
//! connections back with what it wants done, so each method that may lead to that gets them as an
//! argument. What a call brings about may include a goodbye, and the end of the session itself.

use std::sync::Arc;

use super::{Connections, TooMuch};
use crate::admission::Admission;
use crate::auth::Identity;
use crate::hub::ProtocolId;
use crate::proto::ws::{CloseCode, DataKind, Payload};
use crate::session::hub::{Budget, Realm};

/// The end of a connection, as its client gets it before the Close.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Goodbye<'r> {
    pub(in crate::shard) code: CloseCode,
    pub(in crate::shard) reason: &'r str,
    /// When to come back; 0 = at once.
    pub(in crate::shard) retry_after_ms: u32,
}

/// Slot, time and budget of a message for a session.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct MessageContext {
    pub(in crate::shard) index: u32,
    pub(in crate::shard) now_ns: u64,
    pub(in crate::shard) budget: Budget,
}

/// See the module.
pub(in crate::shard) trait Sessions {
    /// What tokens are verified with; `None`: no route has sessions.
    fn realm(&self) -> Option<&Realm>;
    /// Unix time (s) of this turn.
    fn unix_s(&self) -> u64;
    /// The user of a connection, and where users are counted.
    fn user(&self, index: u32) -> Option<(&str, &Admission)>;

    /// The client protocol that a subprotocol names.
    fn choose_protocol(&self, subprotocol: Option<&str>) -> ProtocolId;
    /// Makes the session of a connection that was just opened, if its route has sessions.
    fn open_session(
        &mut self,
        connections: &mut Connections,
        index: u32,
        identity: Option<Arc<Identity>>,
        protocol: ProtocolId,
    );
    /// Hands a message to its session. It does not get the connections, because the payload lies in
    /// their buffers: what comes of it is kept until [`Self::finish_message`], which must be the
    /// next call. `too_much`: the message exceeds a rate.
    fn receive_message(
        &mut self,
        heard: MessageContext,
        kind: DataKind,
        payload: Payload<'_>,
        too_much: Option<TooMuch>,
    );
    /// Does what the session wants after [`Self::receive_message`].
    fn finish_message(&mut self, connections: &mut Connections, index: u32);
    /// Continues with requests that had to wait.
    fn resume_requests(&mut self, connections: &mut Connections, index: u32);
    /// Moves what waits for a connection into its outbox, up to so many bytes there.
    fn refill_outbox(&mut self, connections: &mut Connections, index: u32, bytes_max: usize);

    /// Does what is due, if it is due by now, and plans what is due next.
    fn run_due(&mut self, connections: &mut Connections, index: u32);
    /// Plans again when something is due, because the clock or the configuration has changed.
    fn reschedule_due(&mut self, connections: &mut Connections, index: u32);
    /// Keeps how long a ping took.
    fn note_round_trip(&mut self, index: u32, took_ns: u64);

    /// Queues the `goodbye` before a Close; `with_backlog`: behind everything that waits.
    fn say_goodbye(
        &mut self,
        connections: &mut Connections,
        index: u32,
        goodbye: Goodbye<'_>,
        with_backlog: bool,
    );
    /// Drops the channel messages that wait for a connection.
    fn drop_backlog(&mut self, connections: &mut Connections, index: u32);
    /// Ends the session: no message will flow any more.
    fn end_session(&mut self, connections: &mut Connections, index: u32);
}
