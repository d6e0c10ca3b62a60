//! Echoes plain messages: whole in the input, uncompressed, on a route without rate limits.
//!
//! Nearly all work is the same for all messages of one input, and is done once for it: budgets are
//! converted to numbers of frames and bytes, counters and marks are added up, and all replies are
//! written to one piece of memory. Any other frame ends the run, and is processed by `frames.rs`.
//!
//! Measured with messages of 20 bytes, sixteen in each input: 870 instructions for a message
//! processed by `frames.rs`.

use super::Connections;
use super::meter::is_metered;
use super::replies::InPlace;
use super::slot::ensure_outbox;
use super::stage::Stage;
use crate::config::HandlerName;
use crate::proto::ws::{self, ProtocolError};

/// The result of a run of plain messages.
#[derive(Default)]
pub(super) struct PlainRun {
    pub(super) messages: u32,
    /// A reply to a message that is the whole input: it is sent from there.
    pub(super) in_place: Option<InPlace>,
    /// The protocol error that ended the run and the connection.
    pub(super) failed: Option<ProtocolError>,
}

impl Connections {
    /// Returns whether input of this length may be echoed by [`Self::echo_plain`]: the connection
    /// is open on an echo route without rate limits or compression, has no unfinished input, and
    /// has used up neither its share of the turn nor its room for replies. A connection that fills
    /// buffers is excluded, because it may have to take turns.
    #[inline]
    pub(super) fn is_plain_echo(&self, index: u32, len: usize) -> bool {
        let slot = self.slot(index);
        let Stage::Open(receiver) = slot.stage() else { return false };
        slot.receiving().is_steady()
            && receiver.sending().is_none()
            && len < self.config.engine.buffer_bytes as usize / 2
            && self.config.route_options[slot.route()].handler == HandlerName::Echo
            && !is_metered(&self.config.rates)
            && !self.work.has_used_share(index)
            && (slot.outbox().is_none() || self.is_ready(index))
    }

    /// Echoes the plain messages at the front of such a connection's input, within the slice's
    /// share and the room for replies; at least one, if there is one.
    #[expect(clippy::mut_mut, reason = "the input moves past what was consumed")]
    #[inline]
    pub(super) fn echo_plain(
        &mut self,
        index: u32,
        input: &mut &mut [u8],
        may_lend: bool,
    ) -> PlainRun {
        let (frames_max, room_bytes) = (self.work.frames_left(), self.reply_room_bytes(index));
        // Another buffer of the same turn may be in flight already.
        let may_lend = may_lend && !self.slot(index).is_lending();
        let mut run = PlainRun::default();
        let Some(parts) = self.slots[index as usize].open_parts() else { return run };
        let limits = &self.config.limits.ws;
        let (kind, payload) = match parts.receiver.next_plain(input, limits) {
            None => return run,
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                run.failed = Some(error);
                return run;
            }
        };
        run.messages = 1;
        let len = payload.len();
        if may_lend
            && input.is_empty()
            && parts.outbox.is_none()
            && len >= self.config.engine.reply_in_place_bytes_min as usize
        {
            run.in_place = Some(InPlace { kind, len });
        } else {
            let outbox = ensure_outbox(parts.outbox, &mut self.pools, self.tick);
            // A client's header is longer than that of its reply, by the mask.
            let bytes_max = ws::HEADER_BYTES_MAX_SERVER + len + input.len().min(room_bytes);
            outbox.append_with(&mut self.pools, bytes_max, |tail| {
                let start = tail.len();
                ws::append_message(tail, kind, payload);
                while !input.is_empty()
                    && run.messages < frames_max
                    && tail.len() - start <= room_bytes
                {
                    match parts.receiver.next_plain(input, limits) {
                        None => break,
                        Some(Ok((kind, payload))) => {
                            run.messages += 1;
                            ws::append_message(tail, kind, payload);
                        }
                        Some(Err(error)) => {
                            run.failed = Some(error);
                            break;
                        }
                    }
                }
            });
            if self.histograms.is_on() {
                outbox.mark_replies(self.now_ns, run.messages);
            }
        }
        *parts.messages_received = parts.messages_received.saturating_add(run.messages);
        *parts.messages_sent = parts.messages_sent.saturating_add(run.messages);
        *parts.message_tick = self.tick;
        self.counters.messages_received += u64::from(run.messages);
        self.counters.messages_sent += u64::from(run.messages);
        self.work.spend_frames(run.messages);
        run
    }
}
