//! Builds one send for each connection at the end of a turn from its queued output, and handles
//! completions of sends. If few connections send, the sends are quiet ([`Batch::is_quiet`]): a
//! single reply or delivery then costs one system call instead of two, and one turn.

use super::outbox::{Marked, Outbox, Taken};
use super::replies::InPlace;
use super::stage::Stage;
use super::tls_table::take_sealed_batch;
use super::transport::Transport;
use super::{Connections, Sessions};
use crate::driver::batch::Bounds;
use crate::driver::{Batch, Driver, Lease, Loan, Socket, Token};
use crate::proto::ws;

/// Bytes that are sent in one turn, because the kernel copies them while all connections wait.
/// Above this only short sends are submitted; the others follow in the next turns.
const MOVED_BYTES_MAX: usize = 512 * 1024;
/// The maximum size of a short send.
const SMALL_BYTES: u64 = 16 * 1024;

/// The maximum number of quiet sends in one flush. Their memory is kept until the next event, and
/// their time of sending is that of their submission.
const QUIET_SENDS_MAX: usize = 8;

/// The remaining budgets of one flush.
struct Flushing {
    bounds: Bounds,
    /// Sends need no completion on success.
    may_be_quiet: bool,
    /// The effort left for compression.
    effort: u64,
    moved_bytes: usize,
}

/// The next step for a connection with output.
enum Next {
    Nothing,
    /// Its output is deferred to the next turn; `was_served`: some of it was compressed.
    Deferred {
        was_served: bool,
    },
    /// `has_deadline`: the connection's timer is set.
    Send {
        batch: Box<Batch>,
        socket: Socket,
        has_deadline: bool,
    },
}

impl Connections {
    /// Queues the connection for the flush at the end of the turn, unless a send is in flight.
    #[inline]
    pub(in crate::shard) fn mark_dirty(&mut self, index: u32) {
        if self.slot_mut(index).mark_dirty() {
            self.dirty.push(index);
        }
    }

    /// Returns whether output is queued for the flush.
    pub(in crate::shard) fn has_output(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Sends the output queued in this turn. Output above the turn's bounds of compression and of
    /// bytes is deferred to the next turn; returns whether there is any.
    pub(in crate::shard) fn flush_output(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
    ) -> bool {
        // Compression gets the rest of the turn, at most half of a turn, because input has arrived
        // in the meantime, and at least one share.
        let work = &self.work;
        let effort = work.turn_left().min(work.turn_max() / 2).max(work.share_max());
        let bounds = self.config.send_bounds();
        let may_be_quiet = self.dirty.len() <= QUIET_SENDS_MAX;
        let flushing = Flushing { bounds, may_be_quiet, effort, moved_bytes: 0 };
        self.flush_within(driver, sessions, flushing);
        self.has_output()
    }

    /// Sends short output; the rest is sent by [`Self::flush_output`].
    pub(in crate::shard) fn flush_short(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
    ) {
        let bounds = self.config.send_bounds();
        let moved_bytes = MOVED_BYTES_MAX + 1;
        let flushing = Flushing { bounds, may_be_quiet: false, effort: 0, moved_bytes };
        self.flush_within(driver, sessions, flushing);
    }

    fn flush_within(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
        mut flushing: Flushing,
    ) {
        if self.dirty.is_empty() {
            return;
        }
        let (mut without_deadline, mut deferred) = (Vec::new(), Vec::new());
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            match self.build_send(sessions, index, &mut flushing) {
                Next::Nothing => {}
                Next::Deferred { was_served } => {
                    self.slot_mut(index).set_dirty(true);
                    deferred.push((was_served, index));
                }
                Next::Send { batch, socket, has_deadline } => {
                    driver.send(socket, batch);
                    if !has_deadline {
                        without_deadline.push(index);
                    }
                }
            }
        }
        debug_assert!(self.dirty.is_empty(), "building sends queues nothing for the flush");
        self.dirty = dirty;
        self.deflaters.set_allowance(u64::MAX);
        if !deferred.is_empty() {
            // Connections that were not served in this turn come first in the next.
            deferred.sort_by_key(|(was_served, _)| *was_served);
            self.dirty.extend(deferred.iter().map(|(_, index)| *index));
        }
        // All other timers check the send deadline too; these connections have no timer yet.
        for index in without_deadline {
            self.set_deadline(index);
        }
    }

    /// Builds a connection's next send within the remaining budgets of the flush.
    #[expect(
        clippy::inline_always,
        reason = "each engine has a copy: calls cost 5 % of a delivery"
    )]
    #[inline(always)]
    fn build_send(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        flushing: &mut Flushing,
    ) -> Next {
        let bounds = flushing.bounds;
        let Some(slot) = self.slots.get(index as usize) else { return Next::Nothing };
        let has_uncompressed = slot.outbox().is_some_and(Outbox::has_uncompressed);
        let spent = if has_uncompressed || slot.readiness().has_backlog() {
            self.prepare_output(sessions, index, flushing)
        } else {
            0
        };
        let slot = &mut self.slots[index as usize];
        if !slot.is_dirty() {
            return Next::Nothing;
        }
        slot.set_dirty(false);
        if !slot.may_send() {
            return Next::Nothing;
        }
        let token = Token { slot: index, generation: slot.generation() };
        if slot.is_owing() {
            slot.open_outbox(&mut self.pools, self.tick);
        }
        let transport = slot.transport();
        let Some(outbox) = slot.outbox_mut() else { return Next::Nothing };
        let queued = outbox.bytes() as u64;
        if flushing.moved_bytes > MOVED_BYTES_MAX && queued > SMALL_BYTES {
            return Next::Deferred { was_served: false };
        }
        let taken = match transport {
            Transport::Plain => outbox.take_batch(bounds),
            Transport::Tls(handle) => {
                take_sealed_batch(self.tls.sealer(handle), &mut self.pools, slot, bounds)
            }
        };
        let Some(mut batch) = taken else {
            if slot.outbox().is_some_and(Outbox::has_uncompressed) {
                return Next::Deferred { was_served: spent > 0 };
            }
            return Next::Nothing;
        };
        self.histograms.send_queue_bytes.record(queued);
        batch.limit_offer(bounds.bytes_max);
        batch.is_quiet = flushing.may_be_quiet
            && slot.is_steady()
            && queued <= SMALL_BYTES
            && !slot.readiness().has_backlog()
            && slot.outbox().is_some_and(|outbox| outbox.is_last_batch(&batch));
        batch.token = token;
        slot.begin_operation();
        let offered = batch.offered_bytes();
        self.work.spend_moved(offered);
        flushing.moved_bytes += offered;
        Next::Send { batch, socket: slot.socket(), has_deadline: slot.has_deadline() }
    }

    /// Prepares a connection's next send: moves messages from its session's backlog to its outbox,
    /// and compresses queued ones. Returns the effort spent.
    fn prepare_output(
        &mut self,
        sessions: &mut impl Sessions,
        index: u32,
        flushing: &mut Flushing,
    ) -> u64 {
        let bytes_max = flushing.bounds.bytes_max;
        self.deflaters.set_allowance(flushing.effort.min(self.work.share_max()));
        let began = self.deflaters.work().effort;
        let slot = self.slot(index);
        if slot.readiness().has_backlog() && !slot.is_lending() && !slot.is_sending() {
            // The backlog follows after the messages that are still to be compressed.
            self.compress_outbox(index, bytes_max);
            sessions.refill_outbox(self, index, bytes_max);
        }
        let slot = self.slot(index);
        let has_uncompressed = slot.outbox().is_some_and(Outbox::has_uncompressed);
        if has_uncompressed && slot.is_dirty() && slot.may_send() {
            self.compress_outbox(index, bytes_max);
        }
        let spent = self.deflaters.work().effort - began;
        self.work.spend(spent);
        flushing.effort = flushing.effort.saturating_sub(spent);
        spent
    }

    /// Handles a completed send: frees what was sent, and records the turnaround of replies.
    pub(in crate::shard) fn complete_send(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
        batch: Box<Batch>,
        result: Result<usize, i32>,
    ) {
        let Some(index) = self.complete_operation(batch.token) else { return };
        let asked = batch.offered_bytes();
        let taken = match result {
            Ok(taken) if taken > 0 => taken,
            Err(libc::EAGAIN | libc::EINTR) => 0,
            _ => {
                // Nothing more can be sent: the output is dropped with the connection.
                let slot = &mut self.slots[index as usize];
                let outbox = slot.outbox_mut().expect("a batch comes from an outbox");
                outbox.fail_send(batch, &mut self.pools);
                slot.release_outbox(&mut self.pools);
                self.drop_broken(sessions, index);
                return self.reconcile(driver, index);
            }
        };
        self.counters.short_sends += u64::from(taken < asked);
        self.counters.bytes_sent += taken as u64;
        let slot = &mut self.slots[index as usize];
        slot.note_sent(taken);
        // Sealed output is counted in bytes on the wire.
        let sent = Taken { wire_bytes: taken, queued_bytes: taken };
        let (left_ns, histograms) = (batch.left_ns().unwrap_or(self.now_ns), &mut self.histograms);
        let outbox = slot.outbox_mut().expect("a batch comes from an outbox");
        outbox.complete_send(batch, sent, &mut self.pools, |what, at_ns, messages| {
            let took_ns = left_ns.saturating_sub(at_ns);
            if what == Marked::Reply {
                return histograms.turnaround.record_n(took_ns, messages.into());
            }
            histograms.publish_to_delivery.record_n(took_ns, messages.into());
            if what == Marked::LastDelivery {
                histograms.fanout.record(took_ns);
            }
        });
        if taken > 0 {
            outbox.note_progress(self.tick);
        }
        if slot.release_outbox(&mut self.pools) && matches!(slot.stage(), Stage::Closing { .. }) {
            // Our Close was sent only now: the time for the peer's Close begins.
            slot.set_stage_tick(self.tick);
            self.set_deadline(index);
        } else if slot.is_steady() && slot.has_sent_all() && !slot.readiness().has_backlog() {
            return;
        }
        self.reconsider(index);
        self.reconcile(driver, index);
    }

    /// Sends a reply from the receive buffer of its message, with a header written over that of the
    /// message, which was longer by the mask.
    pub(super) fn send_in_place(
        &mut self,
        driver: &mut impl Driver,
        index: u32,
        lease: Lease,
        reply: InPlace,
    ) {
        let token = self.token(index);
        let bytes = driver.bytes(&lease);
        let (header, header_len) = ws::frame_header(reply.kind.opcode(), reply.len);
        let payload = bytes.len() - reply.len;
        let start = payload - header_len;
        bytes[start..payload].copy_from_slice(&header[..header_len]);
        debug_assert!(self.slot(index).transport() == Transport::Plain && start < bytes.len());
        self.counters.replies_in_place += 1;
        let loan = Loan { token, lease, start, note: self.now_ns };
        let slot = self.slot_mut(index);
        slot.begin_loan();
        driver.send_loan(slot.socket(), loan);
    }

    /// Handles a completed in-place reply. The unsent rest is queued as other output; the buffer is
    /// returned at once.
    pub(in crate::shard) fn complete_loan(
        &mut self,
        driver: &mut impl Driver,
        sessions: &mut impl Sessions,
        loan: Loan,
        result: Result<usize, i32>,
    ) {
        let Loan { token, lease, start, note } = loan;
        let Some(index) = self.complete_operation(token) else { return driver.release(lease) };
        let slot = self.slot_mut(index);
        slot.end_loan();
        let asked = lease.len() - start;
        match result {
            Err(errno) if !matches!(errno, libc::EAGAIN | libc::EINTR) => {
                self.drop_broken(sessions, index);
            }
            result => {
                let taken = result.unwrap_or(0);
                slot.note_sent(taken);
                self.counters.bytes_sent += taken as u64;
                if taken == asked {
                    self.histograms.turnaround.record(self.now_ns.saturating_sub(note));
                } else {
                    self.counters.short_sends += 1;
                    let rest = &driver.bytes(&lease)[start + taken..];
                    self.queue_first(index, rest, note);
                }
            }
        }
        driver.release(lease);
        self.reconcile(driver, index);
    }
}
