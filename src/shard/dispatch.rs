//! Completions: each finds its slot, or finds that it is gone.

use super::Shard;
use super::outbox::Marked;
use super::replies::InPlace;
use super::slot::{Armed, Parked, Stage};
use super::upkeep::Chore;
use crate::driver::{Batch, Completion, Driver, Input, Lease, Loan, Received, Token};
use crate::proto::ws;

impl<D: Driver> Shard<D> {
    pub(super) fn dispatch(&mut self, completion: Completion) {
        match completion {
            Completion::Received { token, armed, what } => self.received(token, armed, what),
            Completion::Sent { batch, result } => self.sent(batch, result),
            Completion::LoanSent { loan, result } => self.loan_sent(loan, result),
            Completion::Accepted { listener, socket, peer } => {
                self.accepted(listener, socket, peer);
            }
            Completion::AcceptFailed { listener, errno } => self.accept_failed(listener, errno),
            Completion::CancelRan { token, found } => {
                if let Some(index) = self.finished(token) {
                    self.core.slots[index as usize].cancel.ran(found);
                    self.settle(index);
                }
            }
            Completion::ShutDown { token } => {
                if let Some(index) = self.finished(token) {
                    self.settle(index);
                }
            }
            Completion::Closed { token } => {
                if token != super::ORPHAN
                    && let Some(index) = self.finished(token)
                {
                    self.core.remove(index);
                    self.owe_accepts();
                }
            }
            Completion::Arrived { key, socket } => self.arrived(key, socket),
            Completion::Passed { token, result } => self.passed(token, result),
            Completion::Measured { token, result } => {
                if let Some(index) = self.finished(token) {
                    self.looked(token, result);
                    self.core.conclude_liveness(index, result);
                    self.settle(index);
                }
            }
            // Nothing asks for these yet.
            Completion::Detached { .. } | Completion::Adopted { .. } => {
                self.core.counters.stale_completions += 1;
            }
            Completion::Doorbell => {}
        }
    }

    /// An operation of a slot has ended.
    fn finished(&mut self, token: Token) -> Option<u32> {
        let index = self.core.lookup(token)?;
        let slot = &mut self.core.slots[index as usize];
        assert!(slot.in_flight > 0, "only what was in flight can end");
        slot.in_flight -= 1;
        Some(index)
    }

    fn received(&mut self, token: Token, armed: bool, what: Received) {
        let found = if armed { self.core.lookup(token) } else { self.finished(token) };
        let Some(index) = found else {
            if let Received::Data(lease) = what {
                self.driver.release(lease);
            }
            return;
        };
        if !armed {
            let slot = &mut self.core.slots[index as usize];
            slot.armed = Armed::Nothing;
            slot.cancel.target_ended();
        }
        match what {
            Received::Data(lease) => {
                self.core.wake(index);
                let may_lend = self.driver.may_lend();
                match self.core.input(index, self.driver.bytes(&lease), may_lend) {
                    Some(reply) => self.lend(index, lease, reply),
                    None => self.driver.release(lease),
                }
            }
            Received::Readable { ended } => self.core.wake_later(index, ended),
            Received::End => self.ended(index, Chore::Finish),
            Received::Starved => {
                self.core.counters.receive_starvations += 1;
                let slot = &mut self.core.slots[index as usize];
                slot.held = true;
                // What was to be received is there still: it need not be waited for again.
                if slot.parked == Parked::Yes {
                    slot.input = Input::There;
                } else if !slot.takes_turns() {
                    slot.input = Input::Likely;
                }
                self.starved.push(token);
            }
            Received::Cancelled => {}
            Received::Failed(_) => self.ended(index, Chore::Drop),
        }
        self.settle(index);
    }

    /// Sends a reply from the buffer that its message came in, under a header written over the
    /// message's own, which was longer by the mask.
    fn lend(&mut self, index: u32, lease: Lease, reply: InPlace) {
        let token = self.core.token(index);
        let bytes = self.driver.bytes(&lease);
        let (header, header_len) = ws::frame_header(reply.kind.opcode(), reply.len);
        let payload = bytes.len() - reply.len;
        let start = payload - header_len;
        bytes[start..payload].copy_from_slice(&header[..header_len]);
        self.core.counters.replies_in_place += 1;
        let slot = &mut self.core.slots[index as usize];
        slot.lending = true;
        slot.in_flight += 1;
        let loan = Loan { token, lease, start, note: self.core.now_ns };
        self.driver.send_loan(slot.socket, loan);
    }

    /// What there was no room for goes on as any other output; the buffer comes back at once.
    fn loan_sent(&mut self, loan: Loan, result: Result<usize, i32>) {
        let Loan { token, lease, start, note } = loan;
        let Some(index) = self.finished(token) else { return self.driver.release(lease) };
        let core = &mut self.core;
        let slot = &mut core.slots[index as usize];
        slot.lending = false;
        let asked = lease.len() - start;
        match result {
            Err(errno) if !matches!(errno, libc::EAGAIN | libc::EINTR) => {
                self.lost(index);
            }
            result => {
                let taken = result.unwrap_or(0);
                core.counters.bytes_sent += taken as u64;
                slot.bytes_sent += taken as u64;
                if taken == asked {
                    core.histograms.turnaround.record(core.now_ns.saturating_sub(note));
                } else {
                    core.counters.short_sends += 1;
                    let rest = &self.driver.bytes(&lease)[start + taken..];
                    core.queue_first(index, rest, note);
                }
            }
        }
        self.driver.release(lease);
        self.settle(index);
    }

    fn sent(&mut self, batch: Box<Batch>, result: Result<usize, i32>) {
        let Some(index) = self.finished(batch.token) else { return };
        let core = &mut self.core;
        let slot = &mut core.slots[index as usize];
        let asked = batch.offered();
        let taken = match result {
            Ok(taken) if taken > 0 => taken,
            Err(libc::EAGAIN | libc::EINTR) => 0,
            _ => {
                // Nothing more can be sent: the rest goes with the slot.
                let outbox = slot.outbox.as_mut().expect("a batch comes from an outbox");
                core.gauges.outbox_bytes -= outbox.bytes() as u64;
                outbox.restore(batch, &mut core.pools);
                core.pools.recycle_outbox(slot.outbox.take().expect("it was just looked at"));
                self.lost(index);
                return self.settle(index);
            }
        };
        let outbox = slot.outbox.as_mut().expect("a batch comes from an outbox");
        core.counters.short_sends += u64::from(taken < asked);
        core.counters.bytes_sent += taken as u64;
        core.gauges.outbox_bytes -= taken as u64;
        slot.bytes_sent += taken as u64;
        let (now_ns, histograms) = (core.now_ns, &mut core.histograms);
        outbox.sent(batch, taken, &mut core.pools, |what, at_ns, messages| {
            let took_ns = now_ns.saturating_sub(at_ns);
            if what == Marked::Reply {
                return histograms.turnaround.record_n(took_ns, messages.into());
            }
            histograms.publish_to_delivery.record_n(took_ns, messages.into());
            if what == Marked::LastDelivery {
                histograms.fanout.record(took_ns);
            }
        });
        if taken > 0 {
            outbox.progress_tick = core.tick;
        }
        if outbox.is_empty() {
            core.pools.recycle_outbox(slot.outbox.take().expect("it was just looked at"));
            if matches!(slot.stage, Stage::Closing { .. }) {
                // Our Close has left only now, and the time for the peer's begins.
                slot.stage_tick = core.tick;
                core.set_deadline(index);
            }
        }
        self.core.reconsider(index);
        self.settle(index);
    }
}
