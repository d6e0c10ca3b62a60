//! Processes received bytes by stage, within the connection's share of the turn, and holds the
//! rest.
//!
//! Bytes behind the end of a stage belong to the next stage and are passed on at once: a PROXY
//! header, a request and its first frames may arrive in one segment.

use super::replies::InPlace;
use super::stage::Stage;
use super::{Connections, Sessions};
use crate::proto::ws::CloseCode;

/// The result of processing input.
pub(super) struct Processed {
    /// The number of unprocessed bytes at the end of the input.
    pub(super) rest: usize,
    /// A reply to be sent from the input's own memory.
    pub(super) in_place: Option<InPlace>,
}

impl Connections {
    /// Processes bytes from the wire: decrypts them, if the transport is TLS, and processes the
    /// content.
    ///
    /// Returns a reply to be sent from these bytes, only if `may_lend`.
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

    /// Processes received bytes within the connection's share of the turn, and holds the rest.
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
        // Input that fills less than a buffer at a time needs no turns.
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

    /// Returns whether a message is inflated in part, and its inflation can continue without more
    /// input.
    fn is_suspended(&self, index: u32) -> bool {
        match self.slot(index).stage() {
            Stage::Open(receiver) | Stage::Closing { receiver, .. } => receiver.is_suspended(),
            _ => false,
        }
    }

    /// Processes bytes within the connection's share of the turn, and notes what remains
    /// unfinished.
    pub(super) fn process_within_share(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        bytes: &mut [u8],
        may_lend: bool,
    ) -> Processed {
        // Inflating a byte of text costs a third of a unit of effort.
        self.inflaters.set_allowance(3 * self.work.share_left().max(1) as usize);
        let before = self.partial_bytes(index);
        let mut processed = self.process_stage(sessions, index, bytes, may_lend);
        let after = self.partial_bytes(index);
        if before > 0 || after > 0 {
            self.partials.set_bytes(index, after);
        }
        if after > before && self.has_too_much_unfinished() {
            self.close_for_partial(sessions, index);
            // No further message is processed: discard the rest of the input.
            processed.rest = 0;
        }
        processed
    }

    /// Processes bytes by the connection's stage.
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
            Stage::Forwarding(_) => {
                self.receive_body(sessions, index, bytes);
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
