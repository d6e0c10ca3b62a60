//! The encoding for members behind links: clients of applications, whose own protocol the server
//! does not know. They get the content of a publication alone.
//!
//! Content that is a JSON string is sent as the characters of that string, so that an application
//! can publish messages of any protocol of texts; any other content is sent as its JSON text. Both
//! are text messages. Nothing else is sent to these clients: what a session would reply concerns
//! the application, which learns of it by [`MemberReport`](crate::session::hub::MemberReport).

use std::borrow::Cow;

use super::{ClientProtocol, ClientRequest, Framing, Reply};
use crate::hub::{Code, EncodedEvent, Event, EventEncoder, Refused};
use crate::proto::ws::DataKind;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct ContentAlone;

impl EventEncoder for ContentAlone {
    fn encode_event(&self, event: &Event<'_>) -> Option<EncodedEvent> {
        let Event::Message(message) = event else { return None };
        let text = text_of(message.content);
        let is_verbatim = text.len() == message.content.len();
        let content = is_verbatim.then_some(0..text.len());
        let payload = text.into_owned().into_bytes();
        Some(EncodedEvent { kind: DataKind::Text, payload, content })
    }
}

/// Returns what a client gets for content, which is JSON.
fn text_of(content: &str) -> Cow<'_, str> {
    let plain = content.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match plain {
        None => Cow::Borrowed(content),
        Some(plain) if !plain.contains('\\') => Cow::Borrowed(plain),
        // A half of a surrogate pair has no character: such content stays as it is.
        Some(_) => serde_json::from_str(content).map_or(Cow::Borrowed(content), Cow::Owned),
    }
}

impl ClientProtocol for ContentAlone {
    fn subprotocol(&self) -> Option<&'static str> {
        // Clients cannot choose it: a subprotocol has a name.
        Some("")
    }

    fn framing(&self) -> Framing {
        Framing::WholeFrame
    }

    fn read_request<'f>(&self, _request: &'f str) -> ClientRequest<'f> {
        // What these clients send goes to their application.
        let refused = Refused::new(Code::BadRequest, "this client makes no requests");
        ClientRequest { id: None, command: Err(refused) }
    }

    fn encode_reply(&self, _reply: &Reply<'_>) -> Option<Vec<u8>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hub::{ChannelMessage, ChannelName, Epoch, Position};

    fn encode(content: &str) -> EncodedEvent {
        let (channel, position, prev, from) = (ChannelName::new("a"), None, None, None);
        let channel = Some(&channel);
        let message = ChannelMessage { channel, position, prev, content, from, time_ms: 1 };
        ContentAlone.encode_event(&Event::Message(message)).expect("each message has an encoding")
    }

    #[test]
    fn strings_are_sent_as_their_characters_and_other_content_as_json() {
        for (content, text) in [
            (r#"{"a":[1, "x"]}"#, r#"{"a":[1, "x"]}"#),
            (r#"["a"]"#, r#"["a"]"#),
            ("1.50", "1.50"),
            ("null", "null"),
            (r#""hello""#, "hello"),
            (r#""""#, ""),
            (r#""a\"b\u00e9\n""#, "a\"b\u{e9}\n"),
            (r#""\ud83d\ude00""#, "\u{1f600}"),
            (r#""\ud83d""#, r#""\ud83d""#),
        ] {
            let encoded = encode(content);
            assert_eq!(std::str::from_utf8(&encoded.payload), Ok(text), "{content}");
            assert_eq!(encoded.kind, DataKind::Text);
            let verbatim = encoded.content.map(|range| &encoded.payload[range]);
            assert!(verbatim.is_none_or(|own| own == content.as_bytes()), "{content}");
        }
        let (channel, position) = (ChannelName::new("a"), Position { epoch: Epoch(1), offset: 0 });
        let event = Event::Position { channel: &channel, position };
        assert_eq!(ContentAlone.encode_event(&event), None, "the client knows no positions");
    }

    proptest! {
        /// Any text can be sent as a string, and is never longer than its JSON.
        #[test]
        fn any_text_is_sent_as_a_string(text in any::<String>()) {
            let content = serde_json::to_string(&text).unwrap();
            let encoded = encode(&content);
            prop_assert_eq!(encoded.payload, text.as_bytes());
        }
    }
}
