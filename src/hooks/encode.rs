//! Questions as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use super::cache::AnswerKey;
use super::question::{Asker, ConnectQuestion, HookKind, HookQuestion};
use crate::auth::OnFailure;

/// A question, encoded but for its id.
#[derive(Clone, Debug)]
pub(super) struct EncodedQuestion {
    pub(super) kind: HookKind,
    /// The fields behind `id`: each with a comma before it.
    pub(super) fields: Box<str>,
    /// Equal for questions that may share an answer; `None`: this one shares none.
    pub(super) key: Option<AnswerKey>,
    /// Whether the question may share a request with equal ones, and not only a cached answer.
    pub(super) may_join: bool,
    /// The user that asks, if it is known.
    pub(super) user: Option<Arc<str>>,
    pub(super) on_failure: OnFailure,
}

impl EncodedQuestion {
    /// Encodes a question.
    pub(super) fn new(question: HookQuestion) -> Self {
        let mut fields = FieldWriter(String::with_capacity(question.bytes()));
        let mut encoded = Self {
            kind: question.kind(),
            fields: Box::default(),
            key: None,
            may_join: true,
            user: None,
            on_failure: OnFailure::Reject,
        };
        match question {
            HookQuestion::Connect(connect) => {
                fields.connect(&connect);
                encoded.key = Some(AnswerKey::new(&["connect", &fields.0]));
                // Without any of these, two clients may look the same.
                let names_client = |(name, _): &(Box<str>, Box<str>)| {
                    matches!(&**name, "cookie" | "authorization")
                };
                encoded.may_join =
                    connect.target.contains('?') || connect.headers.iter().any(names_client);
            }
            HookQuestion::Subscribe { asker, channel } => {
                fields.asker(&asker);
                fields.text("channel", channel.as_str());
                encoded.key = asker.user.as_ref().map(|user| {
                    // Info is never empty, so no info differs from any.
                    let info = asker.info.as_deref().unwrap_or_default();
                    let parts = ["subscribe", user, channel.as_str(), info];
                    AnswerKey::new(&parts)
                });
                encoded.user = asker.user;
            }
            HookQuestion::Publish { asker, channel, content, key, on_failure } => {
                fields.asker(&asker);
                fields.text("channel", channel.as_str());
                fields.raw("content", &content);
                fields.text_or_null("key", key.as_deref());
                encoded.on_failure = on_failure;
            }
            HookQuestion::Call { asker, method, content } => {
                fields.asker(&asker);
                fields.text("method", &method);
                fields.raw("content", &content);
            }
        }
        encoded.fields = fields.0.into();
        encoded
    }
}

/// Encodes the body of a request.
pub(super) fn encode_body(kind: HookKind, node: &str, id: &str, fields: &str) -> Vec<u8> {
    let mut body = FieldWriter(String::with_capacity(fields.len() + node.len() + id.len() + 64));
    body.0.push('{');
    body.text("type", kind.name());
    body.text("node", node);
    body.text("id", id);
    body.0.push_str(fields);
    body.0.push('}');
    body.0.into_bytes()
}

/// Appends fields of an object.
struct FieldWriter(String);

impl FieldWriter {
    /// Writes a field's name, which needs no escapes.
    fn name(&mut self, name: &str) {
        if !self.0.ends_with('{') {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    fn quoted(&mut self, text: &str) {
        if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
            self.0.push('"');
            self.0.push_str(text);
            self.0.push('"');
        } else {
            // Writing to a string cannot fail.
            let _ = write!(self.0, "{}", serde_json::Value::from(text));
        }
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        self.quoted(text);
    }

    fn text_or_null(&mut self, name: &str, text: Option<&str>) {
        match text {
            Some(text) => self.text(name, text),
            None => self.raw(name, "null"),
        }
    }

    /// Writes a field whose value is JSON.
    fn raw(&mut self, name: &str, json: &str) {
        self.name(name);
        self.0.push_str(json);
    }

    fn asker(&mut self, asker: &Asker) {
        self.text("connection", &asker.connection.to_string());
        self.text_or_null("user", asker.user.as_deref());
        self.raw("info", asker.info.as_deref().unwrap_or("null"));
    }

    fn connect(&mut self, connect: &ConnectQuestion) {
        let target = &*connect.target;
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        self.text("path", path);
        self.text("query", query);
        self.name("headers");
        self.0.push('{');
        // Sorted: the order of different headers means nothing, so it makes no other question.
        for (name, value) in join_headers(&connect.headers) {
            if !self.0.ends_with('{') {
                self.0.push(',');
            }
            self.quoted(name);
            self.0.push(':');
            self.quoted(&value);
        }
        self.0.push('}');
        let address = connect.address.map(|address| address.to_string());
        self.text_or_null("address", address.as_deref());
    }
}

/// Joins the values of headers that are repeated (RFC 9110 5.3, RFC 9113 8.2.3).
pub fn join_headers(headers: &[(Box<str>, Box<str>)]) -> BTreeMap<&str, String> {
    let mut joined: BTreeMap<&str, String> = BTreeMap::new();
    for (name, value) in headers {
        let separator = if **name == *"cookie" { "; " } else { ", " };
        let values = joined.entry(name);
        values
            .and_modify(|values| {
                values.push_str(separator);
                values.push_str(value);
            })
            .or_insert_with(|| value.to_string());
    }
    joined
}
