//! The compressors of a shard: one a window and level for messages without context, and those that
//! connections own.
//!
//! A message that does not shrink is not compressed. Its bytes are in the window of a compressor
//! with context by then, and the peer, who gets it plain, does not have them: so the compressor
//! forgets everything and starts anew, which any peer can follow.

use std::num::NonZeroU32;

use slab::Slab;
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Method, Strategy};

use super::{Sending, TAIL, Work, index_of, memory_level, zlib};

/// Compressors for other windows than the route's are made for clients that ask; of all, so many
/// are kept.
const SHARED_MAX: usize = 4;
/// What zlib-rs's compressor takes beside window and buffer (bytes): its hash table has one size.
const COMMON_BYTES: u64 = 133 * 1024;
/// Memory for the output that is kept between messages (bytes).
const OUTPUT_KEPT_BYTES: usize = 64 * 1024;

/// A compressor for messages of any connection.
struct Common {
    bits: u8,
    level: u8,
    deflate: Deflate,
    /// When it was last used, counted in messages.
    used: u64,
}

/// Compresses what a shard sends.
pub struct Deflaters {
    common: Vec<Common>,
    own: Slab<Option<zlib::Deflate>>,
    own_bytes: u64,
    output: Vec<u8>,
    clock: fn() -> u64,
    work: Work,
}

impl std::fmt::Debug for Deflaters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deflaters").field("own", &self.own.len()).finish_non_exhaustive()
    }
}

impl Deflaters {
    /// Makes none yet. `clock` tells the time in ns, for [`Work::spent_ns`].
    pub fn new(clock: fn() -> u64) -> Self {
        Self {
            common: Vec::new(),
            own: Slab::new(),
            own_bytes: 0,
            output: Vec::new(),
            clock,
            work: Work::default(),
        }
    }

    /// What was done so far.
    pub fn work(&self) -> Work {
        self.work
    }

    /// Bytes of memory of the compressors that connections own.
    pub fn own_bytes(&self) -> u64 {
        self.own_bytes
    }

    /// Bytes of memory of the compressors that all connections share, by the measured formula.
    pub fn pool_bytes(&self) -> u64 {
        let one = |bits: u8| COMMON_BYTES + (1 << (bits + 2)) + (1 << (memory_level(bits) + 9));
        let common: u64 = self.common.iter().map(|common| one(common.bits)).sum();
        common + self.output.capacity() as u64
    }

    pub(super) fn open(&mut self, own: Option<(u8, u8)>) -> u32 {
        let made =
            own.and_then(|(bits, level)| zlib::Deflate::new(level, bits, memory_level(bits)));
        self.own_bytes += made.as_ref().map_or(0, |one| one.held_bytes() as u64);
        self.own.insert(made) as u32
    }

    pub(super) fn close(&mut self, index: usize) {
        let gone = self.own.remove(index);
        self.own_bytes -= gone.map_or(0, |own| own.held_bytes() as u64);
    }

    /// Compresses a message for a connection: with its own compressor if it has one. The result,
    /// without the tail that RFC 7692 takes off, stays until the next call; `None` if the message
    /// does not shrink and is to be sent as it is.
    pub fn compress(&mut self, sending: Sending, level: u8, message: &[u8]) -> Option<&mut [u8]> {
        let own = sending.context.map(index_of);
        match own.and_then(|index| self.own.get_mut(index)) {
            Some(Some(own)) => {
                let len = timed(
                    (self.clock, &mut self.work),
                    (message, &mut self.output),
                    |input, output| own.flush(input, output),
                );
                if len.is_none() {
                    own.reset();
                }
                Some(&mut self.output[..len?])
            }
            _ => self.compress_alone(sending.bits, level, message),
        }
    }

    /// Compresses a message by itself, as every receiver with at least this window can read it.
    pub fn compress_alone(&mut self, bits: u8, level: u8, message: &[u8]) -> Option<&mut [u8]> {
        let at = self.find(bits, level);
        let common = &mut self.common[at];
        common.used = self.work.messages + self.work.useless;
        common.deflate.reset();
        let len =
            timed((self.clock, &mut self.work), (message, &mut self.output), |input, output| {
                let done = common.deflate.compress(input, output, DeflateFlush::SyncFlush);
                match done {
                    Ok(_) => {
                        (common.deflate.total_in() as usize, common.deflate.total_out() as usize)
                    }
                    Err(_) => (0, 0),
                }
            });
        Some(&mut self.output[..len?])
    }

    /// The connection was sent a compressed frame that its own compressor does not know of.
    pub fn forget(&mut self, context: NonZeroU32) {
        if let Some(Some(own)) = self.own.get_mut(index_of(context)) {
            own.reset();
        }
    }

    /// Gives back what only large messages needed.
    pub fn trim(&mut self) {
        if self.output.capacity() > OUTPUT_KEPT_BYTES {
            self.output = Vec::new();
        }
    }

    fn find(&mut self, bits: u8, level: u8) -> usize {
        let found = self.common.iter().position(|one| one.bits == bits && one.level == level);
        if let Some(at) = found {
            return at;
        }
        if self.common.len() >= SHARED_MAX {
            let oldest = (0..self.common.len()).min_by_key(|&at| self.common[at].used);
            self.common.swap_remove(oldest.unwrap_or(0));
        }
        let deflate = Deflate::new_with_config(DeflateConfig {
            level: level.into(),
            method: Method::Deflated,
            window_bits: -i32::from(bits),
            mem_level: memory_level(bits).into(),
            strategy: Strategy::Default,
        });
        self.common.push(Common { bits, level, deflate, used: 0 });
        self.common.len() - 1
    }
}

/// More than any compressor makes of so many bytes: level 1 of zlib-rs writes what repeats nothing
/// with nine bits a byte. It must never find its output full: 0.6.8 then keeps part of a word in
/// its own buffer, and panics when that is full.
fn output_room(message_len: usize) -> usize {
    message_len + message_len / 4 + 128
}

/// Runs `flush` over a message; gives the length of the result without its tail, if it is shorter
/// than the message.
fn timed(
    (clock, work): (fn() -> u64, &mut Work),
    (message, output): (&[u8], &mut Vec<u8>),
    flush: impl FnOnce(&[u8], &mut [u8]) -> (usize, usize),
) -> Option<usize> {
    let room = output_room(message.len());
    if output.len() < room {
        output.resize(room, 0);
    }
    let began_ns = clock();
    let (read, written) = flush(message, &mut output[..room]);
    work.spent_ns += clock().saturating_sub(began_ns);
    let len = written.saturating_sub(TAIL.len());
    let whole = read == message.len() && output[..written].ends_with(&TAIL);
    if !whole || len >= message.len() {
        work.useless += 1;
        return None;
    }
    work.messages += 1;
    work.bytes_before += message.len() as u64;
    work.bytes_after += len as u64;
    Some(len)
}
