//! New connections: taken in, handed to a less loaded shard, or refused for lack of room.
//!
//! The kernel spreads connections by a hash, which is even only for many of them. So a shard that
//! has [`crate::config::Engine::handover_connections`] more than the least loaded one, or that is
//! full, hands a just-accepted connection over: the socket goes from ring to ring, what is known
//! of it goes by mail, and the two meet under a key. No byte has been read by then.

use std::net::SocketAddr;

use super::core::Arrival;
use super::mailbox::Mail;
use super::{ORPHAN, SURPLUS_MAX, Shard};
use crate::admission::{Denied, Standing};
use crate::driver::{Driver, Socket, Token};
use crate::shard::timers;

/// How long accepts rest after the kernel had no descriptors or memory for one (ms).
const BACK_OFF_MS: u32 = 100;
/// Connections of a shard that wait to be refused, at most.
const REFUSALS_MAX: u32 = 4096;

impl<D: Driver> Shard<D> {
    pub(super) fn accepted(&mut self, listener: u16, socket: Socket, peer: Option<SocketAddr>) {
        self.core.counters.accepted += 1;
        self.owed[usize::from(listener)] += 1;
        let arrival = Arrival {
            socket,
            listener: u8::try_from(listener).expect("a configuration has at most 256 listeners"),
            peer,
            accepted_us: (self.core.now_ns / 1000) as u32,
        };
        match self.better_shard() {
            Some(shard) => self.hand_over(arrival, shard),
            None => self.take_in(&arrival),
        }
        self.owe_accepts();
    }

    /// Arms accepts that are owed, as far as there is room for what they may bring.
    pub(super) fn owe_accepts(&mut self) {
        let room = self.room() + SURPLUS_MAX;
        let accepts = self.core.config.engine.accepts_per_listener;
        if self.stopped || self.resting_until.is_some() {
            return;
        }
        for (listener, owed) in self.owed.iter_mut().enumerate() {
            while *owed > 0 && self.core.slots.len() as u32 + (accepts - *owed) < room {
                *owed -= 1;
                self.driver.accept(listener as u16);
            }
        }
    }

    /// Connections that may be here only to be told why they may not stay: those who are refused
    /// and say nothing must not take the places of others.
    fn refusals_max(&self) -> u32 {
        (self.room() / 8).clamp(1, REFUSALS_MAX)
    }

    fn room(&self) -> u32 {
        self.core.config.limits.connections_per_shard_max
    }

    /// The shard that should have the next connection, if it is not this one.
    fn better_shard(&self) -> Option<u16> {
        let own = self.core.slots.len() as u32;
        let full = own >= self.room();
        let threshold = self.core.config.engine.handover_connections;
        if self.core.directory.len() == 1 || (!full && own <= threshold) || self.core.draining {
            return None;
        }
        let (shard, least) = self.core.directory.least_loaded();
        let worthwhile = full || own > least + threshold;
        let possible =
            shard != self.core.id && least < self.room() && self.core.directory.has_room(shard);
        (worthwhile && possible).then_some(shard)
    }

    pub(super) fn take_in(&mut self, arrival: &Arrival) {
        if self.stopped {
            return self.driver.close(arrival.socket, ORPHAN);
        }
        if self.core.slots.len() as u32 >= self.room() + SURPLUS_MAX {
            self.drop_arrival(arrival);
            return;
        }
        let standing = self.core.standing(arrival.listener, arrival.peer.map(|peer| peer.ip()));
        // A full shard has its surplus for them.
        let crowds = matches!(standing, Standing::Refused(denied) if denied != Denied::ShardFull);
        if crowds && self.core.refused >= self.refusals_max() {
            self.drop_arrival(arrival);
            return;
        }
        let index = self.core.insert(arrival, standing);
        self.settle(index);
    }

    /// Closes a connection unanswered: even the room for rejections is full.
    fn drop_arrival(&mut self, arrival: &Arrival) {
        self.core.counters.dropped_full += 1;
        self.core.log_drop(arrival.peer.map(|peer| peer.ip()), arrival.listener, "dropped_full");
        self.driver.close(arrival.socket, ORPHAN);
    }

    fn hand_over(&mut self, arrival: Arrival, shard: u16) {
        let Arrival { listener, peer, accepted_us, socket } = arrival;
        let key = self.next_key();
        let place = self.passing.insert((arrival, shard, key)) as u32;
        self.core.directory.expect_connection(shard);
        // The socket's arrival wakes the shard, which reads its mail then: this is there before it.
        let mail = Mail::Handover { key, listener, peer, accepted_us };
        self.core.directory.post_unannounced(shard, mail);
        self.driver.pass(socket, Token { slot: place, generation: 0 }, shard, key);
    }

    /// A key that no other handover has while this one is under way: sender, and a number that
    /// comes again only after 2^40 handovers.
    fn next_key(&mut self) -> u64 {
        self.handovers = (self.handovers + 1) & ((1 << 40) - 1);
        u64::from(self.core.id) << 40 | self.handovers
    }

    pub(super) fn passed(&mut self, token: Token, result: Result<(), i32>) {
        let (arrival, shard, key) = self.passing.remove(token.slot as usize);
        match result {
            Ok(()) => self.core.counters.handed_over += 1,
            Err(_) => {
                self.core.counters.handovers_failed += 1;
                if self.core.directory.post_silently(shard, Mail::HandoverFailed { key }) {
                    self.driver.doorbell(shard);
                }
                self.take_in(&arrival);
            }
        }
    }

    /// The socket of a handover is here.
    pub(super) fn arrived(&mut self, key: u64, socket: Socket) {
        self.read_mail();
        match self.arrivals.remove(&key) {
            Some((listener, peer, accepted_us)) => {
                self.core.counters.taken_over += 1;
                self.take_in(&Arrival { socket, listener, peer, accepted_us });
            }
            None => {
                self.core.counters.stale_completions += 1;
                self.driver.close(socket, ORPHAN);
            }
        }
    }

    /// Says, once a minute at most, why nobody gets in.
    fn warn_of_accept(&mut self, errno: i32) {
        if self.core.tick >= self.warn_tick {
            self.warn_tick = self.core.tick + timers::ticks(60_000);
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::warn!(
                shard = self.core.id,
                %error,
                "cannot accept connections; raise the limits of open files (ulimit -n, \
                 fs.file-max) or of memory"
            );
        }
    }

    pub(super) fn accept_failed(&mut self, listener: u16, errno: i32) {
        self.owed[usize::from(listener)] += 1;
        match errno {
            // The client gave up while it waited: nothing is wrong here.
            libc::ECONNABORTED | libc::EINTR | libc::EAGAIN | libc::EPROTO => {}
            _ => {
                // Lack of descriptors or memory. Accepting at once again would spin.
                self.core.counters.accept_errors += 1;
                self.warn_of_accept(errno);
                self.resting_until =
                    Some(self.core.tick.saturating_add(timers::ticks(BACK_OFF_MS) + 1));
            }
        }
        self.owe_accepts();
    }
}
