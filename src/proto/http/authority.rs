//! Hosts with ports: the Host field (RFC 9110 7.2), the authority of a target, the Origin (RFC
//! 6454).
//!
//! Of what RFC 3986 3.2.2 calls a registered name only letters, digits and `-._~` are taken: all
//! that names in the DNS use, and nothing that two parsers could cut differently.

use super::Origins;
use std::net::{IpAddr, Ipv6Addr};

/// A host and perhaps a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Authority<'a> {
    host: &'a str,
    port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`; the host must not be empty.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (host, rest) = match text.strip_prefix('[') {
            Some(inner) => {
                let close = inner.find(']')?;
                inner[..close].parse::<Ipv6Addr>().ok()?;
                text.split_at(close + 2)
            }
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
        if host.is_empty() || !(host.starts_with('[') || host.bytes().all(name)) {
            return None;
        }
        let port = match rest.strip_prefix(':') {
            // RFC 3986 3.2.3: the port may be left out after the colon.
            Some("") => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            None if rest.is_empty() => None,
            _ => return None,
        };
        Some(Self { host, port })
    }

    /// Whether this host can only be the client's own: a loopback address, or `localhost` and
    /// names below it, which resolvers do not look up (RFC 6761 6.3).
    pub(super) fn is_loopback(self) -> bool {
        let name = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let name = name.unwrap_or(self.host);
        if let Ok(ip) = name.parse::<IpAddr>() {
            return ip.to_canonical().is_loopback();
        }
        let last = name.rsplit('.').next().unwrap_or_default();
        last.eq_ignore_ascii_case("localhost")
    }

    fn is_same(self, other: Self, default_port: u16) -> bool {
        let port = |authority: Self| authority.port.unwrap_or(default_port);
        self.host.eq_ignore_ascii_case(other.host) && port(self) == port(other)
    }
}

/// A serialised origin that is not opaque.
#[derive(Clone, Copy, Debug)]
struct Origin<'a> {
    scheme: &'a str,
    authority: Authority<'a>,
}

impl<'a> Origin<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        Authority::parse(rest).map(|authority| Self { scheme, authority })
    }

    /// The port that the scheme implies; 0, which no origin names, where it implies none.
    fn default_port(self) -> u16 {
        match self.scheme {
            s if s.eq_ignore_ascii_case("http") || s.eq_ignore_ascii_case("ws") => 80,
            s if s.eq_ignore_ascii_case("https") || s.eq_ignore_ascii_case("wss") => 443,
            _ => 0,
        }
    }

    fn is_same(self, other: Self) -> bool {
        self.scheme.eq_ignore_ascii_case(other.scheme)
            && self.authority.is_same(other.authority, self.default_port())
    }
}

impl Origins {
    /// Whether a page of `origin` may connect to `host`.
    ///
    /// Whether the client came by TLS is not known here (a proxy may have ended it), so for
    /// [`Origins::SameOrigin`] a host without port is taken to be on the default port of the
    /// origin's scheme.
    pub(super) fn allow(&self, origin: &[u8], host: Authority<'_>) -> bool {
        let parsed = || std::str::from_utf8(origin).ok().and_then(Origin::parse);
        match self {
            Self::Any => true,
            Self::SameOrigin => parsed().is_some_and(|origin| {
                let port = origin.default_port();
                port != 0 && origin.authority.is_same(host, port)
            }),
            Self::List(list) => parsed().is_some_and(|origin| {
                list.iter().filter_map(|one| Origin::parse(one)).any(|one| one.is_same(origin))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_no_resolver_can_lead_elsewhere_are_loopback() {
        let is_loopback = |text| Authority::parse(text).expect(text).is_loopback();
        for host in [
            "127.0.0.1",
            "127.0.0.1:9000",
            "127.9.8.7",
            "[::1]",
            "[::1]:9000",
            "[::ffff:127.0.0.1]",
            "localhost",
            "LocalHost:80",
            "app.localhost",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evillocalhost",
            "127.1",
            "0.0.0.0",
            "10.0.0.1",
            "[::2]",
            "[::]",
            "localhost.",
            "127.0.0.1.",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
