//! Sec-WebSocket-Extensions (RFC 6455 9.1): reading the client's offers, answering one of them.
//!
//! All lines of the field count as one list. What does not follow its grammar fails the handshake,
//! on every route: RFC 6455 9.1 demands it, and a header that two parsers may read in two ways is
//! refused here like any other. What follows the grammar is never refused: an offer of
//! permessage-deflate with a parameter that is unknown, doubled or of a wrong value is declined
//! (RFC 7692 7.1), other extensions are passed over, and if nothing is left the connection opens
//! without.

use std::borrow::Cow;
use std::io::Write;

use super::fault;
use super::head::RejectedHead;
use crate::proto::ws::deflate::{Agreed, Policy, WINDOW_BITS_MAX, WINDOW_BITS_MIN};

pub(super) const EXTENSIONS: &str = "Sec-WebSocket-Extensions";
const DEFLATE: &str = "permessage-deflate";

/// What came of the offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compression {
    /// What both sides have agreed on; `None`: nothing.
    pub agreed: Option<Agreed>,
    /// There was no memory for contexts that would otherwise have been agreed on.
    pub lowered: bool,
    /// Which windows the answer names: ours, the client's.
    named: (bool, bool),
}

impl Compression {
    /// The same where so many bytes are left for contexts by now.
    #[must_use]
    pub fn within(mut self, room_bytes: u64) -> Self {
        if let Some(agreed) = &mut self.agreed
            && agreed.context_bytes() > room_bytes
        {
            (agreed.server_takeover, agreed.client_takeover) = (false, false);
            // The pool's inflaters have the largest window: there is nothing to ask for.
            agreed.client_bits = WINDOW_BITS_MAX;
            self.named.1 = false;
            self.lowered = true;
        }
        self
    }

    /// Appends the value of `Sec-WebSocket-Extensions`; nothing, if nothing was agreed on.
    pub fn answer(&self, out: &mut Vec<u8>) {
        let Some(agreed) = self.agreed else { return };
        out.extend_from_slice(b"permessage-deflate");
        if !agreed.server_takeover {
            out.extend_from_slice(b"; server_no_context_takeover");
        }
        if !agreed.client_takeover {
            out.extend_from_slice(b"; client_no_context_takeover");
        }
        let mut window = |name: &str, bits: u8| {
            let written = write!(out, "; {name}_max_window_bits={bits}");
            debug_assert!(written.is_ok(), "writing to a vector does not fail");
        };
        if self.named.0 {
            window("server", agreed.server_bits);
        }
        if self.named.1 {
            window("client", agreed.client_bits);
        }
    }
}

/// Chooses among the offers of all lines, in the client's order of preference.
///
/// `policy`: the route's; `None` declines all. `room_bytes`: memory left for contexts.
pub(super) fn choose(
    headers: &[httparse::Header<'_>],
    policy: Option<Policy>,
    room_bytes: u64,
) -> Result<Compression, RejectedHead> {
    let mut chosen = Compression::default();
    let mut extensions = 0;
    for header in headers.iter().filter(|header| header.name.eq_ignore_ascii_case(EXTENSIONS)) {
        let mut rest = Rest(header.value);
        while let Some(offer) = rest.extension()? {
            extensions += 1;
            if let (None, Member::Offer(offer), Some(policy)) = (chosen.agreed, offer, policy) {
                chosen = offer.answer(policy, room_bytes);
            }
        }
    }
    if extensions == 0 { Err(malformed("names no extension")) } else { Ok(chosen) }
}

fn malformed(what: &str) -> RejectedHead {
    RejectedHead::bad(format!("Sec-WebSocket-Extensions {what} (RFC 6455 9.1)"))
}

/// An offer of permessage-deflate that can be answered.
#[derive(Clone, Copy, Debug, Default)]
struct Offer {
    server_no_takeover: bool,
    client_no_takeover: bool,
    server_bits: Option<u8>,
    /// Whether the server may set the client's window, and the largest that it would use.
    client_bits: Option<u8>,
}

impl Offer {
    /// Takes a parameter in; false if the offer has to be declined (RFC 7692 7.1).
    fn add(&mut self, name: &str, value: Option<&str>) -> bool {
        match (name, value) {
            ("server_no_context_takeover", None) => {
                !std::mem::replace(&mut self.server_no_takeover, true)
            }
            ("client_no_context_takeover", None) => {
                !std::mem::replace(&mut self.client_no_takeover, true)
            }
            // We cannot make 8.
            ("server_max_window_bits", Some(value)) => match window_bits(value) {
                Some(bits) if bits >= WINDOW_BITS_MIN => self.server_bits.replace(bits).is_none(),
                _ => false,
            },
            ("client_max_window_bits", None) => self.client_bits.replace(WINDOW_BITS_MAX).is_none(),
            ("client_max_window_bits", Some(value)) => match window_bits(value) {
                Some(bits) => self.client_bits.replace(bits).is_none(),
                None => false,
            },
            _ => false,
        }
    }

    fn answer(self, policy: Policy, room_bytes: u64) -> Compression {
        let server_bits = self.server_bits.unwrap_or(WINDOW_BITS_MAX).min(policy.window_bits);
        // A client whose window cannot be set uses the largest.
        let client_bits = match self.client_bits {
            Some(bits) => bits.min(policy.window_bits),
            None => WINDOW_BITS_MAX,
        };
        let mut agreed = Agreed {
            server_takeover: policy.takeover && !self.server_no_takeover,
            // Remembering more than the route allows is not offered; the client may then
            // compress without context.
            client_takeover: policy.takeover
                && !self.client_no_takeover
                && client_bits <= policy.window_bits,
            server_bits,
            client_bits,
        };
        let lowered = agreed.context_bytes() > room_bytes;
        if lowered {
            (agreed.server_takeover, agreed.client_takeover) = (false, false);
        }
        if !agreed.client_takeover {
            // The pool's inflaters have the largest window: there is nothing to ask for.
            agreed.client_bits = self.client_bits.unwrap_or(WINDOW_BITS_MAX);
        }
        let is_set = agreed.client_takeover && self.client_bits.is_some();
        let named = (self.server_bits.is_some(), is_set && client_bits < WINDOW_BITS_MAX);
        Compression { agreed: Some(agreed), lowered, named }
    }
}

/// RFC 7692 7.1.2: a decimal integer from 8 to 15 without leading zeros.
fn window_bits(value: &str) -> Option<u8> {
    match value {
        "8" | "9" | "10" | "11" | "12" | "13" | "14" | "15" => value.parse().ok(),
        _ => None,
    }
}

/// One extension of the list.
enum Member {
    Offer(Offer),
    /// Another extension, or an offer that is declined.
    Other,
}

/// The rest of a line.
struct Rest<'h>(&'h [u8]);

impl<'h> Rest<'h> {
    fn skip_space(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }

    /// Takes `byte` if it comes next, and the space behind it.
    fn take(&mut self, byte: u8) -> bool {
        let Some(rest) = self.0.strip_prefix(&[byte]) else { return false };
        self.0 = rest;
        self.skip_space();
        true
    }

    fn token(&mut self) -> Result<&'h str, RejectedHead> {
        let ends = |b: &u8| matches!(b, b' ' | b'\t' | b',' | b';' | b'=');
        let end = self.0.iter().position(ends).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(end);
        self.0 = rest;
        self.skip_space();
        if !fault::is_token(token) {
            return Err(malformed("has a name or value that is not a token"));
        }
        std::str::from_utf8(token).map_err(|_| malformed("is not text"))
    }

    /// The next extension of the list; `None` at its end.
    fn extension(&mut self) -> Result<Option<Member>, RejectedHead> {
        self.skip_space();
        // Empty members count as nothing (RFC 9110 5.6.1).
        while self.take(b',') {}
        if self.0.is_empty() {
            return Ok(None);
        }
        let name = self.token()?;
        let mut offer = (name == DEFLATE).then(Offer::default);
        while self.take(b';') {
            let name = self.token()?;
            let value = if self.take(b'=') { Some(self.value()?) } else { None };
            // Names are compared as they are: RFC 7692 knows one spelling.
            offer = offer.and_then(|mut offer| offer.add(name, value.as_deref()).then_some(offer));
        }
        if !self.0.is_empty() && !self.take(b',') {
            return Err(malformed("has something between two of its members"));
        }
        Ok(Some(offer.map_or(Member::Other, Member::Offer)))
    }

    /// A token, quoted or not; what is quoted must be a token as well (RFC 6455 9.1).
    fn value(&mut self) -> Result<Cow<'h, str>, RejectedHead> {
        let Some(quoted) = self.0.strip_prefix(b"\"") else {
            return self.token().map(Cow::Borrowed);
        };
        let mut value = Vec::new();
        let mut bytes = quoted.iter();
        loop {
            match bytes.next() {
                Some(b'"') => break,
                Some(b'\\') => value.extend(bytes.next()),
                Some(byte) => value.push(*byte),
                None => return Err(malformed("has a quoted value without an end")),
            }
        }
        self.0 = bytes.as_slice();
        self.skip_space();
        match String::from_utf8(value) {
            Ok(value) if fault::is_token(value.as_bytes()) => Ok(Cow::Owned(value)),
            _ => Err(malformed("has a quoted value that is not a token")),
        }
    }
}
