//! The TLS side of the connections of a shard: a handshake while it lasts, then what it takes to
//! open and seal records. It lies outside the slots, which plain connections pay for.

use std::collections::VecDeque;

use slab::Slab;

use super::outbox::{Pools, Seal};
use super::slot::Slot;
use super::transport::TlsHandle;
use crate::driver::batch::Bounds;
use crate::driver::host;
use crate::driver::{Batch, Token};
use crate::tls::{HandshakeFailure, KeyCache, Session, TlsHandshake};

/// Handshakes after which their memory is returned: it takes the time of some messages.
const HANDSHAKES_RETURNED: u32 = 64;

/// The TLS side of one connection.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are established, and stay for long")]
pub(super) enum Tls {
    /// Nothing has come yet: nothing is kept for it.
    Awaited,
    Handshake(Box<HandshakeState>),
    Established(Session),
    /// The handshake has failed, or was given up: its last words.
    Failed(Vec<u8>),
}

#[derive(Debug)]
pub(super) struct HandshakeState {
    pub(super) handshake: TlsHandshake,
    /// What it has yet to send.
    pub(super) output: Vec<u8>,
    /// It is in the queue of those that are to be advanced.
    pub(super) is_waiting: bool,
    /// When its first byte was processed (ns).
    pub(super) began_ns: u64,
    /// Why it has failed, where the server knows.
    pub(super) failure: Option<HandshakeFailure>,
}

impl Tls {
    pub(super) fn is_established(&self) -> bool {
        matches!(self, Self::Established(_))
    }

    /// Bytes of memory for input that is not whole.
    pub(super) fn partial_bytes(&self) -> usize {
        match self {
            Self::Handshake(state) => state.handshake.partial_bytes(),
            Self::Established(session) => session.partial_bytes(),
            Self::Awaited | Self::Failed(_) => 0,
        }
    }

    /// Whether it has something of its own to send.
    pub(super) fn has_output(&self) -> bool {
        match self {
            Self::Awaited => false,
            Self::Handshake(state) => !state.output.is_empty(),
            Self::Established(session) => session.has_output(),
            Self::Failed(alert) => !alert.is_empty(),
        }
    }

    /// Ends the stream behind what is queued; nothing that comes is opened any more.
    pub(super) fn finish(&mut self) {
        match self {
            Self::Awaited | Self::Failed(_) => {}
            Self::Handshake(state) => *self = Self::Failed(std::mem::take(&mut state.output)),
            Self::Established(session) => {
                session.finish();
                session.drop_partial();
            }
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct TlsTable {
    entries: Slab<Tls>,
    keys: KeyCache,
    /// Connections whose handshakes are to be advanced, first come, first served. Some may have
    /// ended since.
    waiting: VecDeque<Token>,
    /// Handshakes have begun since the last trim.
    has_shaken_hands: bool,
    /// Handshakes since their memory was last returned.
    handshakes: u32,
}

impl TlsTable {
    pub(super) fn insert(&mut self) -> TlsHandle {
        TlsHandle::new(self.entries.insert(Tls::Awaited))
    }

    pub(super) fn remove(&mut self, handle: TlsHandle) {
        if let Tls::Established(session) = self.entries.remove(handle.slab_index()) {
            session.forget_keys(&mut self.keys);
        }
    }

    pub(super) fn get(&self, handle: TlsHandle) -> &Tls {
        &self.entries[handle.slab_index()]
    }

    pub(super) fn get_mut(&mut self, handle: TlsHandle) -> &mut Tls {
        &mut self.entries[handle.slab_index()]
    }

    /// Seals for a connection.
    pub(super) fn sealer(&mut self, handle: TlsHandle) -> RecordSealer<'_> {
        let (tls, keys) = self.with_keys(handle);
        RecordSealer { tls, keys }
    }

    /// A connection with the keys of all.
    pub(super) fn with_keys(&mut self, handle: TlsHandle) -> (&mut Tls, &mut KeyCache) {
        (&mut self.entries[handle.slab_index()], &mut self.keys)
    }

    /// Drops the keys of connections that have fallen idle, and returns what handshakes have freed
    /// once there are none for a while: it lies scattered, and the allocators would keep it.
    pub(super) fn trim(&mut self) {
        let has_keys_left = !self.keys.trim();
        let is_burst_over = !std::mem::take(&mut self.has_shaken_hands);
        if is_burst_over && self.handshakes >= HANDSHAKES_RETURNED {
            self.handshakes = 0;
            host::return_all_memory();
        } else if !has_keys_left {
            host::return_c_memory();
        }
    }

    pub(super) fn queue_handshake(&mut self, token: Token) {
        self.waiting.push_back(token);
    }

    pub(super) fn next_handshake(&mut self) -> Option<Token> {
        self.waiting.pop_front()
    }

    /// Takes the whole queue, to be put back.
    pub(super) fn take_waiting_handshakes(&mut self) -> VecDeque<Token> {
        std::mem::take(&mut self.waiting)
    }

    pub(super) fn put_back_waiting_handshakes(&mut self, waiting: VecDeque<Token>) {
        assert!(self.waiting.is_empty(), "the queue was taken before");
        self.waiting = waiting;
    }

    pub(super) fn has_waiting_handshakes(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Notes that a handshake has begun.
    pub(super) fn note_handshake(&mut self) {
        self.has_shaken_hands = true;
        self.handshakes = self.handshakes.saturating_add(1);
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn key_misses(&self) -> u64 {
        self.keys.misses()
    }
}

/// Seals what one connection sends.
pub(super) struct RecordSealer<'t> {
    tls: &'t mut Tls,
    keys: &'t mut KeyCache,
}

/// Fills a batch with sealed records of what a connection may send now, and notes whether its
/// transport has more of its own to send. Apart from the flush, whose hot path it would grow.
#[inline(never)]
pub(super) fn take_sealed_batch(
    mut sealer: RecordSealer<'_>,
    pools: &mut Pools,
    slot: &mut Slot,
    bounds: Bounds,
) -> Option<Box<Batch>> {
    let taken = slot.outbox_mut()?.take_sealed_batch(pools, bounds, &mut sealer);
    slot.set_owing(sealer.tls.has_output());
    if taken.is_none() {
        // It was opened for output that there is none of.
        slot.release_outbox(pools);
    }
    taken
}

impl Seal for RecordSealer<'_> {
    const CONTENT_BYTES_MAX: usize = crate::tls::CONTENT_BYTES_MAX;

    fn record_overhead_bytes(&self) -> usize {
        match &*self.tls {
            Tls::Established(session) => session.record_overhead_bytes(),
            _ => 0,
        }
    }

    fn takes_content(&self) -> bool {
        matches!(&*self.tls, Tls::Established(session) if !session.has_ended())
    }

    fn write_owed(&mut self, wire: &mut Vec<u8>) {
        match self.tls {
            Tls::Awaited => {}
            Tls::Handshake(state) => wire.append(&mut state.output),
            Tls::Established(session) => session.seal_owed(self.keys, wire),
            Tls::Failed(alert) => wire.append(alert),
        }
    }

    fn seal<'p>(&mut self, plain: impl Iterator<Item = &'p [u8]>, wire: &mut Vec<u8>) {
        if let Tls::Established(session) = self.tls {
            session.seal(self.keys, plain, wire);
        }
    }

    fn write_end(&mut self, wire: &mut Vec<u8>) {
        if let Tls::Established(session) = self.tls {
            session.seal_end(self.keys, wire);
        }
    }
}
