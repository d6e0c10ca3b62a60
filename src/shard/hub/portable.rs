//! The hub's state of a connection as plain data: its session, and its backlog.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Hub;
use super::backlog::{Backlog, Item, Notice};
use crate::hub::{
    ChannelMessage, ChannelName, ConnectionId, Draft, Epoch, Event, MemberInfo, MemberKey,
    Position, Publication, Sender,
};
use crate::session::hub::{HubSession, MemberIndexes, Realm, SessionState};
use crate::shard::connections::{Connections, NotSerializable};

/// A session with its backlog.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct HubState {
    /// The subprotocol, which identifies the client's protocol; `None`: the one of its route.
    protocol: Option<String>,
    session: SessionState,
    backlog: Vec<ItemState>,
}

/// An item of the backlog.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
enum ItemState {
    Message(PublicationState),
    Missed(PublicationState),
    Gap(PlaceState),
    Lagging(PlaceState),
    Epoch(PlaceState),
}

/// A position in a channel.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct PlaceState {
    channel: String,
    epoch: u64,
    offset: u64,
}

/// A publication, without its encoded forms: it is encoded again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct PublicationState {
    channel: Option<String>,
    /// Epoch and offset.
    position: Option<(u64, u64)>,
    prev: Option<u64>,
    exclude: Option<String>,
    time_ms: u64,
    age_ns: u64,
    subject: SubjectState,
}

/// The content of a publication.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
enum SubjectState {
    /// `from`: the sender's user and connection.
    Message {
        content: String,
        from: Option<(Option<String>, String)>,
    },
    Join(MemberState),
    Leave(MemberState),
    PresenceGap,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct MemberState {
    user: Option<String>,
    /// For a member without a user: the connection that joined.
    joined: Option<String>,
    connection: String,
    info: Option<String>,
}

impl MemberState {
    fn new(member: &MemberInfo) -> Self {
        let (user, joined) = match &member.key {
            MemberKey::User(user) => (Some(user.to_string()), None),
            MemberKey::Connection(joined) => (None, Some(joined.to_string())),
        };
        let info = member.info.as_deref().map(str::to_owned);
        Self { user, joined, connection: member.connection.to_string(), info }
    }

    fn to_member(&self) -> Option<Arc<MemberInfo>> {
        let key = match (&self.user, &self.joined) {
            (Some(user), _) => MemberKey::User(user.as_str().into()),
            (None, joined) => MemberKey::Connection(ConnectionId::parse(joined.as_ref()?)?),
        };
        let connection = ConnectionId::parse(&self.connection)?;
        Some(Arc::new(MemberInfo { key, connection, info: self.info.as_deref().map(Arc::from) }))
    }
}

impl PublicationState {
    fn new(publication: &Publication, now_ns: u64) -> Self {
        let subject = match publication.event() {
            Event::Join { member, .. } => SubjectState::Join(MemberState::new(member)),
            Event::Leave { member, .. } => SubjectState::Leave(MemberState::new(member)),
            Event::PresenceGap { .. } => SubjectState::PresenceGap,
            Event::Gap { .. } | Event::Position { .. } | Event::Engine(_) => {
                unreachable!("no publication is one")
            }
            Event::Message(ChannelMessage { content, from, .. }) => {
                let from = from.map(|from| {
                    (from.user.as_deref().map(str::to_owned), from.connection.to_string())
                });
                SubjectState::Message { content: content.to_owned(), from }
            }
        };
        Self {
            channel: publication.channel.as_ref().map(|channel| channel.as_str().to_owned()),
            position: publication.position.map(|position| (position.epoch.0, position.offset)),
            prev: publication.message().and_then(|message| message.prev),
            exclude: publication.exclude.map(|id| id.to_string()),
            time_ms: publication.time_ms,
            age_ns: now_ns.saturating_sub(publication.accepted_ns),
            subject,
        }
    }

    /// Restores the publication; `None` if the data is invalid.
    fn to_publication(&self, realm: &Realm, now_ns: u64) -> Option<Arc<Publication>> {
        let channel = self.channel.as_deref().map(ChannelName::new);
        let (content, from) = match &self.subject {
            SubjectState::Join(member) => {
                return Some(Publication::new_join(&channel?, member.to_member()?));
            }
            SubjectState::Leave(member) => {
                return Some(Publication::new_leave(&channel?, member.to_member()?));
            }
            SubjectState::PresenceGap => return Some(Publication::new_presence_gap(&channel?)),
            SubjectState::Message { content, from } => (content, from),
        };
        let from = match from {
            None => None,
            Some((user, connection)) => {
                let connection = ConnectionId::parse(connection)?;
                Some(Arc::new(Sender { user: user.as_deref().map(Arc::from), connection }))
            }
        };
        let exclude = match &self.exclude {
            Some(id) => Some(ConnectionId::parse(id)?),
            None => None,
        };
        let position =
            self.position.map(|(epoch, offset)| Position { epoch: Epoch(epoch), offset });
        let draft = Draft {
            content: content.as_str().into(),
            from,
            exclude,
            time_ms: self.time_ms,
            accepted_ns: now_ns.saturating_sub(self.age_ns),
            storing: realm.protocols.storing(),
        };
        Some(Publication::from_draft(channel.as_ref(), position, self.prev, draft))
    }
}

impl PlaceState {
    fn new(channel: &ChannelName, position: Position) -> Self {
        let channel = channel.as_str().to_owned();
        Self { channel, epoch: position.epoch.0, offset: position.offset }
    }

    /// Makes an item of the channel and position.
    fn to_item(&self, make: impl FnOnce(ChannelName, Position) -> Item) -> Item {
        let position = Position { epoch: Epoch(self.epoch), offset: self.offset };
        make(ChannelName::new(&self.channel), position)
    }
}

impl Hub {
    /// Serializes the hub's state of a connection; `None` if it has no session.
    ///
    /// # Errors
    /// When replies of homes are pending.
    pub(in crate::shard) fn serialize(
        &self,
        index: u32,
        now_ns: u64,
    ) -> Result<Option<HubState>, NotSerializable> {
        let Some(entry) = self.entry(index) else { return Ok(None) };
        let items = entry.backlog.iter().flat_map(|backlog| backlog.items());
        let items = items.map(|item| match item {
            Item::Message(one) => ItemState::Message(PublicationState::new(one, now_ns)),
            Item::Missed(one) => ItemState::Missed(PublicationState::new(one, now_ns)),
            Item::Gap(channel, position) => ItemState::Gap(PlaceState::new(channel, *position)),
            Item::Notice(channel, Notice::Lagging(position)) => {
                ItemState::Lagging(PlaceState::new(channel, *position))
            }
            Item::Notice(channel, Notice::Epoch(position)) => {
                ItemState::Epoch(PlaceState::new(channel, *position))
            }
        });
        let protocol = self.shared.realm.protocols.get(entry.protocol).subprotocol();
        let protocol = protocol.map(str::to_owned);
        let session = entry.session.serialize(now_ns).ok_or(NotSerializable::Asking)?;
        Ok(Some(HubState { protocol, session, backlog: items.collect() }))
    }

    /// Replaces the connection's session by a restored one, which takes over its members. Returns
    /// false, and changes nothing, if the data is invalid.
    pub(in crate::shard) fn restore(
        &mut self,
        connections: &mut Connections,
        index: u32,
        state: &HubState,
    ) -> bool {
        let now_ns = connections.now_ns();
        let shared = self.shared.clone();
        let Some(entry) = self.entry_mut(index) else { return false };
        let member_indexes: Vec<_> = entry
            .session
            .subscriptions
            .iter()
            .map(|one| MemberIndexes {
                local: one.local,
                member_index: one.member_index,
                watcher_index: one.watcher_index,
            })
            .collect();
        let session = HubSession::restore(&state.session, &member_indexes, &shared.realm, now_ns);
        // Reject the state if any item is invalid: omitting a message would be a gap without
        // notice.
        let items: Option<Vec<_>> =
            state.backlog.iter().map(|item| item.to_item(&shared.realm, now_ns)).collect();
        let protocol = shared.realm.protocols.find_by_name(state.protocol.as_deref());
        let (Some(session), Some(items), Some(protocol)) = (session, items, protocol) else {
            return false;
        };
        let index_bytes = (entry.session.index_bytes(), session.index_bytes());
        (entry.session, entry.protocol) = (session, protocol);
        let mut backlog = Backlog::default();
        items.into_iter().for_each(|item| backlog.push(item));
        let before = entry.backlog.take().map(|backlog| backlog.size()).unwrap_or_default();
        connections.count_backlog(before, backlog.size());
        if !backlog.is_empty() {
            entry.backlog = Some(Box::new(backlog));
        }
        self.index_bytes = self.index_bytes + index_bytes.1 - index_bytes.0;
        self.report_session(connections, index);
        self.reschedule(connections, index);
        true
    }
}

impl ItemState {
    /// Restores the item; `None` if the data is invalid.
    fn to_item(&self, realm: &Realm, now_ns: u64) -> Option<Item> {
        Some(match self {
            Self::Message(one) => Item::Message(one.to_publication(realm, now_ns)?),
            Self::Missed(one) => Item::Missed(one.to_publication(realm, now_ns)?),
            Self::Gap(place) => place.to_item(Item::Gap),
            Self::Lagging(place) => {
                place.to_item(|channel, position| Item::Notice(channel, Notice::Lagging(position)))
            }
            Self::Epoch(place) => {
                place.to_item(|channel, position| Item::Notice(channel, Notice::Epoch(position)))
            }
        })
    }
}
