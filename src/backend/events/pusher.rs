//! Events as the webhooks of Pusher Channels have them. There is no report of losses.

use std::borrow::Cow;

use serde::Serialize;

use super::outbox::Part;
use crate::backend::queue::Happening;
use crate::hub::{ChannelName, MemberKey, Sender};
use crate::session::pusher::{self, AppChannel, ChannelKind};

/// The longest batch (bytes): libraries for web servers mostly accept bodies up to 100 kB.
pub(super) const BATCH_BYTES_MAX: usize = 64 * 1024;

/// The fields of all kinds, in the order in which they are written.
#[derive(Default, Serialize)]
struct Fields<'e> {
    name: &'e str,
    channel: Cow<'e, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<Cow<'e, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'e str>,
}

/// Returns the channel of an event that may be in a webhook.
fn channel_of(event: &Happening) -> Option<&ChannelName> {
    match event {
        Happening::ChannelOccupied { channel }
        | Happening::ChannelVacated { channel }
        | Happening::MemberAdded { channel, .. }
        | Happening::MemberRemoved { channel, .. }
        | Happening::ClientEvent { channel, .. }
        | Happening::CacheMiss { channel } => Some(channel),
        Happening::Connected { .. }
        | Happening::Disconnected { .. }
        | Happening::Subscribed { .. }
        | Happening::Unsubscribed { .. }
        | Happening::Published { .. }
        | Happening::NodeLost { .. } => None,
    }
}

fn is_presence(channel: &str) -> bool {
    AppChannel::parse(channel).is_ok_and(|channel| channel.kind == ChannelKind::Presence)
}

fn user_of(key: &MemberKey) -> Option<&str> {
    match key {
        MemberKey::User(user) => Some(user),
        MemberKey::Connection(_) => None,
    }
}

/// Returns whether a webhook has words for an event. Clients of another protocol may be members of
/// an app's channels without a name, or of channels that list none.
pub(super) fn carries(event: &Happening) -> bool {
    let Some(channel) = channel_of(event) else { return false };
    match event {
        Happening::MemberAdded { member, .. } | Happening::MemberRemoved { member, .. } => {
            user_of(&member.key).is_some() && is_presence(&pusher::shown_name(channel.as_str()))
        }
        _ => true,
    }
}

/// Encodes an event that [`carries`] has words for.
pub(super) fn encode_event(event: &Happening) -> String {
    let hub_name = channel_of(event).expect("only events of channels are carried").as_str();
    let base = Fields {
        name: event.kind().name(),
        channel: pusher::shown_name(hub_name),
        ..Fields::default()
    };
    let fields = match event {
        Happening::MemberAdded { member, .. } | Happening::MemberRemoved { member, .. } => {
            let user = user_of(&member.key);
            Fields { user_id: user.map(|user| pusher::shown_user(user, hub_name)), ..base }
        }
        Happening::ClientEvent { content, from, .. } => {
            describe_sent(content, (from, hub_name), base)
        }
        _ => base,
    };
    serde_json::to_string(&fields).expect("fields are strings")
}

fn describe_sent<'e>(
    content: &'e str,
    (from, hub_name): (&'e Sender, &str),
    base: Fields<'e>,
) -> Fields<'e> {
    let (event, data) = pusher::event_of(content);
    let user = from.user.as_deref().map(|user| pusher::shown_user(user, hub_name));
    Fields {
        event: Some(event),
        data: Some(data),
        socket_id: Some(pusher::socket_id(from.connection)),
        user_id: user.filter(|_| is_presence(&base.channel)),
        ..base
    }
}

/// Encodes the body of a batch. `None`: it consists of losses.
pub(super) fn encode_batch(parts: &[Part], time_ms: u64) -> Option<String> {
    let events: Vec<&str> = parts.iter().filter_map(Part::event).collect();
    (!events.is_empty()).then(|| encode_events(time_ms, &events))
}

/// Encodes a body with these events.
pub(super) fn encode_events(time_ms: u64, events: &[&str]) -> String {
    format!(r#"{{"time_ms":{time_ms},"events":[{}]}}"#, events.join(","))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::body::Bytes;
    use axum::http::StatusCode;
    use serde_json::{Value, json};

    use super::*;
    use crate::auth::{PusherApp, tests_of_apps};
    use crate::backend::form::RequestForm;
    use crate::events::EventKind;
    use crate::hub::{ConnectionId, MemberInfo};

    const CONNECTION: ConnectionId = ConnectionId { node: 1, shard: 2, session: 3, serial: 4 };

    fn member(key: MemberKey) -> Arc<MemberInfo> {
        Arc::new(MemberInfo { key, connection: CONNECTION, info: None })
    }

    fn encoded(event: &Happening) -> Value {
        assert!(carries(event));
        serde_json::from_str(&encode_event(event)).unwrap()
    }

    fn sent(channel: &str, content: &str) -> Value {
        let from = Arc::new(Sender { user: Some("u\"".into()), connection: CONNECTION });
        let channel = ChannelName::new(channel);
        encoded(&Happening::ClientEvent { channel, content: content.into(), from })
    }

    /// The body and secret of the protocol's documentation; the signature is that of
    /// `openssl dgst -sha256 -hmac SECRET`.
    #[test]
    fn a_known_body_has_its_known_signature() {
        let channel = ChannelName::new("1:test_channel");
        let event = encode_event(&Happening::ChannelOccupied { channel });
        let body = encode_batch(&[Part::Event(event.into())], 1_327_078_148_132).unwrap();
        let options = tests_of_apps::options();
        let app = PusherApp::new("1", "278d425bdf160c739803", b"7ad3773142a6692b25b8", options);
        let form = RequestForm::Pusher(Arc::new(app));
        let signed = form.sign("id", 1, &Bytes::from(body));
        let signature = "709fdb84c03664445f7698120b0edf0acc1ab1c8c6e93a0368c61841d6b998aa";
        let expected =
            [("x-pusher-key", "278d425bdf160c739803"), ("x-pusher-signature", signature)];
        assert_eq!(signed, expected.map(|(name, value)| (name, value.to_owned())));
        assert_ne!(form.forged().sign("id", 1, &Bytes::new()), form.sign("id", 1, &Bytes::new()));
    }

    #[test]
    fn names_are_those_that_clients_know() {
        let channel = ChannelName::new("1:#server-to-user-a:3ab");
        let vacated = encoded(&Happening::ChannelVacated { channel });
        assert_eq!(vacated, json!({"name": "channel_vacated", "channel": "#server-to-user-a:b"}));
        assert_eq!(
            sent("1:presence-a", r#"{"event":"client-e","data":{"b":"\n"}}"#),
            json!({"name": "client_event", "channel": "presence-a", "event": "client-e",
                   "data": r#"{"b":"\n"}"#, "socket_id": "65538.12884901892", "user_id": "u\""})
        );
        assert_eq!(
            sent("1:private-a", r#"{"event":"client-e","data":"\"text\""}"#),
            json!({"name": "client_event", "channel": "private-a", "event": "client-e",
                   "data": "\"text\"", "socket_id": "65538.12884901892"})
        );
        let channel = ChannelName::new("1:presence-a");
        let user = member(MemberKey::User("1:7".into()));
        assert_eq!(
            encoded(&Happening::MemberAdded { channel, member: user }),
            json!({"name": "member_added", "channel": "presence-a", "user_id": "7"})
        );
    }

    #[test]
    fn what_a_webhook_has_no_words_for_is_left_out() {
        let added = |channel: &str, key: MemberKey| {
            let channel = ChannelName::new(channel);
            carries(&Happening::MemberAdded { channel, member: member(key) })
        };
        let user = || MemberKey::User("7".into());
        assert!(added("1:presence-a", user()));
        assert!(!added("1:presence-a", MemberKey::Connection(CONNECTION)), "it has no id");
        assert!(!added("1:news", user()), "the channel lists no members");
        let (channel, connection) = (ChannelName::new("1:news"), CONNECTION);
        assert!(!carries(&Happening::Subscribed { connection, user: None, channel }));
        let counts = [(EventKind::CacheMiss, 1)].into_iter().collect();
        assert_eq!(encode_batch(&[Part::Lost { number: 1, counts }], 0), None);
        assert_eq!(encode_events(5, &[]), r#"{"time_ms":5,"events":[]}"#);
    }

    #[test]
    fn bodies_that_cannot_be_accepted_are_not_sent_again() {
        let app = PusherApp::new("1", "key", b"a secret", tests_of_apps::options());
        let form = RequestForm::Pusher(Arc::new(app));
        for (status, is_temporary) in [
            (400, false),
            (401, true),
            (404, true),
            (413, false),
            (415, false),
            (422, false),
            (429, true),
            (500, true),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(form.is_temporary(status), is_temporary, "{status}");
        }
    }
}
