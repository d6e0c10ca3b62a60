//! The messages of a run, prepared and masked, in one contiguous sheet.
//!
//! Consecutive messages are adjacent, so that several leave in one send, and nothing is masked,
//! compressed or copied during the run. Neighbours differ: a lost, duplicate, swapped or misrouted
//! echo differs in a byte, which `--verify` detects.

use crate::deflate;
use crate::sizes::Sizes;
use crate::wire;

/// Different messages of one size, as far as the size allows.
const VARIANTS_MAX: usize = 64;
/// Messages of a distribution: includes sizes with a share of a thousandth.
const SPREAD_VARIANTS: usize = 1_000;
/// Bytes of the sheet above which it has fewer variants, to stay in the processor's cache.
const SHEET_BYTES: usize = 256 * 1024;
/// The same for a distribution, which needs its variants.
const SPREAD_BYTES: usize = 64 << 20;
/// Bytes of one send of several messages.
const BATCH_BYTES: usize = 64 * 1024;
/// The words of compressible text.
const WORDS: [&str; 16] = [
    "\"id\":",
    "\"user\":",
    "\"price\":",
    "\"time\":",
    "true,",
    "false,",
    "null,",
    "{",
    "}",
    "[",
    "],",
    "1024",
    "3.25",
    "channel",
    "message",
    "update ",
];

/// Properties of the messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub sizes: Sizes,
    pub text: bool,
    /// No framing: the bytes of the masked frame are the message, so that a bare echo carries as
    /// many bytes as a WebSocket server receives.
    pub raw: bool,
    /// Messages that may leave in one send.
    pub depth: usize,
    /// Compressed frames are prepared as well, and text is made of words.
    pub deflate: bool,
}

impl Shape {
    /// Text messages of one size, one at a time.
    pub fn text(size: u32) -> Self {
        Self { sizes: Sizes::Fixed(size), text: true, raw: false, depth: 1, deflate: false }
    }
}

/// Adjacent pieces.
#[derive(Debug, Default)]
struct Strip {
    bytes: Vec<u8>,
    /// The start of each piece, and the end of the last.
    starts: Vec<usize>,
}

impl Strip {
    fn end_piece(&mut self) {
        self.starts.push(self.bytes.len());
    }

    fn pieces(&self, from: usize, count: usize) -> &[u8] {
        &self.bytes[self.starts[from]..self.starts[from + count]]
    }

    fn longest(&self) -> usize {
        self.starts.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0)
    }
}

/// The sheet itself; shared by all threads.
pub struct Sheet {
    shape: Shape,
    plain: Strip,
    compressed: Strip,
    payloads: Strip,
    frame_len: usize,
    variants: usize,
    batch: usize,
}

impl Sheet {
    pub fn new(shape: Shape) -> Self {
        let sizes = lengths(&shape.sizes);
        let opcode = if shape.text { wire::opcode::TEXT } else { wire::opcode::BINARY };
        let mut noise = Noise(0x9E37_79B9_7F4A_7C15);
        let strip = || Strip { bytes: Vec::new(), starts: vec![0] };
        let (mut plain, mut compressed, mut payloads) = (strip(), strip(), strip());
        for (variant, size) in sizes.iter().enumerate() {
            let mut payload = vec![0; *size];
            if shape.deflate && shape.text {
                noise.write(&mut payload);
            } else {
                noise.fill(&mut payload, shape.text);
            }
            if let Some(first) = payload.first_mut() {
                // Make the first bytes of neighbours differ, whatever the noise.
                *first = b'0' + (variant % VARIANTS_MAX) as u8;
            }
            let mask = (noise.next() as u32).to_le_bytes();
            wire::put_masked(&mut plain.bytes, opcode, mask, &payload);
            plain.end_piece();
            if shape.deflate {
                // Compression into memory fails only through a bug in the compressor.
                let small = deflate::compress(&payload).expect("bytes can be compressed");
                wire::put_masked(&mut compressed.bytes, wire::RSV1 | opcode, mask, &small);
                compressed.end_piece();
            }
            payloads.bytes.extend_from_slice(&payload);
            payloads.end_piece();
        }
        let (variants, frame_len) = (sizes.len(), plain.longest());
        let longest = frame_len.max(compressed.longest());
        let batch = shape.depth.min(BATCH_BYTES / longest).clamp(1, variants);
        for strip in [&mut plain, &mut compressed] {
            // A batch near the end wraps around to the first messages.
            for variant in 0..(batch - 1).min(strip.starts.len() - 1) {
                strip.bytes.extend_from_within(strip.starts[variant]..strip.starts[variant + 1]);
                strip.end_piece();
            }
        }
        Self { shape, plain, compressed, payloads, frame_len, variants, batch }
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Bytes of the longest message on the wire, from client to server.
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
    pub fn frames(&self, variant: u32, count: u32, compressed: bool) -> &[u8] {
        assert!(variant < self.variants() && count <= self.batch(), "{count} from {variant}");
        let strip = if compressed { &self.compressed } else { &self.plain };
        strip.pieces(variant as usize, count as usize)
    }

    /// Payload bytes of `count` messages from `variant` on.
    pub fn payload_bytes(&self, variant: u32, count: u32) -> u64 {
        let sum = (variant..variant + count)
            .map(|variant| self.payloads.pieces((variant % self.variants()) as usize, 1).len());
        sum.sum::<usize>() as u64
    }

    /// The same as they are sent compressed, without frame headers.
    pub fn wire_payload_bytes(&self, variant: u32, count: u32) -> u64 {
        let sum = (variant..variant + count).map(|variant| {
            let frame = self.compressed.pieces((variant % self.variants()) as usize, 1);
            let header = match frame[1] & 0x7F {
                126 => 8,
                127 => 14,
                _ => 6,
            };
            frame.len() - header
        });
        sum.sum::<usize>() as u64
    }

    /// The payload that the echo of a message must have.
    pub fn expected(&self, variant: u32) -> &[u8] {
        if self.shape.raw {
            return self.frames(variant, 1, false);
        }
        self.payloads.pieces(variant as usize, 1)
    }

    /// The opcode the echo of a message must have.
    pub fn opcode(&self) -> u8 {
        let text = self.shape.text && !self.shape.raw;
        if text { wire::opcode::TEXT } else { wire::opcode::BINARY }
    }
}

/// The size of each variant; those of a distribution are mixed, always in the same order.
fn lengths(sizes: &Sizes) -> Vec<usize> {
    if let Sizes::Fixed(size) = sizes {
        let size = *size as usize;
        let frame_len = wire::masked_header_len(size) + size;
        return vec![size; (SHEET_BYTES / frame_len).clamp(4, VARIANTS_MAX)];
    }
    let most = (SPREAD_BYTES as f64 / (sizes.mean() + 14.0)) as usize;
    let mut all = sizes.spread(most.clamp(VARIANTS_MAX, SPREAD_VARIANTS));
    let mut noise = Noise(0x2545_F491_4F6C_DD1D);
    for at in (1..all.len()).rev() {
        all.swap(at, (noise.next() >> 16) as usize % (at + 1));
    }
    all
}

/// A small generator of reproducible noise (xorshift64).
#[derive(Debug, Clone)]
pub struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self((seed ^ 0x9E37_79B9_7F4A_7C15) | 1)
    }

    #[expect(clippy::should_implement_trait, reason = "it never ends, unlike an iterator")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0 up to 1.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Text is printable ASCII: every cut of it is valid UTF-8.
    fn fill(&mut self, out: &mut [u8], text: bool) {
        for byte in out {
            let noise = (self.next() >> 32) as u8;
            *byte = if text { b' ' + noise % 95 } else { noise };
        }
    }

    /// Text that compresses about as well as JSON does.
    pub fn write(&mut self, out: &mut [u8]) {
        let mut at = 0;
        while at < out.len() {
            let word = WORDS[(self.next() >> 32) as usize % WORDS.len()].as_bytes();
            let len = word.len().min(out.len() - at);
            out[at..at + len].copy_from_slice(&word[..len]);
            at += len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deflate::Inflater;

    fn sheet(size: u32, text: bool, raw: bool, depth: usize) -> Sheet {
        Sheet::new(Shape { text, raw, depth, ..Shape::text(size) })
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
                let frame = sheet.frames(variant, 1, false);
                assert_eq!(unmask(frame, size as usize), sheet.expected(variant), "size {size}");
                assert!(std::str::from_utf8(sheet.expected(variant)).is_ok());
            }
        }
    }

    #[test]
    fn compressed_frames_inflate_to_what_is_expected() {
        for size in [0, 20, 1_024, 70_000] {
            let sheet = Sheet::new(Shape { deflate: true, ..Shape::text(size) });
            let mut inflater = Inflater::default();
            for variant in 0..sheet.variants() {
                let frame = sheet.frames(variant, 1, true);
                assert_eq!(frame[0], 0x80 | wire::RSV1 | wire::opcode::TEXT);
                let len = (0..=frame.len())
                    .rfind(|len| wire::masked_header_len(*len) + len == frame.len())
                    .unwrap();
                let plain = unmask(frame, len);
                let expected = sheet.expected(variant);
                assert_eq!(inflater.inflate(&plain, size as usize).unwrap(), expected);
                assert!(size < 1_000 || len < size as usize / 2, "{len} of {size}");
            }
        }
    }

    #[test]
    fn a_batch_wraps_around_the_end() {
        let sheet = sheet(20, false, false, 16);
        let last = sheet.variants() - 1;
        let two = sheet.frames(last, 2, false);
        assert_eq!(&two[..sheet.frame_len()], sheet.frames(last, 1, false));
        assert_eq!(&two[sheet.frame_len()..], sheet.frames(0, 1, false));
        assert_eq!((sheet.batch(), sheet.payload_bytes(last, 2)), (16, 40));
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
        assert_eq!(raw.expected(3), raw.frames(3, 1, false));
        assert_eq!(raw.frame_len(), 1024 + 8);
    }

    #[test]
    fn large_messages_keep_the_sheet_small() {
        let sheet = sheet(1 << 20, false, false, 16);
        assert_eq!((sheet.variants(), sheet.batch()), (4, 1));
    }

    #[test]
    fn a_distribution_is_mixed_and_complete() {
        let sizes = Sizes::parse("20:90,1024:9,16384:1").unwrap();
        let sheet = Sheet::new(Shape { sizes, depth: 16, ..Shape::text(0) });
        assert_eq!((sheet.variants(), sheet.batch()), (1_000, 3));
        let len = |variant| sheet.expected(variant).len();
        let count = |size| (0..1_000).filter(|variant| len(*variant) == size).count();
        assert_eq!((count(20), count(1024), count(16_384)), (900, 90, 10));
        let first_half = (0..500).filter(|variant| len(*variant) == 1024).count();
        assert!((20..70).contains(&first_half), "mixed: {first_half} of 90");
    }
}
