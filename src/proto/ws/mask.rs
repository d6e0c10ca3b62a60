//! Unmasking (RFC 6455 5.3): byte i of the payload is xored with byte i mod 4 of the key.
//!
//! The key is rotated once so that the slice at hand starts a period, widened to 16 bytes, and
//! xored over whole chunks; the compiler makes vector code of that. Safe code, no alignment to
//! care for.

const CHUNK: usize = 16;
/// Bytes that are unmasked in registers on their way from one place to another.
const BLOCK: usize = 64;
const _: () = assert!(CHUNK.is_multiple_of(4) && BLOCK.is_multiple_of(CHUNK));

/// Unmasks `bytes` in place.
///
/// `phase` is how many bytes of the same frame's payload came before them; only its two low bits
/// count.
#[inline]
pub fn unmask(bytes: &mut [u8], key: [u8; 4], phase: usize) {
    let key = rotate_key(key, phase);
    let narrow = u32::from_ne_bytes(key);
    let wide = u128::from(narrow) * 0x0000_0001_0000_0001_0000_0001_0000_0001;
    let (chunks, tail) = bytes.as_chunks_mut::<CHUNK>();
    for chunk in chunks {
        *chunk = (u128::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    let (words, tail) = tail.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ narrow).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// Unmasks a whole payload in place; returns whether all of it is ASCII.
///
/// It works on words of 8 bytes, of which the compiler makes vector code together with the check;
/// of words of 16 it does not.
#[inline]
pub fn unmask_whole(payload: &mut [u8], key: [u8; 4]) -> bool {
    let narrow = u32::from_ne_bytes(key);
    let wide = u64::from(narrow) << 32 | u64::from(narrow);
    let mut seen = 0;
    let (words, tail) = payload.as_chunks_mut::<8>();
    for word in words {
        let clear = u64::from_ne_bytes(*word) ^ wide;
        seen |= clear;
        *word = clear.to_ne_bytes();
    }
    let (words, tail) = tail.as_chunks_mut::<4>();
    for word in words {
        let clear = u32::from_ne_bytes(*word) ^ narrow;
        seen |= u64::from(clear);
        *word = clear.to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key) {
        *byte ^= key;
        seen |= u64::from(*byte);
    }
    seen & 0x8080_8080_8080_8080 == 0
}

/// Appends `source` to `target`, unmasked, in one pass; returns whether all of it is ASCII.
///
/// `phase` as in [`unmask`]. Grows `target` only if its capacity does not do.
#[inline]
pub fn copy_unmask(target: &mut Vec<u8>, source: &[u8], key: [u8; 4], phase: usize) -> bool {
    target.reserve(source.len());
    let key = rotate_key(key, phase);
    let (blocks, tail) = source.as_chunks::<BLOCK>();
    let mut is_ascii = true;
    for block in blocks {
        let mut block = *block;
        is_ascii &= unmask_whole(&mut block, key);
        target.extend_from_slice(&block);
    }
    let start = target.len();
    target.extend_from_slice(tail);
    is_ascii & unmask_whole(&mut target[start..], key)
}

/// The key from the byte on with which a slice at `phase` begins.
fn rotate_key(key: [u8; 4], phase: usize) -> [u8; 4] {
    u32::from_le_bytes(key).rotate_right(8 * (phase % 4) as u32).to_le_bytes()
}
