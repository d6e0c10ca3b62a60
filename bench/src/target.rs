//! The target of a run: its URL, its address, and the source addresses of connections.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::sys;
use crate::tls::{Tls, TlsClient};

/// Connections per source address: finding a free port becomes slow once half of an address's
/// ephemeral ports are in use.
pub const CONNECTIONS_PER_SOURCE: usize = 10_000;
/// Source addresses of a churn: closed connections occupy their ports for a minute.
pub const SOURCES_OF_CHURN: u32 = 64;

/// A parsed `ws://host:port/path` or `wss://host:port/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Host and port, as in the `Host` header.
    pub authority: String,
    pub path: String,
    /// `wss://`.
    pub is_tls: bool,
}

impl Url {
    /// # Errors
    /// When the scheme is neither `ws` nor `wss`, or the host is missing.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (is_tls, rest) = match (text.strip_prefix("ws://"), text.strip_prefix("wss://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(format!("{text}: must begin with ws:// or wss://")),
        };
        let cut = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(cut);
        if authority.is_empty() || authority.contains('@') {
            return Err(format!("{text}: needs a host, without user name"));
        }
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if path.bytes().any(|byte| byte <= b' ' || byte == 0x7F) {
            return Err(format!("{text}: the path has a space or a control byte"));
        }
        Ok(Self { authority: authority.to_owned(), path, is_tls })
    }

    fn resolve(&self) -> io::Result<SocketAddr> {
        let has_port = self
            .authority
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
        let port = if self.is_tls { 443 } else { 80 };
        let with_port =
            if has_port { self.authority.clone() } else { format!("{}:{port}", self.authority) };
        let mut found = with_port.to_socket_addrs().map_err(|error| {
            io::Error::new(error.kind(), format!("cannot resolve {with_port}: {error}"))
        })?;
        found.next().ok_or_else(|| io::Error::other(format!("{with_port} has no address")))
    }
}

/// Options of a socket beyond the common ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketHabits {
    /// Closing it resets the connection instead of ending it.
    pub abortive: bool,
    /// Kernel receive buffer (bytes); `None` keeps the kernel's default.
    pub receive_buffer_bytes: Option<u32>,
}

/// The server's address, and how sockets to it are made.
pub struct Target {
    pub url: Url,
    address: SocketAddr,
    /// The address for the kernel; connects point to it during the whole run.
    raw: SockAddr,
    sources: u32,
    congestion: Option<String>,
    tls: Option<TlsClient>,
}

impl Target {
    /// Resolves `url`. Connections use `sources` addresses in turn if the server is on 127.0.0.0/8;
    /// one means the kernel's default.
    ///
    /// `tls` must be there if, and only if, the URL asks for it.
    pub fn new(
        url: Url,
        tls: Option<TlsClient>,
        sources: u32,
        congestion: Option<String>,
    ) -> io::Result<Self> {
        assert_eq!(url.is_tls, tls.is_some(), "TLS belongs to wss://");
        let address = url.resolve()?;
        let loopback = matches!(address, SocketAddr::V4(v4) if v4.ip().is_loopback());
        let sources = if loopback { sources.max(1) } else { 1 };
        let target = Self { raw: address.into(), url, address, sources, congestion, tls };
        target.socket(0, SocketHabits::default())?;
        Ok(target)
    }

    /// Starts TLS on a new connection; `None` for `ws://`.
    pub fn start_tls(&self) -> io::Result<Option<Tls>> {
        self.tls.as_ref().map(TlsClient::connect).transpose()
    }

    pub fn raw(&self) -> &SockAddr {
        &self.raw
    }

    /// Makes a socket ready to connect, bound to the source address for `number`.
    pub fn socket(&self, number: u32, habits: SocketHabits) -> io::Result<OwnedFd> {
        let domain = Domain::for_address(self.address);
        let socket = Socket::new(domain, Type::STREAM.cloexec(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        if habits.abortive {
            socket.set_linger(Some(Duration::ZERO))?;
        }
        if let Some(bytes) = habits.receive_buffer_bytes {
            // Set it before connecting: the first packet negotiates the window scale.
            socket.set_recv_buffer_size(bytes as usize)?;
        }
        if let Some(name) = &self.congestion {
            socket.set_tcp_congestion(name.as_bytes()).map_err(|error| {
                let remedy = "`--congestion default` keeps the host's";
                io::Error::new(
                    error.kind(),
                    format!("congestion control {name}: {error} ({remedy})"),
                )
            })?;
        }
        if self.sources > 1 {
            sys::bind_without_port(&socket)?;
            let source = source(number % self.sources);
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        Ok(socket.into())
    }
}

/// Source address `index`: 127.1.0.1, 127.1.0.2, …, apart from servers on 127.0.0.1.
fn source(index: u32) -> Ipv4Addr {
    let host = index % 254 + 1;
    let net = index / 254;
    Ipv4Addr::new(127, 1 + (net >> 8) as u8, net as u8, host as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = |text| Url::parse(text).map(|url| (url.authority, url.path));
        let pair = |a: &str, p: &str| Ok((a.to_owned(), p.to_owned()));
        assert_eq!(url("ws://127.0.0.1:9000/echo?x=1#y"), pair("127.0.0.1:9000", "/echo?x=1"));
        assert_eq!(url("ws://host"), pair("host", "/"));
        assert_eq!(url("ws://host?q"), pair("host", "/?q"));
        assert_eq!(url("wss://host/a"), pair("host", "/a"));
        for bad in ["http://host/", "ws:///x", "ws://u@h/", "ws://h/a b"] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_port_defaults_to_that_of_the_scheme() {
        let address = |text| Url::parse(text).unwrap().resolve().unwrap().to_string();
        assert_eq!(address("ws://127.0.0.1/"), "127.0.0.1:80");
        assert_eq!(address("wss://127.0.0.1/"), "127.0.0.1:443");
        assert_eq!(address("ws://[::1]:81/"), "[::1]:81");
        assert_eq!(address("ws://[::1]/"), "[::1]:80");
    }

    #[test]
    fn sources_differ_and_stay_on_loopback() {
        let all: std::collections::BTreeSet<Ipv4Addr> = (0..1_000).map(source).collect();
        assert_eq!(all.len(), 1_000);
        assert!(all.iter().all(Ipv4Addr::is_loopback));
        assert!(all.iter().all(|ip| !matches!(ip.octets()[3], 0 | 255)));
    }
}
