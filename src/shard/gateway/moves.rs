//! Moves of sessions between links.
//!
//! A request for a *sweep* visits all sessions, some in each turn, and moves those whose link is
//! lost or drains. A move is an `open` with the flag `moved`, followed by all messages that are not
//! acknowledged, in order. Moves are paced (`moves_per_s`), so that an application that returns is
//! not flooded; a session for which there is no other link takes nothing from the pace.
//!
//! From a link that drains a session moves when all its messages are acknowledged and the
//! application has confirmed (`close` with the flag `moved`, in both directions) that it sends
//! nothing more there; or else after `drain_ms`. It never moves to the link that it leaves.

use std::sync::Arc;

use super::departed::{ACK_MS_MAX, DepartedEntry, give_up};
use super::entry::{GatewayEntry, SessionPhase};
use super::pace::Pace;
use super::{Gateway, link_settings};
use crate::backend::links::BackendLink;
use crate::driver::Token;
use crate::link::{LinkSession, OpenBody, encode_open};
use crate::proto::ws::CloseCode;
use crate::shard::connections::{Connections, Sessions, UNSET, ticks};

/// Sessions that are visited in a turn: about 200 µs if their memory is cold.
const VISITED_PER_TURN: u32 = 2_048;

/// Where a sweep is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Cursor {
    /// No sweep is under way.
    #[default]
    None,
    /// The next slot of open connections.
    Slot(u32),
    /// Behind this session of a closed connection.
    Departed(Option<Token>),
}

/// The progress of visiting all sessions.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    cursor: Cursor,
    /// Another one is to follow.
    is_requested: bool,
    pace: Pace,
    /// The pace was used up in this tick.
    paced_tick: Option<u32>,
}

impl Sweep {
    /// Has all sessions visited.
    pub(super) fn request(&mut self) {
        self.is_requested = true;
    }

    fn is_under_way(&self) -> bool {
        self.cursor != Cursor::None || self.is_requested
    }
}

/// Returns whether a session has to move or to leave its link.
fn is_misplaced(entry: &GatewayEntry) -> bool {
    entry.link.as_ref().is_none_or(|link| {
        let may_leave = entry.phase() == SessionPhase::Open && !entry.must_leave();
        link.is_closed() || (link.is_draining() && may_leave)
    })
}

impl Gateway {
    /// Runs the turn's share of moves; returns whether more is to be done at once.
    pub(super) fn run_moves(&mut self, connections: &mut Connections) -> bool {
        let has_more_waiting = self.wake_waiting(connections);
        let tick = connections.tick();
        for token in self.departed.due(tick) {
            self.run_departed_due(connections, token);
        }
        if !self.sweep.is_under_way() || self.sweep.paced_tick == Some(tick) {
            return has_more_waiting;
        }
        self.sweep.paced_tick = None;
        if self.sweep.cursor == Cursor::None {
            (self.sweep.cursor, self.sweep.is_requested) = (Cursor::Slot(0), false);
        }
        self.run_sweep(connections) || has_more_waiting
    }

    /// Returns the tick at which moves continue.
    pub(in crate::shard) fn next_tick(&self, tick: u32) -> Option<u32> {
        if self.sweep.is_under_way() || self.rebalance.is_active() {
            return Some(tick + 1);
        }
        self.departed.next_due()
    }

    /// Checks sessions again that waited for room in the queue of their link, some in each turn.
    /// Returns whether more are to be checked.
    fn wake_waiting(&mut self, connections: &mut Connections) -> bool {
        if std::mem::take(&mut self.has_room) {
            self.waking.append(&mut self.awaiting_room);
        }
        let from = self.waking.len().saturating_sub(VISITED_PER_TURN as usize);
        for token in self.waking.split_off(from) {
            let found = connections.find(token);
            let Some(index) = found.filter(|index| self.has_session(*index)) else { continue };
            if let Some(entry) = self.entry_mut(index) {
                entry.replace_awaits_room(false);
            }
            self.report_readiness(connections, index);
            self.touched.push(index);
        }
        !self.waking.is_empty()
    }

    /// Visits a share of all sessions; returns whether the sweep continues in the next turn.
    fn run_sweep(&mut self, connections: &mut Connections) -> bool {
        let end = self.sessions.len() as u32;
        for _ in 0..VISITED_PER_TURN {
            let may_continue = match self.sweep.cursor {
                Cursor::None => return self.sweep.is_requested,
                Cursor::Slot(index) if index >= end => {
                    self.sweep.cursor = Cursor::Departed(None);
                    true
                }
                Cursor::Slot(index) => {
                    let is_done = self.visit_session(connections, index);
                    self.sweep.cursor = Cursor::Slot(index + u32::from(is_done));
                    is_done
                }
                Cursor::Departed(after) => self.visit_departed(connections, after),
            };
            if !may_continue {
                self.sweep.paced_tick = Some(connections.tick());
                return false;
            }
        }
        true
    }

    /// Moves a session if it has to; returns false if that must wait.
    fn visit_session(&mut self, connections: &mut Connections, index: u32) -> bool {
        let Some(entry) = self.entry(index).filter(|entry| is_misplaced(entry)) else {
            return true;
        };
        let is_lost = entry.link.as_ref().is_none_or(|link| link.is_closed());
        let Some(link) = self.choose_other_link(connections, index) else {
            if is_lost && self.entry(index).is_some_and(|entry| entry.link.is_some()) {
                self.hold_session(connections, index);
            }
            return true;
        };
        let Some(settings) = link_settings(connections, index) else { return true };
        let (tick, per_second) = (connections.tick(), settings.moves_per_s);
        // What is sent again must not pile up.
        if link.is_full() || !self.sweep.pace.take(tick, per_second, self.directory.len()) {
            return false;
        }
        if is_lost {
            self.move_session_to(connections, index, link);
        } else {
            self.leave_link(connections, index);
        }
        true
    }

    /// Chooses a link for a session, other than the one that it is on.
    fn choose_other_link(
        &self,
        connections: &mut Connections,
        index: u32,
    ) -> Option<Arc<BackendLink>> {
        let entry = self.entry(index)?;
        let except = entry.link.as_ref().map(|link| link.facts().id);
        let backend = connections.route(index).application;
        connections.choose_link(backend, entry.identity.as_deref(), except)
    }

    /// Returns whether a session could move to another link than this one, which has less load.
    pub(super) fn has_other_link(&self, connections: &mut Connections, index: u32) -> bool {
        self.choose_other_link(connections, index).is_some()
    }

    /// Moves a session to another link; holds it if there is none.
    pub(super) fn move_session(&mut self, connections: &mut Connections, index: u32) {
        match self.choose_other_link(connections, index) {
            Some(link) => self.move_session_to(connections, index, link),
            None => self.hold_session(connections, index),
        }
    }

    /// Moves a session to this link, with all messages that are not acknowledged.
    fn move_session_to(
        &mut self,
        connections: &mut Connections,
        index: u32,
        link: Arc<BackendLink>,
    ) {
        let session = connections.session_id(index);
        let Some(entry) = self.entry(index) else { return };
        let extra = entry.extra.as_deref();
        let path = extra.and_then(|extra| extra.path.as_deref());
        let body = encode_open(&OpenBody {
            connection: self.connection_id(index),
            address: connections.peer_ip(index),
            path: path.unwrap_or_else(|| connections.route_path(index)),
            ..open_body(entry)
        });
        let Self { sessions, outgoing, .. } = self;
        let entry = sessions.get_mut(index as usize).and_then(Option::as_deref_mut);
        let Some(entry) = entry else { return };
        entry.leave_counts();
        entry.replace_slow(false);
        if let Some(extra) = &mut entry.extra {
            // The instance that asked for these is not on the session any more.
            extra.receipts.clear();
        }
        entry.enter_phase(SessionPhase::Open, UNSET);
        if link.is_closed() || link.is_draining() {
            // It was lost or drained just now; its mail may have been processed before.
            self.sweep.is_requested = true;
        }
        outgoing.open_moved(connections.counters_mut(), entry, &link, (session, &body));
        entry.link = Some(link);
        if entry.is_member() {
            self.moved_members.push(index);
        }
        self.report_phase(connections, index);
        self.touched.push(index);
    }

    /// Holds a session until a link is there, for `hold_ms`: its client is not read from.
    fn hold_session(&mut self, connections: &mut Connections, index: u32) {
        let hold_ms = link_settings(connections, index).map_or(0, |settings| settings.hold_ms);
        // Clients that are closed together would return together.
        let spread = connections.random_below(ticks(hold_ms) / 8 + 1);
        let due = connections.tick() + ticks(hold_ms) + spread + 1;
        let Some(entry) = self.entry_mut(index) else { return };
        entry.leave_counts();
        entry.link = None;
        entry.replace_slow(false);
        if let Some(extra) = &mut entry.extra {
            extra.receipts.clear();
        }
        entry.enter_phase(SessionPhase::Held, due);
        self.report_phase(connections, index);
    }

    /// Moves a session away from a link that drains, once that is possible without a repetition.
    pub(super) fn leave_link(&mut self, connections: &mut Connections, index: u32) {
        let Some(settings) = link_settings(connections, index) else { return };
        let due = connections.tick() + ticks(settings.drain_ms) + 1;
        let Some(entry) = self.entry_mut(index) else { return };
        entry.set_must_leave(true);
        entry.phase_due = due;
        if entry.up.is_acknowledged() {
            return self.begin_leaving(connections, index);
        }
        self.report_phase(connections, index);
    }

    /// Asks the application to finish with a session on a link that drains. Without another link,
    /// the session stays.
    pub(super) fn begin_leaving(&mut self, connections: &mut Connections, index: u32) {
        if !self.has_other_link(connections, index) {
            return self.stay_on_link(connections, index);
        }
        let session = connections.session_id(index);
        let Self { sessions, outgoing, .. } = self;
        let entry = sessions.get_mut(index as usize).and_then(Option::as_deref_mut);
        let Some(entry) = entry else { return };
        entry.link.iter().for_each(|link| outgoing.close_moved(link, session));
        entry.enter_phase(SessionPhase::Leaving, entry.phase_due);
        self.report_phase(connections, index);
    }

    /// Leaves a session on a link that drains, because there is no other. The next link that is
    /// ready starts a sweep.
    fn stay_on_link(&mut self, connections: &mut Connections, index: u32) {
        if let Some(entry) = self.entry_mut(index) {
            entry.enter_phase(SessionPhase::Open, UNSET);
        }
        self.report_phase(connections, index);
    }

    /// Handles the deadline of a session's phase, if it has passed.
    pub(super) fn run_phase_due(&mut self, connections: &mut Connections, index: u32) {
        let Some(entry) = self.entry(index) else { return };
        if entry.phase_due > connections.tick() {
            return;
        }
        match entry.phase() {
            SessionPhase::Held => {
                connections.counters_mut().gateway_hold_timeouts += 1;
                let reason = "no application is connected; retry later";
                self.close_later(index, CloseCode::TRY_AGAIN_LATER, reason);
            }
            SessionPhase::Leaving => self.move_session(connections, index),
            SessionPhase::Open if self.has_other_link(connections, index) => {
                let session = connections.session_id(index);
                let Self { sessions, outgoing, .. } = self;
                let entry = sessions.get(index as usize).and_then(Option::as_deref);
                let link = entry.and_then(|entry| entry.link.as_ref());
                link.into_iter().for_each(|link| outgoing.close_moved(link, session));
                self.move_session(connections, index);
            }
            SessionPhase::Open => self.stay_on_link(connections, index),
        }
    }

    /// Applies a change of a session's phase: its deadline, and whether its client is read from.
    fn report_phase(&mut self, connections: &mut Connections, index: u32) {
        self.reschedule_due(connections, index);
        connections.set_deadline(index);
        self.report_readiness(connections, index);
    }

    /// Visits the next session of a closed connection; returns false if its move must wait.
    fn visit_departed(&mut self, connections: &mut Connections, after: Option<Token>) -> bool {
        let Some((token, one)) = self.departed.next_after(after) else {
            self.sweep.cursor = Cursor::None;
            return true;
        };
        let link = one.entry.link.as_ref();
        let is_draining = link.is_some_and(|link| link.is_draining());
        let (is_lost, backend) = (one.has_no_link(), one.backend);
        let settings = connections.config().backends.get(usize::from(backend)).cloned();
        let Some(settings) = settings.as_ref().and_then(|one| one.links.as_ref()) else {
            self.sweep.cursor = Cursor::Departed(Some(token));
            return true;
        };
        let tick = connections.tick();
        if is_lost {
            let per_second = settings.moves_per_s;
            if !self.sweep.pace.take(tick, per_second, self.directory.len()) {
                return false;
            }
            self.move_departed_one(connections, token);
        } else if is_draining {
            self.departed.limit(token, tick + ticks(settings.drain_ms));
        }
        self.sweep.cursor = Cursor::Departed(Some(token));
        true
    }

    /// Handles the deadline of a session of a closed connection.
    fn run_departed_due(&mut self, connections: &mut Connections, token: Token) {
        let Some(one) = self.departed.take(token) else { return };
        let is_draining = one.entry.link.as_ref().is_some_and(|link| link.is_draining());
        let may_move = one.entry.link.is_some() && (is_draining || one.is_between_links());
        if may_move {
            self.departed.put_back(token, one);
            self.move_departed_one(connections, token);
        } else {
            give_up(connections, &one.entry);
        }
    }

    /// Moves the messages and the end of a closed connection to another link. Without one, they
    /// wait for `hold_ms`.
    pub(super) fn move_departed_one(&mut self, connections: &mut Connections, token: Token) {
        let Some(mut one) = self.departed.take(token) else { return };
        one.entry.leave_counts();
        let earlier = one.entry.link.take();
        let (identity, backend) = (one.entry.identity.clone(), Some(one.backend));
        let except = earlier.as_ref().map(|link| link.facts().id);
        let Some(link) = connections.choose_link(backend, identity.as_deref(), except) else {
            if earlier.is_some() {
                let settings = connections.config().backends.get(usize::from(one.backend));
                let hold_ms = settings.and_then(|own| Some(own.links.as_ref()?.hold_ms));
                one.until = connections.tick() + ticks(hold_ms.unwrap_or(0));
            }
            one.entry.enter_phase(SessionPhase::Held, UNSET);
            return self.departed.put_back(token, one);
        };
        let body = describe_departed(&one);
        let session = LinkSession { shard: self.id, token };
        one.entry.enter_phase(SessionPhase::Open, UNSET);
        self.outgoing.open_moved(connections.counters_mut(), &one.entry, &link, (session, &body));
        self.outgoing.close(&link, session, one.code);
        one.until = connections.tick() + ticks(ACK_MS_MAX);
        one.entry.link = Some(link);
        if one.entry.up.is_acknowledged() {
            one.entry.leave_counts();
        } else {
            self.departed.put_back(token, one);
        }
    }
}

fn describe_departed(one: &DepartedEntry) -> Vec<u8> {
    let path = one.entry.extra.as_ref().and_then(|extra| extra.path.as_deref());
    encode_open(&OpenBody {
        connection: Some(one.connection),
        address: one.address,
        path: path.unwrap_or(&one.path),
        ..open_body(&one.entry)
    })
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
