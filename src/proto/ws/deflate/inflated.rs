//! The memory that a message is inflated into: it grows with what comes, never past the limit, and
//! without copying much at a time.

/// Bytes that are inflated before they are looked at.
pub(super) const STEP_BYTES: usize = 64 * 1024;
/// From this size on, the memory of a message is reserved in strides of [`RESERVE_FACTOR`] times
/// what is there, and touched step by step: little is copied when it grows.
const RESERVE_FROM_BYTES: usize = 1 << 20;
const RESERVE_FACTOR: usize = 16;

/// Bytes of a message in memory that was made ready before.
#[derive(Debug, Default)]
pub(super) struct Inflated {
    /// All of it may be written to; grows with what comes, never past the limit.
    pub(super) bytes: Vec<u8>,
    pub(super) filled: usize,
}

impl Inflated {
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Where the next step may write; empty at the limit, which may have been lowered meanwhile.
    pub(super) fn reserve_room(&mut self, input_len: usize, bytes_max: usize) -> &mut [u8] {
        if self.filled >= bytes_max {
            return &mut [];
        }
        if self.filled == self.bytes.len() {
            self.grow(input_len, bytes_max);
        }
        // Up to where the next look is due, wherever the input was cut.
        let look = self.filled - self.filled % STEP_BYTES + STEP_BYTES;
        let end = self.bytes.len().min(look).min(bytes_max);
        &mut self.bytes[self.filled..end]
    }

    /// Makes room for the next step. Costs no more than a step's worth of zeros, and now and then
    /// a copy of what is there.
    fn grow(&mut self, input_len: usize, bytes_max: usize) {
        let len = self.bytes.len();
        let likely = input_len.saturating_mul(4).max(512);
        let wanted = likely.saturating_add(len).max(2 * len).min(bytes_max);
        if self.bytes.capacity() < wanted.min(len + STEP_BYTES) {
            let reserved = if len < RESERVE_FROM_BYTES {
                wanted
            } else {
                len.saturating_mul(RESERVE_FACTOR).min(bytes_max)
            };
            self.bytes.reserve_exact(reserved - len);
        }
        self.bytes.resize(wanted.min(len + STEP_BYTES), 0);
    }
}
