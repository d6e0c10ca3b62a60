//! Counters of events since the start.

use std::collections::BTreeMap;

use crate::admission::Denied;
use crate::admission::limiter::RateKind;
use crate::proto::http::Refusal;
use crate::proto::ws::{CloseCode, ProtocolError};
use crate::tls::HandshakeFailure;

/// Classes of close codes, few enough for a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseClass(usize);

const RANGES: [&str; 3] = ["3xxx", "4xxx", "other"];
const CLASSES: usize = CloseClass::CODES.len() + RANGES.len();

impl CloseClass {
    /// Close codes with a label of their own; all others are counted by range.
    pub const CODES: [CloseCode; CloseCode::NAMED.len()] = CloseCode::NAMED;

    /// Returns the class of a close code; 1005: the Close had no code, 1006: no Close was received.
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

    /// Returns the value of the metric label.
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
            tls_failures: [u64; HandshakeFailure::ALL.len()],
            tls_groups: BTreeMap<&'static str, u64>,
            tls_ciphers: BTreeMap<&'static str, u64>,
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
                    tls_failures: [0; HandshakeFailure::ALL.len()],
                    tls_groups: BTreeMap::new(),
                    tls_ciphers: BTreeMap::new(),
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
                add_all(&mut self.tls_failures, &other.tls_failures);
                add_named(&mut self.auth_failures, &other.auth_failures);
                add_named(&mut self.tls_groups, &other.tls_groups);
                add_named(&mut self.tls_ciphers, &other.tls_ciphers);
            }

            /// Returns name, help text and value of every plain counter.
            pub fn list_plain(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), help_text(&[$(stringify!($doc)),*]), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Connections accepted from the kernel.
    accepted,
    /// Accepts that failed, for lack of descriptors or memory.
    accept_errors,
    /// Connections dropped without an answer because all slots for rejections were in use.
    dropped_full,
    /// Connections passed to a less loaded shard.
    handed_over,
    /// Connections received from another shard.
    taken_over,
    /// Connections that the other shard could not take.
    handovers_failed,
    /// WebSockets opened.
    opened,
    /// Plain HTTP requests answered with success (health checks, pages).
    answered,
    /// PROXY headers rejected as invalid or untrusted.
    proxy_errors,
    /// Connections closed before they sent a complete request.
    handshakes_abandoned,
    /// Handshakes that exceeded their timeout.
    handshake_timeouts,
    /// Completed TLS 1.3 handshakes.
    tls13_handshakes,
    /// Completed TLS 1.2 handshakes.
    tls12_handshakes,
    /// TLS handshakes that resumed an earlier session.
    tls_resumptions,
    /// TLS handshakes that failed, or that the client gave up.
    tls_handshakes_failed,
    /// Requests without TLS on a TLS port, answered with 400.
    tls_plain_requests,
    /// TLS connections closed with an alert because a record was invalid.
    tls_alerts_sent,
    /// TLS connections closed because the client sent an error alert.
    tls_alerts_received,
    /// TLS connections that the client closed without a closing alert.
    tls_truncations,
    /// Expansions of TLS connection keys that were not in the cache.
    tls_key_misses,
    /// Messages received.
    messages_received,
    /// Messages sent.
    messages_sent,
    /// Bytes received, including framing and handshakes.
    bytes_received,
    /// Bytes sent, including framing and handshakes.
    bytes_sent,
    /// Heartbeat pings sent.
    pings_sent,
    /// Pongs received in answer to a heartbeat ping.
    pongs_received,
    /// Pings received from clients.
    pings_received,
    /// Connections dropped because a heartbeat ping was not answered.
    pong_timeouts,
    /// Connections closed because they sent no message for too long.
    idle_timeouts,
    /// Connections closed because they reached their maximum age.
    age_closes,
    /// Connections dropped because the client's Close did not come in time.
    close_timeouts,
    /// Connections closed as slow consumers.
    slow_reader_closes,
    /// Connections closed because unfinished messages exceeded their memory limit.
    partial_closes,
    /// Times that a new or quiet connection was parked.
    parked,
    /// Times that a parked connection was woken by input.
    unparked,
    /// Times that reading from a connection was paused because its client did not read.
    read_pauses,
    /// Replies sent from the receive buffer of their message, without a copy.
    replies_in_place,
    /// WebSockets opened with compression without context takeover.
    compression_shared,
    /// WebSockets opened with compression contexts of their own.
    compression_takeover,
    /// WebSockets opened without contexts because the memory for contexts was used up.
    compression_lowered,
    /// Compressed messages received.
    inflated_messages,
    /// Bytes of compressed messages received, before inflation.
    inflated_bytes_before,
    /// Bytes of compressed messages received, after inflation.
    inflated_bytes_after,
    /// Time spent inflating.
    inflate_ns,
    /// Messages delayed because all inflaters were in use.
    inflater_waits,
    /// Compressed messages rejected because they inflate beyond a limit.
    inflate_bombs,
    /// Messages compressed.
    deflated_messages,
    /// Bytes of compressed messages sent, before compression.
    deflated_bytes_before,
    /// Bytes of compressed messages sent, after compression.
    deflated_bytes_after,
    /// Time spent compressing.
    deflate_ns,
    /// Messages sent uncompressed because compression would not shrink them.
    deflate_useless,
    /// Times that a connection's input was continued in a later turn, after other connections.
    inputs_continued,
    /// Messages published to channels.
    publishes,
    /// Publishes that repeated an earlier one with the same idempotency key.
    publish_duplicates,
    /// Idempotency keys evicted before they expired.
    idempotency_keys_evicted,
    /// Channel messages and presence events queued to subscribers, including recovered ones.
    deliveries,
    /// Subscriptions with a position that recovered all missed messages.
    recoveries,
    /// Subscriptions with a position that could not recover all missed messages.
    recoveries_failed,
    /// Recoveries that failed because returning subscribers had too many messages queued.
    recoveries_deferred,
    /// Reads of missed messages that a node of a cluster answered from its tails.
    cluster_tail_reads,
    /// Reads of missed messages that were answered by the engine of a cluster.
    cluster_engine_reads,
    /// Channels of a cluster that have received messages late which were lost on the way.
    cluster_holes_filled,
    /// Channels of a cluster that have lost messages on the way, which was reported as a gap.
    cluster_holes_reported,
    /// New epochs reported to channels of a cluster.
    cluster_epochs_reported,
    /// Connections that resumed an earlier one.
    resumed,
    /// Connections closed because a later one resumed them.
    replaced,
    /// Oldest channel messages dropped for slow readers.
    dropped_oldest,
    /// Channel messages of slow readers replaced by newer ones.
    dropped_latest,
    /// Publications dropped because a shard's mailbox was full.
    dropped_lagging,
    /// Sessions of a gateway that moved to another link.
    gateway_moved,
    /// Messages of clients sent again to an application, after their link was lost.
    gateway_redelivered,
    /// Records of applications for sessions that had closed, or moved to another link.
    gateway_fenced,
    /// Messages of applications dropped for slow readers.
    gateway_dropped,
    /// Messages of closed connections that no application has acknowledged in time.
    gateway_messages_lost,
    /// Connections of a gateway closed because no application was connected for too long.
    gateway_hold_timeouts,
    /// Requests of hub clients answered with an error.
    request_errors,
    /// Channels opened.
    channels_opened,
    /// Channels closed because they were unused.
    channels_forgotten,
    /// Sends of which the kernel took only a part.
    short_sends,
    /// Sends and receives that failed because the connection was lost.
    connection_errors,
    /// Completions of operations whose connection was already closed.
    stale_completions,
    /// Receives that found no free buffer and were armed again.
    receive_starvations,
    /// Turns ended early to keep latency low.
    turns_cut,
}

fn add_all(to: &mut [u64], from: &[u64]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

fn add_named(to: &mut BTreeMap<&'static str, u64>, from: &BTreeMap<&'static str, u64>) {
    for (name, count) in from {
        *to.entry(name).or_default() += count;
    }
}

/// Returns the text of a doc comment, which a macro receives as `doc = r" text"`.
fn help_text(docs: &[&'static str]) -> &'static str {
    let text = docs.first().copied().unwrap_or_default();
    let start = text.find('"').map_or(0, |at| at + 1);
    text[start..].trim_end_matches('"').trim().trim_end_matches('.')
}

impl Counters {
    /// Counts a rejected request.
    pub fn count_refusal(&mut self, refusal: Refusal) {
        self.refused[refusal.index()] += 1;
    }

    /// Counts the end of a WebSocket.
    pub fn count_close(&mut self, code: CloseCode) {
        self.closed[CloseClass::of(code).0] += 1;
    }

    /// Counts a violation of the protocol.
    pub fn count_protocol_error(&mut self, error: ProtocolError) {
        self.protocol_errors[error.index()] += 1;
    }

    /// Counts a failed authentication.
    pub fn count_auth_failure(&mut self, kind: &'static str) {
        *self.auth_failures.entry(kind).or_default() += 1;
    }

    /// Counts a connection rejected by admission.
    pub fn count_denial(&mut self, reason: Denied) {
        self.denied[reason as usize] += 1;
    }

    /// Counts a message or request that exceeded its rate.
    pub fn count_over_rate(&mut self, kind: RateKind) {
        self.over_rate[kind as usize] += 1;
    }

    /// Counts a TLS handshake that failed.
    pub fn count_tls_failure(&mut self, failure: HandshakeFailure) {
        self.tls_handshakes_failed += 1;
        self.tls_failures[failure.index()] += 1;
    }

    /// Counts what a completed TLS handshake has settled on: both are names from fixed lists.
    pub fn count_tls_terms(&mut self, group: &'static str, cipher: &'static str) {
        *self.tls_groups.entry(group).or_default() += 1;
        *self.tls_ciphers.entry(cipher).or_default() += 1;
    }

    /// Returns TLS handshakes that failed, by cause.
    pub fn tls_failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let causes = HandshakeFailure::ALL.iter();
        causes.map(|cause| (cause.name(), self.tls_failures[cause.index()]))
    }

    /// Returns completed TLS handshakes, by group of the key exchange.
    pub fn tls_groups(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.tls_groups.iter().map(|(group, count)| (*group, *count))
    }

    /// Returns completed TLS handshakes, by cipher.
    pub fn tls_ciphers(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.tls_ciphers.iter().map(|(cipher, count)| (*cipher, *count))
    }

    /// Returns failed authentications, by kind.
    pub fn auth_failures(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.auth_failures.iter().map(|(kind, count)| (*kind, *count))
    }

    /// Returns connections rejected by admission, by reason.
    pub fn denied(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Denied::ALL.iter().map(|reason| (reason.name(), self.denied[*reason as usize]))
    }

    /// Returns messages and requests that exceeded their rate, by kind.
    pub fn over_rates(&self) -> impl Iterator<Item = (&'static str, u64)> {
        RateKind::ALL.iter().map(|kind| (kind.name(), self.over_rate[*kind as usize]))
    }

    /// Returns rejected requests, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Refusal::ALL.iter().map(|refusal| (refusal.code(), self.refused[refusal.index()]))
    }

    /// Returns closed WebSockets, by class of close code.
    pub fn closed(&self) -> impl Iterator<Item = (CloseClass, u64)> {
        self.closed.iter().enumerate().map(|(class, count)| (CloseClass(class), *count))
    }

    /// Returns the number of all closed WebSockets.
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().sum()
    }

    /// Returns violations of the protocol, by kind.
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
    fn counters_have_help_texts_and_add_up() {
        let mut one = Counters { accepted: 2, ..Counters::default() };
        one.count_close(CloseCode::GOING_AWAY);
        let mut sum = Counters { accepted: 3, ..Counters::default() };
        sum.add(&one);
        let plain = sum.list_plain();
        assert_eq!(plain[0], ("accepted", "Connections accepted from the kernel", 5));
        assert_eq!(sum.closed_total(), 1);
    }
}
