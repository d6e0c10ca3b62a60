//! Who the client is behind proxies: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! Each hop appends whom it got the request from, so the list is believed from its right end for
//! as long as the speaker is trusted. The walk is done in one pass from the left, without
//! storage: keep the answer as if everything further right were trusted; an untrusted address
//! replaces it, a trusted one keeps it, and what is no address (`unknown`, `_hidden`) ends the walk
//! there, so that only what is right of it counts. Empty elements are ignored (RFC 9110 5.6.1).

use super::Scheme;
use super::request::list;
use ipnet::IpNet;
use std::net::IpAddr;

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
        self.walk(peer, headers).map(|hop| hop.address).or(peer)
    }

    /// How the client reached the first trusted proxy, if that proxy says so.
    ///
    /// Of `X-Forwarded-Proto`, which beside `X-Forwarded-For` names no hop, only `https` counts: a
    /// proxy behind another one overwrites it with `http`.
    pub(super) fn scheme(
        &self,
        peer: Option<IpAddr>,
        headers: &[httparse::Header<'_>],
    ) -> Option<Scheme> {
        if peer.is_some_and(|peer| !self.trusts(peer)) {
            return None;
        }
        match self.header {
            ForwardingHeader::Forwarded => self.walk(peer, headers)?.scheme,
            ForwardingHeader::XForwardedFor => {
                let is_proto = |name: &str| name.eq_ignore_ascii_case("X-Forwarded-Proto");
                let last = headers.iter().rfind(|header| is_proto(header.name))?;
                let value = list(last.value).last()?;
                value.eq_ignore_ascii_case(b"https").then_some(Scheme::Https)
            }
        }
    }

    /// The hop that names the client; `None`: no header does, or the peer is not trusted.
    fn walk(&self, peer: Option<IpAddr>, headers: &[httparse::Header<'_>]) -> Option<Hop> {
        if peer.is_some_and(|peer| !self.trusts(peer)) {
            return None;
        }
        let mut walked = None;
        for header in headers.iter().filter(|h| h.name.eq_ignore_ascii_case(self.header.name())) {
            match self.header {
                ForwardingHeader::XForwardedFor => {
                    for element in list(header.value) {
                        let hop = node(element).map(|address| Hop { address, scheme: None });
                        walked = self.step(walked, hop);
                    }
                }
                ForwardingHeader::Forwarded => {
                    let elements = Elements(Some(header.value)).map(<[u8]>::trim_ascii);
                    for element in elements.filter(|element| !element.is_empty()) {
                        walked = self.step(walked, forwarded_hop(element));
                    }
                }
            }
        }
        walked
    }

    fn step(&self, walked: Option<Hop>, hop: Option<Hop>) -> Option<Hop> {
        let hop = hop?;
        if self.trusts(hop.address) { walked.or(Some(hop)) } else { Some(hop) }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        // A dual-stack listener shows IPv4 peers as mapped addresses.
        let address = address.to_canonical();
        self.trusted.iter().any(|net| net.contains(&address))
    }
}

/// A sender of the request, as the proxy that received it describes it.
#[derive(Clone, Copy)]
struct Hop {
    address: IpAddr,
    scheme: Option<Scheme>,
}

/// The address of a node: perhaps quoted, perhaps with a port, an IPv6 address perhaps in brackets.
/// `None`: it is no address (RFC 7239 6.2, 6.3).
fn node(element: &[u8]) -> Option<IpAddr> {
    let mut unescaped = [0; NODE_BYTES_MAX];
    let text = std::str::from_utf8(unquote(element.trim_ascii(), &mut unescaped)?).ok()?.trim();
    let address = match text.strip_prefix('[') {
        Some(inner) => {
            let (address, rest) = inner.split_once(']')?;
            let is_end = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
            is_end.then(|| address.parse().ok().map(IpAddr::V6))?
        }
        None => text.parse().ok().or_else(|| {
            let (address, port) = text.split_once(':')?;
            is_port(port).then(|| address.parse().ok().map(IpAddr::V4))?
        }),
    };
    address.map(|address| address.to_canonical())
}

/// Digits, or an obfuscated port (RFC 7239 6).
fn is_port(text: &str) -> bool {
    let is_hidden = |hidden: &str| {
        let is_obfuscated = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        !hidden.is_empty() && hidden.bytes().all(is_obfuscated)
    };
    text.parse::<u16>().is_ok() || text.strip_prefix('_').is_some_and(is_hidden)
}

/// The longest node written with a backslash before characters.
const NODE_BYTES_MAX: usize = 128;

/// The content of a quoted string (RFC 9110 5.6.4); what is not quoted stays as it is.
fn unquote<'a>(value: &'a [u8], unescaped: &'a mut [u8; NODE_BYTES_MAX]) -> Option<&'a [u8]> {
    let Some(inner) = value.strip_prefix(b"\"") else { return Some(value) };
    let inner = inner.strip_suffix(b"\"")?;
    if memchr::memchr(b'\\', inner).is_none() {
        return Some(inner);
    }
    let mut length = 0;
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        let byte = if byte == b'\\' { *bytes.next()? } else { byte };
        *unescaped.get_mut(length)? = byte;
        length += 1;
    }
    Some(&unescaped[..length])
}

/// The `for` of one element of `Forwarded`: the only one, and an address (RFC 7239 4, 6); and its
/// `proto` (5.4).
fn forwarded_hop(element: &[u8]) -> Option<Hop> {
    let (mut found, mut scheme) = (None, None);
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
        if pair[..equals].trim_ascii().eq_ignore_ascii_case(b"for") {
            if found.is_some() {
                return None;
            }
            found = Some(node(&pair[equals + 1..])?);
        } else if pair[..equals].trim_ascii().eq_ignore_ascii_case(b"proto") {
            scheme = read_scheme(pair[equals + 1..].trim_ascii());
        }
    }
    found.map(|address| Hop { address, scheme })
}

/// The value of `proto`; `None`: it is neither of HTTP's schemes.
fn read_scheme(value: &[u8]) -> Option<Scheme> {
    let mut unescaped = [0; NODE_BYTES_MAX];
    let value = unquote(value, &mut unescaped)?;
    if value.eq_ignore_ascii_case(b"https") || value.eq_ignore_ascii_case(b"wss") {
        return Some(Scheme::Https);
    }
    let is_plain = value.eq_ignore_ascii_case(b"http") || value.eq_ignore_ascii_case(b"ws");
    is_plain.then_some(Scheme::Http)
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

/// Where `mark` first occurs outside of quoted strings, or the end; `None` if a string does not
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

#[cfg(test)]
mod tests {
    use super::*;

    fn client(header: ForwardingHeader, lines: &[&str]) -> String {
        let trusted = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let forwarding = Forwarding { header, trusted };
        let lines: Vec<_> = lines
            .iter()
            .map(|line| httparse::Header { name: header.name(), value: line.as_bytes() })
            .collect();
        let peer = Some("10.0.0.9".parse().unwrap());
        forwarding.client(peer, &lines).unwrap().to_string()
    }

    #[test]
    fn plain_lists_are_read_in_the_forms_that_proxies_write() {
        for (lines, expected) in [
            (&["192.0.2.7"][..], "192.0.2.7"),
            (&["192.0.2.7:5678"], "192.0.2.7"),
            (&["192.0.2.7:_hidden"], "192.0.2.7"),
            (&["2001:DB8:0::1"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["[2001:db8::1]:5678"], "2001:db8::1"),
            (&["\"[2001:db8::1]:5678\""], "2001:db8::1"),
            (&["::ffff:192.0.2.7"], "192.0.2.7"),
            (&["[::ffff:192.0.2.7]:80"], "192.0.2.7"),
            (&["192.0.2.6, \t192.0.2.7 ,10.0.0.2"], "192.0.2.7"),
            (&["192.0.2.6", "192.0.2.7", "10.0.0.2"], "192.0.2.7"),
            (&["192.0.2.7,, ,10.0.0.2,", "", " , "], "192.0.2.7"),
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (&["fd00::1, 10.0.0.2"], "fd00::1"),
            // What is no address ends the walk: the rest is only claimed.
            (&["192.0.2.6, unknown, 10.0.0.2"], "10.0.0.2"),
            (&["192.0.2.6, _gazonk"], "10.0.0.9"),
            (&["192.0.2.6, [2001:db8::1"], "10.0.0.9"),
            (&["192.0.2.6, [192.0.2.7]"], "10.0.0.9"),
            (&["192.0.2.6, 192.0.2.7:99999"], "10.0.0.9"),
            (&["192.0.2.6, 192.0.2.7:"], "10.0.0.9"),
            (&["192.0.2.6, \"192.0.2.7"], "10.0.0.9"),
            (&[""], "10.0.0.9"),
        ] {
            assert_eq!(client(ForwardingHeader::XForwardedFor, lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn the_scheme_is_that_of_the_hop_that_names_the_client() {
        let scheme = |header: ForwardingHeader, peer: &str, lines: &[(&str, &str)]| {
            let trusted = vec!["10.0.0.0/8".parse().unwrap()];
            let headers: Vec<_> = lines
                .iter()
                .map(|(name, value)| httparse::Header { name, value: value.as_bytes() })
                .collect();
            Forwarding { header, trusted }.scheme(Some(peer.parse().unwrap()), &headers)
        };
        let (https, http) = (Some(Scheme::Https), Some(Scheme::Http));
        let forwarded =
            |peer, line| scheme(ForwardingHeader::Forwarded, peer, &[("forwarded", line)]);
        assert_eq!(forwarded("10.0.0.1", "for=192.0.2.1;proto=https"), https);
        assert_eq!(forwarded("10.0.0.1", "proto=\"HTTPS\";for=192.0.2.1, for=10.0.0.2"), https);
        assert_eq!(forwarded("10.0.0.1", "for=192.0.2.1;proto=https, for=192.0.2.2"), None);
        assert_eq!(
            forwarded("10.0.0.1", "for=192.0.2.1;proto=http, for=10.0.0.2;proto=https"),
            http
        );
        assert_eq!(forwarded("10.0.0.1", "for=192.0.2.1;proto=gopher"), None);
        assert_eq!(forwarded("192.0.2.9", "for=192.0.2.1;proto=https"), None);
        let proto = |peer, value| {
            let lines = [("x-forwarded-for", "192.0.2.1"), ("x-forwarded-proto", value)];
            scheme(ForwardingHeader::XForwardedFor, peer, &lines)
        };
        assert_eq!(proto("10.0.0.1", "https"), https);
        assert_eq!(proto("10.0.0.1", "http, HTTPS"), https);
        assert_eq!(proto("10.0.0.1", "https, http"), None);
        assert_eq!(proto("192.0.2.9", "https"), None);
        assert_eq!(scheme(ForwardingHeader::XForwardedFor, "10.0.0.1", &[]), None);
    }

    /// The examples of RFC 7239 4 and 6, and what is near them.
    #[test]
    fn forwarded_elements_are_read_as_the_rfc_has_them() {
        for (lines, expected) in [
            (&["for=192.0.2.43"][..], "192.0.2.43"),
            (&["For=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17"),
            (&["for=\"[2001:db8:cafe::17]:_port\""], "2001:db8:cafe::17"),
            (&["for=\"192.0.2.43:47011\""], "192.0.2.43"),
            (&["for=192.0.2.43:47011"], "192.0.2.43"),
            (&["for=\"\\1\\9\\2.0.2.43\""], "192.0.2.43"),
            (&["for=192.0.2.60;proto=http;by=203.0.113.43"], "192.0.2.60"),
            (&["proto=http ; FOR=192.0.2.60 ;; host=\"a, b; c\""], "192.0.2.60"),
            (&["for=192.0.2.43, for=198.51.100.17"], "198.51.100.17"),
            (&["for=192.0.2.43,, for=10.0.0.2 ,", ""], "192.0.2.43"),
            (&["for=192.0.2.43", "for=10.0.0.2"], "192.0.2.43"),
            (&["for=192.0.2.43, for=unknown"], "10.0.0.9"),
            (&["for=192.0.2.43, for=_hidden, for=_SEVKISEK"], "10.0.0.9"),
            (&["for=192.0.2.43, proto=https"], "10.0.0.9"),
            (&["for=192.0.2.43, for=192.0.2.1;for=192.0.2.2"], "10.0.0.9"),
            (&["for=192.0.2.43, for=\"unfinished"], "10.0.0.9"),
        ] {
            assert_eq!(client(ForwardingHeader::Forwarded, lines), expected, "{lines:?}");
        }
    }
}
