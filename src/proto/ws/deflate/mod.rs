//! permessage-deflate (RFC 7692): the parameters that two sides can agree on, and the codecs of a
//! shard.
//!
//! Two modes. **Shared**: every message is compressed by itself (no context takeover, both ways).
//! A shard has one compressor and a few inflaters for all its connections, and a connection costs
//! nothing beside its slot; it holds an inflater only while a message arrives in several inputs.
//! **Takeover**: each connection has a compressor and an inflater that remember earlier messages,
//! which helps small, similar messages most; a budget bounds their memory, and connections beyond
//! it are opened in shared mode.
//!
//! Three implementations, each for what it does best. Memory (bytes):
//!
//! | | window 15, memLevel 8 | 12, 5 | 10, 3 | 9, 1 | inflater |
//! | --- | --- | --- | --- | --- | --- |
//! | zlib-rs 0.6.8 | 381,000 | 165,000 | | 137,000 | 47,680 |
//! | zlib 1.3 in C | 268,192 | 38,816 | 14,240 | 9,136 | 7,168 and the window |
//! | `quick` | 16,384 for any window | | | | |
//!
//! Time for a message by itself at window 12 and level 1 (levels 3 and 6 in parentheses), JSON:
//!
//! | message | zlib-rs | ratio | zlib | ratio | inflate zlib-rs / zlib |
//! | --- | --- | --- | --- | --- | --- |
//! | 128 bytes | 2.2 (6.8, 5.9) µs | 1.17 (1.25, 1.25) | 3.9 µs | 1.25 | 0.5 / 0.4 µs |
//! | 256 bytes | 2.2 (6.3, 6.4) µs | 1.63 (1.86, 1.86) | 4.1 µs | 1.84 | 0.8 / 0.5 µs |
//! | 1 KiB | 3.4 (9.4, 9.7) µs | 2.3 (3.2, 3.2) | 6.4 µs | 3.0 | 1.3 / 1.3 µs |
//! | 16 KiB | 41 (99, 132) µs | 2.9 (4.4, 4.6) | 112 µs | 3.9 | 13 / 16 µs |
//!
//! and at level 1 in a later run with other JSON, `quick` beside zlib-rs:
//!
//! | message | `quick` | ratio | zlib-rs | ratio |
//! | --- | --- | --- | --- | --- |
//! | 128 bytes | 0.32 µs | 1.20 | 2.50 µs | 1.20 |
//! | 256 bytes | 0.48 µs | 1.75 | 2.88 µs | 1.75 |
//! | 1 KiB | 1.39 µs | 2.77 | 4.22 µs | 2.77 |
//! | 16 KiB | 18.2 µs | 3.65 | 36.4 µs | 3.67 |
//!
//! So `quick` compresses shared messages at level 1, the default; zlib-rs, whose memory a shard
//! needs once, does so at all other levels and inflates shared messages; and zlib does what single
//! connections own. Level 1 is the default because the others cost several times as much; below
//! 256 bytes compression saves too little.
//!
//! Files: `inflate` (bytes in, messages out, bombs) and its memory `inflated`, `compress` (messages
//! in, bytes out), `quick` (level 1 without context), `shared` (one message for many receivers),
//! `zlib` (the C library behind a safe interface).

mod compress;
mod inflate;
mod inflated;
mod quick;
mod shared;
mod zlib;

use std::num::NonZeroU32;

pub use compress::{Compressed, Compressing, Deflaters};
pub(super) use inflate::Inflating;
pub use inflate::{InflateLimits, Inflaters};
pub use shared::SharedMessage;

/// The end of every compressed message, which senders remove (RFC 7692 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// The smallest window for compression: zlib rejects 8 for raw DEFLATE.
pub const WINDOW_BITS_MIN: u8 = 9;
/// The largest window, and the default of a peer that names none.
pub const WINDOW_BITS_MAX: u8 = 15;
/// Memory of zlib's compressor beside window and tables, rounded as the allocator does (bytes).
const DEFLATE_BYTES: u64 = 7 * 1024;
/// Memory of zlib's inflater beside its window (bytes).
const INFLATE_BYTES: u64 = 7 * 1024 + 512;

/// A route's settings for compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether connections may keep contexts of earlier messages.
    pub takeover: bool,
    /// Window of our compressors, from [`WINDOW_BITS_MIN`] to [`WINDOW_BITS_MAX`], and with
    /// `takeover` the largest window of a client that is remembered.
    pub window_bits: u8,
}

/// The parameters that both sides have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The server compresses with the context of earlier messages.
    pub server_takeover: bool,
    /// The client compresses with the context of earlier messages.
    pub client_takeover: bool,
    /// Window of the server's compressor.
    pub server_bits: u8,
    /// The largest window of the client's compressor.
    pub client_bits: u8,
}

impl Agreed {
    /// Whether a connection keeps contexts of its own.
    pub fn takes_over(self) -> bool {
        self.server_takeover || self.client_takeover
    }

    /// The memory of the contexts that the connection keeps, at most (bytes).
    pub fn context_bytes(self) -> u64 {
        let deflate = DEFLATE_BYTES
            + (1 << (self.server_bits + 2))
            + (1 << (memory_level(self.server_bits) + 9));
        let inflate = INFLATE_BYTES + (1 << self.client_bits);
        u64::from(self.server_takeover) * deflate + u64::from(self.client_takeover) * inflate
    }
}

/// zlib's memLevel for a window: tables in proportion to it (12 gives 5, 15 gives 8).
fn memory_level(bits: u8) -> u8 {
    bits.saturating_sub(7).clamp(1, 8)
}

/// How messages of one connection are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sending {
    /// Window of the compressor.
    pub bits: u8,
    /// The connection's own compressor, if it has one.
    pub context: Option<NonZeroU32>,
}

/// Counters of codecs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Messages compressed or inflated.
    pub messages: u64,
    /// Bytes of input.
    pub bytes_before: u64,
    /// Bytes of output.
    pub bytes_after: u64,
    /// Time spent, by the given clock (ns).
    pub spent_ns: u64,
    /// Messages sent uncompressed because they did not shrink.
    pub useless: u64,
    /// Inputs that found every inflater in use.
    pub waits: u64,
    /// Messages rejected because of the size they inflate to.
    pub bombs: u64,
    /// Cost of all work, in bytes that zlib-rs compresses at level 1 in the same time (2.5 ns
    /// each). A count and not a time: the same input always costs the same.
    pub effort: u64,
}

/// The result of one step of an inflater.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flow {
    read: usize,
    written: usize,
    came_to: CameTo,
}

/// How a step of an inflater ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CameTo {
    /// Input or room is used up.
    Pause,
    /// A final block has ended.
    FinalBlock,
    /// What follows is not DEFLATE.
    Failure,
}

/// Opens and closes a connection's own contexts on both sides under one key.
///
/// `None` when it keeps none.
///
/// # Panics
/// When the codecs were not opened and closed together.
pub fn open_contexts(
    agreed: Agreed,
    level: u8,
    inflaters: &mut Inflaters,
    deflaters: &mut Deflaters,
) -> Option<NonZeroU32> {
    if !agreed.takes_over() {
        return None;
    }
    let inflater = agreed.client_takeover.then_some(agreed.client_bits);
    let compressor = agreed.server_takeover.then_some((agreed.server_bits, level));
    let key = inflaters.open_context(inflater);
    assert_eq!(key, deflaters.open_context(compressor), "both are opened and closed together");
    NonZeroU32::new(key + 1)
}

/// See [`open_contexts`].
pub fn close_contexts(key: NonZeroU32, inflaters: &mut Inflaters, deflaters: &mut Deflaters) {
    inflaters.close_context(index_of(key));
    deflaters.close_context(index_of(key));
}

fn index_of(key: NonZeroU32) -> usize {
    key.get() as usize - 1
}
