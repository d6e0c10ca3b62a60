//! The compressors of a shard: one for messages without context at level 1, one for each window and
//! other level, and those that connections own.
//!
//! A long message is compressed piece by piece ([`Compressing`]), so that its owner can do other
//! work in between. Each piece of a message without context is compressed by itself and ends at a
//! byte boundary, so that the pieces joined are one DEFLATE stream and no compressor is held
//! meanwhile; window 12 loses under 1 % by that.
//!
//! A message that does not shrink is not compressed. Its bytes are in the window of a compressor
//! with context by then, and the peer, who gets it plain, does not have them: so the compressor
//! forgets everything and starts again, which any peer can follow.

use std::num::NonZeroU32;

use slab::Slab;
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Method, Strategy};

use super::quick::{self, QuickDeflate};
use super::{Sending, TAIL, Work, index_of, memory_level, zlib};

/// The level at which [`QuickDeflate`] compresses messages without context.
const QUICK_LEVEL: u8 = 1;

/// Compressors for other windows than the route's are made for clients that ask; of all, so many
/// are kept.
const SHARED_MAX: usize = 4;
/// What zlib-rs's compressor takes beside window and buffer (bytes): its hash table has one size.
const COMMON_BYTES: u64 = 133 * 1024;
/// Memory for the output that is kept between messages (bytes).
const OUTPUT_KEPT_BYTES: usize = 64 * 1024;

/// Longer messages are compressed in pieces of this size. A piece that does not shrink fits into
/// one stored block (RFC 1951 3.2.4).
const PIECE_BYTES: usize = 32 * 1024;
/// What a message costs besides its bytes, see [`Work::effort`].
const MESSAGE_EFFORT: usize = 900;
/// The same with [`QuickDeflate`].
const QUICK_MESSAGE_EFFORT: usize = 100;

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
    /// Made for the first message that needs it.
    quick: Option<QuickDeflate>,
    common: Vec<Common>,
    own: Slab<Option<zlib::Deflate>>,
    own_bytes: u64,
    output: Vec<u8>,
    clock: fn() -> u64,
    work: Work,
    /// Effort that may be spent on pieces until it is set again, give or take a piece.
    allowance: u64,
}

impl std::fmt::Debug for Deflaters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deflaters").field("own", &self.own.len()).finish_non_exhaustive()
    }
}

impl Deflaters {
    /// Makes none yet. `clock` returns the time in ns, for [`Work::spent_ns`].
    pub fn new(clock: fn() -> u64) -> Self {
        Self {
            quick: None,
            common: Vec::new(),
            own: Slab::new(),
            own_bytes: 0,
            output: Vec::new(),
            clock,
            work: Work::default(),
            allowance: u64::MAX,
        }
    }

    /// Sets how much effort may be spent from now on, see [`Work::effort`].
    pub fn set_allowance(&mut self, effort: u64) {
        self.allowance = effort;
    }

    /// Whether some of it is left.
    pub fn has_allowance(&self) -> bool {
        self.allowance > 0
    }

    fn spend_effort(&mut self, effort: u64) {
        self.work.effort += effort;
        self.allowance = self.allowance.saturating_sub(effort);
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
        let quick = self.quick.as_ref().map_or(0, |_| QuickDeflate::BYTES as u64);
        quick + common + self.output.capacity() as u64
    }

    pub(super) fn open_context(&mut self, own: Option<(u8, u8)>) -> u32 {
        let made =
            own.and_then(|(bits, level)| zlib::Deflate::new(level, bits, memory_level(bits)));
        self.own_bytes += made.as_ref().map_or(0, |one| one.held_bytes() as u64);
        self.own.insert(made) as u32
    }

    pub(super) fn close_context(&mut self, index: usize) {
        let gone = self.own.remove(index);
        self.own_bytes -= gone.map_or(0, |own| own.held_bytes() as u64);
    }

    /// Compresses a message for a connection: with its own compressor if it has one. The result,
    /// without the tail that RFC 7692 takes off, stays until the next call; `None` if the message
    /// does not shrink and is to be sent as it is.
    pub fn compress(&mut self, sending: Sending, level: u8, message: &[u8]) -> Option<&mut [u8]> {
        let len = self.deflate_message(sending, level, message);
        let shrunk = self.count_message(message.len(), len);
        if shrunk.is_none() {
            self.reset_own(sending);
        }
        Some(&mut self.output[..shrunk?])
    }

    /// Compresses a message by itself, as every receiver with at least this window can read it.
    pub fn compress_alone(&mut self, bits: u8, level: u8, message: &[u8]) -> Option<&mut [u8]> {
        self.compress(Sending { bits, context: None }, level, message)
    }

    /// Compresses into `output`; gives the length of the result with its tail, or 0 if the
    /// compressor did not take all of the message.
    fn deflate_message(&mut self, sending: Sending, level: u8, message: &[u8]) -> usize {
        let room = output_room(message.len());
        if self.output.len() < room {
            self.output.resize(room, 0);
        }
        let began_ns = (self.clock)();
        let own = sending.context.map(index_of);
        let (read, written) = match own.and_then(|index| self.own.get_mut(index)) {
            Some(Some(own)) => {
                let done = own.flush(message, &mut self.output[..room]);
                self.spend_effort((message.len() + MESSAGE_EFFORT) as u64 * cost_with_zlib(level));
                done
            }
            _ if level == QUICK_LEVEL && message.len() <= quick::INPUT_BYTES_MAX => {
                let quick = self.quick.get_or_insert_with(QuickDeflate::new);
                let window_bytes = 1 << sending.bits;
                let written = quick.compress(message, window_bytes, &mut self.output[..room]);
                self.spend_effort((message.len() + QUICK_MESSAGE_EFFORT) as u64);
                (message.len(), written)
            }
            _ => self.deflate_in_common(sending.bits, level, message),
        };
        self.work.spent_ns += (self.clock)().saturating_sub(began_ns);
        let whole = read == message.len() && self.output[..written].ends_with(&TAIL);
        if whole { written } else { 0 }
    }

    /// Compresses into `output` with zlib-rs; returns the numbers of bytes read and written.
    fn deflate_in_common(&mut self, bits: u8, level: u8, message: &[u8]) -> (usize, usize) {
        let at = self.find_compressor(bits, level);
        let common = &mut self.common[at];
        common.used = self.work.messages + self.work.useless;
        common.deflate.reset();
        let output = &mut self.output[..output_room(message.len())];
        let done = common.deflate.compress(message, output, DeflateFlush::SyncFlush);
        let deflate = &common.deflate;
        let done =
            done.map_or((0, 0), |_| (deflate.total_in() as usize, deflate.total_out() as usize));
        self.spend_effort((message.len() + MESSAGE_EFFORT) as u64 * cost_with_zlib_rs(level));
        done
    }

    /// Counts a message that was compressed to so many bytes with the tail; gives how many are to
    /// be sent, if that is worth it.
    fn count_message(&mut self, before: usize, after: usize) -> Option<usize> {
        let len = after.saturating_sub(TAIL.len());
        if after == 0 || len >= before {
            self.work.useless += 1;
            return None;
        }
        self.work.messages += 1;
        self.work.bytes_before += before as u64;
        self.work.bytes_after += len as u64;
        Some(len)
    }

    /// What the connection's own compressor knows was not sent.
    fn reset_own(&mut self, sending: Sending) {
        if let Some(context) = sending.context {
            self.reset_context(context);
        }
    }

    /// The connection was sent a compressed frame that its own compressor does not know of.
    pub fn reset_context(&mut self, context: NonZeroU32) {
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

    fn find_compressor(&mut self, bits: u8, level: u8) -> usize {
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
const fn output_room(message_len: usize) -> usize {
    message_len + message_len / 4 + 128
}

const _: () = assert!(quick::output_room(PIECE_BYTES) <= output_room(PIECE_BYTES));
const _: () = assert!(quick::output_room(0) <= output_room(0));

/// What a byte costs to compress with zlib-rs, by level, in that of level 1: measured with JSON of
/// 16 KiB (41, 99 and 132 µs at levels 1, 3 and 6) and of 15 MB (level 9).
fn cost_with_zlib_rs(level: u8) -> u64 {
    [1, 1, 3, 3, 4, 4, 4, 6, 8, 10][usize::from(level.min(9))]
}

/// The same with the C zlib (112 µs at level 1).
fn cost_with_zlib(level: u8) -> u64 {
    [3, 3, 4, 4, 5, 6, 7, 8, 12, 16][usize::from(level.min(9))]
}

/// A long message that is being compressed.
#[derive(Debug)]
pub struct Compressing {
    message: Vec<u8>,
    /// Bytes of it that were compressed.
    done: usize,
    output: Vec<u8>,
}

/// How far a [`Compressing`] has come.
#[derive(Debug)]
pub enum Compressed {
    /// It needs another allowance.
    Unfinished(Compressing),
    /// The message, and its compressed form without the tail that RFC 7692 takes off.
    Whole { message: Vec<u8>, output: Vec<u8> },
    /// The message does not shrink and is to be sent as it is.
    Useless(Vec<u8>),
}

impl Compressing {
    /// Whether a message is so long that it is to be compressed in pieces.
    pub fn is_for(message_len: usize) -> bool {
        message_len > PIECE_BYTES
    }

    /// Begins with a message.
    pub fn new(message: Vec<u8>) -> Self {
        Self { message, done: 0, output: Vec::new() }
    }

    /// The message's length (bytes).
    pub fn message_len(&self) -> usize {
        self.message.len()
    }

    /// The message, given up.
    pub fn into_message(self) -> Vec<u8> {
        self.message
    }

    /// Compresses as much as the allowance of the compressors permits. Between two calls nothing
    /// else may be compressed with the connection's own compressor.
    pub fn compress_more(
        mut self,
        deflaters: &mut Deflaters,
        sending: Sending,
        level: u8,
    ) -> Compressed {
        while self.done < self.message.len() {
            if !deflaters.has_allowance() {
                return Compressed::Unfinished(self);
            }
            let end = self.message.len().min(self.done + PIECE_BYTES);
            let piece = &self.message[self.done..end];
            let len = deflaters.deflate_message(sending, level, piece);
            let useless = len == 0 || (self.done == 0 && len >= piece.len());
            if useless {
                deflaters.work.useless += 1;
                deflaters.reset_own(sending);
                return Compressed::Useless(self.message);
            }
            if sending.context.is_none() && len > piece.len() + STORED_BYTES {
                append_stored(&mut self.output, piece);
            } else {
                self.output.extend_from_slice(&deflaters.output[..len]);
            }
            self.done = end;
        }
        match deflaters.count_message(self.message.len(), self.output.len()) {
            Some(len) => {
                self.output.truncate(len);
                Compressed::Whole { message: self.message, output: self.output }
            }
            None => {
                deflaters.reset_own(sending);
                Compressed::Useless(self.message)
            }
        }
    }
}

/// What a stored block adds to its bytes: its own header, and the empty block that a flush ends
/// with.
const STORED_BYTES: usize = 10;

/// Appends a piece as a stored block, ended like a flush (RFC 1951 3.2.4).
fn append_stored(output: &mut Vec<u8>, piece: &[u8]) {
    let len = piece.len() as u16;
    output.push(0);
    output.extend_from_slice(&len.to_le_bytes());
    output.extend_from_slice(&(!len).to_le_bytes());
    output.extend_from_slice(piece);
    output.push(0);
    output.extend_from_slice(&TAIL);
}
