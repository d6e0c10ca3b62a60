//! Protocols of publishers and subscribers, for servers of different kinds.

use clap::ValueEnum;

use crate::wire::{opcode, put_masked};

/// The mask of all frames; it must only not be 0.
const MASK: [u8; 4] = [0x35, 0xA7, 0x6E, 0x91];
/// Prefix of channel names.
const CHANNEL: &str = "bench:";
/// Replaced by the channel's name in a path.
const PLACEHOLDER: &str = "{channel}";

/// A protocol for publishing and subscribing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dialect {
    /// Seawall's own JSON protocol.
    Seawall,
    /// Subscribers are WebSockets at a path with the channel in it; publishers are WebSockets at
    /// such a path, or post to it. Each message is acknowledged.
    Nchan,
    /// A client's message goes to all others of its path, without acknowledgement.
    Plain,
}

/// What a text from the server means to a publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Published,
    Refused,
    Other,
}

/// What a text without a message means to a subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    Subscribed,
    /// The server reports dropped messages.
    Gap,
    Refused,
    Other,
}

/// Reads the type of a JSON object.
fn kind(text: &[u8]) -> Option<String> {
    let object: serde_json::Value = serde_json::from_slice(text).ok()?;
    object.get("type")?.as_str().map(str::to_owned)
}

/// The name of a channel.
pub fn channel_name(channel: u32) -> String {
    format!("{CHANNEL}{channel}")
}

/// The paths of a template: one per channel if it contains the channel, else one.
pub fn paths(template: &str, channels: u32) -> Vec<String> {
    if !template.contains(PLACEHOLDER) {
        return vec![template.to_owned()];
    }
    (0..channels).map(|channel| template.replace(PLACEHOLDER, &channel_name(channel))).collect()
}

impl Dialect {
    /// Whether a connection's channel is determined by its path alone.
    pub fn is_bound(self) -> bool {
        self != Self::Seawall
    }

    pub fn acknowledges(self) -> bool {
        self != Self::Plain
    }

    /// The offered WebSocket subprotocol.
    pub fn protocol(self) -> Option<&'static str> {
        (self == Self::Seawall).then_some("seawall.v1")
    }

    /// The frame that subscribes to a channel; `None` if the path does.
    pub fn subscribe(self, channel: u32) -> Option<Box<[u8]>> {
        if self.is_bound() {
            return None;
        }
        let text = format!(r#"{{"type":"subscribe","channel":"{}"}}"#, channel_name(channel));
        let mut frame = Vec::new();
        put_masked(&mut frame, 0x80 | opcode::TEXT, MASK, text.as_bytes());
        Some(frame.into())
    }

    /// Frames that publish messages: one frame, or one per message.
    pub fn publish(self, messages: &[(u32, Vec<u8>)]) -> Box<[u8]> {
        let mut out = Vec::new();
        if self.is_bound() {
            for (_, content) in messages {
                put_masked(&mut out, 0x80 | opcode::TEXT, MASK, content);
            }
            return out.into();
        }
        let mut text = Vec::new();
        for (at, (channel, content)) in messages.iter().enumerate() {
            if at > 0 {
                text.push(b'\n');
            }
            let head = r#"{"type":"publish","id":1,"channel":""#;
            text.extend_from_slice(head.as_bytes());
            text.extend_from_slice(channel_name(*channel).as_bytes());
            text.extend_from_slice(br#"","content":"#);
            text.extend_from_slice(content);
            text.push(b'}');
        }
        put_masked(&mut out, 0x80 | opcode::TEXT, MASK, &text);
        out.into()
    }

    /// Parses one line received by a publisher.
    pub fn parse_answer(self, line: &[u8]) -> Answer {
        match self {
            Self::Seawall if line.starts_with(br#"{"type":"published""#) => Answer::Published,
            Self::Seawall => match kind(line).as_deref() {
                Some("published") => Answer::Published,
                Some("error") => Answer::Refused,
                _ => Answer::Other,
            },
            // Further lines of the text have no meaning here.
            Self::Nchan if line.starts_with(b"queued messages:") => Answer::Published,
            Self::Nchan | Self::Plain => Answer::Other,
        }
    }

    /// Parses a text other than a message, received by a subscriber.
    pub fn parse_news(self, text: &[u8]) -> News {
        if self != Self::Seawall {
            return News::Other;
        }
        match kind(text).as_deref() {
            Some("subscribed") => News::Subscribed,
            Some("gap") => News::Gap,
            Some("error") => News::Refused,
            _ => News::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_or_one_for_each_channel() {
        assert_eq!(paths("/ws", 3), ["/ws"]);
        assert_eq!(paths("/sub/{channel}", 2), ["/sub/bench:0", "/sub/bench:1"]);
    }

    #[test]
    fn a_batch_is_one_frame_of_json_or_a_frame_for_each() {
        let messages = [(0, b"\"a\"".to_vec()), (5, b"\"b\"".to_vec())];
        let frame = Dialect::Seawall.publish(&messages);
        let payload: Vec<u8> =
            frame[6..].iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        let objects: Vec<serde_json::Value> = serde_json::Deserializer::from_slice(&payload)
            .into_iter()
            .collect::<Result<_, _>>()
            .unwrap();
        assert_eq!(objects.len(), 2);
        assert_eq!(
            (&objects[1]["channel"], &objects[1]["content"]),
            (&"bench:5".into(), &"b".into())
        );
        let frames = Dialect::Plain.publish(&messages);
        assert_eq!(frames.len(), 2 * (6 + 3));
        assert_eq!(frames[..2], [0x81, 0x83]);
    }
}
