//! New connections: given a slot, handed to a less loaded shard, or dropped for lack of room.
//!
//! The kernel distributes connections by a hash, which is even only for many of them. So a shard
//! that has [`crate::config::Engine::handover_connections`] more than the least loaded one, or that
//! is full, hands over a connection that it has just accepted, before it reads a byte. The socket
//! is passed from ring to ring, its description is sent by mail, and the receiving shard matches
//! the two by a key.

use std::net::SocketAddr;

use super::connections::{Arrival, ticks};
use super::mail::Mail;
use super::{ORPHAN, SURPLUS_MAX, Shard};
use crate::admission::{Denied, Standing};
use crate::driver::{Driver, Socket, Token};

/// Pause after an accept failed for lack of descriptors or memory (ms).
const BACK_OFF_MS: u32 = 100;
/// The maximum number of connections being rejected in one shard.
const REFUSALS_MAX: u32 = 4096;

impl<D: Driver> Shard<D> {
    /// Handles a completed accept: keeps the connection, or hands it to a less loaded shard.
    pub(super) fn take_accepted(
        &mut self,
        listener: u16,
        socket: Socket,
        peer: Option<SocketAddr>,
    ) {
        self.connections.counters_mut().accepted += 1;
        self.owed[usize::from(listener)] += 1;
        let arrival = Arrival {
            socket,
            listener: u8::try_from(listener).expect("a configuration has at most 256 listeners"),
            peer,
            accepted_us: (self.connections.now_ns() / 1000) as u32,
        };
        match self.better_shard() {
            Some(shard) => self.hand_over(arrival, shard),
            None => self.take_in(&arrival),
        }
        self.owe_accepts();
    }

    /// Arms owed accepts, as long as there is room for the connections that they may bring.
    pub(super) fn owe_accepts(&mut self) {
        let room = self.connections_max() + SURPLUS_MAX;
        let accepts = self.connections.config().engine.accepts_per_listener;
        if self.stopped || self.resting_until.is_some() {
            return;
        }
        for (listener, owed) in self.owed.iter_mut().enumerate() {
            while *owed > 0 && self.connections.len() as u32 + (accepts - *owed) < room {
                *owed -= 1;
                self.driver.accept(listener as u16);
            }
        }
    }

    /// Returns the number of slots for connections being rejected: rejected clients that stay
    /// connected must not take the slots of others.
    fn refusals_max(&self) -> u32 {
        (self.connections_max() / 8).clamp(1, REFUSALS_MAX)
    }

    /// Returns the maximum number of connections of this shard.
    fn connections_max(&self) -> u32 {
        self.connections.config().limits.connections_per_shard_max
    }

    /// Returns the shard that a new connection should be handed to, if any.
    fn better_shard(&self) -> Option<u16> {
        let own = self.connections.len() as u32;
        let full = own >= self.connections_max();
        let threshold = self.connections.config().engine.handover_connections;
        if self.connections.directory().len() == 1
            || (!full && own <= threshold)
            || self.connections.is_draining()
        {
            return None;
        }
        let (shard, least) = self.connections.directory().least_loaded();
        let worthwhile = full || own > least + threshold;
        let possible = shard != self.connections.id()
            && least < self.connections_max()
            && self.connections.directory().has_room(shard);
        (worthwhile && possible).then_some(shard)
    }

    /// Gives a connection a slot, or drops it if even the slots for rejections are in use.
    pub(super) fn take_in(&mut self, arrival: &Arrival) {
        if self.stopped {
            return self.driver.close(arrival.socket, ORPHAN);
        }
        if self.connections.len() as u32 >= self.connections_max() + SURPLUS_MAX {
            self.drop_arrival(arrival);
            return;
        }
        let standing =
            self.connections.decide_standing(arrival.listener, arrival.peer.map(|peer| peer.ip()));
        // Rejections because the shard is full have slots of their own, the surplus.
        let needs_slot =
            matches!(standing, Standing::Refused(denied) if denied != Denied::ShardFull);
        if needs_slot && self.connections.rejected_count() >= self.refusals_max() {
            self.drop_arrival(arrival);
            return;
        }
        let index = self.connections.insert(arrival, standing);
        self.connections.reconcile(&mut self.driver, index);
    }

    /// Closes a connection without an answer, because all slots for rejections are in use.
    fn drop_arrival(&mut self, arrival: &Arrival) {
        self.connections.counters_mut().dropped_full += 1;
        self.connections.log_drop(
            arrival.peer.map(|peer| peer.ip()),
            arrival.listener,
            "dropped_full",
        );
        self.driver.close(arrival.socket, ORPHAN);
    }

    /// Hands a connection to another shard: posts its description, then passes its socket.
    fn hand_over(&mut self, arrival: Arrival, shard: u16) {
        debug_assert_ne!(shard, self.connections.id(), "a shard hands over to others only");
        let Arrival { listener, peer, accepted_us, socket } = arrival;
        let key = self.next_key();
        let place = self.passing.insert((arrival, shard, key)) as u32;
        self.connections.directory().expect_connection(shard);
        // No doorbell is needed: the arrival of the socket, which follows this mail, wakes the
        // shard.
        let mail = Mail::Handover { key, listener, peer, accepted_us };
        self.connections.directory().post_unannounced(shard, mail);
        self.driver.pass(socket, Token { slot: place, generation: 0 }, shard, key);
    }

    /// Returns a key that is unique among the handovers in flight: this shard, and a number that
    /// repeats only after 2^40 handovers.
    fn next_key(&mut self) -> u64 {
        self.handovers = (self.handovers + 1) & ((1 << 40) - 1);
        u64::from(self.connections.id()) << 40 | self.handovers
    }

    /// Handles the end of passing a socket. If it failed, the connection stays here, and a mail
    /// cancels the handover at the other shard.
    pub(super) fn complete_handover(&mut self, token: Token, result: Result<(), i32>) {
        let (arrival, shard, key) = self.passing.remove(token.slot as usize);
        match result {
            Ok(()) => self.connections.counters_mut().handed_over += 1,
            Err(_) => {
                self.connections.counters_mut().handovers_failed += 1;
                if self.connections.directory().post_silently(shard, Mail::HandoverFailed { key }) {
                    self.driver.doorbell(shard);
                }
                self.take_in(&arrival);
            }
        }
    }

    /// Takes the socket of a handover. Its mail was posted earlier, but may not have been read yet.
    pub(super) fn take_handover(&mut self, key: u64, socket: Socket) {
        self.read_mail();
        match self.arrivals.remove(&key) {
            Some((listener, peer, accepted_us)) => {
                self.connections.counters_mut().taken_over += 1;
                self.take_in(&Arrival { socket, listener, peer, accepted_us });
            }
            None => {
                self.connections.counters_mut().stale_completions += 1;
                self.driver.close(socket, ORPHAN);
            }
        }
    }

    /// Logs why connections cannot be accepted, at most once a minute.
    fn warn_of_accept(&mut self, errno: i32) {
        if self.connections.tick() >= self.warn_tick {
            self.warn_tick = self.connections.tick() + ticks(60_000);
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::warn!(
                shard = self.connections.id(),
                %error,
                "cannot accept connections; raise the limits of open files (ulimit -n, \
                 fs.file-max) or of memory"
            );
        }
    }

    /// Handles a failed accept: pauses accepting if the failure would repeat.
    pub(super) fn accept_failed(&mut self, listener: u16, errno: i32) {
        self.owed[usize::from(listener)] += 1;
        match errno {
            // The client disconnected before the accept, or the call was interrupted.
            libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::EPROTO => {}
            _ => {
                // Lack of descriptors or memory: accepting again at once would spin.
                self.connections.counters_mut().accept_errors += 1;
                self.warn_of_accept(errno);
                self.resting_until =
                    Some(self.connections.tick().saturating_add(ticks(BACK_OFF_MS) + 1));
            }
        }
        self.owe_accepts();
    }
}
