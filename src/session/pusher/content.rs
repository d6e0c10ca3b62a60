//! Events as contents of messages.
//!
//! An event is the content `{"event":NAME,"data":DATA}` of a channel's message. The protocol's data
//! is a string, which is JSON more often than not. As content it is that JSON, so that clients of
//! other protocols need not parse it twice; a string that is no JSON, or the JSON of a string,
//! stays a string. Either way clients receive exactly the string that was published.
//!
//! A content of another form, which a client of another protocol published, is the data of an event
//! `message`.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::hub::Publication;
use crate::text::content::CheckedJson;
use crate::text::quoted::push_quoted;

/// The longest name of an event (characters).
pub const EVENT_NAME_CHARS_MAX: usize = 200;
/// The name of the event for contents of another form.
const MESSAGE: &str = "message";

/// An event in a content.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EventParts<'c> {
    pub(super) name: Cow<'c, str>,
    /// JSON: a string contains the data itself, any other value is the data.
    pub(super) data: &'c str,
}

#[derive(Deserialize)]
struct Stored<'c> {
    #[serde(borrow)]
    event: Cow<'c, str>,
    #[serde(borrow)]
    data: &'c RawValue,
}

/// Returns whether only the server may send events of this name.
pub fn is_reserved(event: &str) -> bool {
    event.starts_with("pusher:") || event.starts_with("pusher_internal:")
}

/// Reads the event in a content, which is valid JSON.
pub(super) fn read_content(content: &str) -> EventParts<'_> {
    let stored = content.starts_with('{').then(|| serde_json::from_str::<Stored<'_>>(content).ok());
    match stored.flatten() {
        Some(Stored { event, data }) if !is_reserved(&event) => {
            EventParts { name: event, data: data.get() }
        }
        _ => EventParts { name: MESSAGE.into(), data: content },
    }
}

/// Returns the data of a publication's event, as clients receive it.
pub fn data_of(publication: &Publication) -> String {
    data_of_content(publication.message().map_or("null", |message| message.content))
}

/// Returns the data of the event in a content, as clients receive it.
pub(super) fn data_of_content(content: &str) -> String {
    data_text(read_content(content).data)
}

/// Returns the name of the event in a content, and its data.
pub fn event_of(content: &str) -> (Cow<'_, str>, String) {
    let EventParts { name, data } = read_content(content);
    (name, data_text(data))
}

fn data_text(data: &str) -> String {
    if data.starts_with('"') {
        serde_json::from_str(data).unwrap_or_default()
    } else {
        data.to_owned()
    }
}

/// Makes the content of an event whose data is a string.
pub fn make_content(event: &str, data: &str) -> Box<str> {
    let json: Option<&RawValue> = serde_json::from_str(data).ok();
    let is_kept = |json: &&RawValue| json.get().len() == data.len() && !data.starts_with('"');
    let checked = json.filter(is_kept).and_then(|json| CheckedJson::new(json).ok());
    match checked.map(CheckedJson::into_text) {
        // Line breaks between tokens would have become spaces.
        Some(text) if *text == *data => join_content(event, |out| push(out, data)),
        _ => join_content(event, |out| push_quoted(out, data)),
    }
}

/// Makes the content of an event whose data is JSON.
pub(super) fn make_content_of_json(event: &str, data: CheckedJson<'_>) -> Box<str> {
    let data = data.into_text();
    join_content(event, |out| push(out, &data))
}

fn push(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn join_content(event: &str, push_data: impl FnOnce(&mut Vec<u8>)) -> Box<str> {
    let mut out = Vec::with_capacity(64);
    push(&mut out, r#"{"event":"#);
    push_quoted(&mut out, event);
    push(&mut out, r#","data":"#);
    push_data(&mut out);
    out.push(b'}');
    String::from_utf8(out).expect("its parts are text").into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::content::to_one_line;

    #[test]
    fn json_is_embedded_and_other_text_is_a_string() {
        for (data, content) in [
            (r#"{"a": 1}"#, r#"{"event":"e","data":{"a": 1}}"#),
            ("[1,2]", r#"{"event":"e","data":[1,2]}"#),
            ("5", r#"{"event":"e","data":5}"#),
            ("hello", r#"{"event":"e","data":"hello"}"#),
            (r#""hello""#, r#"{"event":"e","data":"\"hello\""}"#),
            ("{\"a\":\n1}", r#"{"event":"e","data":"{\"a\":\n1}"}"#),
            (" 5", r#"{"event":"e","data":" 5"}"#),
            (r#""\ud83d""#, r#"{"event":"e","data":"\"\\ud83d\""}"#),
            ("", r#"{"event":"e","data":""}"#),
        ] {
            assert_eq!(&*make_content("e", data), content);
        }
    }

    #[test]
    fn contents_of_other_forms_are_messages() {
        let reserved = r#"{"event":"pusher_internal:member_removed","data":{"user_id":"1"}}"#;
        for content in
            [reserved, "1", "[1]", "\"a\"", "{}", r#"{"event":1,"data":2}"#, r#"{"data":2}"#]
        {
            let parts = read_content(content);
            assert_eq!((&*parts.name, parts.data), ("message", content));
        }
        let parts = read_content(r#"{"data":{"a":1},"event":"x\n"}"#);
        assert_eq!((&*parts.name, parts.data), ("x\n", "{\"a\":1}"));
    }

    proptest! {
        #[test]
        fn data_comes_back_as_it_was_published(
            name in "\\PC{0,20}".prop_filter("not reserved", |name| !is_reserved(name)),
            data in prop_oneof![
                "\\PC*",
                any::<f64>().prop_map(|number| number.to_string()),
                "[\\[\\]{}\",:0-9a-e \\n]{0,20}",
            ],
        ) {
            let content = make_content(&name, &data);
            let line = to_one_line(&content).map(Cow::into_owned);
            prop_assert_eq!(line.as_deref(), Ok(&*content));
            prop_assert_eq!(&*read_content(&content).name, &*name);
            prop_assert_eq!(data_of_content(&content), data);
        }
    }
}
