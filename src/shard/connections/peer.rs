//! The address of a peer, in compact form.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A peer's address in 18 bytes; all zeros mean none (a Unix socket).
///
/// A PROXY header may claim any address, even `[::]:0`. Read as none, it would be trusted like a
/// local peer, so it is stored with port 1: the port of the unspecified address has no meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerAddress {
    ip: [u8; 16],
    port: u16,
}

impl From<Option<SocketAddr>> for PeerAddress {
    fn from(address: Option<SocketAddr>) -> Self {
        let Some(address) = address else { return Self { ip: [0; 16], port: 0 } };
        let ip = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let least = u16::from(ip.is_unspecified());
        Self { ip: ip.octets(), port: address.port().max(least) }
    }
}

impl PeerAddress {
    /// Returns the address, if there is one.
    pub(super) fn get(self) -> Option<SocketAddr> {
        if self.ip == [0; 16] && self.port == 0 {
            return None;
        }
        let ip = IpAddr::V6(Ipv6Addr::from(self.ip)).to_canonical();
        Some(SocketAddr::new(ip, self.port))
    }

    /// Returns the peer with another IP address, as named by a trusted proxy.
    pub(super) fn with_ip(self, ip: Option<IpAddr>) -> Self {
        let Some(ip) = ip else { return self };
        let port = if self.get().is_some_and(|own| own.ip() == ip) { self.port } else { 0 };
        Self::from(Some(SocketAddr::new(ip, port)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_address_survives_its_packing() {
        for text in ["1.2.3.4:5", "[2001:db8::1]:65535", "127.0.0.1:0", "0.0.0.0:0", "[::]:7"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(PeerAddress::from(Some(address)).get(), Some(address));
        }
        assert_eq!(PeerAddress::from(None).get(), None);
        let claimed = PeerAddress::from(Some("[::]:0".parse().unwrap())).get().unwrap();
        assert!(claimed.ip().is_unspecified(), "a claimed address is never none");
    }

    #[test]
    fn a_proxied_client_loses_the_proxys_port() {
        let peer = PeerAddress::from(Some("10.0.0.1:80".parse().unwrap()));
        assert_eq!(peer.with_ip(Some("10.0.0.1".parse().unwrap())), peer);
        let client = peer.with_ip(Some("1.2.3.4".parse().unwrap()));
        assert_eq!(client.get(), Some("1.2.3.4:0".parse().unwrap()));
    }
}
