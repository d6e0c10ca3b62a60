//! Listening sockets: address, `SO_REUSEPORT`, and the options that accepted sockets inherit.
//!
//! Every option is set on the listener, before `listen`, so that accepted sockets inherit it
//! without a system call. Errors name the option and the listener.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

/// A listener's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// A Unix stream socket at this path.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How the kernel distributes new connections over the shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Steer {
    /// By a hash of the addresses: even for many connections.
    #[default]
    Hash,
    /// By the CPU that received the packet: good only where interrupts are distributed like shards.
    Cpu,
}

/// The congestion control of a listener's connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Congestion {
    /// Cubic where the host's default is BBR and this process may choose; else the host's default.
    /// BBR paces even small messages with timers, which costs CPU and latency without a benefit
    /// where the network is not the bottleneck.
    Auto,
    /// The host's default.
    Host,
    /// This one; an error if the kernel refuses it.
    Named(String),
}

/// Socket options of a listener; `None` or zero keeps the kernel's default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Connections queued for accept at most, per shard.
    pub backlog: u32,
    /// Sends small frames at once (`TCP_NODELAY`).
    pub nodelay: bool,
    /// Idle time before the kernel probes the peer (s); 0 = never.
    pub keepalive_s: u32,
    /// Kernel receive buffer of a connection (bytes); 0 = automatic.
    pub receive_buffer_bytes: u32,
    /// Kernel send buffer of a connection (bytes); 0 = automatic.
    pub send_buffer_bytes: u32,
    /// How long sent data may stay unacknowledged (`TCP_USER_TIMEOUT`, ms); 0 = kernel's choice.
    pub user_timeout_ms: u32,
    /// Congestion control.
    pub congestion: Congestion,
    /// Prefers connections whose packets arrive on the shard's CPU (`SO_INCOMING_CPU`).
    pub incoming_cpu: bool,
    /// Polls the device this long before sleeping (`SO_BUSY_POLL`, µs); 0 = off.
    pub busy_poll_us: u32,
    /// For an IPv6 listener: accepts IPv6 only.
    pub only_v6: bool,
    /// For a Unix socket: permission bits of its file.
    pub unix_mode: u32,
    /// For a Unix socket: user and group of its file, where they are to change.
    pub owner: Option<(u32, u32)>,
    /// How connections are distributed over shards.
    pub steer: Steer,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backlog: 4096,
            nodelay: true,
            keepalive_s: 0,
            receive_buffer_bytes: 0,
            send_buffer_bytes: 0,
            user_timeout_ms: 0,
            congestion: Congestion::Auto,
            incoming_cpu: false,
            busy_poll_us: 0,
            only_v6: false,
            unix_mode: 0o660,
            owner: None,
            steer: Steer::Hash,
        }
    }
}

/// Why a listener could not be made.
#[derive(Debug)]
pub struct ListenError {
    /// The listener's address.
    pub address: Address,
    /// The step that failed.
    pub step: String,
    /// The kernel's error.
    pub source: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}: {}", self.address, self.step, self.source)?;
        let remedy = match self.source.raw_os_error() {
            Some(libc::EADDRINUSE) if matches!(self.address, Address::Unix(_)) => {
                "another process listens there, or it is not a socket; remove it or change the path"
            }
            Some(libc::EADDRINUSE) => {
                "another process has the address; stop it (`ss -ltnp`), or use another address"
            }
            Some(libc::EACCES) => {
                "ports below 1024 need CAP_NET_BIND_SERVICE, a Unix path needs a writable folder"
            }
            Some(libc::EADDRNOTAVAIL) => "no interface of this host has that address (`ip addr`)",
            Some(libc::ENOENT) if self.step.contains("congestion") => {
                "unknown to the kernel; see \
                 /proc/sys/net/ipv4/tcp_available_congestion_control"
            }
            Some(libc::EPERM) if self.step.contains("congestion") => {
                "unprivileged processes may use those of \
                 net.ipv4.tcp_allowed_congestion_control: add it there, or give CAP_NET_ADMIN"
            }
            _ => return Ok(()),
        };
        write!(f, " ({remedy})")
    }
}

impl std::error::Error for ListenError {}

/// Makes one listening socket for each shard.
///
/// TCP: one socket per shard, bound to the same address with `SO_REUSEPORT`; a first bind without
/// it detects a foreign process on the address, which `SO_REUSEPORT` would hide. The first socket
/// chooses port 0, and the rest share it. Unix: one socket, of which each shard gets a descriptor.
///
/// # Errors
/// Names the address, the step that failed and, where known, the remedy.
pub fn listen(
    address: &Address,
    options: &Options,
    shards: usize,
) -> Result<(Address, Vec<OwnedFd>), ListenError> {
    match address {
        Address::Tcp(tcp) => listen_tcp(*tcp, options, shards),
        Address::Unix(path) => {
            let first = listen_unix(path, options)?;
            let failed = |source| ListenError {
                address: address.clone(),
                step: "sharing the socket between shards".to_owned(),
                source,
            };
            let mut sockets = Vec::with_capacity(shards);
            for _ in 1..shards {
                sockets.push(first.try_clone().map_err(failed)?);
            }
            sockets.push(first);
            Ok((address.clone(), sockets))
        }
    }
}

fn listen_tcp(
    tcp: SocketAddr,
    options: &Options,
    shards: usize,
) -> Result<(Address, Vec<OwnedFd>), ListenError> {
    let failed = |step: &str, source| ListenError {
        address: Address::Tcp(tcp),
        step: step.to_owned(),
        source,
    };
    let probe = tcp_socket(tcp, options).map_err(|(step, source)| failed(&step, source))?;
    probe.set_reuse_address(true).map_err(|e| failed("SO_REUSEADDR", e))?;
    bind_with_retries(&probe, tcp).map_err(|e| failed("bind", e))?;
    let bound = probe.local_addr().map_err(|e| failed("getsockname", e))?;
    let bound = bound.as_socket().unwrap_or(tcp);
    drop(probe);
    let mut sockets = Vec::with_capacity(shards);
    for shard in 0..shards {
        let socket = tcp_socket(bound, options).map_err(|(step, source)| failed(&step, source))?;
        socket.set_reuse_address(true).map_err(|e| failed("SO_REUSEADDR", e))?;
        socket.set_reuse_port(true).map_err(|e| failed("SO_REUSEPORT", e))?;
        if options.incoming_cpu {
            set_int(&socket, libc::SOL_SOCKET, libc::SO_INCOMING_CPU, shard as i32)
                .map_err(|e| failed("SO_INCOMING_CPU", e))?;
        }
        socket.bind(&bound.into()).map_err(|e| failed("bind", e))?;
        socket.listen(options.backlog as i32).map_err(|e| failed("listen", e))?;
        if shard == 0 && options.steer == Steer::Cpu {
            steer_by_cpu(&socket, shards as u32)
                .map_err(|e| failed("SO_ATTACH_REUSEPORT_CBPF (steer = \"cpu\")", e))?;
        }
        sockets.push(socket.into());
    }
    Ok((Address::Tcp(bound), sockets))
}

/// Binds; retries for a moment while the address is in use. The kernel closes a ring's listeners
/// some time after its process has ended, so a restarted server may meet its predecessor's.
fn bind_with_retries(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    const TRIES: u32 = 20;
    for _ in 0..TRIES {
        match socket.bind(&address.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return other,
        }
    }
    socket.bind(&address.into())
}

/// Makes a TCP socket with every option that its connections inherit.
fn tcp_socket(address: SocketAddr, options: &Options) -> Result<Socket, (String, io::Error)> {
    let at = |step: &'static str| move |error| (step.to_owned(), error);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))
        .map_err(at("socket"))?;
    if address.is_ipv6() {
        socket.set_only_v6(options.only_v6).map_err(at("IPV6_V6ONLY"))?;
    }
    socket.set_tcp_nodelay(options.nodelay).map_err(at("TCP_NODELAY"))?;
    if options.keepalive_s > 0 {
        let keepalive =
            TcpKeepalive::new().with_time(Duration::from_secs(u64::from(options.keepalive_s)));
        socket.set_tcp_keepalive(&keepalive).map_err(at("SO_KEEPALIVE"))?;
    }
    if options.receive_buffer_bytes > 0 {
        socket
            .set_recv_buffer_size(options.receive_buffer_bytes as usize)
            .map_err(at("SO_RCVBUF (receive_buffer_bytes)"))?;
    }
    if options.send_buffer_bytes > 0 {
        socket
            .set_send_buffer_size(options.send_buffer_bytes as usize)
            .map_err(at("SO_SNDBUF (send_buffer_bytes)"))?;
    }
    if options.user_timeout_ms > 0 {
        let timeout = Duration::from_millis(u64::from(options.user_timeout_ms));
        socket.set_tcp_user_timeout(Some(timeout)).map_err(at("TCP_USER_TIMEOUT"))?;
    }
    match &options.congestion {
        Congestion::Host => {}
        Congestion::Auto => {
            if congestion_in_force(&socket).is_some_and(|name| name.starts_with("bbr")) {
                // Without CAP_NET_ADMIN the host may refuse it; then BBR stays, and the banner says
                // so.
                let _ = socket.set_tcp_congestion(b"cubic");
            }
        }
        Congestion::Named(name) => socket
            .set_tcp_congestion(name.as_bytes())
            .map_err(|error| (format!("TCP_CONGESTION (congestion = \"{name}\")"), error))?,
    }
    if options.busy_poll_us > 0 {
        set_int(&socket, libc::SOL_SOCKET, libc::SO_BUSY_POLL, options.busy_poll_us as i32)
            .map_err(at("SO_BUSY_POLL (busy_poll_us)"))?;
    }
    Ok(socket)
}

fn listen_unix(path: &PathBuf, options: &Options) -> Result<OwnedFd, ListenError> {
    use std::os::unix::fs::FileTypeExt;
    let failed = |step: &'static str| {
        move |source| ListenError {
            address: Address::Unix(path.clone()),
            step: step.to_owned(),
            source,
        }
    };
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed("socket"))?;
    let address = SockAddr::unix(path).map_err(failed("path"))?;
    // A socket file outlives its server. Remove it if no process answers behind it.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket
        && let Err(error) = socket.connect(&address)
        && error.raw_os_error() == Some(libc::ECONNREFUSED)
    {
        std::fs::remove_file(path).map_err(failed("removing a dead socket file"))?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed("socket"))?;
    bind_with_mode(&socket, &address, options.unix_mode).map_err(failed("bind"))?;
    chown_socket_file(path, options).map_err(failed("setting its permissions and owner"))?;
    socket.listen(options.backlog as i32).map_err(failed("listen"))?;
    Ok(socket.into())
}

/// Binds a Unix socket whose file has these permission bits from the start: the kernel applies the
/// bits of the socket itself, less the process's umask.
fn bind_with_mode(socket: &Socket, address: &SockAddr, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let own = std::fs::File::from(OwnedFd::from(socket.try_clone()?));
    own.set_permissions(std::fs::Permissions::from_mode(mode))?;
    // SAFETY: umask changes a number of the process and returns the old one.
    let mask = unsafe { libc::umask(0) };
    let bound = socket.bind(address);
    // SAFETY: as above.
    unsafe { libc::umask(mask) };
    bound
}

/// Gives the file of a socket just bound to its owner, and checks its permissions.
///
/// The folder may belong to another user, who can replace the file. So the path is opened once,
/// without following a link, and everything else acts on the opened file: it must be a socket with
/// the mode and owner of one that this process has just made, which no other user can make.
fn chown_socket_file(path: &std::path::Path, options: &Options) -> io::Result<()> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let found = opened.metadata()?;
    // SAFETY: geteuid has no effects.
    let own = found.uid() == unsafe { libc::geteuid() } && found.nlink() == 1;
    if !found.file_type().is_socket() || !own || found.mode() & 0o7777 != options.unix_mode {
        return Err(io::Error::other("another file has replaced it during the start"));
    }
    let Some((user, group)) = options.owner else { return Ok(()) };
    // SAFETY: the path is an empty C string, and the descriptor lives across the call.
    let given = unsafe {
        let (of, empty) = (opened.as_raw_fd(), c"".as_ptr());
        libc::fchownat(of, empty, user, group, libc::AT_EMPTY_PATH)
    };
    if given == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The congestion control of a socket; `None` for sockets other than TCP.
pub fn congestion_in_force(socket: &impl AsFd) -> Option<String> {
    let name = SockRef::from(socket).tcp_congestion().ok()?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8(name.to_vec()).ok()
}

fn set_int(socket: &Socket, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer and length name one live i32, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Selects the listener by the receiving CPU: the n-th socket of the group is CPU n's.
fn steer_by_cpu(socket: &Socket, shards: u32) -> io::Result<()> {
    const SKF_AD_CPU: u32 = (-0x1000_i32 + 36) as u32;
    let step = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, SKF_AD_CPU),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, shards),
        step(libc::BPF_RET | libc::BPF_A, 0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `filter` and its program live across the call, which copies both.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> Address {
        Address::Tcp("127.0.0.1:0".parse().unwrap())
    }

    #[test]
    fn shards_share_one_port() {
        let (bound, sockets) = listen(&loopback(), &Options::default(), 3).unwrap();
        assert_eq!(sockets.len(), 3);
        let Address::Tcp(bound) = bound else { panic!("a TCP listener has a TCP address") };
        assert_ne!(bound.port(), 0);
        std::net::TcpStream::connect(bound).unwrap();
    }

    #[test]
    fn an_address_in_use_is_rejected_with_its_remedy() {
        let (bound, _held) = listen(&loopback(), &Options::default(), 1).unwrap();
        let error = listen(&bound, &Options::default(), 1).unwrap_err().to_string();
        assert!(error.contains("bind") && error.contains("ss -ltnp"), "{error}");
    }

    #[test]
    fn an_unknown_congestion_control_is_named() {
        let options =
            Options { congestion: Congestion::Named("nosuch".into()), ..Options::default() };
        let error = listen(&loopback(), &options, 1).unwrap_err().to_string();
        assert!(error.contains("nosuch") && error.contains("available_congestion"), "{error}");
    }

    #[test]
    fn steering_by_cpu_is_accepted_by_the_kernel() {
        let options = Options { steer: Steer::Cpu, ..Options::default() };
        listen(&loopback(), &options, 2).unwrap();
    }

    #[test]
    fn a_unix_socket_file_has_its_mode_and_owner() {
        use std::os::unix::fs::MetadataExt;
        let path = std::env::temp_dir().join(format!("seawall-owned-{}", std::process::id()));
        // SAFETY: geteuid has no effects.
        let is_root = unsafe { libc::geteuid() } == 0;
        for mode in [0o660, 0o600, 0o777, 0o000] {
            let owner = is_root.then_some((65_534, 65_533));
            let options = Options { unix_mode: mode, owner, ..Options::default() };
            listen(&Address::Unix(path.clone()), &options, 1).unwrap();
            let file = std::fs::symlink_metadata(&path).unwrap();
            assert_eq!(file.mode() & 0o7777, mode);
            assert!(!is_root || (file.uid(), file.gid()) == (65_534, 65_533));
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_file_in_place_of_the_socket_is_left_alone() {
        use std::os::unix::fs::MetadataExt;
        let folder = std::env::temp_dir().join(format!("seawall-swapped-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (path, victim) = (folder.join("s"), folder.join("victim"));
        std::fs::write(&victim, "secret").unwrap();
        let before = std::fs::metadata(&victim).unwrap();
        let options = Options { owner: Some((65_534, 65_534)), ..Options::default() };
        std::os::unix::fs::symlink(&victim, &path).unwrap();
        assert!(chown_socket_file(&path, &options).is_err(), "a link is not followed");
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(&victim, &path).unwrap();
        let error = chown_socket_file(&path, &options).unwrap_err();
        assert!(error.to_string().contains("replaced"), "{error}");
        let after = std::fs::metadata(&victim).unwrap();
        assert_eq!((before.uid(), before.mode()), (after.uid(), after.mode()));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_dead_unix_socket_file_is_replaced_and_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("seawall-listen-{}", std::process::id()));
        let address = Address::Unix(path.clone());
        let (_, live) = listen(&address, &Options::default(), 2).unwrap();
        assert_eq!(live.len(), 2);
        assert!(listen(&address, &Options::default(), 1).is_err());
        drop(live);
        listen(&address, &Options::default(), 1).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "not a socket").unwrap();
        let error = listen(&address, &Options::default(), 1).unwrap_err().to_string();
        assert!(error.contains("in use"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a socket");
        std::fs::remove_file(path).unwrap();
    }
}
