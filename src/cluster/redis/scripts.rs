//! The scripts that run in the engine: their calls, and their replies.
//!
//! Each is atomic, and carries the lineage that its connection was opened with.

use redis::{Cmd, Pipeline, Value};

use super::roster_scripts;
use super::wire::{NamedScript, UNWATCHED_TTL_MS, read_text, take_field};
use crate::cluster::command::{Action, EngineCommand, EngineEvent, RawMessage, RawPage};
use crate::cluster::layout::{Incarnation, Layout};
use crate::hub::{ChannelName, Epoch, Position, Range, Retention};

const PUBLISH: &str = include_str!("publish.lua");
const READ: &str = include_str!("read.lua");
const TRIM: &str = include_str!("trim.lua");

/// Calls scripts on one connection.
pub(super) struct Scripts {
    log: [NamedScript; 3],
    roster: [NamedScript; 4],
    lineage: String,
    pub(super) position_ttl_ms: u64,
}

impl Scripts {
    pub(super) fn new(lineage: String, position_ttl_ms: u64) -> Self {
        let log = [PUBLISH, READ, TRIM].map(|text| NamedScript::new(text.to_owned()));
        Self { log, roster: roster_scripts::make_scripts(), lineage, position_ttl_ms }
    }

    /// Returns the number of replies to [`Self::push_loads`].
    pub(super) fn loads(&self) -> usize {
        self.log.len() + self.roster.len()
    }

    /// Returns the script that sweeps.
    pub(super) fn sweep_script(&self) -> &NamedScript {
        &self.roster[3]
    }

    /// Adds commands that load the scripts.
    pub(super) fn push_loads(&self, pipeline: &mut Pipeline) {
        for NamedScript { text: script, .. } in self.log.iter().chain(&self.roster) {
            let mut load = Cmd::new();
            load.arg("SCRIPT").arg("LOAD").arg(script);
            pipeline.add_command(load);
        }
    }

    /// Adds the call for a command.
    pub(super) fn push_call(
        &self,
        pipeline: &mut Pipeline,
        (layout, incarnation): (&Layout, Incarnation),
        command: &EngineCommand,
    ) {
        let EngineCommand { channel, place, action, .. } = command;
        let keys = [layout.meta_key(*place, channel), layout.list_key(*place, channel)];
        let mut call = Cmd::new();
        call.arg("EVALSHA");
        match action {
            Action::Append { envelope, retention, fresh, key } => {
                call.arg(&self.log[0].hash).arg(2 + usize::from(key.is_some())).arg(&keys);
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
                call.arg(&self.log[1].hash).arg(2).arg(&keys);
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
                call.arg(&self.log[2].hash).arg(2).arg(&keys);
                call.arg(&self.lineage).arg(fresh.to_string()).arg(self.position_ttl_ms);
                call.arg(layout.topic(*place, channel));
            }
            Action::Change { .. } | Action::Members { .. } | Action::Seat { .. } => {
                let scripts = (&self.roster, self.position_ttl_ms);
                roster_scripts::push_call(scripts, &mut call, (layout, incarnation), command);
            }
            Action::Watch | Action::Unwatch => unreachable!("subscriptions are no calls"),
        }
        pipeline.add_command(call);
    }
}

/// Converts the reply to a call. `None`: it is not a reply of the script.
pub(super) fn read_reply(command: &EngineCommand, reply: Value) -> Option<EngineEvent> {
    let token = command.token;
    let parts = match reply {
        Value::Array(parts) => parts,
        other => return roster_scripts::read_number(command, &other),
    };
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
        Action::Members { .. } => roster_scripts::read_members(token, &parts),
        Action::Change { .. } | Action::Seat { .. } | Action::Watch | Action::Unwatch => None,
    }
}

fn read_position(epoch: &Value, offset: &Value) -> Option<Position> {
    let (epoch, offset) = (Epoch::parse(read_text(epoch)?)?, read_text(offset)?.parse().ok()?);
    Some(Position { epoch, offset })
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

/// Parses the payload of a publication of a channel.
pub(super) fn parse_publication(channel: &ChannelName, bytes: &[u8]) -> Option<EngineEvent> {
    let channel = channel.clone();
    if bytes == b"!" {
        return Some(EngineEvent::TailEnded { channel });
    }
    if let Some(has_joined) = bytes.first().and_then(|kind| roster_scripts::parse_kind(*kind)) {
        let news = roster_scripts::parse_news(has_joined, &bytes[1..])?;
        return Some(EngineEvent::News { channel, news });
    }
    let (epoch, rest) = take_field(bytes)?;
    let (epoch, message) = (Epoch::parse(epoch)?, parse_message(rest)?);
    Some(EngineEvent::Pushed { channel, epoch, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publications_are_parsed_or_rejected() {
        let channel = ChannelName::new("a");
        let parsed = parse_publication(&channel, b"00000000000000ab 7 1700000000000 a b\xff");
        let Some(EngineEvent::Pushed { epoch, message, .. }) = parsed else { panic!("{parsed:?}") };
        assert_eq!((epoch, message.offset, message.time_ms), (Epoch(0xab), 7, 1_700_000_000_000));
        assert_eq!(message.envelope, b"a b\xff");
        for other in
            [&b""[..], b"7", b"00000000000000ab 7 1", b"x 7 1 a", b"00000000000000ab x 1 a"]
        {
            assert_eq!(parse_publication(&channel, other), None, "{other:?}");
        }
    }
}
