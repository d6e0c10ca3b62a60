//! The scripts of the list of members: their calls, replies and publications.

use std::sync::Arc;

use redis::{Cmd, Value};

use super::wire::{NamedScript, UNWATCHED_TTL_MS, read_text, take_field};
use crate::cluster::command::{Action, EngineCommand, EngineEvent, RosterChange};
use crate::cluster::layout::{Incarnation, Layout};
use crate::hub::{
    ConnectionId, MemberInfo, MemberKey, PresencePage, RosterNews, RosterPage, RosterRange,
    SoughtMember,
};

const LINES: &str = include_str!("lines.lua");

/// Makes the scripts: change, members, seat, sweep.
pub(super) fn make_scripts() -> [NamedScript; 4] {
    let with_lines = |text: &str| NamedScript::new(format!("{LINES}{text}"));
    [
        with_lines(include_str!("change.lua")),
        with_lines(include_str!("members.lua")),
        NamedScript::new(include_str!("seat.lua").to_owned()),
        with_lines(include_str!("sweep.lua")),
    ]
}

/// The key of the incarnations that list something at an instance.
pub(super) fn incarnations_key(layout: &Layout) -> Vec<u8> {
    layout.plain_key("incarnations")
}

/// The key whose existence bars an incarnation from listing anything, because it was swept.
pub(super) fn swept_key(layout: &Layout, incarnation: Incarnation) -> Vec<u8> {
    layout.plain_key(&format!("swept:{incarnation}"))
}

/// Adds the arguments of a call.
pub(super) fn push_call(
    (scripts, position_ttl_ms): (&[NamedScript; 4], u64),
    call: &mut Cmd,
    (layout, incarnation): (&Layout, Incarnation),
    command: &EngineCommand,
) {
    let EngineCommand { channel, place, action, .. } = command;
    let [members, order, seats] = layout.roster_keys(*place, channel);
    let meta = layout.meta_key(*place, channel);
    let listed = layout.listed_key(*place, incarnation);
    let (swept, incarnations) = (swept_key(layout, incarnation), incarnations_key(layout));
    let [change, read, seat, _] = scripts;
    match action {
        Action::Change { changes } => {
            call.arg(&change.hash).arg(7).arg(meta).arg(members).arg(order).arg(seats);
            call.arg(listed).arg(swept).arg(incarnations);
            call.arg(incarnation.to_string()).arg(channel.as_str());
            call.arg(layout.topic(*place, channel)).arg(position_ttl_ms);
            changes.iter().for_each(|change| push_change(call, change));
        }
        Action::Members { range } => {
            let RosterRange { after, members_max, bytes_max, sought } = range;
            call.arg(&read.hash).arg(3).arg(meta).arg(members).arg(order);
            let after = after.as_deref().map(|after| MemberKey::parse(after).cursor());
            call.arg(after.unwrap_or_default()).arg(members_max).arg(bytes_max);
            let (key, replaces) = match sought {
                Some(SoughtMember { key, replaces }) => (key.cursor(), *replaces),
                None => (String::new(), None),
            };
            call.arg(key).arg(replaces.map_or_else(String::new, |id| id.to_string()));
            call.arg(position_ttl_ms.min(UNWATCHED_TTL_MS));
        }
        Action::Seat { id, replaces, seats_max } => {
            call.arg(&seat.hash).arg(4).arg(seats).arg(listed).arg(swept).arg(incarnations);
            call.arg(incarnation.to_string()).arg(channel.as_str()).arg(id.to_string());
            call.arg(replaces.map_or_else(String::new, |id| id.to_string())).arg(seats_max);
        }
        _ => unreachable!("it is a command about members"),
    }
}

fn push_change(call: &mut Cmd, change: &RosterChange) {
    let text = |id: &Option<ConnectionId>| id.map_or_else(String::new, |id| id.to_string());
    let mut push = |kind: &str, key: String, member: Option<&MemberInfo>, replaces: String| {
        let connection = member.map_or_else(String::new, |member| member.connection.to_string());
        let info = member.and_then(|member| member.info.as_deref()).unwrap_or_default();
        call.arg(kind).arg(key).arg(connection).arg(info).arg(replaces);
    };
    match change {
        RosterChange::List { member, replaces } => {
            push("+", member.key.cursor(), Some(member), text(replaces));
        }
        RosterChange::Relist { member } => {
            push("~", member.key.cursor(), Some(member), String::new());
        }
        RosterChange::Unlist { key } => push("-", key.cursor(), None, String::new()),
        RosterChange::Seat { id } => push("s", id.to_string(), None, String::new()),
        RosterChange::Unseat { id } => push("r", id.to_string(), None, String::new()),
    }
}

/// Whether a reply says that the incarnation was swept: then nothing was done.
pub(super) fn is_swept(command: &EngineCommand, reply: &Value) -> bool {
    match command.action {
        Action::Change { .. } => *reply == Value::Int(0),
        Action::Seat { .. } => *reply == Value::Int(-1),
        _ => false,
    }
}

/// Converts a reply that is a number. `None`: it is none of the script's.
pub(super) fn read_number(command: &EngineCommand, reply: &Value) -> Option<EngineEvent> {
    let token = command.token;
    match (&command.action, reply) {
        (Action::Change { .. }, Value::Int(1)) => Some(EngineEvent::Changed { token }),
        (Action::Seat { .. }, Value::Int(taken @ 0..=1)) => {
            Some(EngineEvent::Seated { token, has_seat: *taken == 1 })
        }
        _ => None,
    }
}

fn make_member(key: &str, connection: &str, info: &str) -> Option<Arc<MemberInfo>> {
    let info = (!info.is_empty()).then(|| Arc::from(info));
    let (key, connection) = (MemberKey::parse(key), ConnectionId::parse(connection)?);
    Some(Arc::new(MemberInfo { key, connection, info }))
}

/// Converts a page of members.
pub(super) fn read_members(token: u64, parts: &[Value]) -> Option<EngineEvent> {
    let [revision, Value::Int(count), listed_as, Value::Int(has_more), rest @ ..] = parts else {
        return None;
    };
    let mut members = Vec::with_capacity(rest.len() / 3);
    for member in rest.chunks(3) {
        let [key, connection, info] = member else { return None };
        members.push(make_member(read_text(key)?, read_text(connection)?, read_text(info)?)?);
    }
    let last = members.last().filter(|_| *has_more == 1);
    let next = last.map(|last| last.key.cursor());
    let page = PresencePage { count: (*count).try_into().ok()?, members, next };
    let revision = read_text(revision)?.parse().ok()?;
    let listed_as = Some(read_text(listed_as)?).filter(|key| !key.is_empty());
    let page = RosterPage { page, revision, listed_as: listed_as.map(MemberKey::parse) };
    Some(EngineEvent::Members { token, page })
}

/// Whether a publication of this kind is a join or a leave. `None`: it is neither.
pub(super) fn parse_kind(kind: u8) -> Option<bool> {
    match kind {
        b'+' => Some(true),
        b'-' => Some(false),
        _ => None,
    }
}

/// Parses a join or leave after its kind.
pub(super) fn parse_news(has_joined: bool, bytes: &[u8]) -> Option<RosterNews> {
    let (revision, rest) = take_field(bytes)?;
    let (connection, rest) = take_field(rest)?;
    let (length, rest) = take_field(rest)?;
    let (key, info) = rest.split_at_checked(length.parse().ok()?)?;
    let (key, info) = (std::str::from_utf8(key).ok()?, std::str::from_utf8(info).ok()?);
    let member = make_member(key, connection, info)?;
    Some(RosterNews { revision: revision.parse().ok()?, has_joined, member })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_and_leaves_are_parsed_or_rejected() {
        let id = ConnectionId { node: 1, shard: 2, session: 3, serial: 4 };
        let text = format!("7 {id} 10 user:a b\nc{{\"n\":1}}");
        let news = parse_news(true, text.as_bytes()).unwrap();
        assert_eq!((news.revision, news.member.connection), (7, id));
        assert_eq!(news.member.key, MemberKey::User("a b\nc".into()));
        assert_eq!(news.member.info.as_deref(), Some("{\"n\":1}"));
        for other in ["", "7", "7 x 1 a", &format!("7 {id} 99 user:a"), &format!("x {id} 1 a")] {
            assert_eq!(parse_news(true, other.as_bytes()), None, "{other}");
        }
    }
}
