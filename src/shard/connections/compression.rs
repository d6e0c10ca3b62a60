//! The compression of connections: opens and closes contexts, and compresses replies.
//!
//! In shared mode a reply is compressed at once, because its frame is valid in any order. With a
//! context of its own a reply depends on earlier ones: it is queued uncompressed, and compressed
//! when the send is built, so that queued messages can be dropped without corrupting later ones. In
//! both modes a reply that is too small, or does not shrink, is sent uncompressed, without a copy
//! if possible.

use super::Connections;
use super::stage::Stage;
use crate::admission::Shortage;
use crate::config::RouteOptions;
use crate::metrics::Gauges;
use crate::proto::http::Compression;
use crate::proto::ws::Receiver;
use crate::proto::ws::deflate::{self, Sending};

impl Connections {
    /// Returns the memory left for compression contexts (bytes).
    pub(super) fn context_room_bytes(&self) -> u64 {
        if self.directory.admission().shortage() >= Shortage::Contexts {
            return 0;
        }
        let most = self.config.limits.compression_shard_bytes_max;
        most.saturating_sub(self.inflaters.own_bytes() + self.deflaters.own_bytes())
    }

    /// Makes the receiver of a connection that is opened on a route.
    pub(super) fn open_receiver(&mut self, route: usize, compression: Compression) -> Receiver {
        self.counters.compression_lowered += u64::from(compression.lowered);
        let Some(agreed) = compression.agreed else { return Receiver::new() };
        if agreed.takes_over() {
            self.counters.compression_takeover += 1;
        } else {
            self.counters.compression_shared += 1;
        }
        let level = self.config.route_options[route].compression_level;
        let (inflaters, deflaters) = (&mut self.inflaters, &mut self.deflaters);
        let context = deflate::open_contexts(agreed, level, inflaters, deflaters);
        Receiver::compressed(agreed, context)
    }

    /// Ends the compression of a connection. Messages that are queued to be compressed are sent
    /// uncompressed, unless `discard`: then the caller drops them.
    pub(super) fn end_compression(&mut self, index: u32, discard: bool) {
        let slot = &mut self.slots[index as usize];
        if let Some(outbox) = slot.outbox_mut().filter(|_| !discard) {
            outbox.skip_compression(&mut self.pools);
        }
        if let Stage::Open(receiver) | Stage::Closing { receiver, .. } = slot.stage_mut() {
            receiver.let_go(&mut self.inflaters, &mut self.deflaters);
        }
    }

    /// Returns the total effort of the codecs.
    pub(super) fn codec_effort(&self) -> u64 {
        self.inflaters.work().effort + self.deflaters.work().effort
    }

    /// Fills in the counters of the codecs.
    pub(super) fn fill_compression(&self, numbers: &mut crate::metrics::Snapshot) {
        let (inflated, deflated) = (self.inflaters.work(), self.deflaters.work());
        let counters = &mut numbers.counters;
        counters.inflated_messages = inflated.messages;
        counters.inflated_bytes_before = inflated.bytes_before;
        counters.inflated_bytes_after = inflated.bytes_after;
        counters.inflate_ns = inflated.spent_ns;
        counters.inflater_waits = inflated.waits;
        counters.inflate_bombs = inflated.bombs;
        counters.deflated_messages = deflated.messages;
        counters.deflated_bytes_before = deflated.bytes_before;
        counters.deflated_bytes_after = deflated.bytes_after;
        counters.deflate_ns = deflated.spent_ns;
        counters.deflate_useless = deflated.useless;
    }

    /// Fills in the gauges of the codecs.
    pub(super) fn compression_gauges(&self, gauges: Gauges) -> Gauges {
        Gauges {
            contexts: self.inflaters.own_count() as u64,
            context_bytes: self.inflaters.own_bytes() + self.deflaters.own_bytes(),
            inflaters_leased: self.inflaters.leased_count() as u64,
            codec_pool_bytes: self.inflaters.pool_bytes() + self.deflaters.pool_bytes(),
            ..gauges
        }
    }
}

/// The compression of one connection's replies.
#[derive(Clone, Copy)]
pub(in crate::shard) struct ReplyCompression {
    pub(in crate::shard) sending: Sending,
    pub(in crate::shard) level: u8,
    /// Shorter messages are not compressed.
    pub(in crate::shard) bytes_min: usize,
}

impl ReplyCompression {
    /// Combines the negotiated compression with the options of the route.
    pub(super) fn new(sending: Option<Sending>, route: &RouteOptions) -> Option<Self> {
        sending.map(|sending| Self {
            sending,
            level: route.compression_level,
            bytes_min: route.compression_bytes_min as usize,
        })
    }
}

impl Connections {
    /// Compresses queued messages of a connection, until this many bytes are ready to be sent.
    pub(super) fn compress_outbox(&mut self, index: u32, ready_bytes_max: usize) {
        let slot = &mut self.slots[index as usize];
        let level = self.config.route_options[slot.route()].compression_level;
        let Some((outbox, receiver)) = slot.compressed_outbox() else { return };
        let Some(sending) = receiver.sending() else { return };
        outbox.compress_queued(
            &mut self.pools,
            ready_bytes_max,
            &mut self.deflaters,
            sending,
            level,
        );
    }
}
