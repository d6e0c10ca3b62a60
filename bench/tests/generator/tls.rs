//! `wss://` against a server of rustls and tungstenite.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

use crate::run::bench;

const SHORT: &[&str] = &["--warmup", "0", "--duration", "0.4"];

struct TlsServer {
    address: SocketAddr,
    authority: PathBuf,
    kinds: Arc<Mutex<Vec<HandshakeKind>>>,
    /// Connections that ended with a `close_notify`.
    clean_ends: Arc<AtomicUsize>,
}

impl TlsServer {
    fn start(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let pem = made.cert.pem();
        let authority = std::env::temp_dir().join(format!("{name}-{}.pem", std::process::id()));
        std::fs::write(&authority, &pem).unwrap();
        let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key.unwrap())
            .unwrap();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (kinds, clean_ends) = (Arc::default(), Arc::default());
        let server = Self { address, authority, kinds, clean_ends };
        let (config, kinds) = (Arc::new(config), server.kinds.clone());
        let clean_ends = server.clean_ends.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (config, kinds) = (config.clone(), kinds.clone());
                let clean_ends = clean_ends.clone();
                std::thread::spawn(move || serve(stream, config, &kinds, &clean_ends));
            }
        });
        server
    }

    fn url(&self, host: &str) -> String {
        format!("wss://{host}:{}/echo", self.address.port())
    }

    fn count(&self, kind: HandshakeKind) -> usize {
        self.kinds.lock().unwrap().iter().filter(|one| **one == kind).count()
    }
}

/// Echoes until the client has closed; an error ends it, for the client is gone then.
fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    kinds: &Mutex<Vec<HandshakeKind>>,
    clean_ends: &AtomicUsize,
) {
    stream.set_nodelay(true).unwrap();
    let connection = ServerConnection::new(config).unwrap();
    let Ok(mut socket) = tungstenite::accept(StreamOwned::new(connection, stream)) else { return };
    kinds.lock().unwrap().push(socket.get_ref().conn.handshake_kind().unwrap());
    while let Ok(message) = socket.read() {
        if message.is_close() {
            break;
        }
        if (message.is_text() || message.is_binary()) && socket.send(message).is_err() {
            return;
        }
    }
    while socket.flush().is_ok() && socket.read().is_ok() {}
    let stream = socket.get_mut();
    if matches!(std::io::Read::read(stream, &mut [0; 1]), Ok(0)) {
        clean_ends.fetch_add(1, Ordering::SeqCst);
    }
    stream.conn.send_close_notify();
    // The client may be gone.
    let _ = stream.conn.complete_io(&mut stream.sock);
}

#[test]
fn echoes_over_tls_are_verified_and_end_cleanly() {
    let server = TlsServer::start("bench-echo");
    let ca = server.authority.to_str().unwrap();
    let load = ["--connections", "3", "--verify", "--size", "20..40000", "--depth", "4"];
    let run = bench("echo", &server.url("localhost"), &[&load, SHORT, &["--ca", ca]]);
    assert_eq!(run.code(), Some(0), "{}", run.stderr());
    assert!(run.count("count") > 3, "{:#}", run.json);
    assert_eq!(server.count(HandshakeKind::Full), 3);
    assert_eq!(server.clean_ends.load(Ordering::SeqCst), 3);
}

#[test]
fn certificates_are_verified_unless_that_is_turned_off() {
    let server = TlsServer::start("bench-trust");
    let url = server.url("127.0.0.1");
    let load: &[&str] = &["--connections", "1"];
    let none = bench("echo", &url, &[load, SHORT]);
    assert_eq!(none.code(), Some(2), "{}", none.stderr());
    assert!(none.stderr().contains("--ca FILE"), "{}", none.stderr());
    let ca = server.authority.to_str().unwrap();
    let wrong = bench("echo", &url, &[load, SHORT, &["--ca", ca]]);
    assert_eq!(wrong.code(), Some(1), "{}", wrong.stderr());
    assert!(wrong.stderr().contains("not valid for name"), "{}", wrong.stderr());
    let any = bench("echo", &url, &[load, SHORT, &["--insecure"]]);
    assert_eq!(any.code(), Some(0), "{}", any.stderr());
    let raw = bench("echo", &url, &[load, SHORT, &["--insecure", "--raw"]]);
    assert_eq!(raw.code(), Some(2), "{}", raw.stderr());
}

#[test]
fn sessions_are_resumed_on_request() {
    let server = TlsServer::start("bench-resume");
    let ca = ["--ca", server.authority.to_str().unwrap()];
    let load: &[&str] = &["--parallel", "1", "--connections", "20", "--warmup", "0"];
    let full = bench("connect", &server.url("localhost"), &[load, &ca]);
    assert_eq!(full.code(), Some(0), "{}", full.stderr());
    assert_eq!((server.count(HandshakeKind::Full), server.count(HandshakeKind::Resumed)), (20, 0));
    let resumed = bench("connect", &server.url("localhost"), &[load, &ca, &["--tls-resume"]]);
    assert_eq!(resumed.code(), Some(0), "{}", resumed.stderr());
    assert!(server.count(HandshakeKind::Resumed) >= 15, "{:?}", server.kinds);
}
