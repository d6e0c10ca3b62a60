//! Bytes from a peer: processed by stage, as far as the connection's share of the turn reaches, and
//! held beyond that.
//!
//! What follows a stage's end in the same bytes belongs to the next stage and is passed on at
//! once: a PROXY header, a request and its first frames may all come in one segment.

use super::replies::InPlace;
use super::stage::Stage;
use super::{Connections, Sessions};
use crate::proto::ws::CloseCode;

/// What processing input came to.
pub(super) struct Processed {
    /// Bytes at the end of the input that have to wait.
    pub(super) rest: usize,
    /// A reply that leaves from the input's own memory.
    pub(super) in_place: Option<InPlace>,
}

impl Connections {
    /// Takes bytes from the wire: opens them, and processes what they mean.
    ///
    /// Returns a reply that leaves from these bytes; only where `may_lend`.
    #[expect(clippy::inline_always, reason = "each engine has a copy: calls cost 2 % of an echo")]
    #[inline(always)]
    pub(super) fn receive_wire_bytes(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        wire: &mut [u8],
        may_lend: bool,
    ) -> Option<InPlace> {
        let tick = self.tick;
        self.counters.bytes_received += wire.len() as u64;
        self.work.spend_moved(wire.len());
        self.slot_mut(index).note_received(wire.len(), tick);
        if self.takes_tls(index) {
            self.receive_tls(sessions, index, wire);
            return None;
        }
        self.process_or_hold(sessions, index, wire, may_lend)
    }

    /// Processes received bytes as far as the connection's share of the turn reaches, and holds the
    /// rest.
    #[expect(clippy::inline_always, reason = "each engine has a copy: calls cost 2 % of an echo")]
    #[inline(always)]
    pub(super) fn process_or_hold(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        mut bytes: &mut [u8],
        may_lend: bool,
    ) -> Option<InPlace> {
        if self.is_plain_echo(index, bytes.len()) {
            self.work.begin_slice(index);
            let run = self.echo_plain(index, &mut bytes, may_lend);
            self.work.end_slice(index);
            if let Some(error) = run.failed {
                self.fail_frames(sessions, index, error);
                return None;
            }
            if bytes.is_empty() {
                self.check_outbox(sessions, index);
                return run.in_place;
            }
        }
        let slot = self.slot(index);
        let has_to_wait = slot.stage().is_websocket()
            && (slot.receiving().is_unfinished()
                || self.work.has_used_share(index)
                || !self.is_ready(index));
        if has_to_wait {
            self.hold_input(sessions, index, bytes);
            self.reconsider(index);
            return None;
        }
        self.note_bulk_input(index, bytes.len());
        // What comes less than a buffer at a time does not need to be held back.
        let is_calm = self.slot(index).receiving().is_calm()
            && bytes.len() < self.config.engine.buffer_bytes as usize / 2;
        self.work.begin_slice(index);
        let Processed { rest, in_place } =
            self.process_within_share(sessions, index, bytes, may_lend);
        self.work.end_slice(index);
        if rest > 0 {
            self.hold_input(sessions, index, &bytes[bytes.len() - rest..]);
            self.reconsider(index);
        } else if self.is_suspended(index) {
            self.note_unfinished(index);
        } else if is_calm {
            self.slot_mut(index).receiving_mut().end_turns();
        }
        in_place
    }

    /// Whether a message of the connection is inflated in part and needs no more input for now.
    fn is_suspended(&self, index: u32) -> bool {
        match self.slot(index).stage() {
            Stage::Open(receiver) | Stage::Closing { receiver, .. } => receiver.is_suspended(),
            _ => false,
        }
    }

    /// Processes bytes within the connection's share of the turn, and counts what stays unfinished.
    pub(super) fn process_within_share(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        bytes: &mut [u8],
        may_lend: bool,
    ) -> Processed {
        // A byte of text costs a third of the effort to inflate.
        self.inflaters.set_allowance(3 * self.work.share_left().max(1) as usize);
        let before = self.partial_bytes(index);
        let mut processed = self.process_stage(sessions, index, bytes, may_lend);
        let after = self.partial_bytes(index);
        if before > 0 || after > 0 {
            self.partials.set(index, after);
        }
        if after > before && self.has_too_much_unfinished() {
            self.close_for_partial(sessions, index);
            // No message is processed any more: the rest of the input has no meaning.
            processed.rest = 0;
        }
        processed
    }

    /// Processes bytes by the stage of the connection.
    fn process_stage(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        bytes: &mut [u8],
        may_lend: bool,
    ) -> Processed {
        let rest = match self.slot_mut(index).stage_mut() {
            Stage::Open(_) => return self.process_frames(sessions, index, bytes, may_lend),
            Stage::Closing { .. } => self.seek_peer_close(sessions, index, bytes),
            Stage::Proxy { .. } | Stage::Http { .. } => self.collect_head(sessions, index, bytes),
            Stage::Asking(_) => {
                self.hold_early(index, bytes);
                0
            }
            Stage::Lingering { discarded } => {
                *discarded += bytes.len() as u64;
                if *discarded > self.config.limits.linger_bytes_max {
                    self.abort(sessions, index, CloseCode::ABNORMAL);
                }
                0
            }
            Stage::Finishing | Stage::Ending => 0,
        };
        Processed { rest, in_place: None }
    }
}
