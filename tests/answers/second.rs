//! Another encoder of decisions: status, fields and body, as HTTP/2 has them (RFC 9113 8.3.2,
//! RFC 8441 5), without what belongs to a connection of HTTP/1.1.

use std::fmt::Display;

use seawall::proto::http::{Content, Decision, PageForm, Refusal, Response, Upgrade};
use tungstenite::handshake::derive_accept_key;

/// A response in parts; the fields are sorted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Parts {
    fn new(status: u16, mut fields: Vec<(String, String)>, body: Vec<u8>) -> Self {
        fields.sort();
        Self { status, fields, body }
    }
}

fn field(name: &str, value: &dyn Display) -> (String, String) {
    (name.to_owned(), value.to_string())
}

/// Encodes a decision.
pub(crate) fn encode(decision: &Decision<'_>) -> Parts {
    match decision {
        Decision::Upgrade(upgrade) => accept(upgrade),
        Decision::Forward(_) => panic!("nothing is forwarded"),
        Decision::Pending(_) => panic!("there is nothing to send yet"),
        Decision::Answer(response) => respond(response),
    }
}

/// Extended CONNECT is accepted with 200, and proves nothing of a key; to compare the key all the
/// same, the proof is made here.
fn accept(upgrade: &Upgrade<'_>) -> Parts {
    let mut fields = vec![field("sec-websocket-accept", &derive_accept_key(&upgrade.key))];
    fields.extend(upgrade.subprotocol.iter().map(|name| field("sec-websocket-protocol", &name)));
    if upgrade.compression.agreed.is_some() {
        let mut value = Vec::new();
        upgrade.compression.answer(&mut value);
        fields.push(field("sec-websocket-extensions", &String::from_utf8(value).unwrap()));
    }
    Parts::new(200, fields, Vec::new())
}

fn respond(response: &Response<'_>) -> Parts {
    let (body, content_type) = response.body();
    let mut fields = Vec::new();
    if response.status() != 304 {
        fields.push(field("content-type", &content_type));
        fields.push(field("content-length", &body.len()));
    }
    fields.extend(response.retry_after_s.map(|seconds| field("retry-after", &seconds)));
    match &response.content {
        Content::Page(form) => page(form, &mut fields),
        Content::Health { .. } | Content::Challenge(_) => {
            fields.push(field("cache-control", &"no-store"));
        }
        Content::Redirect { location } => {
            fields.push(field("cache-control", &"no-store"));
            fields.push(field("location", location));
        }
        Content::Error { refusal, .. } => {
            fields.push(field("cache-control", &"no-store"));
            fields.extend(match refusal {
                Refusal::UpgradeRequired => Some(field("sec-websocket-version", &13)),
                Refusal::MethodNotAllowed => Some(field("allow", &response.allow)),
                Refusal::Unauthorized => {
                    Some(field("www-authenticate", &"Bearer error=\"invalid_token\""))
                }
                _ => None,
            });
        }
    }
    let body = if response.head_only { Vec::new() } else { body.into_owned() };
    Parts::new(response.status(), fields, body)
}

fn page(chosen: &PageForm<'_>, fields: &mut Vec<(String, String)>) {
    fields.push(field("etag", &chosen.form.etag));
    fields.push(field("cache-control", &"no-cache"));
    fields.push(field("vary", &"Accept-Encoding"));
    fields.push(field("x-content-type-options", &"nosniff"));
    let own = chosen.page.fields.lines().map(|line| line.split_once(": ").unwrap());
    fields.extend(own.map(|(name, value)| field(&name.to_lowercase(), &value)));
    if !chosen.is_fresh {
        fields.extend(chosen.encoding.map(|encoding| field("content-encoding", &encoding)));
    }
}

/// The parts of a response in HTTP/1.1, but for what belongs to its connection.
pub(crate) fn parse(bytes: &[u8]) -> Parts {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let mut lines = std::str::from_utf8(&bytes[..end]).unwrap().lines();
    let status = lines.next().unwrap()[9..12].parse().unwrap();
    let fields = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| field(&name.to_lowercase(), &value))
        .filter(|(name, _)| !matches!(name.as_str(), "connection" | "upgrade"));
    let status = if status == 101 { 200 } else { status };
    Parts::new(status, fields.collect(), bytes[end + 4..].to_vec())
}
