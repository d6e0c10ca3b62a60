//! A single-pass reader for requests in the form that most clients write; it finds the end of the
//! object while reading it.
//!
//! Before, a publish was read four times: for the bounds of its object, its `id`, its fields and
//! its content. That took 4,900 of the 17,200 instructions of an acknowledged publish. This reader
//! stores each field as it is read. It gives up on anything else (other fields, escapes, `null`,
//! positions, any error) and leaves the object to `request`, which reads with `serde_json` and
//! reports errors. Tests and the fuzz target `requests` compare the two readers.

use super::request::{Content, Fields, ID_BYTES_MAX, read_command};
use crate::session::protocol::{ClientRequest, Text};
use crate::text::plain::PlainReader;

/// Reads the object that starts at the first byte, and returns it with its length (bytes). `None`:
/// the object is not in plain form, or not a valid request.
pub(super) fn read_plain(bytes: &[u8]) -> Option<(ClientRequest<'_>, usize)> {
    let mut reader = PlainReader::new(bytes);
    let (mut id, mut fields) = (None, Fields::default());
    read_fields(&mut reader, &mut id, &mut fields)?;
    let command = read_command(&mut fields).ok()?;
    Some((ClientRequest { id, command: Ok(command) }, reader.position()))
}

/// Reads all fields into `fields`, except the id, which goes to `id`.
fn read_fields<'f>(
    reader: &mut PlainReader<'f>,
    id: &mut Option<&'f str>,
    fields: &mut Fields<'f>,
) -> Option<()> {
    if !reader.take(b'{') {
        return None;
    }
    loop {
        match read_name(reader)? {
            b"type" => set_once(&mut fields.kind, read_kind(reader)?)?,
            b"channel" => set_once(&mut fields.channel, read_text(reader)?)?,
            b"id" => set_once(id, read_id(reader)?)?,
            b"content" => set_once(&mut fields.content, Content::Checked(reader.read_value()?))?,
            b"key" => set_once(&mut fields.key, read_text(reader)?)?,
            b"echo" => set_once(&mut fields.echo, reader.read_bool()?)?,
            b"presence" => set_once(&mut fields.presence, reader.read_bool()?)?,
            b"reverse" => set_once(&mut fields.reverse, reader.read_bool()?)?,
            b"limit" => set_once(&mut fields.limit, reader.read_digits()?.parse().ok()?)?,
            b"after" => set_once(&mut fields.after, read_text(reader)?)?,
            b"token" => set_once(&mut fields.token, read_text(reader)?)?,
            b"ticket" => set_once(&mut fields.ticket, read_text(reader)?)?,
            _ => return None,
        }
        if reader.take(b'}') {
            return Some(());
        }
        if !reader.take(b',') {
            return None;
        }
    }
}

/// Reads the name of a field and the colon behind it. The most frequent names, in their usual form
/// without blanks, are compared as a whole instead of being scanned.
#[inline]
fn read_name<'f>(reader: &mut PlainReader<'f>) -> Option<&'f [u8]> {
    if reader.skip(b"\"type\":") {
        return Some(b"type");
    }
    if reader.skip(b"\"id\":") {
        return Some(b"id");
    }
    if reader.skip(b"\"channel\":") {
        return Some(b"channel");
    }
    if reader.skip(b"\"content\":") {
        return Some(b"content");
    }
    let name = reader.read_bytes()?;
    reader.take(b':').then_some(name)
}

/// Sets a field. `None`: the field is set already; duplicates are an error.
#[inline]
fn set_once<T>(field: &mut Option<T>, value: T) -> Option<()> {
    field.is_none().then(|| *field = Some(value))
}

/// Reads a known type. Returns a static string, so that it is not validated as UTF-8 again.
#[inline]
fn read_kind<'f>(reader: &mut PlainReader<'f>) -> Option<Text<'f>> {
    if reader.skip(b"\"publish\"") {
        return Some(Text::from("publish"));
    }
    let kind = match reader.read_bytes()? {
        b"publish" => "publish",
        b"subscribe" => "subscribe",
        b"unsubscribe" => "unsubscribe",
        b"presence" => "presence",
        b"history" => "history",
        b"auth" => "auth",
        b"resume" => "resume",
        b"ping" => "ping",
        _ => return None,
    };
    Some(Text::from(kind))
}

#[inline]
fn read_text<'f>(reader: &mut PlainReader<'f>) -> Option<Text<'f>> {
    reader.read_text().map(Text::from)
}

/// Reads an id verbatim, including its quotes.
fn read_id<'f>(reader: &mut PlainReader<'f>) -> Option<&'f str> {
    // A number may be followed by more of the same token (as in `1.5`), so the digits are read on a
    // copy: if they are no id, the string is tried from the same place.
    let mut ahead = reader.clone();
    if let Some(digits) = ahead.read_digits() {
        *reader = ahead;
        return Some(digits);
    }
    // The limit excludes the two quotes.
    reader.read_quoted().filter(|id| id.len() <= ID_BYTES_MAX + 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fuzz::compare_readers;
    use super::*;
    use crate::session::protocol::Command;

    #[test]
    fn requests_of_ordinary_clients_are_plain() {
        for object in [
            r#"{"type":"ping"}"#,
            r#"{"type":"publish","id":1,"channel":"a","content":{"n":[1.5,"x\n"]}}"#,
            r#"{ "channel" : "a", "content":null , "id":"x-1","type":"publish","echo":false }"#,
            r#"{"type":"publish","channel":"a","content":"x","key":"k"}"#,
            r#"{"type":"subscribe","id":18,"channel":"a","presence":true,"token":"t"}"#,
            r#"{"type":"unsubscribe","id":19,"channel":"a"}"#,
            r#"{"type":"history","channel":"a","limit":10,"reverse":true}"#,
            r#"{"type":"presence","channel":"a","limit":10,"after":"x"}"#,
            r#"{"type":"auth","token":"t"}"#,
        ] {
            let frame = format!("{object}{{}}");
            let (_, len) =
                read_plain(frame.as_bytes()).unwrap_or_else(|| panic!("{object} is plain"));
            assert_eq!(len, object.len());
            compare_readers(frame.as_bytes());
        }
        let publish = br#"{"id":7,"type":"publish","channel":"a","content":[1]}"#;
        let (request, _) = read_plain(publish).unwrap();
        assert_eq!(request.id, Some("7"));
        let Ok(Command::Publish { content, echo: true, key: None, .. }) = request.command else {
            panic!("{request:?}")
        };
        assert_eq!(&*content.into_text(), "[1]");
    }

    #[test]
    fn anything_else_is_left_to_the_other_reader() {
        for object in [
            "[]",
            "{}",
            r#"{"type":"shout"}"#,
            r#"{"type":"ping","id":null}"#,
            r#"{"type":"ping","id":-1}"#,
            r#"{"type":"ping","id":1.5}"#,
            r#"{"type":"ping","more":1}"#,
            r#"{"type":"ping","type":"ping"}"#,
            r#"{"ty\u0070e":"ping"}"#,
            r#"{"type":"publish","channel":"a"}"#,
            r#"{"type":"subscribe","channel":"a","since":{"epoch":"e","offset":1}}"#,
            r#"{"type":"history","channel":"a","limit":5000000000}"#,
            r#"{"type":"ping""#,
        ] {
            assert!(read_plain(object.as_bytes()).is_none(), "{object}");
            compare_readers(object.as_bytes());
        }
    }

    /// A valid or invalid field, as JSON text.
    fn field() -> impl Strategy<Value = String> {
        let name = prop::sample::select(vec![
            "type",
            "type",
            "channel",
            "channel",
            "id",
            "content",
            "content",
            "key",
            "echo",
            "presence",
            "reverse",
            "limit",
            "after",
            "token",
            "ticket",
            "since",
            "positions",
            "more",
            "ch\\u0061nnel",
        ]);
        let value = prop::sample::select(vec![
            r#""publish""#,
            r#""publish""#,
            r#""subscribe""#,
            r#""history""#,
            r#""presence""#,
            r#""ping""#,
            r#""auth""#,
            r#""a""#,
            r#""b""#,
            r#""\n""#,
            r#""\ud83d""#,
            "\"é\"",
            "\"\"",
            "0",
            "7",
            "18446744073709551616",
            "007",
            "-1",
            "1.5",
            "1e3",
            "1e999",
            "true",
            "false",
            "null",
            "[]",
            "{}",
            "[1,{\"x\":[]}]",
            "[\n]",
            r#"{"epoch":"e","offset":3}"#,
        ]);
        let blank = prop::sample::select(vec!["", "", "", " ", "\n", "\t"]);
        (name, value, blank.clone(), blank).prop_map(|(name, value, before, after)| {
            format!("{before}\"{name}\"{after}:{before}{value}{after}")
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// Both readers agree on any object, also with one changed byte.
        #[test]
        fn both_readers_agree(
            fields in prop::collection::vec(field(), 0..6),
            typed in any::<bool>(),
            change in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
            cut in prop::option::of(any::<prop::sample::Index>()),
            more in prop::sample::select(vec!["", "{}", " {\"type\":\"ping\"}", "x"]),
        ) {
            let first = if typed { "\"type\":\"publish\",\"channel\":\"a\"," } else { "" };
            let mut frame = format!("{{{first}{}}}{more}", fields.join(",")).into_bytes();
            if let Some((at, byte)) = change {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            if let Some(cut) = cut {
                frame.truncate(cut.index(frame.len()));
            }
            compare_readers(&frame);
        }
    }
}
