//! Where operators connect: a loopback address, or a socket file that only this user may open.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use crate::driver::listener::{self, Address, Options};

/// Permission bits of the admin socket's file: whoever may open it may do everything.
const UNIX_MODE: u32 = 0o600;

/// The admin address, bound and not answering yet.
pub(crate) struct AdminListener {
    pub(super) socket: AdminSocket,
    pub(super) file: Option<SocketFile>,
}

pub(super) enum AdminSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// The file of a listening Unix socket, removed with this.
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may be gone, with its folder or by hand.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Binds the admin address. A socket file that nobody listens behind is replaced. `owner`: user and
/// group of the socket's file.
///
/// # Errors
/// With cause and cure.
pub(crate) fn bind(address: &Address, owner: Option<(u32, u32)>) -> Result<AdminListener, String> {
    match address {
        Address::Tcp(tcp) => match TcpListener::bind(tcp) {
            Ok(socket) => Ok(AdminListener { socket: AdminSocket::Tcp(socket), file: None }),
            Err(error) => Err(format!(
                "cannot listen on {tcp} for operators: {error} (choose another address with \
                 --admin, or none with --admin \"\")"
            )),
        },
        Address::Unix(path) => {
            let options = Options { unix_mode: UNIX_MODE, owner, ..Options::default() };
            let (_, mut sockets) = listener::listen(address, &options, 1)
                .map_err(|error| format!("the admin address: {error}"))?;
            let socket = sockets.pop().expect("one shard's worth of sockets is one");
            let file = Some(SocketFile(path.clone()));
            Ok(AdminListener { socket: AdminSocket::Unix(socket.into()), file })
        }
    }
}

impl AdminListener {
    /// Where operators find the numbers, as a person would type it.
    pub(crate) fn url(&self) -> String {
        match (&self.socket, &self.file) {
            (AdminSocket::Tcp(socket), _) => match socket.local_addr() {
                Ok(address) => format!("http://{address}/metrics"),
                Err(error) => format!("somewhere ({error})"),
            },
            (AdminSocket::Unix(_), Some(SocketFile(path))) => {
                let path = path.display();
                format!("unix:{path}  (curl --unix-socket {path} http://localhost/metrics)")
            }
            (AdminSocket::Unix(_), None) => "a Unix socket".to_owned(),
        }
    }
}
