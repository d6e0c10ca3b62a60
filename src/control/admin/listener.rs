//! Binds the admin address: TCP, or a socket file that only this user may open.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use crate::driver::listener::{self, Address, Options};

/// Permission bits of the socket's file: access to it grants access to every call.
const UNIX_MODE: u32 = 0o600;

/// The admin address, bound and not yet served.
pub(crate) struct AdminListener {
    pub(super) socket: AdminSocket,
    pub(super) file: Option<SocketFile>,
}

pub(super) enum AdminSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The file of a listening Unix socket; its drop removes the file.
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone already, with its folder or by hand.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds the admin address. Replaces a socket file that has no listener. `owner`: user and group of
/// the socket's file.
///
/// # Errors
/// With the reason and the remedy.
pub(crate) fn bind(address: &Address, owner: Option<(u32, u32)>) -> Result<AdminListener, String> {
    match address {
        Address::Tcp(tcp) => match TcpListener::bind(tcp) {
            Ok(socket) => Ok(AdminListener { socket: AdminSocket::Tcp(socket), file: None }),
            Err(error) => Err(format!(
                "cannot listen on {tcp} for operators: {error}; choose another address with \
                 --admin, or none with --admin \"\""
            )),
        },
        Address::Unix(path) => {
            let options = Options { unix_mode: UNIX_MODE, owner, ..Options::default() };
            let (_, mut sockets) = listener::listen(address, &options, 1)
                .map_err(|error| format!("admin address: {error}"))?;
            let socket = sockets.pop().expect("one shard gets one socket");
            let file = Some(SocketFile(path.clone()));
            Ok(AdminListener { socket: AdminSocket::Unix(socket.into()), file })
        }
    }
}

impl AdminListener {
    /// Returns the URL of the metrics, as an operator can type it.
    pub(crate) fn url(&self, has_tls: bool) -> String {
        let scheme = if has_tls { "https" } else { "http" };
        match (&self.socket, &self.file) {
            (AdminSocket::Tcp(socket), _) => match socket.local_addr() {
                Ok(address) => format!("{scheme}://{address}/metrics"),
                Err(error) => format!("unknown address ({error})"),
            },
            (AdminSocket::Unix(_), Some(SocketFile(path))) => {
                let path = path.display();
                format!("unix:{path}  (curl --unix-socket {path} http://localhost/metrics)")
            }
            (AdminSocket::Unix(_), None) => "a Unix socket".to_owned(),
        }
    }
}
