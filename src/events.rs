//! The events that an application may receive: their kinds, and where events of a route or channel
//! go.
//!
//! A leaf: configuration, rules for channels, shards and the sender of events share it.

use serde::{Deserialize, Serialize};

/// The kind of an event, by its name in JSON. Ordered as metrics list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Connected,
    Disconnected,
    Subscribed,
    Unsubscribed,
    ChannelOccupied,
    ChannelVacated,
    MemberAdded,
    MemberRemoved,
    Published,
    NodeLost,
    ClientEvent,
    CacheMiss,
}

impl EventKind {
    pub const ALL: [Self; 12] = [
        Self::Connected,
        Self::Disconnected,
        Self::Subscribed,
        Self::Unsubscribed,
        Self::ChannelOccupied,
        Self::ChannelVacated,
        Self::MemberAdded,
        Self::MemberRemoved,
        Self::Published,
        Self::NodeLost,
        Self::ClientEvent,
        Self::CacheMiss,
    ];

    /// The kinds of which the webhook of an app of the Pusher protocol consists.
    pub const OF_APPS: [Self; 6] = [
        Self::ChannelOccupied,
        Self::ChannelVacated,
        Self::MemberAdded,
        Self::MemberRemoved,
        Self::ClientEvent,
        Self::CacheMiss,
    ];

    /// Returns whether a `[[backend]]` may receive it: all but those of webhooks alone.
    pub fn is_for_backends(self) -> bool {
        !matches!(self, Self::ClientEvent | Self::CacheMiss)
    }

    /// Returns its name in JSON, in options and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
            Self::Subscribed => "subscribed",
            Self::Unsubscribed => "unsubscribed",
            Self::ChannelOccupied => "channel_occupied",
            Self::ChannelVacated => "channel_vacated",
            Self::MemberAdded => "member_added",
            Self::MemberRemoved => "member_removed",
            Self::Published => "published",
            Self::NodeLost => "node_lost",
            Self::ClientEvent => "client_event",
            Self::CacheMiss => "cache_miss",
        }
    }

    /// Finds a kind by its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Returns whether the event concerns a connection as a whole, and so depends on its route
    /// instead of on a channel.
    pub fn is_of_connection(self) -> bool {
        matches!(self, Self::Connected | Self::Disconnected)
    }

    /// Returns whether the event concerns a channel, and so depends on its rules.
    pub fn is_of_channel(self) -> bool {
        !self.is_of_connection() && self != Self::NodeLost
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventKinds(u16);

impl EventKinds {
    /// Returns whether the set contains a kind.
    pub fn contains(self, kind: EventKind) -> bool {
        self.0 & 1 << kind as u16 != 0
    }

    /// Returns whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the kinds that either set contains.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the kinds for which the predicate holds.
    #[must_use]
    pub fn only(self, predicate: impl Fn(EventKind) -> bool) -> Self {
        self.iter().filter(|kind| predicate(*kind)).collect()
    }

    /// Iterates over the kinds in the set.
    pub fn iter(self) -> impl Iterator<Item = EventKind> {
        EventKind::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }
}

impl FromIterator<EventKind> for EventKinds {
    fn from_iter<I: IntoIterator<Item = EventKind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |set, kind| set | 1 << kind as u16))
    }
}

/// The most backends of one configuration, with the webhooks of apps.
pub const BACKENDS_MAX: usize = 16;

/// Where the events of a route or of a channel go. By default nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventTarget {
    /// The index of the backend; without meaning if no kinds are wanted.
    pub backend: u8,
    /// The kinds that it wants.
    pub kinds: EventKinds,
}

impl EventTarget {
    /// Returns whether the backend wants events of this kind.
    pub fn wants(self, kind: EventKind) -> bool {
        self.kinds.contains(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_one_name_and_one_bit() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::parse(kind.name()), Some(kind));
            let set: EventKinds = [kind].into_iter().collect();
            assert_eq!(set.iter().collect::<Vec<_>>(), [kind]);
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{}\"", kind.name()));
        }
        let all: EventKinds = EventKind::ALL.into_iter().collect();
        assert_eq!(all.only(EventKind::is_of_connection).iter().count(), 2);
        let is_used =
            |kind: &EventKind| kind.is_for_backends() || EventKind::OF_APPS.contains(kind);
        let any: EventKinds = EventKind::ALL.into_iter().filter(is_used).collect();
        assert_eq!(any, all, "each kind has a receiver");
    }
}
