//! Nothing that is slow or gone keeps the control thread from signals, health and metrics: no
//! reader of the log, no key server, no reload.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::process::command;
use crate::support::{Server, metrics, wait_until};

const AT_MOST: Duration = Duration::from_secs(30);

/// Signals a process, by the signal's name without SIG.
fn signal(pid: u32, name: &str) {
    let kill = format!("kill -{name} {pid}");
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "`{kill}` failed");
}

/// Reads the banner and nothing after it; returns the admin address.
fn read_banner(log: &mut ChildStderr) -> SocketAddr {
    let (mut text, mut byte) = (String::new(), [0]);
    let is_complete = |text: &str| {
        let limits = text.lines().any(|line| line.trim_start().starts_with("limits "));
        limits && text.ends_with('\n')
    };
    while !is_complete(&text) {
        log.read_exact(&mut byte).expect("the banner ends with the limits");
        text.push(byte[0] as char);
    }
    let line = text.lines().find(|line| line.trim_start().starts_with("operators "));
    let (_, url) = line.and_then(|line| line.split_once("http://")).expect("it has an address");
    url.split('/').next().unwrap().parse().expect("the banner names addresses")
}

#[test]
fn a_log_that_nobody_reads_holds_up_nothing() {
    let config = "[[route]]\npath = \"/echo\"\n";
    let arguments = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--shards", "1"];
    let (mut command, path) = command(&arguments, config);
    let mut child = command.spawn().expect("the server can be started");
    let mut log = child.stderr.take().expect("its log is piped");
    let admin = read_banner(&mut log);
    // Every reload of this logs a line of 100 KB.
    std::fs::write(&path, format!("{} = 1\n", "k".repeat(100_000))).unwrap();
    let dropped = || {
        let (status, text) = metrics::get(admin, "/metrics");
        assert_eq!(status, 200);
        let line = text.lines().find(|line| line.starts_with("seawall_log_lines_dropped_total "));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).expect("it is counted")
    };
    wait_until("pipe and queue are full", || {
        signal(child.id(), "HUP");
        dropped() > 2
    });
    assert_eq!(metrics::get(admin, "/healthz").0, 200);
    std::fs::write(&path, config).unwrap();
    signal(child.id(), "HUP");
    signal(child.id(), "TERM");
    let mut status = None;
    wait_until("the server has drained", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    drop(log);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_log_without_reader_at_the_start_ends_nothing() {
    let (mut command, path) = command(&["--listen", "127.0.0.1:0", "--shards", "1"], "");
    let socket = std::env::temp_dir().join(format!("seawall-blocking-{}", std::process::id()));
    command.args(["--admin", &format!("unix:{}", socket.display())]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = command.stderr(Stdio::from(writer)).spawn().unwrap();
    wait_until("the admin socket answers", || {
        assert!(child.try_wait().unwrap().is_none(), "the server has ended");
        let Ok(stream) = std::os::unix::net::UnixStream::connect(&socket) else { return false };
        metrics::request(stream, "GET /healthz", "Host: localhost\r\n", "").status == 200
    });
    signal(child.id(), "TERM");
    wait_until("the server has drained", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    std::fs::remove_file(path).unwrap();
}

/// A key server: answers while it is allowed to, and otherwise keeps connections without a word.
struct KeyServer {
    url: String,
    silent: Arc<Mutex<Vec<TcpStream>>>,
    asked: Arc<AtomicUsize>,
    is_silent: Arc<AtomicBool>,
}

fn answer(mut stream: TcpStream) {
    let _ = stream.read(&mut [0; 4096]);
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 11\r\n\r\n";
    let _ = stream.write_all(format!("{head}{{\"keys\":[]}}").as_bytes());
}

impl KeyServer {
    fn start(is_silent: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            url: format!("http://{}/keys", listener.local_addr().unwrap()),
            silent: Arc::default(),
            asked: Arc::default(),
            is_silent: Arc::new(is_silent.into()),
        };
        let (silent, asked) = (server.silent.clone(), server.asked.clone());
        let quiet = server.is_silent.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if quiet.load(Ordering::SeqCst) {
                    silent.lock().unwrap().push(stream);
                } else {
                    answer(stream);
                }
                asked.fetch_add(1, Ordering::SeqCst);
            }
        });
        server
    }

    fn config(&self) -> String {
        let url = &self.url;
        format!(
            "[[route]]\npath = \"/ws\"\nhandler = \"hub\"\n[auth]\njwks_url = \"{url}\"\n\
             jwks_refresh_s = 3600\nallow_anonymous = true\n"
        )
    }

    fn wait_for(&self, requests: usize) {
        wait_until("the keys were asked for", || self.asked.load(Ordering::SeqCst) >= requests);
    }

    fn set_silent(&self, is_silent: bool) {
        self.is_silent.store(is_silent, Ordering::SeqCst);
    }

    fn answer_the_silent(&self) {
        self.silent.lock().unwrap().drain(..).for_each(answer);
    }
}

fn reloads(server: &Server) -> usize {
    server.log().matches("configuration reloaded").count()
}

#[test]
fn a_drain_does_not_wait_for_a_reload() {
    let keys = KeyServer::start(false);
    let mut server = Server::start(&keys.config());
    keys.set_silent(true);
    server.signal("HUP");
    keys.wait_for(2);
    server.signal("TERM");
    assert_eq!(server.wait(AT_MOST).code(), Some(0));
    assert_eq!(reloads(&server), 0, "the drain was over first:\n{}", server.log());
    assert_eq!(keys.silent.lock().unwrap().len(), 1);
}

#[test]
fn signals_during_a_reload_ask_for_one_more() {
    let keys = KeyServer::start(false);
    let mut server = Server::start(&keys.config());
    keys.set_silent(true);
    server.signal("HUP");
    keys.wait_for(2);
    (0..5).for_each(|_| server.signal("HUP"));
    // Metrics are answered by the thread that takes signals: these were sent before.
    server.metrics();
    keys.set_silent(false);
    keys.answer_the_silent();
    wait_until("both reloads are done", || reloads(&server) == 2);
    server.signal("HUP");
    wait_until("a later one is done", || reloads(&server) >= 3);
    server.signal("TERM");
    assert_eq!(server.wait(AT_MOST).code(), Some(0));
    assert_eq!((reloads(&server), keys.asked.load(Ordering::SeqCst)), (3, 4));
}

#[test]
fn a_signal_ends_a_start_that_waits_for_keys() {
    let keys = KeyServer::start(true);
    let arguments = ["--listen", "127.0.0.1:0", "--admin", "", "--shards", "1"];
    let (mut command, path) = command(&arguments, &keys.config());
    let mut child = command.spawn().unwrap();
    keys.wait_for(1);
    signal(child.id(), "TERM");
    let output = {
        wait_until("the server has ended", || child.try_wait().unwrap().is_some());
        child.wait_with_output().unwrap()
    };
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "it had nothing to say");
    std::fs::remove_file(path).unwrap();
}
