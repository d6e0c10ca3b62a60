//! Reads the messages of clients: `{"event":NAME,"channel"?:CHANNEL,"data"?:DATA}`. Data is an
//! object, or a string that contains one.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::content::{EVENT_NAME_CHARS_MAX, make_content_of_json};
use crate::hub::{Code, Refused};
use crate::session::protocol::{AppCommand, ClientRequest, Command, Text};
use crate::text::content::CheckedJson;

/// The prefix of events that clients send to each other.
const CLIENT_EVENT: &str = "client-";

#[derive(Deserialize)]
struct Frame<'f> {
    #[serde(borrow)]
    event: Text<'f>,
    #[serde(borrow)]
    channel: Option<Text<'f>>,
    #[serde(borrow)]
    data: Option<&'f RawValue>,
}

#[derive(Deserialize)]
struct SubscribeData {
    channel: String,
    auth: Option<String>,
    channel_data: Option<String>,
}

#[derive(Deserialize)]
struct UnsubscribeData {
    channel: String,
}

#[derive(Deserialize)]
struct SignInData {
    auth: String,
    user_data: String,
}

/// Reads one message.
pub(super) fn read_request(frame: &str) -> ClientRequest<'_> {
    ClientRequest { id: None, command: read_command(frame) }
}

fn bad_request(message: impl Into<String>) -> Refused {
    Refused::new(Code::BadRequest, message)
}

fn read_command(frame: &str) -> Result<Command<'_>, Refused> {
    // Serde accepts an array as the fields of a struct in order.
    if !frame.trim_start().starts_with('{') {
        return Err(bad_request("Invalid message format: a message is a JSON object"));
    }
    let Frame { event, channel, data } = serde_json::from_str(frame)
        .map_err(|error| bad_request(format!("Invalid message format: {error}")))?;
    Ok(match &*event {
        "pusher:ping" => Command::Ping,
        // Any input proves that a client is there.
        "pusher:pong" => Command::App(AppCommand::Pong),
        "pusher:subscribe" => {
            let SubscribeData { channel, auth, channel_data } = read_data(&event, data)?;
            let auth = auth.filter(|auth| !auth.is_empty());
            Command::App(AppCommand::Subscribe { channel, auth, channel_data })
        }
        "pusher:unsubscribe" => {
            let UnsubscribeData { channel } = read_data(&event, data)?;
            Command::App(AppCommand::Unsubscribe { channel })
        }
        "pusher:signin" => {
            let SignInData { auth, user_data } = read_data(&event, data)?;
            Command::App(AppCommand::SignIn { auth, user_data })
        }
        name if name.starts_with(CLIENT_EVENT) => {
            read_client_event(name, channel.as_deref(), data)?
        }
        other => {
            let shown = &other[..other.floor_char_boundary(64)];
            return Err(bad_request(format!(
                "Unknown event {shown:?}: use pusher:subscribe, pusher:unsubscribe, pusher:signin, \
                 pusher:ping, or a name that begins with client-"
            )));
        }
    })
}

/// Reads the data of an event of the protocol.
fn read_data<T: DeserializeOwned>(event: &str, data: Option<&RawValue>) -> Result<T, Refused> {
    let missing = || bad_request(format!("{event} needs data"));
    let data = data.ok_or_else(missing)?.get();
    let read = if data.starts_with('"') {
        serde_json::from_str::<String>(data).and_then(|inner| serde_json::from_str(&inner))
    } else {
        serde_json::from_str(data)
    };
    read.map_err(|error| bad_request(format!("{event}: {error}")))
}

fn read_client_event<'f>(
    event: &str,
    channel: Option<&str>,
    data: Option<&RawValue>,
) -> Result<Command<'f>, Refused> {
    if event.chars().count() > EVENT_NAME_CHARS_MAX {
        let message = format!("An event's name has {EVENT_NAME_CHARS_MAX} characters at most");
        return Err(Refused::new(Code::TooLarge, message));
    }
    let channel = channel.ok_or_else(|| bad_request(format!("{event} needs a channel")))?.into();
    let null = RawValue::NULL;
    let data = CheckedJson::new(data.unwrap_or(null))
        .map_err(|fault| bad_request(format!("data {}", fault.text())))?;
    let content = make_content_of_json(event, data);
    Ok(Command::App(AppCommand::Send { channel, content }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frame: &str) -> AppCommand {
        match read_request(frame).command {
            Ok(Command::App(command)) => command,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn messages_of_clients_are_read() {
        let subscribe = AppCommand::Subscribe {
            channel: "presence-a".into(),
            auth: Some("k:1".into()),
            channel_data: Some(r#"{"user_id":"1"}"#.into()),
        };
        let object =
            r#"{"auth":"k:1","channel_data":"{\"user_id\":\"1\"}","channel":"presence-a"}"#;
        let text = serde_json::Value::from(object);
        for data in [object.to_owned(), text.to_string()] {
            let frame = format!(r#"{{"event":"pusher:subscribe","data":{data}}}"#);
            assert_eq!(read(&frame), subscribe);
        }
        let empty = r#"{"event":"pusher:subscribe","data":{"auth":"","channel":"news"}}"#;
        let public =
            AppCommand::Subscribe { channel: "news".into(), auth: None, channel_data: None };
        assert_eq!(read(empty), public);
        let leave = r#"{"event":"pusher:unsubscribe","data":{"channel":"news"}}"#;
        assert_eq!(read(leave), AppCommand::Unsubscribe { channel: "news".into() });
        assert_eq!(read(r#"{"event":"pusher:pong","data":{}}"#), AppCommand::Pong);
        let ping = read_request(r#"{"event":"pusher:ping"}"#);
        assert!(matches!(ping.command, Ok(Command::Ping)));
    }

    #[test]
    fn client_events_keep_their_data() {
        for (data, content) in [
            (r#","data":{"a":1}"#, r#"{"event":"client-x","data":{"a":1}}"#),
            (r#","data":"{\"a\":1}""#, r#"{"event":"client-x","data":"{\"a\":1}"}"#),
            ("", r#"{"event":"client-x","data":null}"#),
        ] {
            let frame = format!(r#"{{"event":"client-x","channel":"private-a"{data}}}"#);
            let channel = "private-a".into();
            assert_eq!(read(&frame), AppCommand::Send { channel, content: content.into() });
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        let long = format!(r#"{{"event":"client-{}","channel":"private-a"}}"#, "x".repeat(200));
        for (frame, expected) in [
            ("[]", "Invalid message format"),
            ("", "Invalid message format"),
            ("{}", "missing field `event`"),
            (r#"{"event":1}"#, "Invalid message format"),
            (r#"{"event":"x"}"#, "Unknown event \"x\""),
            (r#"{"event":"pusher:subscribe"}"#, "needs data"),
            (r#"{"event":"pusher:subscribe","data":"x"}"#, "pusher:subscribe: "),
            (r#"{"event":"pusher:signin","data":{"auth":"x"}}"#, "missing field `user_data`"),
            (r#"{"event":"client-x"}"#, "needs a channel"),
            (r#"{"event":"client-x","channel":"a","data":1e999}"#, "number too large"),
            (&long, "200 characters at most"),
        ] {
            let refused = read_request(frame).command.unwrap_err();
            assert!(refused.message.contains(expected), "{frame}: {}", refused.message);
        }
    }
}
