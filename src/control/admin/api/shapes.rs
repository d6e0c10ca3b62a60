//! Formats replies of homes as the JSON of the API. Contents and infos are included byte for byte,
//! as applications wrote them.

use std::fmt::Write;
use std::sync::Arc;

use serde_json::Value;

use crate::hub::{ChannelMessage, MemberInfo, MemberKey, Position, PresencePage, Publication};

/// `{"count":…,"members":[…],"next":…}`.
pub(super) fn presence(page: &PresencePage) -> String {
    let mut text = format!(r#"{{"count":{},"members":["#, page.count);
    for (at, member) in page.members.iter().enumerate() {
        text.push_str(if at > 0 { "," } else { "" });
        write_member(&mut text, member);
    }
    text.push(']');
    if let Some(next) = &page.next {
        let _ = write!(text, r#","next":{}"#, quoted(next));
    }
    text.push('}');
    text
}

/// `{"epoch":…,"messages":[…],"offset":…}`.
pub(super) fn history(position: Position, messages: &[Arc<Publication>]) -> String {
    let mut text = format!(r#"{{"epoch":"{}","messages":["#, position.epoch);
    for (at, one) in messages.iter().filter_map(|one| one.message()).enumerate() {
        text.push_str(if at > 0 { "," } else { "" });
        write_message(&mut text, &one);
    }
    let _ = write!(text, r#"],"offset":{}}}"#, position.offset);
    text
}

/// `{"user":…,"connection":…,"joined_as":…,"info":…}`.
fn write_member(text: &mut String, member: &MemberInfo) {
    text.push('{');
    if let MemberKey::User(user) = &member.key {
        let _ = write!(text, r#""user":{},"#, quoted(user));
    }
    let _ = write!(text, r#""connection":"{}""#, member.connection);
    if let MemberKey::Connection(joined) = &member.key
        && *joined != member.connection
    {
        let _ = write!(text, r#","joined_as":"{joined}""#);
    }
    if let Some(info) = &member.info {
        let _ = write!(text, r#","info":{info}"#);
    }
    text.push('}');
}

/// `{"type":"message","channel":…,"offset":…,"prev":…,"content":…,"from":…,"time":…}`.
fn write_message(text: &mut String, message: &ChannelMessage<'_>) {
    text.push_str(r#"{"type":"message""#);
    if let Some(channel) = message.channel {
        let _ = write!(text, r#","channel":{}"#, quoted(channel.as_str()));
    }
    if let Some(position) = message.position {
        let _ = write!(text, r#","offset":{}"#, position.offset);
    }
    if let Some(prev) = message.prev {
        let _ = write!(text, r#","prev":{prev}"#);
    }
    let _ = write!(text, r#","content":{}"#, message.content);
    if let Some(from) = message.from {
        let user = from.user.as_deref().map(|user| format!(r#""user":{},"#, quoted(user)));
        let user = user.unwrap_or_default();
        let _ = write!(text, r#","from":{{{user}"connection":"{}"}}"#, from.connection);
    }
    let _ = write!(text, r#","time":{}}}"#, message.time_ms);
}

/// A string as JSON.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{ChannelName, ConnectionId, Epoch, Event, EventEncoder, Sender};
    use crate::session::SeawallV1;

    fn id(serial: u32) -> ConnectionId {
        ConnectionId { node: 1, shard: 2, session: 3, serial }
    }

    /// What clients of `seawall.v1` receive: operators and backends see the same objects.
    fn received(event: &Event<'_>) -> String {
        String::from_utf8(SeawallV1.encode_event(event).unwrap().payload).unwrap()
    }

    #[test]
    fn messages_have_the_shape_that_clients_know() {
        let channel = ChannelName::new("a:b");
        for (user, prev) in [(Some("a\"nn\u{1}"), Some(3)), (None, None), (Some("bob"), None)] {
            let from = Sender { user: user.map(Arc::from), connection: id(1) };
            let message = ChannelMessage {
                channel: Some(&channel),
                position: Some(Position { epoch: Epoch(7), offset: 9 }),
                prev,
                content: "{\"b\" :1.50}",
                from: user.is_some().then_some(&from),
                time_ms: 5,
            };
            let mut text = String::new();
            write_message(&mut text, &message);
            assert_eq!(text, received(&Event::Message(message)));
        }
    }

    #[test]
    fn members_have_the_shape_that_clients_know() {
        let channel = ChannelName::new("a");
        for (key, info) in [
            (MemberKey::User("a\"nn".into()), Some("{\"n\":1}")),
            (MemberKey::Connection(id(1)), None),
            (MemberKey::Connection(id(4)), None),
        ] {
            let member = MemberInfo { key, connection: id(1), info: info.map(Arc::from) };
            let mut text = String::new();
            write_member(&mut text, &member);
            let event = received(&Event::Join { channel: &channel, member: &member });
            assert_eq!(event, format!(r#"{{"type":"join","channel":"a","member":{text}}}"#));
        }
    }
}
