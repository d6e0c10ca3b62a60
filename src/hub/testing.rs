//! Client protocols of the tests: hub code is tested without any real one.

use super::event::{EncodedEvent, Event, EventEncoder};
use crate::proto::ws::DataKind;

/// `CHANNEL CONTENT`, with the content as it is.
#[derive(Debug)]
pub(crate) struct Plain;

impl EventEncoder for Plain {
    fn encode_event(&self, event: &Event<'_>) -> Option<EncodedEvent> {
        let mut content = None;
        let text = match event {
            Event::Message(message) => {
                let channel = message.channel.map_or("-", |channel| channel.as_str());
                let start = channel.len() + 1;
                content = Some(start..start + message.content.len());
                format!("{channel} {}", message.content)
            }
            Event::Join { channel, .. } => format!("join {channel}"),
            Event::Leave { channel, .. } => format!("leave {channel}"),
            Event::PresenceGap { channel } => format!("missed {channel}"),
            Event::Gap { channel, position, .. } => format!("gap {channel} {}", position.offset),
            Event::Position { channel, position } => format!("at {channel} {}", position.offset),
            Event::Engine(notice) => format!("engine {notice:?}"),
        };
        Some(EncodedEvent { kind: DataKind::Text, payload: text.into_bytes(), content })
    }
}

/// The same backwards, so that the content is not to be found in it; messages only.
#[derive(Debug)]
pub(crate) struct Reversed;

impl EventEncoder for Reversed {
    fn encode_event(&self, event: &Event<'_>) -> Option<EncodedEvent> {
        let Event::Message(_) = event else { return None };
        let plain = Plain.encode_event(event)?;
        let text: String = std::str::from_utf8(&plain.payload).ok()?.chars().rev().collect();
        Some(EncodedEvent { payload: text.into_bytes(), content: None, ..plain })
    }
}
