//! Hosts with ports: the Host field (RFC 9110 7.2), the authority of a target, the Origin (RFC
//! 6454).
//!
//! Of what RFC 3986 3.2.2 calls a registered name only letters, digits and `-._~` are taken: all
//! that names in the DNS use, and nothing that two parsers could cut differently.

use super::{Origins, Scheme};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
            None => text.split_at(text.bytes().position(|b| b == b':').unwrap_or(text.len())),
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

    /// The URL of a path on this host, over TLS on another port.
    pub(super) fn https_url(self, port: u16, path: &str, query: &str) -> String {
        let (host, mark) = (self.host, if query.is_empty() { "" } else { "?" });
        match port {
            443 => format!("https://{host}{path}{mark}{query}"),
            _ => format!("https://{host}:{port}{path}{mark}{query}"),
        }
    }

    fn is_same(self, other: Self, default_port: u16) -> bool {
        let port = |authority: Self| authority.port.unwrap_or(default_port);
        is_same_host(self.host, other.host) && port(self) == port(other)
    }
}

/// Names without their letter case; IPv6 addresses however they are written.
fn is_same_host(one: &str, other: &str) -> bool {
    let address = |host: &str| -> Option<Ipv6Addr> {
        host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
    };
    one.eq_ignore_ascii_case(other)
        || address(one).is_some_and(|address_of_one| address(other) == Some(address_of_one))
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

    /// Whether a page of this origin is loaded by the scheme by which the client came: a page
    /// loaded without TLS may be anybody's on the way.
    fn is_of(self, scheme: Scheme) -> bool {
        match scheme {
            Scheme::Unknown => true,
            Scheme::Http => self.default_port() == 80,
            Scheme::Https => self.default_port() == 443,
        }
    }

    fn port(self) -> u16 {
        self.authority.port.unwrap_or(self.default_port())
    }
}

/// Origins that a route allows: one (`https://app.example`), or those of all subdomains
/// (`https://*.app.example`), at any depth and without the domain itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginPattern {
    scheme: String,
    /// In lower case; of subdomains the part from the dot on.
    host: String,
    /// As written, or that of the scheme.
    port: u16,
    subdomains: bool,
}

const ORIGIN_FORM: &str = "write scheme://host or scheme://host:port";

impl OriginPattern {
    /// Reads `scheme://host[:port]`, where the host may begin with `*.`. Letter case and default
    /// ports do not count.
    ///
    /// # Errors
    /// Why no page's origin (RFC 6454 6.2) would ever match, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("null") {
            return Err("is the origin of every sandboxed frame and local file; list the sites \
                        to allow, or \"*\" for all pages"
                .to_owned());
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            let host = text.split('/').next().unwrap_or_default();
            return Err(format!("has no scheme; write \"https://{host}\""));
        };
        check_scheme(scheme, rest)?;
        if let Some(end) = rest.find(['/', '?', '#']) {
            let origin = &text[..scheme.len() + 3 + end];
            return Err(format!("has something after the host; write \"{origin}\""));
        }
        if rest.contains('@') {
            return Err(format!("has a user name, which origins never have; {ORIGIN_FORM}"));
        }
        if !rest.is_ascii() {
            return Err(
                "has letters beyond ASCII, which browsers send encoded; write the host as \
                        xn--…"
                    .to_owned(),
            );
        }
        let (subdomains, named) = match rest.strip_prefix("*.") {
            Some(named) => (true, named),
            None => (false, rest),
        };
        if named.contains('*') {
            return Err("has a `*` that is not a leading `*.` for subdomains; write \
                        \"https://*.app.example\", or \"*\" for all pages"
                .to_owned());
        }
        let Some(authority) = Authority::parse(named).filter(|one| one.port != Some(0)) else {
            return Err(format!("has no valid host and port; {ORIGIN_FORM}"));
        };
        if subdomains && (authority.host.starts_with('[') || is_v4(authority.host)) {
            return Err("has subdomains of an IP address; write the addresses".to_owned());
        }
        let origin = Origin { scheme, authority };
        let host = authority.host.to_ascii_lowercase();
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            host: if subdomains { format!(".{host}") } else { host },
            port: origin.port(),
            subdomains,
        })
    }

    fn matches(&self, origin: Origin<'_>) -> bool {
        let host = origin.authority.host;
        let is_host = if self.subdomains {
            let start = host.len().saturating_sub(self.host.len());
            let is_below = |end: &str| end.eq_ignore_ascii_case(&self.host);
            start > 0 && host.get(start..).is_some_and(is_below)
        } else {
            is_same_host(host, &self.host)
        };
        is_host && self.scheme.eq_ignore_ascii_case(origin.scheme) && self.port == origin.port()
    }
}

/// RFC 3986 3.1; and no page has an origin of these two.
fn check_scheme(scheme: &str, rest: &str) -> Result<(), String> {
    let page = match scheme.to_ascii_lowercase().as_str() {
        "ws" => Some("http"),
        "wss" => Some("https"),
        _ => None,
    };
    if let Some(page) = page {
        return Err(format!(
            "is the address of a socket, not the origin of a page; write \"{page}://{rest}\""
        ));
    }
    let is_valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    if scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(is_valid) {
        return Ok(());
    }
    Err(format!("has no valid scheme; {ORIGIN_FORM}"))
}

fn is_v4(host: &str) -> bool {
    host.parse::<Ipv4Addr>().is_ok()
}

impl Origins {
    /// Only these, each as [`OriginPattern::parse`] reads it.
    ///
    /// # Errors
    /// The first one that can never match, why, and what to write instead.
    pub fn list<T: AsRef<str>>(origins: &[T]) -> Result<Self, String> {
        let parse = |origin: &T| {
            let origin = origin.as_ref();
            OriginPattern::parse(origin).map_err(|fault| format!("\"{origin}\" {fault}"))
        };
        origins.iter().map(parse).collect::<Result<_, _>>().map(Self::List)
    }

    /// Whether a page of `origin` may connect to `host`, which the client reached by `scheme`.
    ///
    /// Where the scheme is unknown, [`Origins::SameOrigin`] takes a host without port to be on the
    /// default port of the origin's scheme.
    pub(super) fn allow(&self, origin: &[u8], host: Authority<'_>, scheme: Scheme) -> bool {
        let parsed = || std::str::from_utf8(origin).ok().and_then(Origin::parse);
        match self {
            Self::Any => true,
            Self::SameOrigin => parsed().is_some_and(|origin| {
                let port = origin.default_port();
                port != 0 && origin.is_of(scheme) && origin.authority.is_same(host, port)
            }),
            Self::List(list) => {
                parsed().is_some_and(|origin| list.iter().any(|one| one.matches(origin)))
            }
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

    #[test]
    fn origins_that_can_never_match_are_rejected_with_the_remedy() {
        for (written, remedy) in [
            ("https://app.example/", "write \"https://app.example\""),
            ("https://app.example:8443/path?x", "write \"https://app.example:8443\""),
            ("https://app.example?x", "write \"https://app.example\""),
            ("app.example", "write \"https://app.example\""),
            ("app.example:8080/x", "write \"https://app.example:8080\""),
            ("*.app.example", "write \"https://*.app.example\""),
            ("wss://app.example", "write \"https://app.example\""),
            ("ws://localhost:9000", "write \"http://localhost:9000\""),
            ("null", "\"*\" for all pages"),
            ("https://*", "\"*\" for all pages"),
            ("https://app.*.example", "https://*.app.example"),
            ("https://*app.example", "https://*.app.example"),
            ("https://*.*.example", "https://*.app.example"),
            ("https://*.192.0.2.1", "addresses"),
            ("https://*.[::1]", "addresses"),
            ("https://", "scheme://host"),
            ("https://:8080", "scheme://host"),
            ("https://app.example:99999", "scheme://host"),
            ("https://app.example:0", "scheme://host"),
            ("https://ann@app.example", "user name"),
            ("https://bücher.example", "xn--"),
            ("1https://app.example", "no valid scheme"),
            ("", "no scheme"),
            ("file:///x", "after the host"),
        ] {
            let fault = OriginPattern::parse(written).expect_err(written);
            assert!(fault.contains(remedy), "{written}: {fault}");
            let listed = Origins::list(&["https://fine.example", written]).unwrap_err();
            assert_eq!(listed, format!("\"{written}\" {fault}"));
        }
    }

    #[test]
    fn spellings_of_one_origin_are_the_same() {
        let parse = |text| OriginPattern::parse(text).unwrap();
        assert_eq!(parse("HTTPS://App.Example:443"), parse("https://app.example"));
        assert_eq!(parse("http://*.App.example:80"), parse("http://*.app.example"));
        let origin = |text| Origin::parse(text).unwrap();
        assert!(parse("http://[0:0::1]:9000").matches(origin("http://[::1]:9000")));
        assert!(!parse("http://[::1]").matches(origin("http://[::2]")));
    }
}
