//! The server as a process of its own: started on free ports, ended by its id.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::metrics::{self, Metrics};

static CONFIG_NUMBER: AtomicU32 = AtomicU32::new(0);

/// A running server; dropping it kills it.
pub(crate) struct Server {
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    clients: Vec<String>,
    admin: Option<SocketAddr>,
    config: PathBuf,
}

/// The command, with its configuration in a file of its own.
pub(crate) fn command(arguments: &[&str], config: &str) -> (Command, PathBuf) {
    let number = CONFIG_NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("seawall-test-{}-{number}.toml", std::process::id());
    let path = std::env::temp_dir().join(name);
    fs::write(&path, config).expect("the configuration can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_seawall"));
    // They choose what a test does, and the server knows no such options.
    command.env_remove("SEAWALL_SEED").env_remove("SEAWALL_STEPS");
    command.arg("serve").arg("--config").arg(&path).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    (command, path)
}

/// Whether these tests run on epoll: the servers read the same variable.
pub(crate) fn is_on_epoll() -> bool {
    std::env::var("SEAWALL_DRIVER").is_ok_and(|driver| driver == "epoll")
}

impl Server {
    /// Two shards on a free port of 127.0.0.1, with this configuration file.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_with(&["--listen", "127.0.0.1:0", "--shards", "2"], config)
    }

    /// With these arguments, and an admin address on a free port.
    pub(crate) fn start_with(arguments: &[&str], config: &str) -> Self {
        Self::start_at("127.0.0.1:0", arguments, config)
    }

    /// With this admin address.
    pub(crate) fn start_at(admin: &str, arguments: &[&str], config: &str) -> Self {
        let (mut command, config) = command(arguments, config);
        command.args(["--admin", admin]);
        Self::watch(command.spawn().expect("the server can be started"), config)
    }

    /// Follows the log of a server that was started with a command of [`command`], up to the end of
    /// its banner.
    pub(crate) fn watch(mut child: Child, config: PathBuf) -> Self {
        let stderr = child.stderr.take().expect("its log is piped");
        let log = Arc::new(Mutex::new(String::new()));
        let shared = log.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = shared.lock().expect("no writer panics");
                log.push_str(&line);
                log.push('\n');
            }
        });
        let reader = Some(reader);
        let mut server = Self { child, log, reader, clients: Vec::new(), admin: None, config };
        server.await_banner();
        server
    }

    /// The last line of the banner names the limits; by then everything listens.
    fn await_banner(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let log = self.log();
            let facts: Vec<(String, String)> = log.lines().filter_map(fact).collect();
            if facts.iter().any(|(name, _)| name == "limits") {
                let values = |name: &str| -> Vec<String> {
                    let found = facts.iter().filter(|(found, _)| found == name);
                    found.map(|(_, value)| value.clone()).collect()
                };
                self.clients = values("clients");
                self.admin = values("operators").first().and_then(|url| {
                    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
                    rest?.strip_suffix("/metrics")?.parse().ok()
                });
                return;
            }
            let ended = self.child.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "the server ended at its start with {ended:?}:\n{log}");
            assert!(Instant::now() < deadline, "no banner within 20 s:\n{log}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The configuration file.
    pub(crate) fn config(&self) -> &std::path::Path {
        &self.config
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What standard error has delivered so far: the last lines of a running server may be missing.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("no writer panics").clone()
    }

    /// The listeners as the banner names them.
    pub(crate) fn listeners(&self) -> &[String] {
        &self.clients
    }

    /// The address of a TCP listener, by its place in the configuration.
    pub(crate) fn address_of(&self, listener: usize) -> SocketAddr {
        let url = &self.clients[listener];
        let address = url.strip_prefix("wss://").or_else(|| url.strip_prefix("ws://"));
        let address = address.unwrap_or_else(|| panic!("{url} is not TCP"));
        address.parse().expect("the banner names addresses")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address_of(0)
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.expect("the banner names the admin address")
    }

    /// The numbers of this moment.
    pub(crate) fn metrics(&self) -> Metrics {
        metrics::scrape(self.admin())
    }

    /// Waits until the log contains this text: lines arrive some time after what they report.
    pub(crate) fn await_log(&self, text: &str) {
        super::wait_until(&format!("`{text}` is logged"), || self.log().contains(text));
    }

    /// Writes another configuration, has the server reload, and waits until it logs the outcome;
    /// returns what it logged.
    pub(crate) fn reload(&self, config: &str) -> String {
        fs::write(&self.config, config).expect("the configuration can be written");
        let before = self.log().len();
        self.signal("HUP");
        super::wait_until("the reload is logged", || {
            self.log()[before..].contains("configuration re")
        });
        self.log()[before..].to_owned()
    }

    /// Sends a signal, by its name without SIG.
    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &kill]).status().expect("there is a shell");
        assert!(status.success(), "`{kill}` failed");
    }

    /// Waits for the process to exit and for the last line of its log; fails if it does not exit
    /// in time. Afterwards [`Self::log`] is complete.
    pub(crate) fn wait(&mut self, at_most: Duration) -> ExitStatus {
        let deadline = Instant::now() + at_most;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                // The pipe ends with the process, and the reader with the pipe.
                if let Some(reader) = self.reader.take() {
                    reader.join().expect("the log's reader does not panic");
                }
                return status;
            }
            assert!(Instant::now() < deadline, "still there after {at_most:?}:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Open descriptors of the process.
    pub(crate) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("the server lives").count()
    }

    /// Anonymous resident memory (KiB).
    pub(crate) fn anonymous_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("the server lives");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let words = line.and_then(|line| line.split_whitespace().next());
        words.and_then(|kib| kib.parse().ok()).expect("the kernel reports RssAnon")
    }
}

/// Name and first word of a line of the banner; of a JSON log: the fact and its URL.
fn fact(line: &str) -> Option<(String, String)> {
    if line.starts_with('{') {
        let event: serde_json::Value = serde_json::from_str(line).ok()?;
        let fields = &event["fields"];
        let url = fields["url"].as_str().unwrap_or_default();
        return Some((fields["fact"].as_str()?.to_owned(), url.to_owned()));
    }
    let mut words = line.split_whitespace();
    Some((words.next()?.to_owned(), words.next()?.to_owned()))
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, as the test wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.config);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if std::thread::panicking() {
            eprintln!("the server's log:\n{}", self.log());
        }
    }
}
