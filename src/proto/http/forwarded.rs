//! Who the client is behind proxies: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! Each hop appends whom it got the request from, so the list is believed from its right end for
//! as long as the speaker is trusted. The walk is done in one pass from the left, without
//! storage: keep the answer as if everything further right were trusted; an untrusted address
//! replaces it, a trusted one keeps it, and what is no address ends the walk there, so that only
//! what is right of it counts.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Which header names the client, and whose word is taken for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The one header that is looked at.
    pub header: ForwardingHeader,
    /// The proxies that are believed. A peer on a Unix socket is believed always.
    pub trusted: Vec<IpNet>,
}

/// The headers that name clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardingHeader {
    /// `X-Forwarded-For: address, address`, with or without ports.
    XForwardedFor,
    /// `Forwarded: for=node;…, for=node;…` (RFC 7239 4).
    Forwarded,
}

impl ForwardingHeader {
    /// The field's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "X-Forwarded-For",
            Self::Forwarded => "Forwarded",
        }
    }
}

impl Forwarding {
    /// The client of a request from `peer` with these `headers`.
    pub(super) fn client(
        &self,
        peer: Option<IpAddr>,
        headers: &[httparse::Header<'_>],
    ) -> Option<IpAddr> {
        if peer.is_some_and(|peer| !self.trusts(peer)) {
            return peer;
        }
        let mut walked = None;
        for header in headers.iter().filter(|h| h.name.eq_ignore_ascii_case(self.header.name())) {
            match self.header {
                ForwardingHeader::XForwardedFor => {
                    for element in header.value.split(|&b| b == b',') {
                        walked = self.step(walked, plain_node(element));
                    }
                }
                ForwardingHeader::Forwarded => {
                    for element in Elements(Some(header.value)) {
                        walked = self.step(walked, forwarded_for(element));
                    }
                }
            }
        }
        walked.or(peer)
    }

    fn step(&self, walked: Option<IpAddr>, hop: Option<IpAddr>) -> Option<IpAddr> {
        let hop = hop?;
        if self.trusts(hop) { walked.or(Some(hop)) } else { Some(hop) }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        // A dual-stack listener shows IPv4 peers as mapped addresses.
        let address = address.to_canonical();
        self.trusted.iter().any(|net| net.contains(&address))
    }
}

/// An address, perhaps with a port, perhaps in brackets.
fn plain_node(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element.trim_ascii()).ok()?;
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip()));
    address.or_else(|| bracketed(text)).map(|address| address.to_canonical())
}

fn bracketed(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
}

/// The `for` of one element of `Forwarded`: the only one, and an address (RFC 7239 4, 6).
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    let mut rest = Some(element);
    while let Some(pairs) = rest {
        let end = unquoted(pairs, b';')?;
        rest = pairs.get(end + 1..);
        let pair = pairs[..end].trim_ascii();
        // RFC 7239 4 allows `;;`.
        if pair.is_empty() {
            continue;
        }
        let equals = memchr::memchr(b'=', pair)?;
        if pair[..equals].eq_ignore_ascii_case(b"for") {
            if found.is_some() {
                return None;
            }
            found = Some(node(&pair[equals + 1..])?);
        }
    }
    found
}

/// A node: an IPv4 address bare or quoted; an IPv6 address in brackets, which must be quoted;
/// `unknown` and obfuscated names are no address (RFC 7239 6).
fn node(value: &[u8]) -> Option<IpAddr> {
    let inner = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
    plain_node(inner)
}

/// The elements of one field line, cut at commas outside of quoted strings.
struct Elements<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let line = self.0.take()?;
        // A quoted string that does not end leaves one element that is no address.
        let end = unquoted(line, b',').unwrap_or(line.len());
        self.0 = line.get(end + 1..);
        Some(&line[..end])
    }
}

/// Where `mark` first stands outside of quoted strings, or the end; `None` if a string does not
/// end.
fn unquoted(text: &[u8], mark: u8) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == mark && !quoted => return Some(at),
            _ => {}
        }
    }
    (!quoted).then_some(text.len())
}
