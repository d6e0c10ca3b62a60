//! What a configuration says about an application.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use hyper::Uri;
use rustls::RootCertStore;

use super::form::RequestForm;
use crate::events::EventKinds;
use crate::hooks::HookLimits;

/// An application.
#[derive(Clone, Debug)]
pub struct BackendSettings {
    pub name: String,
    /// Empty: it receives no events.
    pub events_url: String,
    /// `None`: it is asked nothing.
    pub hooks: Option<HookSettings>,
    /// `None`: it exchanges no messages with clients.
    pub links: Option<LinkSettings>,
    /// The kinds of events about nodes that it wants.
    pub node_events: EventKinds,
    pub form: RequestForm,
    /// Authorities of its certificate; `None`: the host's.
    pub authorities: Option<RootCertStore>,
    /// Bound on the memory of events that wait.
    pub events_bytes_max: usize,
    /// How long a batch of events is sent again.
    pub retry_for: Duration,
    /// How long a channel is without members before that is reported.
    pub vacate_delay: Duration,
}

impl BackendSettings {
    /// Returns the addresses to which requests are sent, or that are dialed.
    pub fn urls(&self) -> impl Iterator<Item = &str> {
        let hooks = self.hooks.as_ref().and_then(|hooks| hooks.url.as_deref());
        let links = self.links.iter().flat_map(|links| &links.urls).map(LinkUrl::as_str);
        let events = Some(&*self.events_url).filter(|url| !url.is_empty());
        events.into_iter().chain(hooks).chain(links)
    }
}

/// How an application is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookSettings {
    /// `None`: over links.
    pub url: Option<String>,
    /// The headers of a handshake that it receives, in lowercase.
    pub headers: Vec<String>,
    pub limits: HookLimits,
}

/// How messages are exchanged with an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// Where it is dialed; empty: it dials.
    pub urls: Vec<LinkUrl>,
    /// Links of this node, over all addresses.
    pub per_node: u32,
    /// The headers of a handshake that it receives, in lowercase.
    pub headers: Vec<String>,
    /// What shows the application that a node is one.
    pub token: Option<LinkToken>,
    /// How long dialing takes until `hello`, and how long the application may be silent.
    pub timeout: Duration,
    /// Bytes of records that wait for a link.
    pub queue_bytes_max: usize,
    /// How long clients wait while no link is open.
    pub hold_ms: u32,
    /// Sessions that move from a link that ended or drains, each second.
    pub moves_per_s: u32,
    /// How long a session that moves waits for acknowledgements.
    pub drain_ms: u32,
    /// Sessions that move to less loaded links, each second.
    pub rebalance_per_s: u32,
    /// Whether all sessions of a user belong to one instance.
    pub by_user: bool,
    /// Whether the application may dial.
    pub accepts: bool,
    /// Bounds on the messages of a session that are not acknowledged.
    pub unacked_messages_max: u32,
    pub unacked_bytes_max: u32,
}

/// The address of an application's endpoint for links.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LinkUrl {
    text: String,
    host: String,
    port: u16,
    is_tls: bool,
}

impl LinkUrl {
    /// Parses `ws://HOST[:PORT][/PATH]` or `wss://…`; `None` if it is no such address.
    pub fn parse(text: &str) -> Option<Self> {
        let is_tls = text.starts_with("wss://");
        if !is_tls && !text.starts_with("ws://") || text.contains('#') {
            return None;
        }
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || authority.as_str().contains('@') {
            return None;
        }
        // A port that is no number is left out silently.
        let has_port = authority.as_str().len() > authority.host().len();
        let port = match authority.port_u16() {
            Some(port) if port != 0 => port,
            None if !has_port => {
                if is_tls {
                    443
                } else {
                    80
                }
            }
            _ => return None,
        };
        Some(Self { text: text.to_owned(), host: host.to_owned(), port, is_tls })
    }

    /// Returns the address as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the host: a name, or an address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns whether links are encrypted.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Returns whether the host is, as far as its address or name shows, on the public internet.
    pub fn is_public(&self) -> bool {
        const PRIVATE: [&str; 6] =
            [".localhost", ".local", ".internal", ".lan", ".home.arpa", ".svc"];
        match self.host.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(IpAddr::V4(ip)) => !(ip.is_loopback() || ip.is_private() || ip.is_link_local()),
            Ok(IpAddr::V6(ip)) => {
                !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local())
            }
            Err(_) => {
                let name = self.host.trim_end_matches('.').to_ascii_lowercase();
                name.contains('.') && !PRIVATE.iter().any(|end| name.ends_with(end))
            }
        }
    }
}

/// The token of links. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkToken(String);

impl LinkToken {
    /// Makes a token of visible ASCII characters; `None` if there are others.
    pub fn new(text: &str) -> Option<Self> {
        let is_valid = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_valid.then(|| Self(text.to_owned()))
    }

    /// Returns the token itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for LinkToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_links_are_whole() {
        let parts = |text| {
            let url = LinkUrl::parse(text)?;
            Some((url.host().to_owned(), url.port(), url.is_tls()))
        };
        for (text, host, port, is_tls) in [
            ("ws://127.0.0.1:7000/link", "127.0.0.1", 7000, false),
            ("wss://app.example", "app.example", 443, true),
            ("ws://[::1]/a?b=c", "::1", 80, false),
        ] {
            assert_eq!(parts(text), Some((host.to_owned(), port, is_tls)), "{text}");
        }
        for text in [
            "http://a/",
            "ws://",
            "ws:///a",
            "wss://me:word@a/",
            "ws://a:0/",
            "ws://a:70000/",
            "ws://a b/",
            "ws://a/#b",
            "a:7000",
        ] {
            assert_eq!(LinkUrl::parse(text), None, "{text}");
        }
    }

    #[test]
    fn private_addresses_are_distinguished_from_public_ones() {
        for host in ["127.0.0.1", "10.1.2.3", "[::1]", "[fd00::1]", "app", "app.default.svc"] {
            assert!(!LinkUrl::parse(&format!("ws://{host}/")).unwrap().is_public(), "{host}");
        }
        for host in ["203.0.113.1", "[2001:db8::1]", "app.example", "notlocal.com"] {
            assert!(LinkUrl::parse(&format!("ws://{host}/")).unwrap().is_public(), "{host}");
        }
    }

    #[test]
    fn a_token_is_one_word_and_not_printed() {
        let token = LinkToken::new("s3cret").unwrap();
        assert_eq!((format!("{token:?}"), token.reveal()), ("…".to_owned(), "s3cret"));
        for text in ["", "two words", "a\nb", "ü"] {
            assert_eq!(LinkToken::new(text), None, "{text:?}");
        }
    }
}
