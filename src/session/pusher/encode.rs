//! Encodes replies and events: `{"event":NAME,"channel"?:CHANNEL,"data":DATA}`. Data is a string
//! that contains JSON, except in errors, as the protocol has it.

use super::codes;
use super::content::{EventParts, read_content};
use super::names::{AppChannel, ChannelKind, shown_name, shown_user};
use super::socket_id::socket_id;
use crate::hub::{
    ChannelMessage, ChannelName, ConnectionId, EncodedEvent, Event, MemberInfo, MemberKey,
    PresencePage, ProtocolEncoder, Publication, Refused,
};
use crate::proto::ws::DataKind;
use crate::session::protocol::Reply;
use crate::text::quoted::push_quoted;

/// Typical size of an event without its channel and data (bytes); a capacity hint.
const ENVELOPE_BYTES: usize = 96;

fn push(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

/// Starts a message with its event and channel.
fn begin(event: &str, channel: Option<&str>, bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes);
    push(&mut out, r#"{"event":"#);
    push_quoted(&mut out, event);
    if let Some(channel) = channel {
        push(&mut out, r#","channel":"#);
        push_quoted(&mut out, channel);
    }
    out
}

/// Makes a message whose data is the JSON in a string.
fn with_text(event: &str, channel: Option<&str>, data: &str) -> Vec<u8> {
    let mut out = begin(event, channel, ENVELOPE_BYTES + 2 * data.len());
    push(&mut out, r#","data":"#);
    push_quoted(&mut out, data);
    out.push(b'}');
    out
}

/// Makes a message whose data is JSON.
fn with_object(event: &str, channel: Option<&str>, data: &str) -> Vec<u8> {
    let mut out = begin(event, channel, ENVELOPE_BYTES + data.len());
    push(&mut out, r#","data":"#);
    push(&mut out, data);
    out.push(b'}');
    out
}

/// Makes a message without data.
fn without_data(event: &str, channel: &str) -> Vec<u8> {
    let mut out = begin(event, Some(channel), ENVELOPE_BYTES);
    out.push(b'}');
    out
}

/// Encodes an event of the hub. `None`: the protocol has no such event.
pub(super) fn encode_event(event: &Event<'_>) -> Option<EncodedEvent> {
    let payload = match event {
        Event::Message(message) => encode_message(message),
        Event::Join { channel, member } => {
            let data = member_json(member, channel.as_str());
            let channel = shown_name(channel.as_str());
            with_text("pusher_internal:member_added", Some(&channel), &data)
        }
        Event::Leave { channel, member } => {
            let data = format!(r#"{{"user_id":{}}}"#, quoted(&user_id(member, channel.as_str())));
            let channel = shown_name(channel.as_str());
            with_text("pusher_internal:member_removed", Some(&channel), &data)
        }
        // Messages may be lost without notice in this protocol.
        Event::PresenceGap { .. }
        | Event::Gap { .. }
        | Event::Position { .. }
        | Event::Engine(_) => return None,
    };
    Some(EncodedEvent { kind: DataKind::Text, payload, content: None })
}

fn encode_message(message: &ChannelMessage<'_>) -> Vec<u8> {
    let EventParts { name, data } = read_content(message.content);
    let channel = message.channel.map(|channel| shown_name(channel.as_str()));
    let mut out = begin(&name, channel.as_deref(), ENVELOPE_BYTES + 2 * message.content.len());
    push(&mut out, r#","data":"#);
    if data.starts_with('"') {
        push(&mut out, data);
    } else {
        push_quoted(&mut out, data);
    }
    let user = message.from.and_then(|from| from.user.as_deref());
    let is_of_member =
        name.starts_with("client-") && channel.is_some_and(|channel| is_presence(&channel));
    if let Some(user) = user.filter(|_| is_of_member) {
        push(&mut out, r#","user_id":"#);
        let hub_name = message.channel.map_or("", ChannelName::as_str);
        push_quoted(&mut out, shown_user(user, hub_name));
    }
    out.push(b'}');
    out
}

fn is_presence(channel: &str) -> bool {
    AppChannel::parse(channel).is_ok_and(|channel| channel.kind == ChannelKind::Presence)
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Returns the id of a member: its user's, or its socket's if it has none.
fn user_id(member: &MemberInfo, channel: &str) -> String {
    match &member.key {
        MemberKey::User(user) => shown_user(user, channel).to_owned(),
        MemberKey::Connection(connection) => socket_id(*connection),
    }
}

fn member_json(member: &MemberInfo, channel: &str) -> String {
    let id = quoted(&user_id(member, channel));
    match &member.info {
        Some(info) => format!(r#"{{"user_id":{id},"user_info":{info}}}"#),
        None => format!(r#"{{"user_id":{id}}}"#),
    }
}

/// Makes the data of a subscription to a presence channel: all members, with the new one.
fn presence_json(page: &PresencePage, channel: &str) -> String {
    let id = |member| quoted(&user_id(member, channel));
    let ids: Vec<String> = page.members.iter().map(|member| id(member)).collect();
    let infos = page.members.iter().map(|one| one.info.as_deref().unwrap_or("null"));
    let hash: Vec<String> =
        ids.iter().zip(infos).map(|(id, info)| format!("{id}:{info}")).collect();
    // As many as are listed: a list that is too long for a reply is cut.
    let (count, ids, hash) = (ids.len(), ids.join(","), hash.join(","));
    format!(r#"{{"presence":{{"count":{count},"ids":[{ids}],"hash":{{{hash}}}}}}}"#)
}

fn encode_established(connection: ConnectionId, activity_timeout_s: u32) -> Vec<u8> {
    let id = socket_id(connection);
    let data = format!(r#"{{"socket_id":"{id}","activity_timeout":{activity_timeout_s}}}"#);
    with_text("pusher:connection_established", None, &data)
}

fn encode_error(code: Option<u16>, message: &str) -> Vec<u8> {
    let code = code.map_or_else(|| "null".to_owned(), |code| code.to_string());
    let data = format!(r#"{{"code":{code},"message":{}}}"#, quoted(message));
    with_object("pusher:error", None, &data)
}

fn encode_subscription_error(channel: &str, refused: &Refused) -> Vec<u8> {
    let (kind, status) = codes::of_subscription(refused.code);
    let error = quoted(&refused.message);
    let data = format!(r#"{{"type":"{kind}","error":{error},"status":{status}}}"#);
    with_object("pusher:subscription_error", Some(&shown_name(channel)), &data)
}

/// Encodes the last event of a channel, for a new member.
fn encode_cached(
    channel: &str,
    messages: &[std::sync::Arc<Publication>],
    encoder: ProtocolEncoder,
) -> Option<Vec<u8>> {
    let Some(last) = messages.first() else {
        return Some(without_data("pusher:cache_miss", &shown_name(channel)));
    };
    Some(last.encoded(encoder)?.payload().to_vec())
}

/// Encodes a reply. `None`: the protocol has none.
pub(super) fn encode_reply(reply: &Reply<'_>) -> Option<Vec<u8>> {
    Some(match reply {
        Reply::Welcome { connection, heartbeat_s, .. } => {
            encode_established(*connection, *heartbeat_s)
        }
        Reply::Subscribed { channel, presence, .. } => {
            let data =
                presence.map_or_else(|| "{}".to_owned(), |page| presence_json(page, channel));
            let channel = shown_name(channel);
            with_text("pusher_internal:subscription_succeeded", Some(&channel), &data)
        }
        Reply::SubscriptionRefused { channel, refused, .. } => {
            encode_subscription_error(channel, refused)
        }
        Reply::History { channel, messages, encoder, .. } => {
            return encode_cached(channel, messages, *encoder);
        }
        Reply::SignedIn { user_data } => {
            let data = format!(r#"{{"user_data":{}}}"#, quoted(user_data));
            with_text("pusher:signin_success", None, &data)
        }
        Reply::Pong { .. } => with_object("pusher:pong", None, "{}"),
        Reply::Error { refused, .. } => {
            encode_error(codes::of_error(refused.code), &refused.message)
        }
        Reply::Goodbye { code, reason, .. } => {
            encode_error(Some(codes::to_wire(*code).get()), reason)
        }
        Reply::Unsubscribed { .. }
        | Reply::Published { .. }
        | Reply::Presence { .. }
        | Reply::Resumed { .. }
        | Reply::Authenticated { .. }
        | Reply::Ticket { .. }
        | Reply::CallResult { .. }
        | Reply::ApplicationError { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::hub::{Code, Sender};

    const ID: ConnectionId = ConnectionId { node: 0, shard: 3, session: 0, serial: 7 };

    fn text(encoded: Option<Vec<u8>>) -> String {
        String::from_utf8(encoded.expect("it has an encoding")).unwrap()
    }

    fn message(channel: &str, content: &str, user: Option<&str>) -> String {
        let channel = ChannelName::new(channel);
        let from = Sender { user: user.map(Into::into), connection: ID };
        let message = ChannelMessage {
            channel: Some(&channel),
            position: None,
            prev: None,
            content,
            from: Some(&from),
            time_ms: 0,
        };
        text(encode_event(&Event::Message(message)).map(|encoded| encoded.payload))
    }

    #[test]
    fn data_is_a_string_that_contains_json() {
        for (channel, content, user, expected) in [
            (
                "1:news",
                r#"{"event":"e","data":{"a":"b"}}"#,
                None,
                r#"{"event":"e","channel":"news","data":"{\"a\":\"b\"}"}"#,
            ),
            (
                "1:news",
                r#"{"event":"e","data":"text"}"#,
                Some("42"),
                r#"{"event":"e","channel":"news","data":"text"}"#,
            ),
            (
                "1:presence-a",
                r#"{"event":"client-e","data":[1]}"#,
                Some("1:4\"2"),
                r#"{"event":"client-e","channel":"presence-a","data":"[1]","user_id":"4\"2"}"#,
            ),
            ("1:news", "[1]", None, r#"{"event":"message","channel":"news","data":"[1]"}"#),
        ] {
            assert_eq!(message(channel, content, user), expected);
        }
    }

    #[test]
    fn members_are_shown_by_user() {
        let member = |user: &str, info: Option<&str>| {
            let key = MemberKey::User(format!("1:{user}").into());
            Arc::new(MemberInfo { key, connection: ID, info: info.map(Into::into) })
        };
        let channel = ChannelName::new("1:presence-a");
        let ann = member("ann", Some(r#"{"n":1}"#));
        let join = encode_event(&Event::Join { channel: &channel, member: &ann });
        assert_eq!(
            text(join.map(|encoded| encoded.payload)),
            concat!(
                r#"{"event":"pusher_internal:member_added","#,
                r#""channel":"presence-a","data":"{\"user_i"#,
                r#"d\":\"ann\",\"user_info\":{\"n\":1}}"}"#,
            )
        );
        let leave = encode_event(&Event::Leave { channel: &channel, member: &ann });
        assert_eq!(
            text(leave.map(|encoded| encoded.payload)),
            concat!(
                r#"{"event":"pusher_internal:member_removed"#,
                r#"","channel":"presence-a","data":"{\"user"#,
                r#"_id\":\"ann\"}"}"#,
            )
        );
        let members = vec![ann, member("bob", None)];
        let page = PresencePage { count: 2, members, next: None };
        assert_eq!(
            presence_json(&page, "1:presence-a"),
            r#"{"presence":{"count":2,"ids":["ann","bob"],"hash":{"ann":{"n":1},"bob":null}}}"#
        );
    }

    #[test]
    fn replies_have_the_form_of_the_protocol() {
        let refused = Refused::new(Code::Unauthorized, "a \"b\"");
        let (id, channel) = (None, "1:private-a");
        for (reply, expected) in [
            (Reply::Pong { id }, r#"{"event":"pusher:pong","data":{}}"#),
            (
                Reply::SubscriptionRefused { id, channel, refused: &refused },
                concat!(
                    r#"{"event":"pusher:subscription_error","ch"#,
                    r#"annel":"private-a","data":{"type":"AuthE"#,
                    r#"rror","error":"a \"b\"","status":401}}"#,
                ),
            ),
            (
                Reply::Error { id, refused: &refused },
                r#"{"event":"pusher:error","data":{"code":4009,"message":"a \"b\""}}"#,
            ),
            (
                Reply::SignedIn { user_data: r#"{"id":"1"}"# },
                concat!(
                    r#"{"event":"pusher:signin_success","data":"#,
                    r#""{\"user_data\":\"{\\\"id\\\":\\\"1\\\"}"#,
                    r#"\"}"}"#,
                ),
            ),
        ] {
            assert_eq!(text(encode_reply(&reply)), expected);
        }
        assert_eq!(
            text(Some(encode_established(ID, 120))),
            concat!(
                r#"{"event":"pusher:connection_established""#,
                r#","data":"{\"socket_id\":\"3.7\",\"activi"#,
                r#"ty_timeout\":120}"}"#,
            )
        );
        assert_eq!(
            text(encode_cached(
                "1:cache-a",
                &[],
                ProtocolEncoder {
                    id: crate::hub::ProtocolId::STORED,
                    encoder: &super::super::PusherV7,
                }
            )),
            r#"{"event":"pusher:cache_miss","channel":"cache-a"}"#
        );
    }
}
