//! The messages a run sends, prebuilt and masked, in one contiguous sheet.
//!
//! Consecutive messages lie one after the other, so that several leave in one send, and nothing is
//! masked or copied while the clock runs. Neighbours differ: an echo lost, doubled, swapped or sent
//! to the wrong connection is a byte that differs, which `--verify` sees.

use crate::wire;

/// Messages that differ from each other, as far as their size allows.
const VARIANTS_MAX: usize = 64;
/// Bytes of the sheet above which fewer variants are kept, to stay in the processor's cache.
const SHEET_BYTES: usize = 256 * 1024;
/// Bytes of one send of several messages.
const BATCH_BYTES: usize = 64 * 1024;

/// What the messages look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Payload bytes of a message.
    pub size: usize,
    pub text: bool,
    /// No framing: the bytes of the masked frame are the message, so that a bare echo carries as
    /// many bytes as a WebSocket server receives.
    pub raw: bool,
    /// Messages that may leave in one send.
    pub depth: usize,
}

/// The sheet itself; shared by all threads.
pub struct Sheet {
    shape: Shape,
    bytes: Vec<u8>,
    payloads: Vec<u8>,
    frame_len: usize,
    variants: usize,
    batch: usize,
}

impl Sheet {
    pub fn new(shape: Shape) -> Self {
        let frame_len = wire::masked_header_len(shape.size) + shape.size;
        let variants = (SHEET_BYTES / frame_len).clamp(4, VARIANTS_MAX);
        let batch = shape.depth.min(BATCH_BYTES / frame_len).clamp(1, variants);
        let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
        let mut payloads = Vec::with_capacity(variants * shape.size);
        let mut bytes = Vec::with_capacity((variants + batch) * frame_len);
        for variant in 0..variants {
            let start = payloads.len();
            payloads.resize(start + shape.size, 0);
            let payload = &mut payloads[start..];
            noise.fill(payload, shape.text);
            if let Some(first) = payload.first_mut() {
                // Neighbours differ in their first byte whatever the noise was.
                *first = b'0' + variant as u8;
            }
            let opcode = if shape.text { wire::opcode::TEXT } else { wire::opcode::BINARY };
            let mask = noise.next().to_le_bytes();
            wire::put_masked(&mut bytes, opcode, [mask[0], mask[1], mask[2], mask[3]], payload);
        }
        bytes.extend_from_within(..(batch - 1) * frame_len);
        Self { shape, bytes, payloads, frame_len, variants, batch }
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Bytes of one message on the wire, from client to server.
    pub fn frame_len(&self) -> usize {
        self.frame_len
    }

    pub fn variants(&self) -> u32 {
        self.variants as u32
    }

    /// Most messages of one send.
    pub fn batch(&self) -> u32 {
        self.batch as u32
    }

    /// The wire bytes of `count` messages from `variant` on.
    pub fn frames(&self, variant: u32, count: u32) -> &[u8] {
        assert!(variant < self.variants() && count <= self.batch(), "{count} from {variant}");
        let start = variant as usize * self.frame_len;
        &self.bytes[start..start + count as usize * self.frame_len]
    }

    /// What the echo of a message must contain.
    pub fn expected(&self, variant: u32) -> &[u8] {
        if self.shape.raw {
            return self.frames(variant, 1);
        }
        let start = variant as usize * self.shape.size;
        &self.payloads[start..start + self.shape.size]
    }

    /// The opcode the echo of a message must have.
    pub fn opcode(&self) -> u8 {
        let text = self.shape.text && !self.shape.raw;
        if text { wire::opcode::TEXT } else { wire::opcode::BINARY }
    }
}

/// A small generator of reproducible noise (xorshift64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Text is printable ASCII: every cut of it is valid UTF-8.
    fn fill(&mut self, out: &mut [u8], text: bool) {
        for byte in out {
            let noise = (self.next() >> 32) as u8;
            *byte = if text { b' ' + noise % 95 } else { noise };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet(size: usize, text: bool, raw: bool, depth: usize) -> Sheet {
        Sheet::new(Shape { size, text, raw, depth })
    }

    fn unmask(frame: &[u8], size: usize) -> Vec<u8> {
        let header = wire::masked_header_len(size);
        let mask = &frame[header - 4..header];
        frame[header..].iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]).collect()
    }

    #[test]
    fn every_frame_unmasks_to_what_is_expected() {
        for size in [0, 1, 20, 125, 126, 65_535, 65_536] {
            let sheet = sheet(size, true, false, 4);
            for variant in 0..sheet.variants() {
                let frame = sheet.frames(variant, 1);
                assert_eq!(unmask(frame, size), sheet.expected(variant), "size {size}");
                assert!(std::str::from_utf8(sheet.expected(variant)).is_ok());
            }
        }
    }

    #[test]
    fn a_batch_wraps_around_the_end() {
        let sheet = sheet(20, false, false, 16);
        let last = sheet.variants() - 1;
        let two = sheet.frames(last, 2);
        assert_eq!(&two[..sheet.frame_len()], sheet.frames(last, 1));
        assert_eq!(&two[sheet.frame_len()..], sheet.frames(0, 1));
        assert_eq!(sheet.batch(), 16);
    }

    #[test]
    fn neighbours_differ() {
        let sheet = sheet(1, true, false, 1);
        for variant in 1..sheet.variants() {
            assert_ne!(sheet.expected(variant - 1), sheet.expected(variant));
        }
    }

    #[test]
    fn raw_messages_have_the_bytes_of_frames() {
        let raw = sheet(1024, false, true, 1);
        assert_eq!(raw.expected(3), raw.frames(3, 1));
        assert_eq!(raw.frame_len(), 1024 + 8);
    }

    #[test]
    fn large_messages_keep_the_sheet_small() {
        let sheet = sheet(1 << 20, false, false, 16);
        assert_eq!((sheet.variants(), sheet.batch()), (4, 1));
    }
}
