//! The state of a connection as plain data, without its session: everything but its socket and
//! operations in flight.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Connections;
use super::outbox::OutboxState;
use super::peer::PeerAddress;
use super::slot::{Clocks, Slot, Traffic};
use super::stage::{Partial, Stage};
use super::timers::TICK_MS;
use super::transport::Transport;
use crate::admission::limiter::LimiterState;
use crate::proto::ws::{CloseCode, NotReplayable, Receiver, ReceiverState};

/// Why a connection cannot be serialized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSerializable {
    /// The slot is free, or the connection is ending.
    Gone,
    /// A send is in flight: retry when it has completed.
    Sending,
    /// A home's or a backend's reply is pending: retry when it has arrived.
    Asking,
    /// Its messages go to an application over a link.
    Linked,
    /// The connection uses TLS.
    Sealed,
    /// Input is held: retry when it is processed.
    Unfinished,
    /// Its WebSocket receiver cannot be serialized.
    Receiver(NotReplayable),
}

/// The stage of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(in crate::shard) enum StageState {
    Proxy { bytes: Vec<u8>, scanned: usize, age_us: u32 },
    Http { bytes: Vec<u8>, scanned: usize, age_us: u32 },
    Open(ReceiverState),
    Closing { receiver: ReceiverState, code: CloseCode },
    Finishing,
    Lingering { discarded: u64 },
}

/// The state of a connection. See the module.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(in crate::shard) struct SlotState {
    peer: Option<SocketAddr>,
    /// The listener's index in the configuration.
    listener: u8,
    route: u16,
    stage: StageState,
    outbox: Option<OutboxState>,
    traffic: Traffic,
    opened_ago_ms: u64,
    heard_ago_ms: u64,
    message_ago_ms: u64,
    /// How long ago the stage began or the last ping was sent; negative: the time until the next
    /// ping.
    stage_ago_ms: i64,
    pinged: bool,
    paused: bool,
    input_ended: bool,
    limiter: Option<LimiterState>,
}

fn partial_state(partial: Option<&Partial>) -> (Vec<u8>, usize) {
    partial.map_or((Vec::new(), 0), |partial| (partial.bytes.clone(), partial.scanned))
}

fn partial(bytes: &[u8], scanned: usize) -> Option<Box<Partial>> {
    (!bytes.is_empty()).then(|| Box::new(Partial { bytes: bytes.to_vec(), scanned }))
}

impl Connections {
    fn stage_state(&self, slot: &Slot) -> Result<StageState, NotSerializable> {
        let age_us = |accepted_us: u32| ((self.now_ns / 1000) as u32).wrapping_sub(accepted_us);
        Ok(match slot.stage() {
            Stage::Proxy { partial, accepted_us } => {
                let (bytes, scanned) = partial_state(partial.as_deref());
                StageState::Proxy { bytes, scanned, age_us: age_us(*accepted_us) }
            }
            Stage::Http { partial, accepted_us } => {
                let (bytes, scanned) = partial_state(partial.as_deref());
                StageState::Http { bytes, scanned, age_us: age_us(*accepted_us) }
            }
            Stage::Asking(_) | Stage::Forwarding(_) => return Err(NotSerializable::Asking),
            Stage::Open(receiver) => {
                StageState::Open(receiver.serialize().map_err(NotSerializable::Receiver)?)
            }
            Stage::Closing { receiver, code } => {
                let receiver = receiver.serialize().map_err(NotSerializable::Receiver)?;
                StageState::Closing { receiver, code: *code }
            }
            Stage::Finishing => StageState::Finishing,
            Stage::Lingering { discarded } => StageState::Lingering { discarded: *discarded },
            Stage::Ending => return Err(NotSerializable::Gone),
        })
    }

    fn restored_stage(&self, state: &StageState) -> Stage {
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
            StageState::Open(state) => Stage::Open(Receiver::restore(state)),
            StageState::Closing { receiver: state, code } => {
                Stage::Closing { receiver: Receiver::restore(state), code: *code }
            }
            StageState::Finishing => Stage::Finishing,
            StageState::Lingering { discarded } => Stage::Lingering { discarded: *discarded },
        }
    }

    /// Serializes a connection.
    ///
    /// # Errors
    ///
    /// With the reason, if it cannot be serialized now.
    pub(in crate::shard) fn serialize(&self, index: u32) -> Result<SlotState, NotSerializable> {
        let slot = self.slots.get(index as usize).ok_or(NotSerializable::Gone)?;
        if slot.is_lending() {
            return Err(NotSerializable::Sending);
        }
        if slot.transport() != Transport::Plain {
            return Err(NotSerializable::Sealed);
        }
        if slot.receiving().is_unfinished() {
            return Err(NotSerializable::Unfinished);
        }
        let has_ended = slot.receiving().has_ended();
        if has_ended && (slot.stage().is_websocket() || slot.stage().is_handshake()) {
            return Err(NotSerializable::Gone);
        }
        let outbox = slot
            .outbox()
            .map(|outbox| outbox.serialize(self.now_ns).ok_or(NotSerializable::Sending));
        let ago_ms = |tick: u32| u64::from(self.tick.saturating_sub(tick)) * TICK_MS;
        let clocks = slot.clocks();
        let stage_ago = i64::from(self.tick) - i64::from(clocks.stage_tick);
        Ok(SlotState {
            peer: slot.peer().get(),
            listener: slot.listener(),
            route: slot.route() as u16,
            stage: self.stage_state(slot)?,
            outbox: outbox.transpose()?,
            traffic: slot.traffic(),
            opened_ago_ms: ago_ms(clocks.opened_tick),
            heard_ago_ms: ago_ms(clocks.heard_tick),
            message_ago_ms: ago_ms(clocks.message_tick),
            stage_ago_ms: stage_ago * TICK_MS as i64,
            pinged: slot.is_pinged(),
            paused: slot.receiving().is_paused(),
            input_ended: has_ended,
            limiter: self.meter.limiter(index).map(|limiter| limiter.serialize(self.now_ns)),
        })
    }

    /// Replaces a connection's state by a serialized one.
    pub(in crate::shard) fn restore(&mut self, index: u32, state: &SlotState) {
        let stage = self.restored_stage(&state.stage);
        let ticks_ago = |ms: u64| self.tick.saturating_sub((ms / TICK_MS) as u32);
        let stage_tick = i64::from(self.tick) - state.stage_ago_ms / TICK_MS as i64;
        let clocks = Clocks {
            opened_tick: ticks_ago(state.opened_ago_ms),
            heard_tick: ticks_ago(state.heard_ago_ms),
            message_tick: ticks_ago(state.message_ago_ms),
            stage_tick: stage_tick as u32,
        };
        let slot = &mut self.slots[index as usize];
        *slot.stage_mut() = stage;
        slot.set_peer(PeerAddress::from(state.peer));
        slot.set_listener(state.listener);
        slot.set_route(state.route.into());
        slot.set_traffic(state.traffic);
        slot.set_clocks(clocks);
        slot.set_pinged(state.pinged);
        slot.receiving_mut().restore(state.paused, state.input_ended);
        self.restore_outbox(index, state.outbox.as_ref());
        let partial_bytes = self.slot(index).partial_bytes();
        self.partials.set_bytes(index, partial_bytes);
        self.meter.remove_limiter(index);
        if let Some(limiter) = &state.limiter {
            self.meter.set_limiter(index, limiter.restore(self.now_ns));
        }
        self.set_deadline(index);
    }

    fn restore_outbox(&mut self, index: u32, state: Option<&OutboxState>) {
        let (now_ns, mut tick) = (self.now_ns, self.tick);
        let slot = &mut self.slots[index as usize];
        if let Some(mut old) = slot.replace_outbox(None) {
            tick = old.progress_tick();
            old.clear(&mut self.pools);
            self.pools.recycle_outbox(old);
        }
        if let Some(state) = state {
            slot.open_outbox(&mut self.pools, tick).restore(&mut self.pools, state, now_ns);
        }
    }
}
