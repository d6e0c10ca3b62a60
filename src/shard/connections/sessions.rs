//! The interface that connections use of the layer of sessions above them.
//!
//! A session belongs to an open connection and handles its messages. The layer applies the effects
//! by calling connections, so each method that may have effects receives them as an argument. The
//! effects of a call may include a goodbye, and the end of the session itself.

use std::sync::Arc;

use super::{Connections, TooMuch};
use crate::admission::Admission;
use crate::auth::Identity;
use crate::backend::queue::EventUser;
use crate::hub::{ChannelName, ConnectionId, ProtocolId};
use crate::proto::ws::{CloseCode, DataKind, Payload};
use crate::session::hub::{Budget, Realm};

/// The end of a connection, as sent to its client before the Close.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct Goodbye<'r> {
    pub(in crate::shard) code: CloseCode,
    pub(in crate::shard) reason: &'r str,
    /// The time after which the client should reconnect; 0 = at once.
    pub(in crate::shard) retry_after_ms: u32,
}

/// Slot, time and budget of a message for a session.
#[derive(Clone, Copy, Debug)]
pub(in crate::shard) struct MessageContext {
    pub(in crate::shard) index: u32,
    pub(in crate::shard) now_ns: u64,
    pub(in crate::shard) budget: Budget,
}

/// The layer of sessions. See the module.
pub(in crate::shard) trait Sessions {
    /// Returns the keys and rules of the hub; `None` if no route has sessions.
    fn realm(&self) -> Option<&Realm>;
    /// Returns the Unix time of this turn (ms).
    fn unix_ms(&self) -> u64;
    /// Returns the user of a connection, and the counts of users.
    fn user(&self, index: u32) -> Option<(&str, &Admission)>;

    /// Returns the id and the user of a connection with a session.
    fn client(&self, index: u32) -> Option<(ConnectionId, Option<EventUser>)>;
    /// Returns the client protocol of a subprotocol.
    fn choose_protocol(&self, subprotocol: Option<&str>) -> ProtocolId;
    /// Opens the session of a connection that was just opened, if its route has sessions.
    fn open_session(
        &mut self,
        connections: &mut Connections,
        index: u32,
        identity: Option<Arc<Identity>>,
        protocol: ProtocolId,
    );
    /// Subscribes a connection that was just opened to the channels that an application chose.
    fn subscribe_opened(
        &mut self,
        connections: &mut Connections,
        index: u32,
        channels: &[ChannelName],
    );
    /// Passes a message to its session. It does not receive the connections, because the payload is
    /// in their buffers: effects are stored until [`Self::finish_message`], which must be the next
    /// call. `too_much`: the message exceeds a rate limit.
    fn receive_message(
        &mut self,
        context: MessageContext,
        kind: DataKind,
        payload: Payload<'_>,
        too_much: Option<TooMuch>,
    );
    /// Applies the effects of [`Self::receive_message`].
    fn finish_message(&mut self, connections: &mut Connections, index: u32);
    /// Continues with queued requests.
    fn resume_requests(&mut self, connections: &mut Connections, index: u32);
    /// Moves items from a connection's backlog to its outbox, up to this many bytes there.
    fn refill_outbox(&mut self, connections: &mut Connections, index: u32, bytes_max: usize);

    /// Handles the session's deadline, if it has passed, and sets the next one.
    fn run_due(&mut self, connections: &mut Connections, index: u32);
    /// Sets the session's deadline again after a change of the clock or the configuration.
    fn reschedule_due(&mut self, connections: &mut Connections, index: u32);
    /// Records the round trip of a ping.
    fn note_round_trip(&mut self, index: u32, took_ns: u64);

    /// Queues the `goodbye` before a Close; `with_backlog`: after all channel messages in the
    /// backlog. Returns the close code that the client's protocol has for this one.
    fn say_goodbye(
        &mut self,
        connections: &mut Connections,
        index: u32,
        goodbye: Goodbye<'_>,
        with_backlog: bool,
    ) -> CloseCode;
    /// Drops the channel messages in a connection's backlog.
    fn drop_backlog(&mut self, connections: &mut Connections, index: u32);
    /// Ends the session, which ended with this code: no further message is processed.
    fn end_session(&mut self, connections: &mut Connections, index: u32, code: CloseCode);
}
