//! Moves of sessions between links.
//!
//! A request for a *sweep* visits all sessions, some in each turn, and moves those whose link is
//! lost or drains. A move is an `open` with the flag `moved`, followed by all messages that are not
//! acknowledged, in order. Moves are paced (`moves_per_s`), so that an application that returns is
//! not flooded.
//!
//! From a link that drains a session moves when all its messages are acknowledged and the
//! application has confirmed (`close` with the flag `moved`, in both directions) that it sends
//! nothing more there; or else after `drain_ms`.

use super::entry::{DepartedEntry, GatewayEntry, SessionPhase};
use super::{Gateway, link_settings};
use crate::backend::LinkSettings;
use crate::driver::Token;
use crate::link::{LinkRecord, LinkSession, OpenBody, RecordFlags, RecordKind, encode_open};
use crate::proto::ws::CloseCode;
use crate::shard::connections::{Connections, Goodbye, TICK_MS, UNSET, ticks};

/// Sessions that are visited in a turn: about 200 µs if their memory is cold.
const VISITED_PER_TURN: u32 = 2_048;
/// The bound on unacknowledged messages of closed connections in one shard (bytes).
pub(super) const DEPARTED_BYTES_MAX: usize = 64 << 20;
/// How often closed connections without a link are checked (ticks).
const DEPARTED_TICKS: u32 = 20;

/// The end of a client whose identity has expired.
pub(super) const EXPIRED: Goodbye<'static> = Goodbye {
    code: CloseCode::EXPIRED,
    reason: "the identity of the client has expired; reconnect",
    retry_after_ms: 0,
};
/// The end of a client whose application has not come back.
const UNAVAILABLE: Goodbye<'static> = Goodbye {
    code: CloseCode::TRY_AGAIN_LATER,
    reason: "no application is connected; retry later",
    retry_after_ms: 0,
};

/// The progress of visiting all sessions.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// The next slot; `None`: no sweep is under way.
    cursor: Option<u32>,
    /// Another one is to follow.
    is_requested: bool,
    /// The budget of moves was used up in this tick.
    paced_tick: Option<u32>,
    tick: u32,
    /// Moves in this tick.
    moved: u32,
}

impl Sweep {
    /// Has all sessions visited.
    pub(super) fn request(&mut self) {
        self.is_requested = true;
    }

    /// Returns whether another session may move in this tick, and counts it.
    fn take_move(&mut self, per_tick: u32) -> bool {
        if self.moved >= per_tick {
            self.paced_tick = Some(self.tick);
            return false;
        }
        self.moved += 1;
        true
    }
}

/// Returns the moves that a shard may make in a tick.
fn moves_per_tick(settings: &LinkSettings, shards: usize) -> u32 {
    let per_second = u64::from(settings.moves_per_s) / shards.max(1) as u64;
    u32::try_from((per_second * TICK_MS).div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}

/// What a visit found to do.
enum Visit {
    Nothing,
    Move,
    Leave,
}

fn visit(entry: &GatewayEntry) -> Visit {
    match &entry.link {
        None => Visit::Move,
        Some(link) if link.is_closed() => Visit::Move,
        Some(link)
            if link.is_draining() && entry.phase == SessionPhase::Open && !entry.must_leave =>
        {
            Visit::Leave
        }
        Some(_) => Visit::Nothing,
    }
}

impl Gateway {
    /// Runs the turn's share of moves; returns whether more is to be done at once.
    pub(super) fn run_moves(&mut self, connections: &mut Connections) -> bool {
        if std::mem::take(&mut self.has_room) {
            for token in std::mem::take(&mut self.awaiting_room) {
                let Some(index) = connections.find(token) else { continue };
                let Some(entry) = self.entry_mut(index) else { continue };
                entry.awaits_room = false;
                self.report_readiness(connections, index);
                self.touched.push(index);
            }
        }
        let tick = connections.tick();
        if self.sweep.tick != tick {
            (self.sweep.tick, self.sweep.moved, self.sweep.paced_tick) = (tick, 0, None);
            self.give_up_departed(connections, tick);
        }
        if self.sweep.cursor.is_none() && std::mem::take(&mut self.sweep.is_requested) {
            self.sweep.cursor = Some(0);
        }
        if self.sweep.paced_tick.is_some() {
            return false;
        }
        let Some(cursor) = self.sweep.cursor else { return false };
        self.run_sweep(connections, cursor)
    }

    /// Returns the tick at which moves continue.
    pub(in crate::shard) fn next_tick(&self, tick: u32) -> Option<u32> {
        let is_under_way =
            self.sweep.cursor.is_some() || self.sweep.is_requested || self.rebalance.is_active();
        let held = self.departed.values().any(DepartedEntry::is_between_links);
        let departed = held.then_some(tick + DEPARTED_TICKS);
        if is_under_way { Some(tick + 1) } else { departed }
    }

    fn run_sweep(&mut self, connections: &mut Connections, cursor: u32) -> bool {
        let end = self.sessions.len() as u32;
        let until = end.min(cursor.saturating_add(VISITED_PER_TURN));
        for index in cursor..until {
            let Some(entry) = self.entry(index) else { continue };
            let found = visit(entry);
            if matches!(found, Visit::Nothing) {
                continue;
            }
            let per_tick = link_settings(connections, index)
                .map_or(1, |settings| moves_per_tick(settings, self.directory.len()));
            if !self.sweep.take_move(per_tick) {
                self.sweep.cursor = Some(index);
                return false;
            }
            match found {
                Visit::Nothing => {}
                Visit::Move => self.move_session(connections, index),
                Visit::Leave => self.leave_link(connections, index),
            }
        }
        if until < end {
            self.sweep.cursor = Some(until);
            return true;
        }
        self.sweep.cursor = None;
        self.move_departed(connections);
        self.sweep.is_requested
    }

    /// Moves a session to another link, with all messages that are not acknowledged; holds it if
    /// there is none.
    pub(super) fn move_session(&mut self, connections: &mut Connections, index: u32) {
        let Some(entry) = self.entry_mut(index) else { return };
        entry.leave_counts();
        let earlier = entry.link.take();
        let bytes = entry.up.bytes();
        (entry.must_leave, entry.is_slow) = (false, false);
        if let Some(extra) = &mut entry.extra {
            // Who asked for these is not on the session any more.
            extra.receipts.clear();
        }
        let was_held = earlier.is_none();
        let identity = entry.identity.clone();
        let backend = connections.route(index).application;
        let Some(link) = connections.choose_link(backend, identity.as_deref()) else {
            if !was_held {
                self.hold_session(connections, index);
            }
            return;
        };
        let session = connections.session_id(index);
        let body = self.describe_moved(connections, index);
        let Self { sessions, outgoing, .. } = self;
        let entry = sessions.get_mut(index as usize).and_then(Option::as_deref_mut);
        let Some(entry) = entry else { return };
        link.enter();
        link.add_unacked(bytes);
        let open = LinkRecord::new(RecordKind::Open, session, entry.up.acknowledged(), &body);
        outgoing.append(&link, &open.with(RecordFlags::MOVED));
        let repeated = Self::send_again(outgoing, entry, &link, session);
        let counters = connections.counters_mut();
        counters.gateway_redelivered += repeated;
        counters.gateway_moved += 1;
        entry.phase = SessionPhase::Open;
        if link.is_closed() || link.is_draining() {
            // It was lost or drained just now; its mail may have been processed before.
            self.sweep.is_requested = true;
        }
        entry.link = Some(link);
        self.set_phase_due(connections, index, UNSET);
        self.report_readiness(connections, index);
        self.touched.push(index);
    }

    /// Describes a session for the application that it moves to.
    fn describe_moved(&self, connections: &Connections, index: u32) -> Vec<u8> {
        let Some(entry) = self.entry(index) else { return Vec::new() };
        let extra = entry.extra.as_deref();
        let path = extra.and_then(|extra| extra.path.as_deref());
        encode_open(&OpenBody {
            connection: self.connection_id(index),
            address: connections.peer_ip(index),
            path: path.unwrap_or_else(|| connections.route_path(index)),
            ..open_body(entry)
        })
    }

    /// Holds a session until a link is there, for `hold_ms`: its client is not read from.
    fn hold_session(&mut self, connections: &mut Connections, index: u32) {
        let hold_ms = link_settings(connections, index).map_or(0, |settings| settings.hold_ms);
        // Clients that are closed together would return together.
        let spread = connections.random_below(ticks(hold_ms) / 8 + 1);
        if let Some(entry) = self.entry_mut(index) {
            entry.phase = SessionPhase::Held;
        }
        let due = connections.tick() + ticks(hold_ms) + spread + 1;
        self.set_phase_due(connections, index, due);
        self.report_readiness(connections, index);
    }

    /// Moves a session away from a link that drains, once that is possible without a repetition.
    pub(super) fn leave_link(&mut self, connections: &mut Connections, index: u32) {
        let Some(settings) = link_settings(connections, index) else { return };
        let due = connections.tick() + ticks(settings.drain_ms) + 1;
        let Some(entry) = self.entry_mut(index) else { return };
        entry.must_leave = true;
        let is_acknowledged = entry.up.is_acknowledged();
        self.set_phase_due(connections, index, due);
        if is_acknowledged {
            self.begin_leaving(connections, index);
        }
    }

    /// Asks the application to finish with a session on a link that drains. Without another link,
    /// the session stays.
    pub(super) fn begin_leaving(&mut self, connections: &mut Connections, index: u32) {
        let Some(entry) = self.entry(index) else { return };
        let (identity, backend) = (entry.identity.clone(), connections.route(index).application);
        let has_other = connections.choose_link(backend, identity.as_deref()).is_some();
        let session = connections.session_id(index);
        let Self { sessions, outgoing, .. } = self;
        let entry = sessions.get_mut(index as usize).and_then(Option::as_deref_mut);
        let Some(entry) = entry else { return };
        if has_other && let Some(link) = &entry.link {
            let close = LinkRecord::new(RecordKind::Close, session, 0, b"");
            outgoing.append(link, &close.with(RecordFlags::MOVED));
            entry.phase = SessionPhase::Leaving;
        } else {
            // The next link that is ready starts a sweep.
            entry.must_leave = false;
            self.set_phase_due(connections, index, UNSET);
        }
        self.report_readiness(connections, index);
    }

    /// Handles the deadline of a session's phase, which has passed.
    pub(super) fn run_phase_due(&mut self, connections: &mut Connections, index: u32) {
        if connections.session_due(index) > connections.tick() {
            return;
        }
        let Some(entry) = self.entry(index) else { return };
        match entry.phase {
            SessionPhase::Held => {
                connections.counters_mut().gateway_hold_timeouts += 1;
                connections.close(self, index, UNAVAILABLE);
            }
            SessionPhase::Leaving => self.move_session(connections, index),
            SessionPhase::Open if entry.must_leave => {
                let session = connections.session_id(index);
                let close = LinkRecord::new(RecordKind::Close, session, 0, b"");
                if let Some(link) = entry.link.clone() {
                    self.outgoing.append(&link, &close.with(RecordFlags::MOVED));
                }
                self.move_session(connections, index);
            }
            SessionPhase::Open => {}
        }
    }

    /// Sets the deadline of a session's phase.
    fn set_phase_due(&mut self, connections: &mut Connections, index: u32, tick: u32) {
        connections.set_session_due(index, tick);
        crate::shard::connections::Sessions::reschedule_due(self, connections, index);
        connections.set_deadline(index);
    }

    /// Moves closed connections' messages whose link is lost or drains.
    fn move_departed(&mut self, connections: &mut Connections) {
        if self.departed.is_empty() {
            return;
        }
        let lost = |entry: &GatewayEntry| match &entry.link {
            None => true,
            Some(link) => link.is_closed(),
        };
        let tokens: Vec<Token> = self
            .departed
            .iter()
            .filter(|(_, one)| lost(&one.entry))
            .map(|(token, _)| *token)
            .collect();
        for token in tokens {
            self.move_departed_one(connections, token);
        }
    }

    pub(super) fn move_departed_one(&mut self, connections: &mut Connections, token: Token) {
        let shard = self.id;
        let Self { departed, departed_bytes, outgoing, .. } = self;
        let Some(one) = departed.get_mut(&token) else { return };
        let bytes = one.entry.up.bytes();
        one.entry.leave_counts();
        one.entry.link = None;
        let identity = one.entry.identity.clone();
        let chosen = connections.choose_link(Some(one.backend), identity.as_deref());
        let Some(link) = chosen else { return };
        link.enter();
        link.add_unacked(bytes);
        let path = one.entry.extra.as_ref().and_then(|extra| extra.path.as_deref());
        let body = encode_open(&OpenBody {
            connection: Some(one.connection),
            address: one.address,
            path: path.unwrap_or(&one.path),
            ..open_body(&one.entry)
        });
        let session = LinkSession { shard, token };
        let open = LinkRecord::new(RecordKind::Open, session, one.entry.up.acknowledged(), &body);
        outgoing.append(&link, &open.with(RecordFlags::MOVED));
        let repeated = Self::send_again(outgoing, &one.entry, &link, session);
        let counters = connections.counters_mut();
        counters.gateway_redelivered += repeated;
        counters.gateway_moved += 1;
        outgoing.close(&link, session, one.code);
        (one.entry.link, one.entry.phase) = (Some(link), SessionPhase::Open);
        if one.entry.up.is_acknowledged() {
            one.entry.leave_counts();
            *departed_bytes -= one.bytes();
            departed.remove(&token);
        }
    }

    /// Gives up closed connections' messages that no link has taken in time.
    fn give_up_departed(&mut self, connections: &mut Connections, tick: u32) {
        let Self { departed, departed_bytes, .. } = self;
        if departed.is_empty() {
            return;
        }
        departed.retain(|_, one| {
            let is_over = one.is_between_links() && tick >= one.until;
            if is_over {
                *departed_bytes -= one.bytes();
                one.entry.leave_counts();
                let lost = &mut connections.counters_mut().gateway_messages_lost;
                *lost += one.entry.up.unacknowledged().count() as u64;
            }
            !is_over
        });
    }
}

/// Returns what an entry says about itself when it moves.
fn open_body(entry: &GatewayEntry) -> OpenBody<'_> {
    let extra = entry.extra.as_deref();
    let identity = entry.identity.as_deref();
    OpenBody {
        user: identity.and_then(|own| own.user.as_deref()),
        info: identity.and_then(|own| own.info.as_deref()),
        subprotocol: extra.and_then(|extra| extra.subprotocol.as_deref()),
        state: extra.and_then(|extra| extra.state.as_deref()),
        ..OpenBody::default()
    }
}
