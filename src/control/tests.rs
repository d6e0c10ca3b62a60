//! Tests a whole server in this process, on an engine other than the product's, whose control
//! thread runs with and without rings.

mod counted;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::{Message, WebSocket};

use super::testing::{RingAccess, deny_rings_with, make_folder};
use super::{AdminListener, End, LogWriter, Parts, Reloader, Signals, supervise};
use crate::config::{DriverChoice, Given, Written};
use crate::control;
use crate::driver::listener::Address;
use crate::server::{Engine, EngineChoice, Server};
use counted::{CallCounts, CountedFactory};

/// The addresses of a test's server.
#[derive(Clone, Copy)]
struct TestServer {
    clients: SocketAddr,
    admin: SocketAddr,
}

impl TestServer {
    /// Sends an API request, and returns the body of its successful answer.
    fn request(&self, method: &str, path: &str) -> String {
        let mut stream = connect(self.admin);
        let (host, kind) = (self.admin, "Content-Type: application/json");
        let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        write!(stream, "{head}{kind}\r\nContent-Length: 2\r\n\r\n{{}}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("the response has a head");
        assert!(head.starts_with("HTTP/1.1 20"), "{method} {path}: {answer}");
        body.to_owned()
    }

    fn node(&self) -> Value {
        serde_json::from_str(&self.request("GET", "/v1/node")).unwrap()
    }

    /// Reads one metric.
    fn metric(&self, name: &str) -> u64 {
        let text = self.request("GET", "/metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    fn open_client(&self) -> WebSocket<TcpStream> {
        let url = format!("ws://{}/echo", self.clients);
        tungstenite::client(url, connect(self.clients)).expect("the upgrade succeeds").0
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn check_echo(client: &mut WebSocket<TcpStream>, text: &str) {
    client.send(Message::text(text)).unwrap();
    loop {
        match client.read().unwrap() {
            Message::Ping(_) => {}
            message => return assert_eq!(message, Message::text(text)),
        }
    }
}

fn tcp_address(address: &Address) -> SocketAddr {
    match address {
        Address::Tcp(address) => *address,
        Address::Unix(path) => panic!("unexpected Unix socket {}", path.display()),
    }
}

/// Runs a server until `client` ends it, its control thread with or without rings. Returns the call
/// counts of its engine.
fn serve(
    access: RingAccess,
    metrics: &str,
    client: impl FnOnce(TestServer) + Send + 'static,
) -> Arc<CallCounts> {
    let text = format!(
        "shards = 2\n[engine]\npin = false\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\n[[route]]\npath = \"/echo\"\n\
         handler = \"echo\"\n[metrics]\nhistogram_log_interval_s = 1\n{metrics}\n"
    );
    let given = Given { file: Some(("test.toml".to_owned(), text)), ..Given::default() };
    let (written, config) = Written::load(&given, 4096, 2).unwrap();
    let config = Arc::new(config);
    let admin = control::bind(config.admin.as_ref().unwrap(), None).unwrap();
    let log_path = &config.metrics.histogram_log;
    let histogram_log = control::open_histogram_log(log_path, true, true).unwrap();
    let calls = Arc::<CallCounts>::default();
    let choice = EngineChoice::make(DriverChoice::Uring).unwrap();
    let Engine::Uring(engine) = Engine::new(&choice, &config, Vec::new()) else { unreachable!() };
    let factory = CountedFactory { engine, calls: calls.clone() };
    // Threads without a filter make the engine's rings.
    let server = Server::bind(config, None).unwrap().start_on(&factory).unwrap().serve();
    let reached = TestServer {
        clients: tcp_address(&server.facts.listening[0]),
        admin: admin_address(&admin),
    };
    let client = std::thread::spawn(move || {
        // If the client fails, drain the server all the same.
        catch_unwind(AssertUnwindSafe(|| client(reached)))
            .inspect_err(|_| drop(reached.request("POST", "/v1/drain")))
            .is_ok()
    });
    let end = access.run(move |runtime| {
        let reloader = Reloader {
            read: Arc::new(move || Ok(given.clone())),
            set_level: Box::new(|_| {}),
            file: written.file,
            open_files: 4096,
            cores: 2,
            fetcher: None,
        };
        let (log, signals) = (LogWriter::new(), Signals::watch(runtime).unwrap());
        let parts = Parts { admin: Some(admin), histogram_log, log, signals, reloader };
        runtime.block_on(supervise(server, parts, runtime.file_io()))
    });
    assert!(client.join().unwrap(), "{access:?}: the client failed, as reported above");
    assert_eq!(end, End::Drained, "{access:?}");
    calls
}

fn admin_address(admin: &AdminListener) -> SocketAddr {
    let url = admin.url(false);
    let rest = url.strip_prefix("http://").unwrap();
    rest.split('/').next().unwrap().parse().unwrap()
}

#[test]
fn another_engine_serves_and_drains_under_its_own_name() {
    for access in RingAccess::ALL {
        let calls = serve(access, "", |server| {
            let mut clients: Vec<_> = (0..4).map(|_| server.open_client()).collect();
            for client in &mut clients {
                check_echo(client, "over another engine");
                check_echo(client, &"x".repeat(100_000));
            }
            let driver = &server.node()["driver"];
            assert_eq!(driver["name"], "counted");
            assert_eq!(driver["features"], serde_json::json!({"counts": true}));
            assert!(driver.get("ring_entries").is_none(), "{driver}");
            assert!(driver["buffers_per_shard"].as_u64() > Some(0), "{driver}");
            let text = server.request("GET", "/metrics");
            assert!(text.contains("# HELP seawall_ring_enters_total Calls of counted_wait\n"));
            assert_eq!(server.metric("seawall_connections_open"), 4);
            // This engine's watches save nothing, so nothing is parked.
            assert_eq!(server.metric("seawall_parked_total"), 0);
            assert_eq!(server.metric("seawall_connections_parked"), 0);
            server.request("POST", "/v1/drain");
            for client in &mut clients {
                let last = std::iter::repeat_with(|| client.read()).find(Result::is_err);
                assert!(matches!(last, Some(Err(tungstenite::Error::ConnectionClosed))));
            }
        });
        let of = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        // An upgrade, two echoes and a close for each client.
        assert!(of(&calls.sends) >= 4 * 4 && of(&calls.submits) > 0, "{access:?}");
        assert!(of(&calls.closes) >= 4, "{access:?}");
        assert_eq!(of(&calls.watches), 0, "{access:?}");
    }
}

#[test]
fn a_reload_is_ordered_and_reported_with_and_without_rings() {
    for access in RingAccess::ALL {
        serve(access, "", move |server| {
            server.request("POST", "/v1/reload");
            assert_eq!(server.node()["last_reload"]["ok"], true, "{access:?}");
            server.request("POST", "/v1/drain");
        });
    }
}

#[test]
fn the_histogram_log_is_continued_with_and_without_rings() {
    for access in RingAccess::ALL {
        let folder = make_folder();
        let path = folder.join("seawall.hlog");
        // A crash leaves the file within a line.
        std::fs::write(&path, "Tag=turn,1.0").unwrap();
        let metrics = format!("histogram_log = \"{}\"", path.display());
        let client = move |server: TestServer| {
            let mut client = server.open_client();
            (0..20).for_each(|n| check_echo(&mut client, &format!("{n}")));
            server.request("POST", "/v1/drain");
        };
        serve(access, &metrics, client);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("Tag=turn,1.0\n#"), "{access:?}: {text}");
        assert_eq!(text.matches("#[StartTime: ").count(), 1, "{access:?}: {text}");
        let is_whole = |line: &str| line.starts_with("Tag=turnaround,");
        assert!(text.ends_with('\n') && text.lines().any(is_whole), "{access:?}: {text}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn failed_writes_of_the_histogram_log_are_counted_with_and_without_rings() {
    for access in RingAccess::ALL {
        serve(access, "histogram_log = \"/dev/full\"", |server| {
            let deadline = Instant::now() + Duration::from_mins(1);
            while server.metric("seawall_interval_log_errors_total") < 2 {
                assert!(Instant::now() < deadline, "failures are not counted");
                std::thread::yield_now();
            }
            server.request("POST", "/v1/drain");
        });
    }
}

#[test]
fn a_denial_of_rings_chooses_the_engine_and_is_its_reason() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let denied = std::thread::spawn(move || {
            deny_rings_with(errno);
            let asked = EngineChoice::make(DriverChoice::Uring).expect_err("no ring can be made");
            let auto = EngineChoice::make(DriverChoice::Auto).expect("epoll runs");
            (asked.to_string(), auto.name(), auto.reason())
        });
        let (error, name, reason) = denied.join().unwrap();
        let cause = std::io::Error::from_raw_os_error(errno).to_string();
        assert!(reason.starts_with("io_uring: ") && reason.contains(&cause), "{reason}");
        assert!(reason.contains("seccomp"), "the remedy: {reason}");
        assert!(error.starts_with(&reason) && error.contains("--driver auto"), "{error}");
        assert_eq!(name, "epoll");
    }
}
