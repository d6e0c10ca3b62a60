//! What has happened, counted since the start.

use std::collections::BTreeMap;

use crate::admission::Denied;
use crate::admission::limiter::RateKind;
use crate::proto::http::Refusal;
use crate::proto::ws::{CloseCode, ProtocolError};

/// How a WebSocket ended, in classes that a metric can carry as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseClass(usize);

const RANGES: [&str; 3] = ["3xxx", "4xxx", "other"];
const CLASSES: usize = CloseClass::CODES.len() + RANGES.len();

impl CloseClass {
    /// Close codes with a label of their own; every other code is counted by its range.
    pub const CODES: [CloseCode; CloseCode::NAMED.len()] = CloseCode::NAMED;

    /// The class of a close code; 1005 = none was given, 1006 = no Close came.
    pub fn of(code: CloseCode) -> Self {
        let range = || {
            Self::CODES.len()
                + match code.get() {
                    3000..=3999 => 0,
                    4000..=4999 => 1,
                    _ => 2,
                }
        };
        Self(Self::CODES.iter().position(|known| *known == code).unwrap_or_else(range))
    }

    /// The label.
    pub fn label(self) -> String {
        match Self::CODES.get(self.0) {
            Some(code) => code.to_string(),
            None => RANGES[self.0 - Self::CODES.len()].to_owned(),
        }
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one shard.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
            refused: [u64; Refusal::ALL.len()],
            closed: [u64; CLASSES],
            protocol_errors: [u64; ProtocolError::ALL.len()],
            auth_failures: BTreeMap<&'static str, u64>,
            denied: [u64; Denied::ALL.len()],
            over_rate: [u64; RateKind::ALL.len()],
        }

        impl Default for Counters {
            fn default() -> Self {
                Self {
                    $($name: 0,)*
                    refused: [0; Refusal::ALL.len()],
                    closed: [0; CLASSES],
                    protocol_errors: [0; ProtocolError::ALL.len()],
                    auth_failures: BTreeMap::new(),
                    denied: [0; Denied::ALL.len()],
                    over_rate: [0; RateKind::ALL.len()],
                }
            }
        }

        impl Counters {
            /// Adds another shard's counters.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
                add_all(&mut self.refused, &other.refused);
                add_all(&mut self.closed, &other.closed);
                add_all(&mut self.protocol_errors, &other.protocol_errors);
                add_all(&mut self.denied, &other.denied);
                add_all(&mut self.over_rate, &other.over_rate);
                for (kind, count) in &other.auth_failures {
                    *self.auth_failures.entry(kind).or_default() += count;
                }
            }

            /// Name, meaning and value of every plain counter.
            pub fn plain(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), help(&[$(stringify!($doc)),*]), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Connections accepted from the kernel.
    accepted,
    /// Accepts that failed, for lack of descriptors or memory.
    accept_errors,
    /// Connections dropped unanswered because even the room for refusals was full.
    dropped_full,
    /// Connections handed to a less loaded shard.
    handed_over,
    /// Connections taken over from another shard.
    taken_over,
    /// Handovers that the other shard could not take.
    handovers_failed,
    /// WebSockets opened.
    opened,
    /// Ordinary requests answered with success (health checks).
    answered,
    /// PROXY headers refused, or sent by a peer that is not trusted.
    proxy_errors,
    /// Connections that ended before they sent a whole request.
    handshakes_abandoned,
    /// Handshakes that took longer than allowed.
    handshake_timeouts,
    /// Messages received.
    messages_received,
    /// Messages sent.
    messages_sent,
    /// Bytes received, framing and handshakes included.
    bytes_received,
    /// Bytes sent, framing and handshakes included.
    bytes_sent,
    /// Heartbeat pings sent.
    pings_sent,
    /// Pongs received that answer a ping of ours.
    pongs_received,
    /// Pings received from clients.
    pings_received,
    /// Connections dropped because nothing was heard after a ping.
    pong_timeouts,
    /// Connections closed because no message came for too long.
    idle_timeouts,
    /// Connections closed because of their age.
    age_closes,
    /// Connections dropped because the peer's Close did not come.
    close_timeouts,
    /// Connections closed because they did not read what was sent to them.
    slow_reader_closes,
    /// Connections closed because all unfinished messages together were too much.
    partial_closes,
    /// Times that a connection was parked: each when it opens, and later when it is quiet.
    parked,
    /// Times that a parked connection was not quiet any more.
    unparked,
    /// Times that reading from a connection stopped until it had read more.
    read_pauses,
    /// Replies sent from the very buffer that their message came in.
    replies_in_place,
    /// WebSockets opened with compression without contexts.
    compression_shared,
    /// WebSockets opened with compression contexts of their own.
    compression_takeover,
    /// WebSockets opened without contexts because the memory for them was used up.
    compression_lowered,
    /// Compressed messages received.
    inflated_messages,
    /// Bytes of messages received compressed, as they came.
    inflated_bytes_before,
    /// Bytes that they were inflated to.
    inflated_bytes_after,
    /// Time spent inflating.
    inflate_ns,
    /// Messages whose bytes had to wait because all inflaters were in use.
    inflater_waits,
    /// Compressed messages refused for what they inflate to.
    inflate_bombs,
    /// Messages compressed.
    deflated_messages,
    /// Bytes of them as they were.
    deflated_bytes_before,
    /// Bytes that they were compressed to.
    deflated_bytes_after,
    /// Time spent compressing.
    deflate_ns,
    /// Messages sent as they were because they do not shrink.
    deflate_useless,
    /// Shares of turns in which input continued that had to wait for other connections.
    inputs_continued,
    /// Messages published to channels.
    publishes,
    /// Publishes that repeated an earlier one under its idempotency key.
    publish_duplicates,
    /// Idempotency keys forgotten before their time because there were too many.
    idempotency_keys_evicted,
    /// Channel messages and presence events queued to subscribers, recovered ones included.
    deliveries,
    /// Subscriptions from a position that had missed messages and got all of them.
    recoveries,
    /// Subscriptions from a position whose missed messages were not all there any more.
    recoveries_failed,
    /// Recoveries reported as failed because returning subscribers had too many messages queued.
    recoveries_deferred,
    /// Connections that resumed an earlier one.
    resumed,
    /// Connections closed because another one resumed them.
    replaced,
    /// Channel messages dropped for slow readers, the oldest first.
    dropped_oldest,
    /// Channel messages dropped for slow readers because a newer one had come.
    dropped_latest,
    /// Publications dropped on the way to a shard whose mailbox was full.
    dropped_lagging,
    /// Requests of hub clients that were answered with an error.
    request_errors,
    /// Channels opened.
    channels_opened,
    /// Channels forgotten because nobody used them.
    channels_forgotten,
    /// Sends that the kernel took only a part of.
    short_sends,
    /// Sends and receives that failed because the connection was lost.
    connection_errors,
    /// Completions of operations whose connection was gone.
    stale_completions,
    /// Receives that found no buffer and were armed again.
    receive_starvations,
    /// Turns that ended with work left, so as not to starve the rest.
    turns_cut,
}

fn add_all(to: &mut [u64], from: &[u64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

/// The text of a doc comment as the macro sees it: `doc = r" text"`.
fn help(docs: &[&'static str]) -> &'static str {
    let text = docs.first().copied().unwrap_or_default();
    let start = text.find('"').map_or(0, |at| at + 1);
    text[start..].trim_end_matches('"').trim().trim_end_matches('.')
}

impl Counters {
    /// Counts a refused request.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.refused[refusal.index()] += 1;
    }

    /// Counts the end of a WebSocket.
    pub fn close(&mut self, code: CloseCode) {
        self.closed[CloseClass::of(code).0] += 1;
    }

    /// Counts a violation of the protocol.
    pub fn protocol_error(&mut self, error: ProtocolError) {
        self.protocol_errors[error.index()] += 1;
    }

    /// Counts a client that could not prove who it is.
    pub fn auth_failure(&mut self, kind: &'static str) {
        *self.auth_failures.entry(kind).or_default() += 1;
    }

    /// Counts a client that there was no room for.
    pub fn deny(&mut self, reason: Denied) {
        self.denied[reason as usize] += 1;
    }

    /// Counts a message or request that was more than may be sent in a second.
    pub fn over_rate(&mut self, kind: RateKind) {
        self.over_rate[kind as usize] += 1;
    }

    /// Clients that could not prove who they are, by kind.
    pub fn auth_failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.auth_failures.iter().map(|(kind, count)| (*kind, *count))
    }

    /// Clients that there was no room for, by reason.
    pub fn denied(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Denied::ALL.iter().map(|reason| (reason.name(), self.denied[*reason as usize]))
    }

    /// What was more than may be sent in a second, by kind.
    pub fn over_rates(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RateKind::ALL.iter().map(|kind| (kind.name(), self.over_rate[*kind as usize]))
    }

    /// Refused requests by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Refusal::ALL.iter().map(|refusal| (refusal.code(), self.refused[refusal.index()]))
    }

    /// Ended WebSockets by close code.
    pub fn closed(&self) -> impl Iterator<Item = (CloseClass, u64)> {
        self.closed.iter().enumerate().map(|(class, count)| (CloseClass(class), *count))
    }

    /// All ended WebSockets.
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().sum()
    }

    /// Violations of the protocol by kind.
    pub fn protocol_errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        ProtocolError::ALL.iter().map(|error| (error.name(), self.protocol_errors[error.index()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_close_code_has_one_class() {
        let label = |code| CloseClass::of(CloseCode::new(code)).label();
        for code in 0..=u16::MAX {
            assert!(!label(code).is_empty());
        }
        assert_eq!(label(1000), "1000");
        assert_eq!(label(4413), "4413");
        assert_eq!(label(4999), "4xxx");
        assert_eq!(label(3001), "3xxx");
        assert_eq!(label(999), "other");
    }

    #[test]
    fn counters_carry_their_meaning_and_add_up() {
        let mut one = Counters { accepted: 2, ..Counters::default() };
        one.close(CloseCode::GOING_AWAY);
        let mut sum = Counters { accepted: 3, ..Counters::default() };
        sum.add(&one);
        let plain = sum.plain();
        assert_eq!(plain[0], ("accepted", "Connections accepted from the kernel", 5));
        assert_eq!(sum.closed_total(), 1);
    }
}
