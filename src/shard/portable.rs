//! A connection as plain data: all that it is, named in one place.
//!
//! It is for taking connections over without closing them, by a new process or another driver:
//! times are told as ages, places in this shard's tables not at all. What cannot be told now, or
//! ever, says why; whoever wants to take over waits, or closes with 1012. What the kernel holds
//! (the socket, what is armed on it) and how a connection is counted by admission is the shard's,
//! and made anew.
//!
//! `tests/simulation` tells and revives connections in the middle of all its scenarios, and nothing
//! may come of it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Shard;
use super::core::Core;
use super::hub::ItemState;
use super::outbox::OutboxState;
use super::slot::{Partial, PeerAddress, Slot, Stage};
use super::timers::TICK_MS;
use crate::admission::limiter::LimiterState;
use crate::driver::Driver;
use crate::proto::ws::{CloseCode, Receiver, ReceiverState, Untold as UntoldReceiver};
use crate::session::hub::SessionState;

/// Why a connection is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untold {
    /// There is none, or it is as good as gone.
    Gone,
    /// A send is under way: told when it has ended.
    Sending,
    /// A home's answer is awaited: told when it has come.
    Asking,
    /// Input is held: it can be serialized when that was looked at.
    Unfinished,
    /// Its receiver cannot be told.
    Receiver(UntoldReceiver),
}

/// Where it stands, as stages go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum StageState {
    Proxy { bytes: Vec<u8>, scanned: usize, age_us: u32 },
    Http { bytes: Vec<u8>, scanned: usize, age_us: u32 },
    Open(ReceiverState),
    Closing { receiver: ReceiverState, code: CloseCode },
    Finishing,
    Lingering { discarded: u64 },
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct ConnectionState {
    peer: Option<SocketAddr>,
    /// By their place in the configuration.
    listener: u8,
    route: u16,
    stage: StageState,
    outbox: Option<OutboxState>,
    bytes_received: u64,
    bytes_sent: u64,
    messages_received: u32,
    messages_sent: u32,
    opened_ago_ms: u64,
    heard_ago_ms: u64,
    message_ago_ms: u64,
    /// When the stage began, or the last ping was sent; below 0: until the next ping.
    stage_ago_ms: i64,
    pinged: bool,
    paused: bool,
    input_ended: bool,
    limiter: Option<LimiterState>,
    session: Option<SessionState>,
    backlog: Vec<ItemState>,
}

fn told_partial(partial: Option<&Partial>) -> (Vec<u8>, usize) {
    partial.map_or((Vec::new(), 0), |partial| (partial.bytes.clone(), partial.scanned))
}

fn partial(bytes: &[u8], scanned: usize) -> Option<Box<Partial>> {
    (!bytes.is_empty()).then(|| Box::new(Partial { bytes: bytes.to_vec(), scanned }))
}

impl Core {
    fn tell_stage(&self, slot: &Slot) -> Result<StageState, Untold> {
        let age_us = |accepted_us: u32| ((self.now_ns / 1000) as u32).wrapping_sub(accepted_us);
        Ok(match &slot.stage {
            Stage::Proxy { partial, accepted_us } => {
                let (bytes, scanned) = told_partial(partial.as_deref());
                StageState::Proxy { bytes, scanned, age_us: age_us(*accepted_us) }
            }
            Stage::Http { partial, accepted_us } => {
                let (bytes, scanned) = told_partial(partial.as_deref());
                StageState::Http { bytes, scanned, age_us: age_us(*accepted_us) }
            }
            Stage::Open(receiver) => StageState::Open(receiver.tell().map_err(Untold::Receiver)?),
            Stage::Closing { receiver, code } => {
                let receiver = receiver.tell().map_err(Untold::Receiver)?;
                StageState::Closing { receiver, code: *code }
            }
            Stage::Finishing => StageState::Finishing,
            Stage::Lingering { discarded } => StageState::Lingering { discarded: *discarded },
            Stage::Ending => return Err(Untold::Gone),
        })
    }

    fn told_stage(&self, state: &StageState) -> Stage {
        let accepted_us = |age_us: u32| ((self.now_ns / 1000) as u32).wrapping_sub(age_us);
        match state {
            StageState::Proxy { bytes, scanned, age_us } => {
                let partial = partial(bytes, *scanned);
                Stage::Proxy { partial, accepted_us: accepted_us(*age_us) }
            }
            StageState::Http { bytes, scanned, age_us } => {
                let partial = partial(bytes, *scanned);
                Stage::Http { partial, accepted_us: accepted_us(*age_us) }
            }
            StageState::Open(state) => Stage::Open(Receiver::told(state)),
            StageState::Closing { receiver: state, code } => {
                Stage::Closing { receiver: Receiver::told(state), code: *code }
            }
            StageState::Finishing => Stage::Finishing,
            StageState::Lingering { discarded } => Stage::Lingering { discarded: *discarded },
        }
    }

    /// Tells all that a connection is.
    ///
    /// # Errors
    /// Why that cannot be told.
    pub(super) fn tell_all(&self, index: u32) -> Result<ConnectionState, Untold> {
        let slot = self.slots.get(index as usize).ok_or(Untold::Gone)?;
        if slot.lending {
            return Err(Untold::Sending);
        }
        if slot.is_unfinished() {
            return Err(Untold::Unfinished);
        }
        if slot.input_ended && (slot.stage.is_open() || slot.stage.is_handshake()) {
            return Err(Untold::Gone);
        }
        let outbox = slot.outbox.as_ref().map(|outbox| outbox.tell(self.now_ns));
        let (session, backlog) = match self.hub.as_deref() {
            Some(hub) => hub.tell(index, self.now_ns).ok_or(Untold::Asking)?,
            None => (None, Vec::new()),
        };
        let ago_ms = |tick: u32| u64::from(self.tick.saturating_sub(tick)) * TICK_MS;
        let stage_ago = i64::from(self.tick) - i64::from(slot.stage_tick);
        Ok(ConnectionState {
            peer: slot.peer.get(),
            listener: slot.listener,
            route: slot.route,
            stage: self.tell_stage(slot)?,
            outbox: outbox.map(|told| told.ok_or(Untold::Sending)).transpose()?,
            bytes_received: slot.bytes_received,
            bytes_sent: slot.bytes_sent,
            messages_received: slot.messages_received,
            messages_sent: slot.messages_sent,
            opened_ago_ms: ago_ms(slot.opened_tick),
            heard_ago_ms: ago_ms(slot.heard_tick),
            message_ago_ms: ago_ms(slot.message_tick),
            stage_ago_ms: stage_ago * TICK_MS as i64,
            pinged: slot.pinged,
            paused: slot.paused,
            input_ended: slot.input_ended,
            limiter: self.meter.of(index).map(|limiter| limiter.tell(self.now_ns)),
            session,
            backlog,
        })
    }

    /// Makes a connection what was told: the slot's own state is dropped first.
    pub(super) fn revive(&mut self, index: u32, state: &ConnectionState) {
        let stage = self.told_stage(&state.stage);
        let ticks_ago = |ms: u64| self.tick.saturating_sub((ms / TICK_MS) as u32);
        let (opened_tick, heard_tick) =
            (ticks_ago(state.opened_ago_ms), ticks_ago(state.heard_ago_ms));
        let message_tick = ticks_ago(state.message_ago_ms);
        let stage_tick = i64::from(self.tick) - state.stage_ago_ms / TICK_MS as i64;
        let before = Self::partial_bytes(&self.slots[index as usize]) as u64;
        let slot = &mut self.slots[index as usize];
        slot.stage = stage;
        slot.peer = PeerAddress::from(state.peer);
        (slot.listener, slot.route) = (state.listener, state.route);
        (slot.bytes_received, slot.bytes_sent) = (state.bytes_received, state.bytes_sent);
        slot.messages_received = state.messages_received;
        slot.messages_sent = state.messages_sent;
        (slot.opened_tick, slot.heard_tick) = (opened_tick, heard_tick);
        (slot.message_tick, slot.stage_tick) = (message_tick, stage_tick as u32);
        (slot.pinged, slot.paused) = (state.pinged, state.paused);
        slot.input_ended = state.input_ended;
        let progress_tick = slot.outbox.as_ref().map(|outbox| outbox.progress_tick);
        if let Some(mut old) = slot.outbox.take() {
            old.clear(&mut self.pools);
            self.pools.recycle_outbox(old);
        }
        slot.outbox = state.outbox.as_ref().map(|told| {
            let mut outbox = self.pools.outbox();
            outbox.fill(told, self.now_ns);
            outbox.progress_tick = progress_tick.unwrap_or(self.tick);
            outbox
        });
        let after = Self::partial_bytes(&self.slots[index as usize]) as u64;
        self.gauges.partial_bytes = self.gauges.partial_bytes + after - before;
        self.meter.forget(index);
        if let Some(told) = &state.limiter {
            self.meter.set(index, told.limiter(self.now_ns));
        }
        let now_ns = self.now_ns;
        if let (Some(hub), Some(session)) = (self.hub.as_deref_mut(), &state.session) {
            hub.revive(index, session, &state.backlog, now_ns);
        }
        self.set_deadline(index);
    }
}

impl<D: Driver> Shard<D> {
    /// Tells a connection, and revives it from what `through` makes of that: the way it would go
    /// to another process.
    ///
    /// # Errors
    /// Why it cannot be told now.
    pub fn retell(
        &mut self,
        index: u32,
        through: impl FnOnce(ConnectionState) -> ConnectionState,
    ) -> Result<(), Untold> {
        let state = through(self.core.tell_all(index)?);
        self.core.revive(index, &state);
        debug_assert_eq!(
            self.core.tell_all(index).as_ref(),
            Ok(&state),
            "what was told is what it is"
        );
        Ok(())
    }
}
