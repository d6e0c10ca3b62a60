//! Events as JSON. `BACKEND.md` specifies the fields.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::value::RawValue;

use super::outbox::{LostCounts, Part};
use crate::backend::queue::{EventUser, Happening};
use crate::events::EventKind;
use crate::hub::{ConnectionId, MemberInfo, MemberKey};

/// The process that sends events.
#[derive(Clone, Debug)]
pub(super) struct EventSource {
    /// Its number in connection ids.
    pub(super) node: u32,
    /// Random, chosen at its start.
    pub(super) incarnation: u64,
}

impl EventSource {
    /// Returns the beginning of ids of events and batches.
    fn prefix(&self, lane: usize) -> String {
        format!("{:08x}.{:016x}.{lane}", self.node, self.incarnation)
    }

    /// Returns the id of an event. Several nodes may report that one was lost: with the same id.
    pub(super) fn event_id(&self, lane: usize, number: u64, event: &Happening) -> String {
        match event {
            Happening::NodeLost { node, incarnation } => format!("{node:08x}.{incarnation}.lost"),
            _ => format!("{}.{number}", self.prefix(lane)),
        }
    }

    /// Returns the id of a batch.
    pub(super) fn batch_id(&self, lane: usize, number: u64) -> String {
        format!("{}.batch.{number}", self.prefix(lane))
    }

    fn loss_id(&self, lane: usize, number: u64) -> String {
        format!("{}.lost.{number}", self.prefix(lane))
    }
}

/// The fields of all kinds, in the order in which they are written.
#[derive(Default, Serialize)]
struct Fields<'e> {
    id: &'e str,
    r#type: &'e str,
    /// Unix time (ms).
    time: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'e str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_received: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_sent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<Member<'e>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'e RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<&'e LostCounts>,
}

/// A member, as in lists of members.
#[derive(Serialize)]
struct Member<'e> {
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'e str>,
    connection: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'e RawValue>,
}

impl<'e> From<&'e MemberInfo> for Member<'e> {
    fn from(member: &'e MemberInfo) -> Self {
        let user = match &member.key {
            MemberKey::User(user) => Some(&**user),
            MemberKey::Connection(_) => None,
        };
        let info = member.info.as_deref().and_then(|info| serde_json::from_str(info).ok());
        Self { user, connection: member.connection.to_string(), info }
    }
}

fn write(fields: &Fields<'_>) -> String {
    serde_json::to_string(fields).expect("fields are strings, numbers and valid JSON")
}

fn name_of(user: Option<&EventUser>) -> Option<&str> {
    user.map(|user| &*user.name)
}

/// Encodes an event.
pub(super) fn encode_event(id: &str, time_ms: u64, event: &Happening) -> String {
    let kind = event.kind();
    let base = Fields { id, r#type: kind.name(), time: time_ms, ..Fields::default() };
    write(&match event {
        Happening::Connected { client, path } => Fields {
            connection: Some(client.connection.to_string()),
            user: name_of(client.user.as_ref()),
            address: client.address.map(|address| address.ip().to_string()),
            path: Some(path),
            ..base
        },
        Happening::Disconnected { client, code, duration_ms, bytes_received, bytes_sent } => {
            Fields {
                connection: Some(client.connection.to_string()),
                user: name_of(client.user.as_ref()),
                address: client.address.map(|address| address.ip().to_string()),
                code: Some(code.get()),
                duration_ms: Some(*duration_ms),
                bytes_received: Some(*bytes_received),
                bytes_sent: Some(*bytes_sent),
                ..base
            }
        }
        Happening::Subscribed { connection, user, channel }
        | Happening::Unsubscribed { connection, user, channel } => Fields {
            connection: Some(connection.to_string()),
            user: name_of(user.as_ref()),
            channel: Some(channel.as_str()),
            ..base
        },
        Happening::ChannelOccupied { channel }
        | Happening::ChannelVacated { channel }
        | Happening::ClientEvent { channel, .. }
        | Happening::CacheMiss { channel } => Fields { channel: Some(channel.as_str()), ..base },
        Happening::MemberAdded { channel, member }
        | Happening::MemberRemoved { channel, member } => {
            let member = Some(Member::from(&**member));
            Fields { channel: Some(channel.as_str()), member, ..base }
        }
        Happening::Published { channel, position, content, from } => Fields {
            connection: from.as_ref().map(|from| from.connection.to_string()),
            user: from.as_ref().and_then(|from| from.user.as_deref()),
            channel: Some(channel.as_str()),
            epoch: Some(position.epoch.to_string()),
            offset: Some(position.offset),
            content: serde_json::from_str(content).ok(),
            ..base
        },
        Happening::NodeLost { node, .. } => Fields { node: Some(format!("{node:08x}")), ..base },
    })
}

/// Encodes the body of a batch. `time_ms`: the Unix time of reports of losses.
pub(super) fn encode_batch(
    source: &EventSource,
    lane: usize,
    parts: &[Part],
    time_ms: u64,
) -> String {
    let EventSource { node, incarnation } = source;
    let mut body =
        format!(r#"{{"node":"{node:08x}","incarnation":"{incarnation:016x}","events":["#);
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            body.push(',');
        }
        match part {
            Part::Event(json) => body.push_str(json),
            Part::Lost { number, counts } => {
                let id = source.loss_id(lane, *number);
                let counts = Some(counts);
                let (id, r#type, time) = (&*id, "events_lost", time_ms);
                body.push_str(&write(&Fields { id, r#type, time, counts, ..Fields::default() }));
            }
        }
    }
    // Writing to a string cannot fail.
    let _ = write!(body, "]}}");
    body
}

/// Returns what decides about the lane of an event: the order within each such key is kept.
pub(super) fn lane_key(event: &Happening) -> LaneKey<'_> {
    match event {
        Happening::Connected { client, .. } | Happening::Disconnected { client, .. } => {
            LaneKey::of_client(client.user.as_ref(), client.connection)
        }
        Happening::Subscribed { connection, user, .. }
        | Happening::Unsubscribed { connection, user, .. } => {
            LaneKey::of_client(user.as_ref(), *connection)
        }
        Happening::ChannelOccupied { channel }
        | Happening::ChannelVacated { channel }
        | Happening::MemberAdded { channel, .. }
        | Happening::MemberRemoved { channel, .. }
        | Happening::Published { channel, .. }
        | Happening::ClientEvent { channel, .. }
        | Happening::CacheMiss { channel } => LaneKey::Channel(channel.as_str()),
        Happening::NodeLost { node, .. } => LaneKey::Node(*node),
    }
}

/// See [`lane_key`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum LaneKey<'e> {
    User(&'e str),
    Connection(ConnectionId),
    Channel(&'e str),
    Node(u32),
}

impl<'e> LaneKey<'e> {
    /// A connection that got its user later keeps its lane.
    fn of_client(user: Option<&'e EventUser>, connection: ConnectionId) -> Self {
        match user.filter(|user| user.since_open) {
            Some(user) => Self::User(&user.name),
            None => Self::Connection(connection),
        }
    }
}

/// Returns the kinds in a set of counts, for logs.
pub(super) fn describe_counts(counts: &LostCounts) -> String {
    let one = |(kind, count): (&EventKind, &u64)| format!("{count} {}", kind.name());
    counts.iter().map(one).collect::<Vec<_>>().join(", ")
}
