//! Compresses a message by itself, at level 1: fixed Huffman codes (RFC 1951 3.2.6), and a table of
//! recent positions that is never cleared.
//!
//! zlib-rs does the same job at level 1, but clears a table of 128 KiB before every message, which
//! costs more than compressing a short one. Here each entry of the table carries the number of the
//! byte in a count that runs on from message to message, so that entries of earlier messages are
//! recognized as too old. A candidate is compared with the message itself in any case: a wrong
//! entry costs a comparison, never a wrong byte.
//!
//! It takes an eighth to a half of the time of zlib-rs at the same ratio: see the parent module.
//! The tests inflate its output with zlib, at the agreed window, for any input.
//!
//! Rejected: C zlib with small tables or fixed codes (6.5 µs for 1 KiB).

use super::TAIL;

/// Entries of the table: 16 KiB, a third of a first-level cache.
const TABLE_BITS: u32 = 12;
/// The shortest match that is looked for (bytes): as many as are hashed.
const MATCH_BYTES_MIN: usize = 4;
/// The longest match that DEFLATE can express (bytes).
const MATCH_BYTES_MAX: usize = 258;
/// The longest message. More fits into the table's numbers, but nothing needs it.
pub(super) const INPUT_BYTES_MAX: usize = 1 << 20;

/// A Huffman code with the extra bits that follow it, first bit lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Code {
    bits: u32,
    count: u32,
}

/// The codes of all bytes.
static LITERALS: [Code; 256] = make_literals();
/// The codes of all match lengths; those below 3 are unused.
static LENGTHS: [Code; MATCH_BYTES_MAX + 1] = make_lengths();

const fn reverse_bits(value: u32, count: u32) -> u32 {
    value.reverse_bits() >> (32 - count)
}

const fn make_literals() -> [Code; 256] {
    let mut codes = [Code { bits: 0, count: 0 }; 256];
    let mut byte = 0;
    while byte < 256 {
        codes[byte as usize] = if byte < 144 {
            Code { bits: reverse_bits(0x30 + byte, 8), count: 8 }
        } else {
            Code { bits: reverse_bits(0x190 + byte - 144, 9), count: 9 }
        };
        byte += 1;
    }
    codes
}

/// The first length of each symbol from 257 on, and its extra bits (RFC 1951 3.2.5).
const LENGTH_SYMBOLS: [(u32, u32); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];

const fn make_lengths() -> [Code; MATCH_BYTES_MAX + 1] {
    let mut codes = [Code { bits: 0, count: 0 }; MATCH_BYTES_MAX + 1];
    let mut len = 3;
    while len <= MATCH_BYTES_MAX as u32 {
        let mut index = LENGTH_SYMBOLS.len() - 1;
        while LENGTH_SYMBOLS[index].0 > len {
            index -= 1;
        }
        let (first, extra) = LENGTH_SYMBOLS[index];
        let symbol = 257 + index as u32;
        let (code, count) = if symbol < 280 {
            (reverse_bits(symbol - 256, 7), 7)
        } else {
            (reverse_bits(0xc0 + symbol - 280, 8), 8)
        };
        codes[len as usize] = Code { bits: code | (len - first) << count, count: count + extra };
        len += 1;
    }
    codes
}

/// The code of a distance from 1 to 32,768 with its extra bits (RFC 1951 3.2.5).
#[inline]
fn distance_code(distance: u32) -> Code {
    let from_zero = distance - 1;
    if from_zero < 4 {
        return Code { bits: reverse_bits(from_zero, 5), count: 5 };
    }
    let high_bit = from_zero.ilog2();
    let extra = high_bit - 1;
    let symbol = 2 * high_bit + (from_zero >> extra & 1);
    let rest = from_zero & ((1 << extra) - 1);
    Code { bits: reverse_bits(symbol, 5) | rest << 5, count: 5 + extra }
}

/// Writes bits, lowest first, into a slice with enough room.
struct BitWriter<'o> {
    output: &'o mut [u8],
    /// Whole bytes written.
    written: usize,
    /// Bits that do not fill a byte yet: fewer than 8 between two calls.
    bits: u64,
    count: u32,
}

impl BitWriter<'_> {
    /// Appends up to 40 bits.
    #[inline]
    fn put_code(&mut self, code: Code) {
        debug_assert!(code.count <= 40);
        self.bits |= u64::from(code.bits) << self.count;
        self.count += code.count;
        self.output[self.written..self.written + 8].copy_from_slice(&self.bits.to_le_bytes());
        let whole = self.count / 8;
        self.written += whole as usize;
        self.bits >>= whole * 8;
        self.count %= 8;
    }
}

/// Room that [`QuickDeflate::compress`] needs for its output (bytes): nine bits a byte at most, the
/// ends of the block and the message, and what the last write reaches beyond.
pub(super) const fn output_room(input_len: usize) -> usize {
    input_len + input_len / 8 + 32
}

/// The compressor. One serves all connections of a shard.
pub(super) struct QuickDeflate {
    /// The number of the byte at which four bytes with this hash were last seen.
    table: Box<[u32; 1 << TABLE_BITS]>,
    /// The number of the next message's first byte.
    next: u32,
}

impl QuickDeflate {
    /// Memory of one (bytes).
    pub(super) const BYTES: usize = 4 << TABLE_BITS;

    pub(super) fn new() -> Self {
        // No byte has the number 0, so that unused entries are too old.
        Self { table: Box::new([0; 1 << TABLE_BITS]), next: 1 }
    }

    /// Compresses a message, with matches that reach back up to `window_bytes`, and ends it like a
    /// flush, with [`TAIL`]. Returns the length of the output.
    ///
    /// # Panics
    /// When the message is longer than [`INPUT_BYTES_MAX`], or when `output` has less than
    /// [`output_room`].
    pub(super) fn compress(
        &mut self,
        message: &[u8],
        window_bytes: usize,
        output: &mut [u8],
    ) -> usize {
        assert!(message.len() <= INPUT_BYTES_MAX, "longer messages are cut before");
        assert!(output.len() >= output_room(message.len()), "the caller made room");
        let first = self.take_numbers(message.len());
        // A block with fixed codes that is not the last one (RFC 1951 3.2.3).
        let mut writer = BitWriter { output, written: 0, bits: 0b010, count: 3 };
        let mut at = 0;
        while let Some(four) = message[at..].first_chunk::<MATCH_BYTES_MIN>() {
            let entry = &mut self.table[hash_of(*four)];
            let number = first + at as u32;
            let seen = std::mem::replace(entry, number);
            // Entries of earlier messages have numbers below `first`.
            let distance = (number - seen) as usize;
            if seen >= first && distance <= window_bytes {
                let len = match_len(&message[at - distance..], &message[at..]);
                if len >= MATCH_BYTES_MIN {
                    writer.put_code(LENGTHS[len]);
                    writer.put_code(distance_code(distance as u32));
                    at += len;
                    continue;
                }
            }
            writer.put_code(LITERALS[usize::from(four[0])]);
            at += 1;
        }
        for byte in &message[at..] {
            writer.put_code(LITERALS[usize::from(*byte)]);
        }
        // The block's end, and the header of the empty stored block that a flush ends with.
        writer.put_code(Code { bits: 0, count: 7 + 3 });
        let end = writer.written + usize::from(writer.count > 0);
        output[end..end + TAIL.len()].copy_from_slice(&TAIL);
        end + TAIL.len()
    }

    /// Returns the number of a message's first byte.
    fn take_numbers(&mut self, len: usize) -> u32 {
        let len = len as u32;
        if self.next.checked_add(len).is_none() {
            self.table.fill(0);
            self.next = 1;
        }
        let first = self.next;
        self.next += len;
        first
    }
}

#[inline]
fn hash_of(four: [u8; MATCH_BYTES_MIN]) -> usize {
    (u32::from_le_bytes(four).wrapping_mul(0x9E37_79B1) >> (32 - TABLE_BITS)) as usize
}

/// How many bytes the two have in common at their start, as far as one match can say. `earlier` is
/// at least as long.
#[inline]
fn match_len(earlier: &[u8], later: &[u8]) -> usize {
    let later = &later[..later.len().min(MATCH_BYTES_MAX)];
    let earlier = &earlier[..later.len()];
    let (words, tail) = later.as_chunks::<8>();
    let (earlier_words, earlier_tail) = earlier.as_chunks::<8>();
    for (index, (word, other)) in words.iter().zip(earlier_words).enumerate() {
        let different = u64::from_le_bytes(*word) ^ u64::from_le_bytes(*other);
        if different != 0 {
            return index * 8 + different.trailing_zeros() as usize / 8;
        }
    }
    let same = tail.iter().zip(earlier_tail).take_while(|(one, other)| one == other).count();
    words.len() * 8 + same
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What zlib-rs reads, as the reference for codes.
    fn inflate(bytes: &[u8], len: usize) -> Vec<u8> {
        let mut inflate = zlib_rs::Inflate::new(false, 15);
        let mut out = vec![0; len + 1];
        let flush = zlib_rs::InflateFlush::SyncFlush;
        inflate.decompress(bytes, &mut out, flush).expect("DEFLATE");
        out.truncate(inflate.total_out() as usize);
        out
    }

    #[test]
    fn every_length_and_distance_has_its_code() {
        let mut quick = QuickDeflate::new();
        let mut out = vec![0; output_room(40_000)];
        let mut random = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 24) as u8
        })
        .take(33_100)
        .collect();
        // Every length at one distance, and then every distance near a power of two.
        let lengths = (4..=300).map(|len| (len, 1_000));
        let powers = (2..=15).map(|bits| 1_usize << bits);
        let distances = powers.flat_map(|power| [power - 1, power, power + 1]).map(|at| (9, at));
        for (len, distance) in lengths.chain(distances) {
            let distance = distance.min(32_768).max(len);
            let message = [&noise[..distance], &noise[..len]].concat();
            let written = quick.compress(&message, 32_768, &mut out);
            assert_eq!(inflate(&out[..written], message.len()), message, "{len} at {distance}");
        }
    }

    #[test]
    fn numbers_start_again_before_they_overflow() {
        let mut quick = QuickDeflate::new();
        let mut out = vec![0; output_room(100)];
        let message = [b'a'; 100];
        let before = quick.compress(&message, 512, &mut out);
        quick.next = u32::MAX - 50;
        assert_eq!(quick.compress(&message, 512, &mut out), before);
        assert_eq!(quick.next, 101, "after the table was cleared");
        assert_eq!(inflate(&out[..before], 100), message);
    }

    #[test]
    fn earlier_messages_are_not_referred_to() {
        let mut quick = QuickDeflate::new();
        let mut out = vec![0; output_room(100)];
        let message = b"no byte of this repeats: 0123456789";
        let first = quick.compress(message, 32_768, &mut out);
        assert_eq!(quick.compress(message, 32_768, &mut out), first);
        assert_eq!(inflate(&out[..first], message.len()), message);
    }
}
