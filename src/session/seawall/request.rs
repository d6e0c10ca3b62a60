//! The full reader of requests: one JSON object of a frame.
//!
//! The frame is cut into objects first, so that a field error in one object does not affect the
//! objects behind it. Unknown fields are ignored; a duplicate field, or one of the wrong kind, is
//! an error. Content is checked but not decoded: it is kept as it was written.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::hub::{Code, Epoch, Refused, Since};
use crate::session::protocol::{ClientRequest, Command, ResumePoint, Text};
use crate::text::content::{self, CheckedJson};

/// The longest `id` (bytes, as written, without quotes).
pub(super) const ID_BYTES_MAX: usize = 64;

/// A position, as clients write it.
#[derive(Debug, Deserialize)]
struct SincePart<'f> {
    #[serde(borrow)]
    epoch: Text<'f>,
    offset: u64,
}

impl SincePart<'_> {
    fn get(&self) -> Since {
        Since { epoch: Epoch::parse(&self.epoch), offset: self.offset }
    }
}

/// One channel of a `resume`.
#[derive(Debug, Deserialize)]
struct PositionPart<'f> {
    #[serde(borrow)]
    epoch: Text<'f>,
    offset: u64,
    #[serde(borrow, default)]
    grant: Option<Text<'f>>,
    #[serde(default)]
    presence: bool,
}

impl<'f> From<PositionPart<'f>> for ResumePoint<'f> {
    fn from(part: PositionPart<'f>) -> Self {
        let since = Since { epoch: Epoch::parse(&part.epoch), offset: part.offset };
        Self { since, grant: part.grant, presence: part.presence }
    }
}

/// The content of a publish.
#[derive(Debug)]
pub(super) enum Content<'f> {
    /// Valid JSON, but not yet checked for what other readers may reject.
    Raw(&'f RawValue),
    Checked(CheckedJson<'f>),
}

impl<'f> Content<'f> {
    fn check(self) -> Result<CheckedJson<'f>, Refused> {
        match self {
            Self::Raw(json) => CheckedJson::new(json).map_err(bad_content),
            Self::Checked(json) => Ok(json),
        }
    }
}

/// The fields of all requests together; each command takes those that it needs.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Fields<'f> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<Text<'f>>,
    #[serde(borrow)]
    pub(super) channel: Option<Text<'f>>,
    #[serde(borrow, default, deserialize_with = "raw_content")]
    pub(super) content: Option<Content<'f>>,
    #[serde(borrow)]
    since: Option<SincePart<'f>>,
    pub(super) presence: Option<bool>,
    #[serde(borrow)]
    pub(super) token: Option<Text<'f>>,
    #[serde(borrow)]
    pub(super) key: Option<Text<'f>>,
    #[serde(borrow)]
    pub(super) method: Option<Text<'f>>,
    pub(super) echo: Option<bool>,
    pub(super) limit: Option<u32>,
    #[serde(borrow)]
    pub(super) after: Option<Text<'f>>,
    pub(super) reverse: Option<bool>,
    #[serde(borrow)]
    pub(super) ticket: Option<Text<'f>>,
    #[serde(borrow, default, deserialize_with = "distinct")]
    positions: Option<Positions<'f>>,
    /// Read separately (see `IdOnly`); declared here so that a duplicate is an error.
    #[serde(borrow, default, deserialize_with = "raw")]
    #[expect(dead_code, reason = "its presence is what is checked")]
    id: Option<&'f RawValue>,
}

/// Positions by channel.
type Positions<'f> = BTreeMap<Text<'f>, ResumePoint<'f>>;

/// Reads an object of positions and rejects a duplicate channel, which a plain map would silently
/// overwrite. `null` means that there are none.
fn distinct<'de: 'f, 'f, D: Deserializer<'de>>(from: D) -> Result<Option<Positions<'f>>, D::Error> {
    struct Entries;
    impl<'de> Visitor<'de> for Entries {
        type Value = Option<Positions<'de>>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an object of positions by channel")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut positions = Positions::new();
            while let Some((channel, part)) = map.next_entry::<Text<'de>, PositionPart<'de>>()? {
                if positions.insert(channel, part.into()).is_some() {
                    return Err(A::Error::custom("a channel occurs twice in positions"));
                }
            }
            Ok(Some(positions))
        }
    }
    from.deserialize_any(Entries)
}

/// Reads raw JSON. `null` is a value too, unlike for other optional fields.
fn raw<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// Reads content as raw JSON; see `raw`.
fn raw_content<'de: 'f, 'f, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<Content<'f>>, D::Error> {
    Ok(raw(from)?.map(Content::Raw))
}

#[derive(Deserialize)]
struct IdOnly<'f> {
    #[serde(borrow, default, deserialize_with = "raw")]
    id: Option<&'f RawValue>,
}

fn bad_request(message: impl Into<String>) -> Refused {
    Refused::new(Code::BadRequest, message)
}

fn bad_content(fault: content::Fault) -> Refused {
    bad_request(format!("content {}", fault.text()))
}

/// Reads one object. If its fields are wrong, the request still carries its id, so that the error
/// reply can name it.
pub(super) fn read_request(object: &str) -> ClientRequest<'_> {
    // Serde accepts an array as the fields of a struct in order, so arrays are rejected here.
    if !object.starts_with('{') {
        return ClientRequest {
            id: None,
            command: Err(bad_request("not an object: a frame holds JSON objects")),
        };
    }
    let id = match serde_json::from_str::<IdOnly<'_>>(object).map(|only| only.id) {
        Ok(Some(id)) => match check_id(id.get()) {
            Ok(id) => id,
            Err(refused) => return ClientRequest { id: None, command: Err(refused) },
        },
        _ => None,
    };
    let mut fields = match serde_json::from_str::<Fields<'_>>(object) {
        Ok(fields) => fields,
        Err(error) => return ClientRequest { id, command: Err(bad_request(error.to_string())) },
    };
    ClientRequest { id, command: read_command(&mut fields) }
}

/// Checks an id: a number or a string of at most 64 bytes; `null` counts as none. The id is echoed
/// in the reply, so every JSON reader must be able to read it (no lone surrogates, no huge
/// numbers).
fn check_id(id: &str) -> Result<Option<&str>, Refused> {
    let is_read = || content::to_one_line(id).is_ok();
    let bytes = match id.as_bytes().first() {
        Some(b'n') => return Ok(None),
        Some(b'"') => id.len() - 2,
        Some(b'-' | b'0'..=b'9') => id.len(),
        _ => usize::MAX,
    };
    if bytes <= ID_BYTES_MAX && is_read() {
        return Ok(Some(id));
    }
    Err(bad_request("id must be a number or a string, of 64 bytes at most"))
}

pub(super) fn read_command<'f>(fields: &mut Fields<'f>) -> Result<Command<'f>, Refused> {
    let Some(kind) = fields.kind.take() else {
        return Err(bad_request("no type: each object has one, such as \"publish\""));
    };
    let missing = |name: &str| bad_request(format!("{} needs {name}", &*kind));
    let since = fields.since.as_ref().map(SincePart::get);
    let channel = |channel: Option<_>| channel.ok_or_else(|| missing("channel"));
    Ok(match &*kind {
        "auth" => Command::Auth { token: fields.token.take().ok_or_else(|| missing("token"))? },
        "subscribe" => Command::Subscribe {
            channel: channel(fields.channel.take())?,
            since,
            presence: fields.presence.unwrap_or(false),
            token: fields.token.take(),
        },
        "unsubscribe" => Command::Unsubscribe { channel: channel(fields.channel.take())? },
        "publish" => {
            let content = fields.content.take().ok_or_else(|| missing("content"))?;
            Command::Publish {
                channel: channel(fields.channel.take())?,
                content: content.check()?,
                key: fields.key.take(),
                echo: fields.echo.unwrap_or(true),
            }
        }
        "call" => {
            let content = fields.content.take().map(Content::check).transpose()?;
            let method = fields.method.take().ok_or_else(|| missing("method"))?;
            Command::Call { method, content }
        }
        "presence" => Command::Presence {
            channel: channel(fields.channel.take())?,
            limit: fields.limit,
            after: fields.after.take(),
        },
        "history" => Command::History {
            channel: channel(fields.channel.take())?,
            limit: fields.limit,
            since,
            reverse: fields.reverse.unwrap_or(false),
        },
        "resume" => Command::Resume {
            ticket: fields.ticket.take().ok_or_else(|| missing("ticket"))?,
            positions: fields.positions.take().unwrap_or_default(),
        },
        "ping" => Command::Ping,
        other => {
            let shown = &other[..other.floor_char_boundary(64)];
            return Err(bad_request(format!(
                "unknown type {shown:?}: use auth, subscribe, unsubscribe, publish, call, \
                 presence, history, resume or ping"
            )));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(object: &str) -> String {
        let refused = read_request(object).command.unwrap_err();
        assert_eq!(refused.code, Code::BadRequest);
        refused.message
    }

    #[test]
    fn ids_are_echoed_as_they_were_written() {
        for id in ["1", "-2.5e3", "\"a\\u0041\"", "18446744073709551616"] {
            let object = format!("{{\"id\":{id},\"type\":\"ping\"}}");
            assert_eq!(read_request(&object).id, Some(id));
        }
        assert_eq!(read_request("{\"type\":\"ping\",\"id\":null}").id, None);
        let long = format!("{{\"type\":\"ping\",\"id\":\"{}\"}}", "x".repeat(65));
        assert!(refusal(&long).contains("id must be"));
        assert!(refusal("{\"type\":\"ping\",\"id\":{}}").contains("id must be"));
        for unreadable in ["1e999", "\"\\ud83d\""] {
            let object = format!("{{\"type\":\"ping\",\"id\":{unreadable}}}");
            assert!(refusal(&object).contains("id must be"));
        }
        let request = read_request("{\"type\":\"publish\",\"id\":7}");
        assert_eq!(request.id, Some("7"), "an error carries the id as well");
        assert!(request.command.is_err());
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (object, expected) in [
            ("[]", "not an object"),
            ("[\"ping\"]", "not an object"),
            ("{}", "no type"),
            ("{\"type\":\"x\"}", "unknown type \"x\""),
            ("{\"type\":1}", "expected a string"),
            ("{\"type\":\"ping\",\"type\":\"ping\"}", "duplicate field"),
            ("{\"type\":\"ping\",\"id\":1,\"id\":2}", "duplicate field"),
            ("{\"type\":\"publish\",\"channel\":\"a\"}", "publish needs content"),
            ("{\"type\":\"subscribe\"}", "subscribe needs channel"),
            ("{\"type\":\"call\",\"content\":1}", "call needs method"),
            ("{\"type\":\"subscribe\",\"channel\":\"a\",\"presence\":1}", "expected a boolean"),
            ("{\"type\":\"history\",\"channel\":\"a\",\"limit\":-1}", "invalid value"),
        ] {
            let message = refusal(object);
            assert!(message.contains(expected), "{object}: {message}");
        }
        assert!(read_request("{\"type\":\"ping\",\"more\":[1],\"content\":{}}").command.is_ok());
    }

    #[test]
    fn content_is_kept_as_it_was_written() {
        let request = read_request(
            "{\"type\":\"publish\",\"channel\":\"a\",\"content\":{\"b\" :1.50,\n\"a\":null}}",
        );
        match request.command.unwrap() {
            Command::Publish { content, echo: true, .. } => {
                assert_eq!(&*content.into_text(), "{\"b\" :1.50, \"a\":null}");
            }
            other => panic!("{other:?}"),
        }
        let null = read_request("{\"type\":\"publish\",\"channel\":\"a\",\"content\":null}");
        let Ok(Command::Publish { content, .. }) = null.command else { panic!("{null:?}") };
        assert_eq!(&*content.into_text(), "null");
    }
}
