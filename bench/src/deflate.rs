//! permessage-deflate (RFC 7692) without context takeover on either side: every message is
//! compressed by itself, so frames can be prepared before the clock runs.

use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The extension offer of the upgrade request. This side compresses every message by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// The server must do so too.
    Alone,
    /// The server may use context takeover: only the first message of a connection can then be
    /// inflated here.
    Takeover,
}
/// The end of a sync flush; it is not sent (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

impl Offer {
    /// The value of the header.
    pub fn text(self) -> &'static str {
        match self {
            Self::Alone => {
                "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
            }
            Self::Takeover => "permessage-deflate; client_no_context_takeover",
        }
    }

    /// Whether the server's answer is acceptable (see `agreed`).
    pub fn is_agreed(self, answer: &str) -> bool {
        agreed(answer, self == Self::Takeover)
    }
}

/// Whether the answer is about permessage-deflate, excludes context takeover where that was
/// requested, and requests no window that this side cannot promise.
fn agreed(answer: &str, takeover: bool) -> bool {
    let mut parts = answer.split(';').map(str::trim);
    if !parts.next().is_some_and(|name| name.eq_ignore_ascii_case("permessage-deflate")) {
        return false;
    }
    let mut server_has_no_context = false;
    for part in parts {
        let name = part.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        match name.as_str() {
            "server_no_context_takeover" => server_has_no_context = true,
            "client_no_context_takeover" | "server_max_window_bits" => {}
            // client_max_window_bits was not offered, so it may not be answered (7.1.2.2).
            _ => return false,
        }
    }
    server_has_no_context || takeover
}

/// One message compressed.
pub fn compress(payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut compressor = Compress::new(Compression::default(), false);
    let mut out = Vec::with_capacity(payload.len() + 64);
    let mut taken = 0;
    loop {
        let before = out.len();
        compressor.compress_vec(&payload[taken..], &mut out, FlushCompress::Sync)?;
        taken = compressor.total_in() as usize;
        let has_room = out.len() < out.capacity();
        if taken == payload.len() && has_room {
            break;
        }
        assert!(!has_room || out.len() > before, "the compressor makes progress");
        out.reserve(out.len().max(64));
    }
    if out.ends_with(&TAIL) {
        out.truncate(out.len() - TAIL.len());
    }
    Ok(out)
}

/// Inflates whole messages; one per thread.
pub struct Inflater {
    state: Decompress,
    out: Vec<u8>,
}

impl Default for Inflater {
    fn default() -> Self {
        Self { state: Decompress::new(false), out: Vec::new() }
    }
}

impl Inflater {
    /// Inflates a compressed message.
    ///
    /// # Errors
    /// When the bytes are not valid DEFLATE data, or inflate to more than `most` bytes.
    pub fn inflate(&mut self, message: &[u8], most: usize) -> io::Result<&[u8]> {
        self.state.reset(false);
        self.out.clear();
        for piece in [message, &TAIL[..]] {
            let mut taken = 0;
            while taken < piece.len() {
                if self.out.len() == self.out.capacity() {
                    self.out.reserve(self.out.len().max(1024));
                }
                let (seen, made) = (self.state.total_in(), self.out.len());
                let status = self.state.decompress_vec(
                    &piece[taken..],
                    &mut self.out,
                    FlushDecompress::Sync,
                )?;
                taken += (self.state.total_in() - seen) as usize;
                if self.out.len() > most {
                    return Err(io::Error::other(format!("inflates to over {most} bytes")));
                }
                // A final block ends the stream; bytes after it are not data.
                if status == Status::StreamEnd {
                    return Ok(&self.out);
                }
                let full = self.out.len() == self.out.capacity();
                if self.state.total_in() == seen && self.out.len() == made && !full {
                    return Err(io::Error::other("not DEFLATE data"));
                }
            }
        }
        self.drain(most)
    }

    /// Takes output that is pending inside the state after the last input byte.
    fn drain(&mut self, most: usize) -> io::Result<&[u8]> {
        while self.out.len() == self.out.capacity() && self.out.len() <= most {
            self.out.reserve(self.out.len().max(1024));
            let made = self.out.len();
            self.state.decompress_vec(&[], &mut self.out, FlushDecompress::Sync)?;
            if self.out.len() == made {
                break;
            }
        }
        Ok(&self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_is_inflated_again() {
        let mut inflater = Inflater::default();
        for size in [0, 1, 20, 1_023, 1_024, 1_025, 65_536, 300_000] {
            for repeated in [true, false] {
                let mut state = 1_u32;
                let payload: Vec<u8> = (0..size)
                    .map(|at| {
                        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        if repeated { (at % 7) as u8 } else { (state >> 24) as u8 }
                    })
                    .collect();
                let small = compress(&payload).unwrap();
                assert_eq!(inflater.inflate(&small, size).unwrap(), payload, "{size} {repeated}");
                assert!(!repeated || size < 1_000 || small.len() < size / 4, "{size}");
            }
        }
    }

    #[test]
    fn the_example_of_the_rfc_is_read() {
        // RFC 7692 section 7.2.3.1: "Hello" in one block.
        let hello = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
        assert_eq!(Inflater::default().inflate(&hello, 100).unwrap(), b"Hello");
    }

    #[test]
    fn garbage_and_bombs_are_refused() {
        let mut inflater = Inflater::default();
        assert!(inflater.inflate(&[0xFF; 20], 1 << 20).is_err());
        let bomb = compress(&vec![0; 1 << 20]).unwrap();
        assert!(inflater.inflate(&bomb, 1_000).unwrap_err().to_string().contains("over 1000"));
        assert_eq!(inflater.inflate(&bomb, 1 << 20).unwrap().len(), 1 << 20);
    }

    #[test]
    fn only_an_answer_without_server_context_is_agreed() {
        for good in [
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "permessage-deflate;server_no_context_takeover",
            "Permessage-Deflate; server_no_context_takeover; server_max_window_bits=12",
        ] {
            assert!(agreed(good, false), "{good}");
        }
        for bad in [
            "permessage-deflate",
            "permessage-deflate; client_no_context_takeover",
            "permessage-deflate; server_no_context_takeover; client_max_window_bits=9",
            "x-webkit-deflate-frame; server_no_context_takeover",
            "",
        ] {
            assert!(!agreed(bad, false), "{bad}");
        }
        assert!(agreed("permessage-deflate; client_no_context_takeover", true));
        assert!(!agreed("permessage-deflate; client_max_window_bits=9", true));
    }
}
