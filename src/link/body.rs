//! Bodies of records that describe something, as JSON.
//!
//! What an application sends is checked like a token: lengths, nesting, and the values of every
//! known field. Unknown fields are ignored, so that later versions may add some.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::auth::{BackendClaims, Identity};
use crate::hub::ConnectionId;
use crate::text::content::CheckedJson;

/// The longest `state` of a session (bytes).
const STATE_BYTES_MAX: usize = 4096;
/// The longest body that is JSON of these kinds, before it is read.
const BODY_BYTES_MAX: usize = 64 * 1024;
const INSTANCE_CHARS_MAX: usize = 128;
const CAPACITY: std::ops::RangeInclusive<u32> = 1..=1_000_000;
const CAPACITY_DEFAULT: u32 = 100;
const MESSAGE_CHARS_MAX: usize = 200;
/// What is read of the name of a channel (bytes): longer than any channel's.
const WANTED_BYTES_MAX: usize = 256;
/// The longest time until an identity ends (s).
const EXPIRES_S_MAX: u32 = 31_536_000;

/// What is wrong with a body: the reason for the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyError(pub &'static str);

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// The `hello` of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendHello {
    /// Names the process, so that its links count as one.
    pub instance: Arc<str>,
    /// Its share of new sessions, relative to other instances.
    pub capacity: u32,
}

#[derive(Deserialize)]
struct HelloFields {
    instance: String,
    capacity: Option<u32>,
}

/// The `hello` of a node.
#[derive(Clone, Debug, Serialize)]
pub struct NodeHello<'n> {
    pub node: &'n str,
    pub version: &'n str,
    pub limits: HelloLimits,
}

/// The limits in the `hello` of a node.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct HelloLimits {
    pub unacked_messages_max: u32,
    pub unacked_bytes_max: u32,
    pub record_bytes_max: u64,
}

/// What `open` says about a client.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenBody<'o> {
    pub connection: Option<ConnectionId>,
    pub user: Option<&'o str>,
    /// JSON on one line.
    pub info: Option<&'o str>,
    pub address: Option<IpAddr>,
    pub path: &'o str,
    /// Of the handshake: not repeated when a session moves.
    pub request: Option<OpenRequest<'o>>,
    /// The subprotocol that was chosen, if it was already.
    pub subprotocol: Option<&'o str>,
    /// JSON on one line.
    pub state: Option<&'o str>,
}

/// What the handshake of a client says.
#[derive(Clone, Copy, Debug)]
pub struct OpenRequest<'o> {
    pub query: &'o str,
    /// Names in lowercase.
    pub headers: &'o BTreeMap<&'o str, String>,
    pub subprotocols: &'o [Box<str>],
}

/// The `accept` of an application.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcceptBody {
    pub subprotocol: Option<Box<str>>,
    pub state: Option<Box<str>>,
    /// The user and its public info, as far as the application names them.
    named: Identity,
}

impl AcceptBody {
    /// Returns the identity of a client that had this one before: what the application has not
    /// named stays. `None`: nothing identifies it.
    pub fn identity_after(&self, earlier: Option<&Arc<Identity>>) -> Option<Arc<Identity>> {
        let Identity { user, info, expires_s, .. } = &self.named;
        if user.is_none() && info.is_none() && expires_s.is_none() {
            return earlier.cloned();
        }
        let mut identity = earlier.map(|own| Identity::clone(own)).unwrap_or_default();
        if user.is_some() {
            // The application answers for the client now, and no key of a token.
            identity = self.named.clone();
        }
        identity.info = info.clone().or(identity.info);
        let ends = [identity.expires_s, *expires_s];
        // What an application says has an end, if only a far one.
        identity.expires_s = ends.into_iter().flatten().min().or(Some(u64::MAX));
        Some(Arc::new(identity))
    }
}

#[derive(Deserialize)]
struct AcceptFields<'t> {
    subprotocol: Option<String>,
    #[serde(borrow)]
    user: Option<&'t RawValue>,
    #[serde(borrow)]
    info: Option<&'t RawValue>,
    #[serde(borrow)]
    state: Option<&'t RawValue>,
    expires_in_s: Option<u32>,
}

/// The `reject` of an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectBody {
    /// 401, 403, 429 or 503.
    pub status: u16,
    pub message: Box<str>,
}

#[derive(Deserialize)]
struct RejectFields {
    status: u16,
    message: Option<String>,
}

/// Encodes the `hello` of a node.
pub fn encode_node_hello(hello: &NodeHello<'_>) -> Vec<u8> {
    serde_json::to_vec(hello).expect("it has only text and numbers")
}

/// Reads the `hello` of an application.
///
/// # Errors
/// It is invalid.
pub fn decode_hello(body: &[u8]) -> Result<BackendHello, BodyError> {
    let text = read_text(body)?;
    let HelloFields { instance, capacity } =
        read_object(text, "hello: the body must be {instance, capacity?}")?;
    let chars = instance.chars().count();
    if !(1..=INSTANCE_CHARS_MAX).contains(&chars) || instance.chars().any(char::is_control) {
        return Err(BodyError("hello: `instance` must have 1 to 128 characters, none of control"));
    }
    let capacity = capacity.unwrap_or(CAPACITY_DEFAULT);
    if !CAPACITY.contains(&capacity) {
        return Err(BodyError("hello: `capacity` must be a number from 1 to 1000000"));
    }
    Ok(BackendHello { instance: instance.into(), capacity })
}

/// Encodes `open`.
pub fn encode_open(open: &OpenBody<'_>) -> Vec<u8> {
    let mut fields = Fields(String::with_capacity(256));
    if let Some(connection) = open.connection {
        fields.text("connection", &connection.to_string());
    }
    if let Some(address) = open.address {
        fields.text("address", &address.to_string());
    }
    fields.text("path", open.path);
    if let Some(OpenRequest { query, headers, subprotocols }) = open.request {
        fields.text("query", query);
        let pairs = headers.iter().map(|(name, value)| format!("{}:{}", quote(name), quote(value)));
        fields.raw("headers", &format!("{{{}}}", join(pairs)));
        let names = subprotocols.iter().map(|name| quote(name));
        fields.raw("subprotocols", &format!("[{}]", join(names)));
    }
    let texts = [("subprotocol", open.subprotocol), ("user", open.user)];
    for (name, value) in texts {
        value.into_iter().for_each(|value| fields.text(name, value));
    }
    for (name, json) in [("info", open.info), ("state", open.state)] {
        json.into_iter().for_each(|json| fields.raw(name, json));
    }
    fields.finish()
}

/// Reads `accept`; `unix_s`: the time, from which the identity's end counts; `application`: the
/// name of the one that answers.
///
/// # Errors
/// It is invalid.
pub fn decode_accept(
    body: &[u8],
    unix_s: u64,
    application: &Arc<str>,
) -> Result<AcceptBody, BodyError> {
    if body.is_empty() {
        return Ok(AcceptBody::default());
    }
    let wrong = "accept: the body must be {subprotocol?, user?, info?, state?, expires_in_s?}";
    let text = read_text(body)?;
    let AcceptFields { subprotocol, user, info, state, expires_in_s } = read_borrowed(text, wrong)?;
    if expires_in_s.is_some_and(|s| s == 0 || s > EXPIRES_S_MAX) {
        return Err(BodyError("accept: `expires_in_s` must be from 1 to 31536000"));
    }
    let claims = BackendClaims { user, info, channels: None };
    let named = claims.identity(unix_s, application);
    let invalid = "accept: `user` must be a text of 1 to 256 bytes, and `info` JSON of at most \
                   4096 bytes and 64 levels";
    let mut named = named.map_err(|_| BodyError(invalid))?;
    named.expires_s = expires_in_s.map(|s| unix_s.saturating_add(s.into()));
    let state = state.map(|json| check_state(json.get().as_bytes())).transpose()?;
    let subprotocol = subprotocol.map(String::into_boxed_str);
    Ok(AcceptBody { subprotocol, state, named })
}

/// Encodes `left`: a channel that a client is not a member of, or no longer.
pub fn encode_left(channel: &str, reason: &str, message: &str) -> Vec<u8> {
    let mut fields = Fields(String::with_capacity(128));
    fields.text("channel", channel);
    fields.text("reason", reason);
    fields.text("message", message);
    fields.finish()
}

/// Reads the channel of `join` and `leave`. Whether there can be such a channel is not checked. A
/// name that is far too long is cut, so that the report of it is short.
///
/// # Errors
/// It is not UTF-8.
pub fn decode_channel(body: &[u8]) -> Result<&str, BodyError> {
    let wrong = BodyError("join, leave: the body must be the name of a channel, in UTF-8");
    let channel = simdutf8::basic::from_utf8(body).map_err(|_| wrong)?;
    Ok(&channel[..channel.floor_char_boundary(WANTED_BYTES_MAX)])
}

/// Reads `reject`.
///
/// # Errors
/// It is invalid.
pub fn decode_reject(body: &[u8]) -> Result<RejectBody, BodyError> {
    let text = read_text(body)?;
    let RejectFields { status, message } =
        read_object(text, "reject: the body must be {status, message?}")?;
    let default = match status {
        401 => "authentication required",
        403 => "access denied",
        429 => "too many requests; retry later",
        503 => "not available; retry later",
        _ => return Err(BodyError("reject: `status` must be 401, 403, 429 or 503")),
    };
    let message = message.unwrap_or_else(|| default.to_owned());
    let is_valid = (1..=MESSAGE_CHARS_MAX).contains(&message.chars().count())
        && !message.chars().any(char::is_control);
    if !is_valid {
        return Err(BodyError("reject: `message` must be one line of 1 to 200 characters"));
    }
    Ok(RejectBody { status, message: message.into() })
}

/// Checks the body of `state`: any JSON. Returns it on one line.
///
/// # Errors
/// It is invalid.
pub fn check_state(body: &[u8]) -> Result<Box<str>, BodyError> {
    let invalid = BodyError("state: the body must be JSON of at most 4096 bytes and 64 levels");
    if body.len() > STATE_BYTES_MAX {
        return Err(invalid);
    }
    let text = simdutf8::basic::from_utf8(body).map_err(|_| invalid)?;
    let json: &RawValue = serde_json::from_str(text).map_err(|_| invalid)?;
    CheckedJson::new(json).map(CheckedJson::into_text).map_err(|_| invalid)
}

fn read_text(body: &[u8]) -> Result<&str, BodyError> {
    if body.len() > BODY_BYTES_MAX {
        return Err(BodyError("a body that is JSON must have at most 65536 bytes"));
    }
    simdutf8::basic::from_utf8(body).map_err(|_| BodyError("a body that is JSON must be UTF-8"))
}

fn read_object<T: DeserializeOwned>(text: &str, wrong: &'static str) -> Result<T, BodyError> {
    read_borrowed::<T>(text, wrong)
}

/// Deserializes an object. `serde` would read an array as the fields in their order.
fn read_borrowed<'t, T: Deserialize<'t>>(
    text: &'t str,
    wrong: &'static str,
) -> Result<T, BodyError> {
    if !text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{') {
        return Err(BodyError(wrong));
    }
    serde_json::from_str(text).map_err(|_| BodyError(wrong))
}

fn quote(text: &str) -> String {
    serde_json::to_string(text).expect("text is JSON")
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(",")
}

/// Writes the fields of an object.
struct Fields(String);

impl Fields {
    fn raw(&mut self, name: &str, json: &str) {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.0.push_str(&quote(name));
        self.0.push(':');
        self.0.push_str(json);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.raw(name, &quote(value));
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.push_str(if self.0.is_empty() { "{}" } else { "}" });
        self.0.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::CHANNEL_BYTES_MAX;

    fn accept(body: &str) -> Result<AcceptBody, BodyError> {
        decode_accept(body.as_bytes(), 1000, &"app".into())
    }

    #[test]
    fn a_new_session_is_described_by_its_handshake_and_a_moved_one_is_not() {
        let headers = BTreeMap::from([("cookie", "a=\"1\"".to_owned())]);
        let subprotocols = ["chat".into(), "x".into()];
        let request = OpenRequest { query: "q=1", headers: &headers, subprotocols: &subprotocols };
        let new = OpenBody {
            path: "/game",
            address: Some([127, 0, 0, 1].into()),
            request: Some(request),
            ..OpenBody::default()
        };
        let text = String::from_utf8(encode_open(&new)).unwrap();
        let expected = concat!(
            r#"{"address":"127.0.0.1","path":"/game","query":"q=1","#,
            r#""headers":{"cookie":"a=\"1\""},"subprotocols":["chat","x"]}"#,
        );
        assert_eq!(text, expected);
        let moved = OpenBody {
            path: "/game",
            user: Some("ann"),
            info: Some(r#"{"n":1}"#),
            subprotocol: Some("chat"),
            state: Some("[1]"),
            ..OpenBody::default()
        };
        let text = String::from_utf8(encode_open(&moved)).unwrap();
        let expected =
            r#"{"path":"/game","subprotocol":"chat","user":"ann","info":{"n":1},"state":[1]}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn an_accept_names_the_client_or_does_not() {
        for body in ["", "{}", r#"{"later":1}"#] {
            let AcceptBody { subprotocol, state, named } = accept(body).unwrap();
            assert_eq!((subprotocol, state, named.user), (None, None, None), "{body}");
        }
        let body = r#"{"user":"ann","expires_in_s":60,"state":{ "a": 1 },"subprotocol":"x"}"#;
        let accepted = accept(body).unwrap();
        let identity = accepted.identity_after(None).unwrap();
        let AcceptBody { subprotocol, state, .. } = accepted;
        assert_eq!((identity.user.as_deref(), identity.expires_s), (Some("ann"), Some(1060)));
        assert_eq!((subprotocol.as_deref(), state.as_deref()), (Some("x"), Some(r#"{ "a": 1 }"#)));
    }

    #[test]
    fn what_an_accept_does_not_name_stays() {
        let of_token = Arc::new(Identity {
            user: Some("ann".into()),
            info: Some("1".into()),
            expires_s: Some(1030),
            key: serde_json::from_str("7").unwrap(),
            ..Identity::default()
        });
        let after = |body: &str| accept(body).unwrap().identity_after(Some(&of_token)).unwrap();
        assert_eq!(after("{}"), of_token);
        let limited = after(r#"{"expires_in_s":10,"info":2}"#);
        assert_eq!((limited.user.as_deref(), limited.info.as_deref()), (Some("ann"), Some("2")));
        assert_eq!((limited.key, limited.expires_s), (of_token.key, Some(1010)));
        let later = after(r#"{"expires_in_s":60}"#);
        assert_eq!(later.expires_s, Some(1030), "not longer than the token");
        let named = after(r#"{"user":"bob"}"#);
        assert_eq!((named.user.as_deref(), named.key), (Some("bob"), None));
        assert_eq!((named.info.as_deref(), named.expires_s), (None, Some(u64::MAX)));
        assert_eq!(accept("{}").unwrap().identity_after(None), None);
    }

    #[test]
    fn invalid_bodies_are_rejected_with_the_field() {
        let long = format!(r#"{{"user":"{}"}}"#, "x".repeat(257));
        let huge = format!(r#"{{"state":"{}"}}"#, "x".repeat(4096));
        let deep = format!(r#"{{"state":{}1{}}}"#, "[".repeat(65), "]".repeat(65));
        let cases = [
            "[]",
            "1",
            "{",
            r#"{"user":1}"#,
            r#"{"user":""}"#,
            &*long,
            &*huge,
            &*deep,
            r#"{"expires_in_s":0}"#,
            r#"{"expires_in_s":-1}"#,
            r#"{"subprotocol":1}"#,
        ];
        for body in cases {
            assert!(accept(body).is_err(), "{}", &body[..body.len().min(60)]);
        }
        let hellos = [
            "{}",
            r#"{"instance":""}"#,
            r#"{"instance":"a\n"}"#,
            r#"{"instance":"a","capacity":0}"#,
            r#"["a"]"#,
        ];
        for body in hellos {
            assert!(decode_hello(body.as_bytes()).is_err(), "{body}");
        }
        let rejects = [r#"{"status":200}"#, r#"{"status":500}"#, r#"{"status":403,"message":""}"#];
        for body in rejects {
            assert!(decode_reject(body.as_bytes()).is_err(), "{body}");
        }
        assert!(decode_hello(b"\xff").is_err());
        assert!(check_state(b"\"\\ud800\"").is_err(), "half a surrogate pair");
    }

    #[test]
    fn channels_are_read_and_reported() {
        assert_eq!(decode_channel("chat:é".as_bytes()), Ok("chat:é"));
        assert_eq!(decode_channel(b""), Ok(""), "that there is no such channel is reported");
        assert!(decode_channel(b"a\xff").is_err());
        let long = "€".repeat(WANTED_BYTES_MAX);
        let cut = decode_channel(long.as_bytes()).unwrap().len();
        assert!((CHANNEL_BYTES_MAX + 1..=WANTED_BYTES_MAX).contains(&cut), "it stays too long");
        let left = String::from_utf8(encode_left("a\"", "limit", "full")).unwrap();
        assert_eq!(left, r#"{"channel":"a\"","reason":"limit","message":"full"}"#);
    }

    #[test]
    fn what_applications_say_is_read() {
        let hello = decode_hello(br#"{"instance":"app-1","later":[]}"#).unwrap();
        assert_eq!((&*hello.instance, hello.capacity), ("app-1", 100));
        let reject = decode_reject(br#"{"status":401}"#).unwrap();
        assert_eq!((reject.status, &*reject.message), (401, "authentication required"));
        assert_eq!(check_state(b"{\n}").as_deref(), Ok("{ }"), "on one line");
    }
}
