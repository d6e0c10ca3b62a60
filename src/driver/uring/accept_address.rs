//! The peer's address of an accept in flight.

use std::mem::MaybeUninit;
use std::net::SocketAddr;

/// Storage for one accept in flight: the kernel writes the peer's address here.
pub(super) struct AcceptAddress {
    pub(super) storage: libc::sockaddr_storage,
    pub(super) len: libc::socklen_t,
}

impl AcceptAddress {
    pub(super) fn new() -> Box<Self> {
        // SAFETY: all-zero is a valid sockaddr_storage.
        let storage = unsafe { MaybeUninit::zeroed().assume_init() };
        Box::new(Self { storage, len: size_of::<libc::sockaddr_storage>() as libc::socklen_t })
    }

    /// The peer's address; `None` for Unix sockets. IPv4-mapped IPv6 is returned as IPv4.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        // SAFETY: the kernel has written an address of `len` bytes into the storage.
        let address = unsafe {
            let mut storage = socket2::SockAddrStorage::zeroed();
            *storage.view_as::<libc::sockaddr_storage>() = self.storage;
            socket2::SockAddr::new(storage, self.len)
        };
        let address = address.as_socket()?;
        Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
    }
}
