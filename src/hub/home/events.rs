//! Events of a home's channels, collected for applications that want them.

use std::sync::Arc;

use super::{Home, Waiting};
use crate::events::{EventKind, EventKinds};
use crate::hub::ChannelName;
use crate::hub::event::Sender;
use crate::hub::position::Position;
use crate::hub::presence::MemberInfo;
use crate::hub::publication::Draft;

/// What has happened in a channel.
#[derive(Debug)]
pub enum HomeEvent {
    /// It has its first member.
    Occupied,
    /// It has lost its last member.
    Vacated,
    MemberAdded(Arc<MemberInfo>),
    MemberRemoved(Arc<MemberInfo>),
    Published {
        position: Position,
        content: Box<str>,
        from: Option<Arc<Sender>>,
    },
}

impl HomeEvent {
    /// Returns its kind.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Occupied => EventKind::ChannelOccupied,
            Self::Vacated => EventKind::ChannelVacated,
            Self::MemberAdded(_) => EventKind::MemberAdded,
            Self::MemberRemoved(_) => EventKind::MemberRemoved,
            Self::Published { .. } => EventKind::Published,
        }
    }
}

/// The events since they were last taken. Without wanted kinds, one test of a flag.
#[derive(Debug, Default)]
pub(super) struct HomeEvents {
    wanted: EventKinds,
    queued: Vec<(ChannelName, HomeEvent)>,
}

impl HomeEvents {
    /// Queues an event, which is made only if its kind is wanted.
    pub(super) fn note(
        &mut self,
        kind: EventKind,
        make: impl FnOnce() -> (ChannelName, HomeEvent),
    ) {
        if self.wanted.contains(kind) {
            self.queued.push(make());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }
}

/// A copy of a message that is being published, for its event.
#[derive(Debug)]
pub(super) struct PublishedCopy {
    content: Box<str>,
    from: Option<Arc<Sender>>,
}

impl Home {
    /// Returns whether [`Self::take_events`] has nothing to return and to change.
    pub fn has_reported_events(&self, wanted: EventKinds) -> bool {
        self.events.wanted == wanted && self.events.is_empty()
    }

    /// Takes the events since the last call, in order. `wanted`: the kinds to collect from now on.
    pub fn take_events(&mut self, wanted: EventKinds) -> Vec<(ChannelName, HomeEvent)> {
        self.events.wanted = wanted;
        std::mem::take(&mut self.events.queued)
    }

    /// Copies a message for its event, if that is wanted.
    pub(super) fn copy_published(&self, draft: &Draft) -> Option<Box<PublishedCopy>> {
        let is_wanted = self.events.wanted.contains(EventKind::Published);
        is_wanted.then(|| {
            Box::new(PublishedCopy { content: draft.content.clone(), from: draft.from.clone() })
        })
    }

    /// Notes a message that has got its position.
    pub(super) fn note_published(&mut self, waiting: &mut Waiting, position: Position) {
        let Waiting::Publish { channel, copy, .. } = waiting else { return };
        let Some(copy) = copy.take() else { return };
        let name = &self.channels[*channel as usize].name;
        self.events.note(EventKind::Published, || {
            let PublishedCopy { content, from } = *copy;
            (name.clone(), HomeEvent::Published { position, content, from })
        });
    }
}
