//! A session as a list of operations: frames that a client may or may not send, cut where it likes.
//!
//! Raw bytes seldom make a frame, and random masks hide text from a fuzzer. Here each operation
//! says what to send; what the receiver must make of it follows from the model.

use super::model::{Model, unmask};
use super::{Limits, agree, receive};

/// Reads operations off the front of the data.
struct Source<'d>(&'d [u8]);

impl Source<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }
}

/// What goes over the wire, and where it is cut.
#[derive(Default)]
struct Wire {
    bytes: Vec<u8>,
    cuts: Vec<usize>,
}

/// Runs the session that `data` describes.
pub fn session(data: &[u8]) {
    let mut source = Source(data);
    let (Some(size), Some(fragments)) = (source.byte(), source.byte()) else { return };
    let limits = Limits {
        message_bytes_max: usize::from(size) << (size & 8),
        fragments_max: 1 + u32::from(fragments % 32),
    };
    let mut wire = Wire::default();
    while let Some(operation) = source.byte() {
        operate(operation, &mut source, &mut wire);
    }
    agree(&wire.bytes, &limits, usize::from(fragments));
    let expected = Model::events(&wire.bytes, &limits);
    let seen = receive(wire.pieces().into_iter(), &limits);
    assert_eq!(seen, expected, "cut at {:?}", wire.cuts);
}

fn operate(operation: u8, source: &mut Source<'_>, wire: &mut Wire) {
    let operand = source.byte().unwrap_or_default();
    let length = usize::from(operand);
    match operation % 16 {
        0 => wire.cuts.push(wire.bytes.len()),
        // A cut within what comes next.
        1 => wire.cuts.push(wire.bytes.len() + length % 32),
        2 => wire.frame(0x81, &text(length), operand),
        3 => wire.frame(0x01, &text(length), operand),
        4 => wire.frame(0x80, &text(length), operand),
        5 => wire.frame(0x00, &text(length), operand),
        6 => wire.frame(0x82, &source.bytes(length), operand),
        7 => wire.frame(0x02, &source.bytes(length), operand),
        8 => wire.frame(0x80, &source.bytes(length), operand),
        9 => wire.frame(0x00, &source.bytes(length), operand),
        10 => wire.frame(0x89 + (operand & 1), &source.bytes(length / 2), operand),
        11 => wire.frame(0x82, &vec![operand; length * 40], operand),
        12 => wire.frame(0x88, &source.bytes(length / 2), operand),
        // Any first byte, then lengths in forms that may be wrong.
        13 => wire.frame(operand, &source.bytes(3), operand),
        14 => {
            let header = source.bytes(2 + length % 12);
            wire.bytes.extend(header);
        }
        _ => wire.frame(0x81, &source.bytes(length), operand),
    }
}

/// Text with characters of one to four bytes, cut anywhere.
fn text(length: usize) -> Vec<u8> {
    "a\u{e9}\u{20ac}\u{1f600}".bytes().cycle().take(length).collect()
}

impl Wire {
    fn frame(&mut self, first: u8, payload: &[u8], seed: u8) {
        let key = [seed, seed.wrapping_mul(7), !seed, seed ^ 0x5a];
        self.bytes.push(first);
        match payload.len() {
            0..126 => self.bytes.push(0x80 | payload.len() as u8),
            126..0x1_0000 => {
                self.bytes.push(0xfe);
                self.bytes.extend((payload.len() as u16).to_be_bytes());
            }
            _ => {
                self.bytes.push(0xff);
                self.bytes.extend((payload.len() as u64).to_be_bytes());
            }
        }
        self.bytes.extend(key);
        let start = self.bytes.len();
        self.bytes.extend(payload);
        unmask(&mut self.bytes[start..], key, 0);
    }

    fn pieces(&mut self) -> Vec<&mut [u8]> {
        let end = self.bytes.len();
        self.cuts.retain(|&cut| cut < end);
        self.cuts.sort_unstable();
        let mut rest = self.bytes.as_mut_slice();
        let mut pieces = Vec::new();
        let mut start = 0;
        for &cut in &self.cuts {
            let (piece, more) = rest.split_at_mut(cut - start);
            pieces.push(piece);
            (rest, start) = (more, cut);
        }
        pieces.push(rest);
        pieces
    }
}
