//! The scripts that run in the engine: their calls, and their replies.
//!
//! Each is atomic, and carries the lineage that its connection was opened with.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use redis::{Cmd, Pipeline, Value};

use crate::cluster::command::{Action, EngineCommand, EngineEvent, RawMessage, RawPage};
use crate::cluster::layout::Layout;
use crate::hub::{Epoch, Position, Range, Retention};

const PUBLISH: &str = include_str!("publish.lua");
const READ: &str = include_str!("read.lua");
const TRIM: &str = include_str!("trim.lua");

/// How long the position of a channel is kept that was only read (ms): otherwise reads of random
/// names would fill the engine.
const UNWATCHED_TTL_MS: u64 = 60_000;

/// Calls scripts on one connection.
pub(super) struct Scripts {
    hashes: [String; 3],
    lineage: String,
    position_ttl_ms: u64,
}

/// The number of replies to [`Scripts::push_loads`].
pub(super) const LOADS: usize = 3;

impl Scripts {
    pub(super) fn new(lineage: String, position_ttl_ms: u64) -> Self {
        // The engine names scripts by their SHA-1.
        let hash = |script: &str| {
            let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, script.as_bytes());
            hash.as_ref().iter().fold(String::new(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            })
        };
        Self { hashes: [PUBLISH, READ, TRIM].map(hash), lineage, position_ttl_ms }
    }

    /// Adds commands that load the scripts.
    pub(super) fn push_loads(pipeline: &mut Pipeline) {
        for script in [PUBLISH, READ, TRIM] {
            let mut load = Cmd::new();
            load.arg("SCRIPT").arg("LOAD").arg(script);
            pipeline.add_command(load);
        }
    }

    /// Adds the call for a command.
    pub(super) fn push_call(
        &self,
        pipeline: &mut Pipeline,
        layout: &Layout,
        command: &EngineCommand,
    ) {
        let EngineCommand { channel, place, action, .. } = command;
        let keys = [layout.meta_key(*place, channel), layout.list_key(*place, channel)];
        let mut call = Cmd::new();
        call.arg("EVALSHA");
        match action {
            Action::Append { envelope, retention, fresh, key } => {
                call.arg(&self.hashes[0]).arg(2 + usize::from(key.is_some())).arg(&keys);
                if let Some(key) = key {
                    call.arg(layout.seen_key(*place, &key.digest));
                }
                let Retention { messages_max, ttl_ms } = retention;
                call.arg(&self.lineage).arg(fresh.to_string()).arg(messages_max).arg(ttl_ms);
                call.arg(self.position_ttl_ms).arg(layout.topic(*place, channel));
                call.arg(&**envelope);
                if let Some(key) = key {
                    call.arg(format!("{:032x}", u128::from_be_bytes(key.content)));
                    call.arg(key.ttl_ms.max(1));
                }
            }
            Action::Read { range, retention, fresh, is_watched } => {
                let Range { since, messages_max, bytes_max, reverse } = range;
                call.arg(&self.hashes[1]).arg(2).arg(&keys);
                call.arg(&self.lineage).arg(fresh.to_string()).arg(retention.ttl_ms);
                let least_ms = self.position_ttl_ms.min(UNWATCHED_TTL_MS);
                call.arg(if *is_watched { self.position_ttl_ms } else { least_ms });
                call.arg(messages_max).arg(bytes_max);
                call.arg(u8::from(*reverse));
                let epoch = since.and_then(|since| since.epoch);
                call.arg(epoch.map_or_else(String::new, |epoch| epoch.to_string()));
                call.arg(since.map_or_else(String::new, |since| since.offset.to_string()));
            }
            Action::Trim { fresh } => {
                call.arg(&self.hashes[2]).arg(2).arg(&keys);
                call.arg(&self.lineage).arg(fresh.to_string()).arg(self.position_ttl_ms);
            }
            Action::Watch | Action::Unwatch => unreachable!("subscriptions are no calls"),
        }
        pipeline.add_command(call);
    }
}

/// Converts the reply to a call. `None`: it is not a reply of the script.
pub(super) fn read_reply(command: &EngineCommand, reply: Value) -> Option<EngineEvent> {
    let Value::Array(parts) = reply else { return None };
    let token = command.token;
    match &command.action {
        Action::Append { .. } => match &parts[..] {
            [Value::Int(2)] => Some(EngineEvent::Conflict { token }),
            [Value::Int(outcome), epoch, offset] => {
                let (position, duplicate) = (read_position(epoch, offset)?, *outcome == 0);
                Some(EngineEvent::Appended { token, position, duplicate })
            }
            _ => None,
        },
        Action::Read { .. } => {
            let mut parts = parts.into_iter();
            let (epoch, offset) = (parts.next()?, parts.next()?);
            let (position, complete) = (read_position(&epoch, &offset)?, parts.next()?);
            let messages = parts.map(read_message).collect::<Option<Vec<_>>>()?;
            let page = RawPage { position, complete: complete == Value::Int(1), messages };
            Some(EngineEvent::Page { token, page })
        }
        Action::Trim { .. } => {
            let [epoch, offset] = &parts[..] else { return None };
            Some(EngineEvent::Trimmed { token, position: read_position(epoch, offset)? })
        }
        Action::Watch | Action::Unwatch => None,
    }
}

fn read_text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

fn read_position(epoch: &Value, offset: &Value) -> Option<Position> {
    let (epoch, offset) = (Epoch::parse(read_text(epoch)?)?, read_text(offset)?.parse().ok()?);
    Some(Position { epoch, offset })
}

/// Takes a field that ends with a space.
fn take_field(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = memchr::memchr(b' ', bytes)?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

fn parse_message(bytes: &[u8]) -> Option<RawMessage> {
    let (offset, rest) = take_field(bytes)?;
    let (time_ms, rest) = take_field(rest)?;
    let (offset, time_ms) = (offset.parse().ok()?, time_ms.parse().ok()?);
    Some(RawMessage { offset, time_ms, envelope: rest.to_owned() })
}

fn read_message(value: Value) -> Option<RawMessage> {
    let Value::BulkString(bytes) = value else { return None };
    parse_message(&bytes)
}

/// Parses the payload of a publication.
pub(super) fn parse_publication(bytes: &[u8]) -> Option<(Epoch, RawMessage)> {
    let (epoch, rest) = take_field(bytes)?;
    Some((Epoch::parse(epoch)?, parse_message(rest)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publications_are_parsed_or_rejected() {
        let (epoch, message) =
            parse_publication(b"00000000000000ab 7 1700000000000 a b\xff").unwrap();
        assert_eq!((epoch, message.offset, message.time_ms), (Epoch(0xab), 7, 1_700_000_000_000));
        assert_eq!(message.envelope, b"a b\xff");
        for other in
            [&b""[..], b"7", b"00000000000000ab 7 1", b"x 7 1 a", b"00000000000000ab x 1 a"]
        {
            assert_eq!(parse_publication(other), None, "{other:?}");
        }
    }
}
