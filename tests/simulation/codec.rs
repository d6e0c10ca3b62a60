//! Compression as a simulated client does it: with the C zlib, by what the server has answered.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// A client's side of an agreement.
pub(crate) struct Codec {
    client_takeover: bool,
    server_takeover: bool,
    compress: Compress,
    decompress: Decompress,
}

impl Codec {
    /// Reads the answer's head; `None`: nothing was agreed on.
    pub(crate) fn agreed(head: &str) -> Option<Self> {
        let name = "Sec-WebSocket-Extensions: permessage-deflate";
        let line = head.lines().find_map(|line| line.strip_prefix(name))?;
        let words: Vec<&str> = line.split(';').map(str::trim).collect();
        let bits = |name: &str| {
            let value = words.iter().find_map(|word| word.strip_prefix(name));
            value.map_or(15, |bits| bits.parse::<u8>().expect("a window is a number"))
        };
        let client_bits = bits("client_max_window_bits=");
        let server_bits = bits("server_max_window_bits=");
        Some(Self {
            client_takeover: !words.contains(&"client_no_context_takeover"),
            server_takeover: !words.contains(&"server_no_context_takeover"),
            compress: Compress::new_with_window_bits(Compression::fast(), false, client_bits),
            decompress: Decompress::new_with_window_bits(false, server_bits),
        })
    }

    pub(crate) fn pack(&mut self, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(message.len() + message.len() / 2 + 100);
        let status = self.compress.compress_vec(message, &mut out, FlushCompress::Sync);
        status.expect("zlib compresses anything");
        if !self.client_takeover {
            self.compress.reset();
        }
        let len = out.strip_suffix(&TAIL).map_or(out.len(), <[u8]>::len);
        out.truncate(len);
        out
    }

    /// `len`: of the message that is expected.
    pub(crate) fn unpack(&mut self, payload: &[u8], len: usize) -> Vec<u8> {
        let input = [payload, &TAIL].concat();
        let mut out = Vec::with_capacity(len + 64);
        let before = self.decompress.total_in();
        let status = self.decompress.decompress_vec(&input, &mut out, FlushDecompress::Sync);
        status.expect("what the server sends is DEFLATE");
        assert_eq!(self.decompress.total_in() - before, input.len() as u64, "all of it is used");
        if !self.server_takeover {
            self.decompress.reset(false);
        }
        out
    }
}
