//! The bytes that greedy clients send, prepared before the clock runs where they do not change.

use std::io;
use std::sync::Arc;

use super::kind::{Help, Kind};
use crate::deflate;
use crate::sheet::Noise;
use crate::wire::{RSV1, masked, opcode, put_masked};

/// The mask of all frames; it must not be 0, so that the server has to unmask.
const MASK: [u8; 4] = [0x35, 0xA7, 0x6E, 0x91];
/// The bit of a message's last frame in its first byte.
const FIN: u8 = 0x80;
/// Bytes of a batch of small frames: as much as a client may write at once.
const BATCH_BYTES: usize = 64 * 1024;
/// Bytes of a frame full of requests.
const REQUESTS_BYTES: usize = 16 * 1024;
/// Fragments of one message.
const FRAGMENTS: usize = 8192;
/// Inflated size of a small compressed message: up to this, the server's ratio limit allows any.
const INFLATED_BYTES: usize = 1 << 20;
/// Content of large publications, below the default bound of 64 KiB.
const CONTENT_BYTES: usize = 65_000;
/// Messages that fill a history, and the content of each.
const HISTORY_MESSAGES: usize = 100;
const HISTORY_CONTENT_BYTES: usize = 512;
/// New channels of one frame.
const CHURN_CHANNELS: u64 = 128;
/// Subscriptions of one frame, each of which ends again.
const JOINS: usize = 128;
/// Small messages of one frame of the steady publisher.
const STEADY_MESSAGES: usize = 20;
const STEADY_CONTENT_BYTES: usize = 200;

/// Channels, one for each kind that needs one.
const FULL: &str = "history:full";
const CROWDED: &str = "hostile:crowded";
const BUSY: &str = "hostile:busy";
const WATCHED: &str = "hostile:watched";

/// The bytes that one kind sends.
pub struct Supply {
    kind: Kind,
    /// The first bytes on each connection.
    opening: Option<Arc<[u8]>>,
    /// Then repeated; `None` if each batch is new, or there is none.
    batch: Option<Arc<[u8]>>,
    help_opening: Option<Arc<[u8]>>,
    help_batch: Option<Arc<[u8]>>,
    /// Channels named so far.
    channels: u64,
}

impl Supply {
    /// Prepares the bytes; `large_bytes` is the length of a large message.
    ///
    /// # Errors
    /// When a message cannot be compressed.
    pub fn new(kind: Kind, large_bytes: usize) -> io::Result<Self> {
        let help = kind.help().map(|(_, help)| help);
        let opening = match kind {
            Kind::Publish => Some(text_frame(&subscribe(CROWDED))),
            Kind::Slow => Some(text_frame(&subscribe(BUSY))),
            _ => None,
        };
        let (help_opening, help_batch) = match help {
            Some(Help::Fill) => {
                let line = publish(FULL, HISTORY_CONTENT_BYTES);
                (Some(text_frame(&line.repeat(HISTORY_MESSAGES))), None)
            }
            Some(Help::Publish) => (
                Some(text_frame(&publish(BUSY, CONTENT_BYTES))),
                Some(text_frame(&publish(BUSY, STEADY_CONTENT_BYTES).repeat(STEADY_MESSAGES))),
            ),
            Some(Help::Watch) => {
                let watch =
                    format!(r#"{{"type":"subscribe","channel":"{WATCHED}","presence":true}}"#);
                (Some(text_frame(&watch)), None)
            }
            None => (None, None),
        };
        let batch = batch(kind, large_bytes)?;
        Ok(Self { kind, opening, batch, help_opening, help_batch, channels: 0 })
    }

    pub fn opening(&self) -> Option<Arc<[u8]>> {
        self.opening.clone()
    }

    /// The next batch of a client; `None` for kinds that send none.
    pub fn next_batch(&mut self) -> Option<Arc<[u8]>> {
        if self.kind == Kind::Churn {
            let first = self.channels;
            self.channels += CHURN_CHANNELS;
            return Some(text_frame(&churn(first..self.channels)));
        }
        self.batch.clone()
    }

    pub fn help_opening(&self) -> Option<Arc<[u8]>> {
        self.help_opening.clone()
    }

    pub fn help_batch(&self) -> Option<Arc<[u8]>> {
        self.help_batch.clone()
    }
}

fn batch(kind: Kind, large_bytes: usize) -> io::Result<Option<Arc<[u8]>>> {
    let text = opcode::TEXT;
    let bytes = match kind {
        Kind::Pings => repeated(&masked(opcode::PING, MASK, b"")),
        Kind::Frames => repeated(&masked(text, MASK, b"x")),
        Kind::Fragments => fragments(),
        Kind::Inflate => compressed(opcode::BINARY, &vec![0; INFLATED_BYTES])?,
        Kind::InflateHub => {
            let request = br#"{"type":"ping"}"#;
            let mut payload = vec![b' '; INFLATED_BYTES - request.len()];
            payload.extend_from_slice(request);
            compressed(opcode::TEXT, &payload)?
        }
        Kind::Large => masked(text, MASK, &words(large_bytes)),
        Kind::LargeCompressed | Kind::LargeTakeover => {
            masked(RSV1 | text, MASK, &deflate::compress(&words(large_bytes))?)
        }
        Kind::Unread => masked(text, MASK, &vec![b'x'; BATCH_BYTES]),
        Kind::History => requests(&format!(r#"{{"type":"history","channel":"{FULL}"}}"#)),
        Kind::Objects => requests("{}"),
        Kind::Publish => return Ok(Some(text_frame(&publish(CROWDED, CONTENT_BYTES)))),
        Kind::Joins => {
            let pair = subscribe(WATCHED) + &unsubscribe(WATCHED);
            return Ok(Some(text_frame(&pair.repeat(JOINS))));
        }
        Kind::Churn | Kind::Slow | Kind::Handshakes | Kind::Tokens | Kind::Mix => return Ok(None),
    };
    Ok(Some(bytes.into()))
}

/// As many copies of a frame as fit a batch, and at least one.
fn repeated(frame: &[u8]) -> Vec<u8> {
    frame.repeat((BATCH_BYTES / frame.len()).max(1))
}

fn text_frame(text: &str) -> Arc<[u8]> {
    masked(opcode::TEXT, MASK, text.as_bytes()).into()
}

fn requests(request: &str) -> Vec<u8> {
    let text = request.repeat(REQUESTS_BYTES / request.len());
    masked(opcode::TEXT, MASK, text.as_bytes())
}

/// One message in fragments of one byte.
fn fragments() -> Vec<u8> {
    let mut out = Vec::new();
    for at in 0..FRAGMENTS {
        let first = if at == 0 { opcode::TEXT } else { opcode::CONTINUATION };
        let begin = out.len();
        put_masked(&mut out, first, MASK, b"x");
        if at + 1 < FRAGMENTS {
            out[begin] &= !FIN;
        }
    }
    out
}

fn compressed(opcode: u8, payload: &[u8]) -> io::Result<Vec<u8>> {
    let small = deflate::compress(payload)?;
    Ok(repeated(&masked(RSV1 | opcode, MASK, &small)))
}

/// Text that compresses about as well as JSON does.
fn words(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    Noise::new(1).write(&mut out);
    out
}

fn subscribe(channel: &str) -> String {
    format!(r#"{{"type":"subscribe","channel":"{channel}"}}"#)
}

fn unsubscribe(channel: &str) -> String {
    format!(r#"{{"type":"unsubscribe","channel":"{channel}"}}"#)
}

/// A publication with a content of this many bytes, including its two quotes.
fn publish(channel: &str, content_bytes: usize) -> String {
    let content = "x".repeat(content_bytes - 2);
    format!(r#"{{"type":"publish","channel":"{channel}","content":"{content}"}}"#)
}

fn churn(names: std::ops::Range<u64>) -> String {
    let mut text = String::new();
    for number in names {
        let channel = format!("hostile:new:{number}");
        if number % 2 == 0 {
            text.push_str(&publish(&channel, 2));
        } else {
            text.push_str(&subscribe(&channel));
            text.push_str(&unsubscribe(&channel));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deflate::Inflater;

    /// The payloads of masked frames, unmasked, with their first byte.
    fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let (len, head) = match bytes[1] & 0x7F {
                126 => (u64::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
                127 => (u64::from_be_bytes(bytes[2..10].try_into().unwrap()), 10),
                len => (u64::from(len), 2),
            };
            let end = head + 4 + len as usize;
            let payload = bytes[head + 4..end].iter().zip(bytes[head..head + 4].iter().cycle());
            found.push((bytes[0], payload.map(|(byte, key)| byte ^ key).collect()));
            bytes = &bytes[end..];
        }
        found
    }

    fn next(kind: Kind) -> Vec<(u8, Vec<u8>)> {
        frames(&Supply::new(kind, 100_000).unwrap().next_batch().unwrap())
    }

    #[test]
    fn batches_are_whole_frames_within_the_default_limits() {
        for kind in Kind::SINGLE {
            let Some(batch) = Supply::new(kind, 100_000).unwrap().next_batch() else {
                assert!(matches!(kind, Kind::Slow | Kind::Handshakes | Kind::Tokens), "{kind:?}");
                continue;
            };
            let found = frames(&batch);
            assert!(!found.is_empty(), "{kind:?}");
            let deflated = kind.offer().is_some();
            assert!(found.iter().all(|(first, _)| (first & RSV1 != 0) == deflated), "{kind:?}");
        }
    }

    #[test]
    fn small_compressed_messages_inflate_to_a_mebibyte() {
        for kind in [Kind::Inflate, Kind::InflateHub] {
            let found = next(kind);
            assert!(found.len() > 50, "{}", found.len());
            let mut inflater = Inflater::default();
            let plain = inflater.inflate(&found[0].1, INFLATED_BYTES).unwrap();
            assert_eq!(plain.len(), INFLATED_BYTES);
            assert_eq!(plain.ends_with(br#"{"type":"ping"}"#), kind == Kind::InflateHub);
        }
    }

    #[test]
    fn a_fragmented_message_begins_once_and_ends_once() {
        let found = next(Kind::Fragments);
        assert_eq!(found.len(), FRAGMENTS);
        assert_eq!(found.first().unwrap().0, opcode::TEXT);
        assert_eq!(found.last().unwrap().0, FIN);
        assert!(found[1..FRAGMENTS - 1].iter().all(|(first, _)| *first == 0));
        assert!(found.iter().all(|(_, payload)| payload == b"x"));
    }

    #[test]
    fn requests_are_json_and_new_channels_are_new() {
        let mut supply = Supply::new(Kind::Churn, 1).unwrap();
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let found = frames(&supply.next_batch().unwrap());
            let objects = serde_json::Deserializer::from_slice(&found[0].1).into_iter();
            for object in objects.map(Result::<serde_json::Value, _>::unwrap) {
                let name = object["channel"].as_str().unwrap().to_owned();
                assert!(object["type"] == "unsubscribe" || names.insert(name), "{object}");
            }
        }
        assert_eq!(names.len() as u64, 3 * CHURN_CHANNELS);
        for kind in [Kind::History, Kind::Objects, Kind::Joins, Kind::Publish] {
            for (_, text) in next(kind) {
                let objects = serde_json::Deserializer::from_slice(&text).into_iter();
                assert!(objects.map(Result::<serde_json::Value, _>::unwrap).count() > 0);
            }
        }
    }
}
