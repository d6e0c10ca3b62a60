//! What the server says: one JSON object a frame, without raw line ends.

use std::fmt::Write;
use std::sync::Arc;

use crate::hub::{Code, Position, PresencePage, Publication, Refused};
use crate::proto::ws::CloseCode;

/// An object that is being written.
#[derive(Debug)]
pub(crate) struct Line(String);

impl Line {
    /// `{"type":KIND`, and the request's id.
    pub(crate) fn new(kind: &str, id: Option<&str>) -> Self {
        let mut line = Self(String::with_capacity(192));
        line.0.push_str(r#"{"type":""#);
        line.0.push_str(kind);
        line.0.push('"');
        if let Some(id) = id {
            line.0.push_str(r#","id":"#);
            line.0.push_str(id);
        }
        line
    }

    /// An object without a type, within another.
    pub(crate) fn part() -> Self {
        Self(String::from("{"))
    }

    fn name(mut self, name: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push('"');
        self.0.push_str(name);
        self.0.push_str("\":");
        self
    }

    /// A string.
    pub(crate) fn text(self, name: &str, value: &str) -> Self {
        let mut line = self.name(name);
        line.0.push_str(&quoted(value));
        line
    }

    /// A number or a boolean.
    pub(crate) fn value(self, name: &str, value: impl std::fmt::Display) -> Self {
        let mut line = self.name(name);
        let _ = write!(line.0, "{value}");
        line
    }

    /// JSON.
    pub(crate) fn raw(self, name: &str, json: &str) -> Self {
        let mut line = self.name(name);
        line.0.push_str(json);
        line
    }

    /// Epoch and offset.
    pub(crate) fn position(self, position: Position) -> Self {
        self.raw("epoch", &format!("\"{}\"", position.epoch)).value("offset", position.offset)
    }

    /// Members, and how many there are in all.
    pub(crate) fn presence(self, page: &PresencePage) -> Self {
        let line = self.value("count", page.count).raw("members", &page.text());
        match &page.next {
            Some(next) => line.text("next", next),
            None => line,
        }
    }

    /// Code, message, and when to try again.
    pub(crate) fn refused(self, refused: &Refused) -> Self {
        let line = self.text("code", refused.code.as_str()).text("message", &refused.message);
        match refused.retry_after_ms {
            Some(wait_ms) => line.value("retry_after_ms", wait_ms),
            None => line,
        }
    }

    /// Messages, as they were sent.
    pub(crate) fn messages(self, messages: &[Arc<Publication>]) -> Self {
        let mut line = self.name("messages");
        line.0.push('[');
        for (at, message) in messages.iter().enumerate() {
            if at > 0 {
                line.0.push(',');
            }
            line.0.push_str(message.text());
        }
        line.0.push(']');
        line
    }

    /// The whole object.
    pub(crate) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// A string as JSON.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// An `error`.
pub(crate) fn error(id: Option<&str>, code: Code, message: &str) -> String {
    Line::new("error", id).text("code", code.as_str()).text("message", message).end()
}

/// An `error` for what a home refused.
pub(crate) fn refusal(id: Option<&str>, refused: &Refused) -> String {
    Line::new("error", id).refused(refused).end()
}

/// A `gap`: messages up to this one were lost on the way to a member.
pub(crate) fn gap(channel: &str, position: Position, reason: &str) -> String {
    Line::new("gap", None).text("channel", channel).position(position).text("reason", reason).end()
}

/// A `goodbye`, before the server closes.
pub(crate) fn goodbye(code: CloseCode, reason: &str, retry_after_ms: u32) -> String {
    Line::new("goodbye", None)
        .value("code", code)
        .text("reason", reason)
        .value("retry_after_ms", retry_after_ms)
        .end()
}
