//! What the hub knows of a connection as plain data: its session, and what waits for it.

use serde::{Deserialize, Serialize};

use super::Hub;
use super::backlog::{Backlog, Item};
use crate::hub::{ChannelName, ConnectionId, Epoch, Position, Publication};
use crate::session::hub::{HubSession, SessionState};
use crate::shard::connections::Connections;

/// Something that waits for the connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum ItemState {
    Message(PublicationState),
    Missed(PublicationState),
    Gap { channel: String, epoch: u64, offset: u64 },
    Notice { channel: String, text: String },
}

/// A publication; its compressed forms are made again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct PublicationState {
    channel: Option<String>,
    /// Epoch and offset.
    position: Option<(u64, u64)>,
    exclude: Option<String>,
    time_ms: u64,
    age_ns: u64,
    text: String,
}

fn told(publication: &Publication, now_ns: u64) -> PublicationState {
    PublicationState {
        channel: publication.channel.as_ref().map(|channel| channel.as_str().to_owned()),
        position: publication.position.map(|position| (position.epoch.0, position.offset)),
        exclude: publication.exclude.map(|id| id.to_string()),
        time_ms: publication.time_ms,
        age_ns: now_ns.saturating_sub(publication.accepted_ns),
        text: publication.text().to_owned(),
    }
}

impl PublicationState {
    fn publication(&self, now_ns: u64) -> std::sync::Arc<Publication> {
        let channel = self.channel.as_deref().map(ChannelName::new);
        let position =
            self.position.map(|(epoch, offset)| Position { epoch: Epoch(epoch), offset });
        let exclude = self.exclude.as_deref().and_then(ConnectionId::parse);
        let accepted_ns = now_ns.saturating_sub(self.age_ns);
        Publication::written((channel, position), exclude, self.time_ms, accepted_ns, &self.text)
    }
}

impl Hub {
    /// Session and backlog of a connection, if it has them. `None`: it awaits answers.
    pub(in crate::shard) fn serialize(
        &self,
        index: u32,
        now_ns: u64,
    ) -> Option<(Option<SessionState>, Vec<ItemState>)> {
        let Some(seated) = self.seated(index) else { return Some((None, Vec::new())) };
        let items = seated.backlog.iter().flat_map(|backlog| backlog.items());
        let items = items.map(|item| match item {
            Item::Message(publication) => ItemState::Message(told(publication, now_ns)),
            Item::Missed(publication) => ItemState::Missed(told(publication, now_ns)),
            Item::Gap(channel, position) => ItemState::Gap {
                channel: channel.as_str().to_owned(),
                epoch: position.epoch.0,
                offset: position.offset,
            },
            Item::Notice(channel, text) => {
                ItemState::Notice { channel: channel.as_str().to_owned(), text: text.to_string() }
            }
        });
        Some((Some(seated.session.tell(now_ns)?), items.collect()))
    }

    /// Puts a restored session in the place of the one that is seated here, in the same seats.
    pub(in crate::shard) fn restore(
        &mut self,
        connections: &mut Connections,
        index: u32,
        session: &SessionState,
        items: &[ItemState],
    ) {
        let now_ns = connections.now_ns();
        let shared = self.shared.clone();
        let Some(seated) = self.seated_mut(index) else { return };
        let seats: Vec<_> = seated
            .session
            .subscriptions
            .iter()
            .map(|one| (one.local, one.place, one.watching))
            .collect();
        let Some(session) = HubSession::told(session, &seats, &shared.realm, now_ns) else {
            return;
        };
        seated.session = session;
        let mut backlog = Backlog::default();
        items.iter().for_each(|item| backlog.push(item.item(now_ns)));
        let before = seated.backlog.take().map(|backlog| backlog.size()).unwrap_or_default();
        connections.count_backlog(before, backlog.size());
        if !backlog.is_empty() {
            seated.backlog = Some(Box::new(backlog));
        }
        self.report_session(connections, index);
        self.reschedule(connections, index);
    }
}

impl ItemState {
    fn item(&self, now_ns: u64) -> Item {
        match self {
            Self::Message(told) => Item::Message(told.publication(now_ns)),
            Self::Missed(told) => Item::Missed(told.publication(now_ns)),
            Self::Gap { channel, epoch, offset } => {
                let position = Position { epoch: Epoch(*epoch), offset: *offset };
                Item::Gap(ChannelName::new(channel), position)
            }
            Self::Notice { channel, text } => {
                Item::Notice(ChannelName::new(channel), text.as_str().into())
            }
        }
    }
}
