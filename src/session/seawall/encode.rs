//! Encodes replies and events: one JSON object each, without raw line breaks. The output is UTF-8,
//! because its parts are; as bytes, ids and epochs need no check of that.

use std::io::Write;
use std::sync::Arc;

use crate::hub::{
    ChannelMessage, ChannelName, ConnectionId, EncodedEvent, EngineNotice, Event, GapReason,
    MemberInfo, MemberKey, Position, PresencePage, ProtocolEncoder, Publication, Refused, Sender,
};
use crate::proto::ws::DataKind;
use crate::session::protocol::{FreshGrant, Reply, ResumedAt, ResumedChannel, WelcomeLimits};
use crate::text::quoted::push_quoted;

/// Typical size of a message without its content and channel name (bytes); a capacity hint.
const ENVELOPE_BYTES: usize = 160;

/// Upper bound of the size of a welcome without its ticket (bytes).
const WELCOME_BYTES: usize = 256;

/// A JSON object under construction.
#[derive(Debug)]
struct Line(Vec<u8>);

/// Appends text.
#[inline]
fn push(out: &mut Vec<u8>, text: impl AsRef<[u8]>) {
    out.extend_from_slice(text.as_ref());
}

impl Line {
    /// Starts an object with `{"type":KIND` and the request's id.
    fn new(kind: &str, id: Option<&str>) -> Self {
        let mut line = Self(Vec::with_capacity(192));
        push(&mut line.0, r#"{"type":""#);
        push(&mut line.0, kind);
        line.0.push(b'"');
        if let Some(id) = id {
            push(&mut line.0, r#","id":"#);
            push(&mut line.0, id);
        }
        line
    }

    /// Starts a nested object, without a type.
    fn part() -> Self {
        Self(vec![b'{'])
    }

    /// Writes the name of a field, which must not need escapes; the caller writes the value.
    fn name(mut self, name: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(b',');
        }
        self.0.push(b'"');
        push(&mut self.0, name);
        push(&mut self.0, "\":");
        self
    }

    /// Adds a string.
    fn text(self, name: &str, value: &str) -> Self {
        let mut line = self.name(name);
        push_quoted(&mut line.0, value);
        line
    }

    /// Adds a number or a boolean.
    fn value(self, name: &str, value: impl std::fmt::Display) -> Self {
        let mut line = self.name(name);
        let _ = write!(line.0, "{value}");
        line
    }

    /// Adds JSON verbatim.
    fn raw(self, name: &str, json: impl AsRef<[u8]>) -> Self {
        let mut line = self.name(name);
        push(&mut line.0, json);
        line
    }

    /// Adds a value as a string; its text must not need escapes.
    fn value_in_quotes(self, name: &str, value: impl std::fmt::Display) -> Self {
        let mut line = self.name(name);
        let _ = write!(line.0, "\"{value}\"");
        line
    }

    /// Adds the epoch and the offset.
    fn position(self, position: Position) -> Self {
        let mut line = self.name("epoch");
        push_position(&mut line.0, position);
        line
    }

    /// Adds a page of members, their total count, and the cursor of the next page.
    fn presence(self, page: &PresencePage) -> Self {
        let mut line = self.value("count", page.count).name("members");
        line.0.push(b'[');
        for (at, member) in page.members.iter().enumerate() {
            if at > 0 {
                line.0.push(b',');
            }
            line = line.member(member);
        }
        line.0.push(b']');
        line.optional_text("next", page.next.as_deref())
    }

    /// Writes `{"user":…,"connection":…,"joined_as":…,"info":…}`.
    fn member(mut self, member: &MemberInfo) -> Self {
        self.0.push(b'{');
        if let MemberKey::User(user) = &member.key {
            push(&mut self.0, r#""user":"#);
            push_quoted(&mut self.0, user);
            self.0.push(b',');
        }
        let _ = write!(self.0, r#""connection":"{}""#, member.connection);
        // After a resumption the key is still the connection that joined, which watchers know.
        if let MemberKey::Connection(joined) = &member.key
            && *joined != member.connection
        {
            let _ = write!(self.0, r#","joined_as":"{joined}""#);
        }
        if let Some(info) = &member.info {
            let _ = write!(self.0, r#","info":{info}"#);
        }
        self.0.push(b'}');
        self
    }

    /// Adds a string, if there is one.
    fn optional_text(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// Adds the code, the message, and when to retry.
    fn refused(self, refused: &Refused) -> Self {
        let line = self.text("code", refused.code.as_str()).text("message", &refused.message);
        match refused.retry_after_ms {
            Some(wait_ms) => line.value("retry_after_ms", wait_ms),
            None => line,
        }
    }

    /// Adds messages as they were sent. Stored ones are already encoded in this protocol.
    fn messages(self, messages: &[Arc<Publication>], encoder: ProtocolEncoder) -> Self {
        let mut line = self.name("messages");
        line.0.push(b'[');
        let encoded = messages.iter().filter_map(|one| one.encoded(encoder));
        for (at, one) in encoded.enumerate() {
            if at > 0 {
                line.0.push(b',');
            }
            push(&mut line.0, one.payload());
        }
        line.0.push(b']');
        line
    }

    /// Adds the outcome of each channel of a resumption.
    fn resumed(self, channels: &[ResumedChannel]) -> Self {
        let mut all = Self::part();
        for ResumedChannel { channel, outcome } in channels {
            let one = match outcome {
                Ok(ResumedAt { position, recovered, grant }) => Self::part()
                    .position(*position)
                    .value("recovered", recovered)
                    .optional_text("grant", grant.as_deref()),
                Err(refused) => Self::part().raw("error", Self::part().refused(refused).end()),
            };
            if all.0.len() > 1 {
                all.0.push(b',');
            }
            // The client's own string: for a rejected channel it need not be a valid name.
            push_quoted(&mut all.0, channel);
            all.0.push(b':');
            push(&mut all.0, one.end());
        }
        self.raw("channels", all.end())
    }

    /// Closes the object and returns its text.
    fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

/// Writes the epoch's value and the `offset` field; the caller has written the name `epoch`.
fn push_position(text: &mut Vec<u8>, position: Position) {
    text.push(b'"');
    position.epoch.push_to(text);
    push(text, r#"","offset":"#);
    push_number(text, position.offset);
}

fn push_number(text: &mut Vec<u8>, number: u64) {
    push(text, itoa::Buffer::new().format(number));
}

/// Writes a message and returns the offset at which its content starts. Uses no formatters: they
/// took nearly half of the instructions of an append.
fn write_message(text: &mut Vec<u8>, message: &ChannelMessage<'_>) -> usize {
    push(text, r#"{"type":"message""#);
    if let Some(channel) = message.channel {
        // Channel names are restricted to characters that need no JSON escapes.
        push(text, r#","channel":""#);
        push(text, channel.as_str());
        text.push(b'"');
    }
    if let Some(position) = message.position {
        push(text, r#","offset":"#);
        push_number(text, position.offset);
    }
    if let Some(prev) = message.prev {
        push(text, r#","prev":"#);
        // The content's range lets protocols and compression reuse it without parsing the message.
        push_number(text, prev);
    }
    push(text, r#","content":"#);
    let content_at = text.len();
    push(text, message.content);
    if let Some(Sender { user, connection }) = message.from {
        push(text, r#","from":{"#);
        if let Some(user) = user {
            push(text, r#""user":"#);
            push_quoted(text, user);
            text.push(b',');
        }
        push(text, r#""connection":""#);
        connection.push_to(text);
        push(text, r#""}"#);
    }
    push(text, r#","time":"#);
    push_number(text, message.time_ms);
    text.push(b'}');
    content_at
}

/// Encodes an event.
pub(super) fn encode_event(event: &Event<'_>) -> EncodedEvent {
    let mut content = None;
    let text = match event {
        Event::Message(message) => {
            let channel = message.channel.map_or(0, |channel| channel.as_str().len());
            let bytes = message.content.len() + channel + ENVELOPE_BYTES;
            let mut text = Vec::with_capacity(bytes);
            let content_at = write_message(&mut text, message);
            content = Some(content_at..content_at + message.content.len());
            text
        }
        Event::Join { channel, member } => encode_news("join", channel, member),
        Event::Leave { channel, member } => encode_news("leave", channel, member),
        Event::PresenceGap { channel } => {
            Line::new("presence_gap", None).text("channel", channel.as_str()).end()
        }
        Event::Gap { channel, position, reason } => {
            let reason = match reason {
                GapReason::Slow => "slow",
                GapReason::Lagging => "lagging",
            };
            encode_gap(channel, *position, reason)
        }
        Event::Position { channel, position } => encode_gap(channel, *position, "epoch"),
        Event::Engine(notice) => {
            let state = match notice {
                EngineNotice::Away => "away",
                EngineNotice::Back => "back",
            };
            Line::new("engine", None).text("state", state).end()
        }
    };
    EncodedEvent { kind: DataKind::Text, payload: text, content }
}

fn encode_news(kind: &str, channel: &ChannelName, member: &MemberInfo) -> Vec<u8> {
    Line::new(kind, None).text("channel", channel.as_str()).name("member").member(member).end()
}

fn encode_gap(channel: &ChannelName, position: Position, reason: &str) -> Vec<u8> {
    let line = Line::new("gap", None).text("channel", channel.as_str());
    line.position(position).text("reason", reason).end()
}

/// Encodes the first message of each connection, into a buffer that is allocated once.
fn encode_welcome(
    connection: ConnectionId,
    ticket: Option<&str>,
    (heartbeat_s, limits, offers_ticket): (u32, &WelcomeLimits, bool),
) -> Vec<u8> {
    let bytes = ticket.map_or(0, str::len) + WELCOME_BYTES;
    let mut text = Vec::with_capacity(bytes);
    push(&mut text, r#"{"type":"welcome","connection":""#);
    connection.push_to(&mut text);
    text.push(b'"');
    if let Some(ticket) = ticket {
        // Sealed texts are base64, which needs no escapes.
        push(&mut text, r#","ticket":""#);
        push(&mut text, ticket);
        text.push(b'"');
    }
    push(&mut text, r#","heartbeat":"#);
    push_number(&mut text, heartbeat_s.into());
    push(&mut text, r#","limits":{"message_bytes":"#);
    push_number(&mut text, limits.message_bytes_max);
    push(&mut text, r#","channels":"#);
    push_number(&mut text, limits.channels_max.into());
    push(&mut text, if offers_ticket { r#"},"offer_ticket":true"# } else { "}" });
    push(&mut text, concat!(r#","server":"seawall/"#, env!("CARGO_PKG_VERSION"), r#""}"#));
    text
}

/// Encodes a reply. `None`: the protocol has none.
pub(super) fn encode_reply(reply: &Reply<'_>) -> Option<Vec<u8>> {
    let line = match reply {
        Reply::Welcome { connection, ticket, heartbeat_s, limits, offers_ticket } => {
            let terms = (*heartbeat_s, limits, *offers_ticket);
            return Some(encode_welcome(*connection, *ticket, terms));
        }
        Reply::Subscribed { id, channel, position, recovered, presence, grant } => {
            let line = Line::new("subscribed", *id)
                .text("channel", channel)
                .position(*position)
                .value("recovered", recovered);
            let line = match presence {
                Some(page) => line.raw("presence", Line::part().presence(page).end()),
                None => line,
            };
            line.optional_text("grant", *grant)
        }
        Reply::Unsubscribed { id, channel, reason } => {
            Line::new("unsubscribed", *id).text("channel", channel).optional_text("reason", *reason)
        }
        Reply::Published { id, channel, position, duplicate } => {
            return Some(encode_published(*id, channel, *position, *duplicate));
        }
        Reply::Presence { id, channel, page } => {
            Line::new("presence", *id).text("channel", channel).presence(page)
        }
        Reply::History { id, channel, position, messages, encoder } => {
            let line = Line::new("history", *id).text("channel", channel).position(*position);
            line.messages(messages, *encoder)
        }
        Reply::Resumed { id, ticket, connection, channels } => Line::new("resumed", *id)
            .optional_text("ticket", *ticket)
            .value_in_quotes("connection", connection)
            .resumed(channels),
        Reply::Authenticated { id, user, expires_in_s, ticket } => {
            let line = Line::new("authenticated", *id).optional_text("user", *user);
            let line = match expires_in_s {
                Some(expires_in_s) => line.value("expires_in", expires_in_s),
                None => line,
            };
            line.optional_text("ticket", *ticket)
        }
        Reply::Ticket { ticket, grants } => encode_ticket(ticket, grants),
        Reply::Pong { id } => Line::new("pong", *id),
        Reply::CallResult { id, content } => Line::new("result", *id).raw("content", content),
        Reply::ApplicationError { id, code, message } => {
            Line::new("error", *id).text("code", code).text("message", message)
        }
        Reply::Error { id, refused } | Reply::SubscriptionRefused { id, refused, .. } => {
            Line::new("error", *id).refused(refused)
        }
        // Only clients of apps sign in.
        Reply::SignedIn { .. } => return None,
        Reply::Goodbye { code, reason, retry_after_ms } => Line::new("goodbye", None)
            .value("code", code)
            .text("reason", reason)
            .value("retry_after_ms", retry_after_ms),
    };
    Some(line.end())
}

/// Encodes the reply to a publish, which is by far the most frequent one.
fn encode_published(
    id: Option<&str>,
    channel: &str,
    position: Position,
    duplicate: bool,
) -> Vec<u8> {
    let names = id.map_or(0, str::len) + channel.len();
    let mut text = Vec::with_capacity(names + ENVELOPE_BYTES);
    push(&mut text, r#"{"type":"published""#);
    if let Some(id) = id {
        push(&mut text, r#","id":"#);
        push(&mut text, id);
    }
    push(&mut text, r#","channel":"#);
    push_quoted(&mut text, channel);
    push(&mut text, r#","epoch":"#);
    push_position(&mut text, position);
    push(&mut text, if duplicate { r#","duplicate":true}"# } else { "}" });
    text
}

fn encode_ticket(ticket: &str, grants: &[FreshGrant]) -> Line {
    let line = Line::new("ticket", None).text("ticket", ticket);
    if grants.is_empty() {
        return line;
    }
    let named = grants.iter().fold(Line::part(), |all, one| all.text(&one.channel, &one.grant));
    line.raw("grants", named.end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::ProtocolId;
    use crate::session::SeawallV1;

    fn id(serial: u32) -> ConnectionId {
        ConnectionId { node: 1, shard: 0, session: 0, serial }
    }

    #[test]
    fn members_are_shown_as_json() {
        let channel = ChannelName::new("a");
        let shown = |key: MemberKey, info: Option<&str>| {
            let info = info.map(Arc::from);
            let member = MemberInfo { key, connection: id(7), info };
            let encoded = encode_event(&Event::Join { channel: &channel, member: &member });
            let text = String::from_utf8(encoded.payload).unwrap();
            serde_json::from_str::<serde_json::Value>(&text).unwrap()["member"].take()
        };
        let ann = shown(MemberKey::User("a\"nn".into()), Some(r#"{"n":7}"#));
        assert_eq!((&ann["user"], &ann["info"]["n"]), (&"a\"nn".into(), &7.into()));
        assert_eq!(ann["connection"], id(7).to_string());
        let unnamed = shown(MemberKey::Connection(id(7)), None);
        assert_eq!(unnamed.as_object().unwrap().len(), 1, "{unnamed}");
        let resumed = shown(MemberKey::Connection(id(1)), None);
        assert_eq!(resumed["joined_as"], id(1).to_string());
    }

    #[test]
    fn the_state_of_the_engine_is_named() {
        for (notice, state) in [(EngineNotice::Away, "away"), (EngineNotice::Back, "back")] {
            let text = format!(r#"{{"type":"engine","state":"{state}"}}"#);
            assert_eq!(encode_event(&Event::Engine(notice)).payload, text.as_bytes());
        }
    }

    #[test]
    fn what_news_count_for_suffices_for_any_names() {
        let channel = ChannelName::new(&"c".repeat(200));
        let key = MemberKey::User("\u{1}\"\\".repeat(80).into());
        let info = Some(format!("\"{}\"", "i".repeat(100)).into());
        let named = MemberInfo { key, connection: id(7), info };
        let unnamed =
            MemberInfo { key: MemberKey::Connection(id(1)), connection: id(7), info: None };
        for member in [named, unnamed] {
            let join = Publication::new_join(&channel, Arc::new(member));
            let encoder = ProtocolEncoder { id: ProtocolId::STORED, encoder: &SeawallV1 };
            let wire = join.encoded(encoder).unwrap().plain().len();
            assert!((wire..wire + 120).contains(&join.bytes()), "{wire}: {}", join.bytes());
        }
    }
}
