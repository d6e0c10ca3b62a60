//! A client protocol of the tests, unlike `seawall.v1` in all that it may be: one request a frame,
//! words instead of JSON, no welcome, no leaves, and gaps that carry no reason.

use std::borrow::Cow;

use seawall::hub::{
    Code, EncodedEvent, Epoch, Event, EventEncoder, MemberInfo, MemberKey, Refused, Since,
};
use seawall::proto::ws::DataKind;
use seawall::session::protocol::{ClientProtocol, ClientRequest, Command, Framing, Reply, Text};
use seawall::text::content::CheckedJson;

/// See the module.
#[derive(Debug)]
pub(super) struct LineV1;

fn name_of(member: &MemberInfo) -> String {
    match &member.key {
        MemberKey::User(user) => user.to_string(),
        MemberKey::Connection(id) => id.to_string(),
    }
}

impl EventEncoder for LineV1 {
    fn encode_event(&self, event: &Event<'_>) -> Option<EncodedEvent> {
        let text = match event {
            Event::Message(message) => {
                let channel = message.channel.map_or("-", |channel| channel.as_str());
                let offset = message.position.map_or(0, |position| position.offset);
                format!("= {channel} {offset} {}", message.content.to_uppercase())
            }
            Event::Join { channel, member } => format!("+ {channel} {}", name_of(member)),
            Event::Leave { .. } | Event::PresenceGap { .. } => return None,
            Event::Gap { channel, position, .. } => format!("! {channel} {}", position.offset),
            Event::Position { channel, position } => format!("@ {channel} {}", position.offset),
            Event::Engine(notice) => format!("engine {notice:?}"),
        };
        Some(EncodedEvent { kind: DataKind::Text, payload: text.into_bytes(), content: None })
    }
}

fn text(word: &str) -> Text<'_> {
    Text(Cow::Borrowed(word))
}

impl ClientProtocol for LineV1 {
    fn subprotocol(&self) -> Option<&'static str> {
        Some("line.v1")
    }

    fn framing(&self) -> Framing {
        Framing::WholeFrame
    }

    /// `ID COMMAND CHANNEL [REST]`
    fn read_request<'f>(&self, request: &'f str) -> ClientRequest<'f> {
        let mut words = request.splitn(4, ' ');
        let (id, verb) = (words.next(), words.next().unwrap_or_default());
        let channel = text(words.next().unwrap_or_default());
        let rest = words.next();
        let since = rest.and_then(|rest| rest.split_once(' ')).map(|(epoch, offset)| Since {
            epoch: Epoch::parse(epoch),
            offset: offset.parse().unwrap_or_default(),
        });
        let command = match verb {
            "sub" => Ok(Command::Subscribe { channel, since, presence: false, token: None }),
            "watch" => Ok(Command::Subscribe { channel, since, presence: true, token: None }),
            "pub" => {
                let content = serde_json::from_str(rest.unwrap_or("null"));
                let content = content.ok().and_then(|json| CheckedJson::new(json).ok());
                let content = content.ok_or_else(|| Refused::new(Code::BadRequest, "no JSON"));
                content.map(|content| Command::Publish { channel, content, key: None, echo: true })
            }
            "past" => Ok(Command::History { channel, limit: None, since: None, reverse: false }),
            _ => Err(Refused::new(Code::BadRequest, "no such verb")),
        };
        ClientRequest { id, command }
    }

    fn encode_reply(&self, reply: &Reply<'_>) -> Option<Vec<u8>> {
        let named = |id: Option<&str>| id.unwrap_or("-").to_owned();
        let line = match reply {
            Reply::Subscribed { id, position, recovered, .. } => {
                format!("{} in {} {} {recovered}", named(*id), position.epoch, position.offset)
            }
            Reply::Published { id, position, .. } => {
                format!("{} at {}", named(*id), position.offset)
            }
            Reply::History { id, messages, .. } => {
                let contents: Vec<&str> =
                    messages.iter().filter_map(|one| Some(one.message()?.content)).collect();
                format!("{} was {}", named(*id), contents.join(","))
            }
            Reply::Error { id, refused } => format!("{} no {}", named(*id), refused.code.as_str()),
            Reply::Goodbye { code, .. } => format!("- bye {code}"),
            _ => return None,
        };
        Some(line.into_bytes())
    }
}
